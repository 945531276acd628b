"""Describes the answers about agents and pipelines for OpenAPI; `app.api.targets` writes them."""

from __future__ import annotations

from marshmallow import Schema, fields
from marshmallow.validate import OneOf


class EndpointSchema(Schema):
    method = fields.String(required=True)
    path = fields.String(required=True)
    description = fields.String(required=True)


class IndexSchema(Schema):
    version = fields.String(required=True)
    openapi_url = fields.String(required=True)
    docs_url = fields.String(required=True)
    endpoints = fields.List(fields.Nested(EndpointSchema), required=True)


class TargetSchema(Schema):
    id = fields.String(required=True, metadata={"description": "The `target_id` of a start."})
    name = fields.String(required=True)
    description = fields.String(required=True)
    version = fields.String(required=True)
    inputs = fields.Dict(
        required=True, metadata={"description": "A JSON Schema for the `inputs` of a start."}
    )


class FlowSchema(Schema):
    name = fields.String(
        required=True, metadata={"description": "The `config.flow_id` of a start."}
    )
    kind = fields.String(required=True, validate=OneOf(["prompt", "python"]))
    isolation = fields.String(required=True, validate=OneOf(["thread", "process"]))
    default = fields.Boolean(
        required=True, metadata={"description": "Whether it runs if a start names no flow."}
    )


class AgentSchema(TargetSchema):
    type = fields.String(required=True, validate=OneOf(["agent"]))
    flows = fields.List(fields.Nested(FlowSchema), required=True)


class AgentsSchema(Schema):
    agents = fields.List(fields.Nested(AgentSchema), required=True)


class PipelineStepSchema(Schema):
    id = fields.String(required=True)
    type = fields.String(required=True, validate=OneOf(["agent_flow", "batch_aggregator"]))
    description = fields.String(required=True)
    agent = fields.String()
    flow = fields.String()
    depends_on = fields.List(fields.String(), required=True)
    required = fields.Boolean(
        required=True,
        metadata={"description": "If false, the pipeline continues when this step fails."},
    )
    output_key = fields.String(required=True)


class OutputSchema(Schema):
    key = fields.String(required=True)
    label = fields.String(required=True)


class PipelineSchema(TargetSchema):
    type = fields.String(required=True, validate=OneOf(["pipeline"]))
    steps = fields.List(fields.Nested(PipelineStepSchema), required=True)
    outputs = fields.List(fields.Nested(OutputSchema), required=True)
    variants = fields.List(
        fields.String(),
        required=True,
        metadata={"description": "The possible values of `config.variant` in a start."},
    )


class PipelinesSchema(Schema):
    pipelines = fields.List(fields.Nested(PipelineSchema), required=True)
