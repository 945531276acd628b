"""The file formats: what may stand in `agent.yaml`, in a prompt file and in a pipeline file.

Only what one file can tell is checked here; what needs other files is `loader`'s business, and what makes
a graph sound is `graph`'s.
"""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, fields, pre_load, validates_schema
from marshmallow.validate import Length, OneOf, Range, Regexp

from app.catalog.fields import ExactBoolean, ExactInteger, ExactNumber, StrictSchema
from app.catalog.inputs import fits

IDENTIFIER = Regexp(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}\Z", error="Must be 1 to 128 letters, digits, '_', '-' or '.'.")

INPUT_TYPES = ("any", "string", "integer", "number", "boolean", "array", "object")

IGNORED = frozenset(
    (
        *(
            "business_goal",
            "expectations",
            "evaluation",
            "default_testset",
            "extra_testsets",
            "category",
            "environment",
        ),
        *(
            "owner",
            "tags",
            "deprecated",
            "notes",
            "baseline",
            "variants",
            "case_fields",
            "type",
            "model",
            "temperature",
        ),
        *("maintainer", "status", "location", "documentation_url", "dependencies", "performance_metrics"),
        *("created_at", "updated_at"),
    )
)
"""Keys that the format carries for other tools. They are accepted and mean nothing here."""

MAX_STEPS = 1000


class FileSchema(StrictSchema):
    @pre_load
    def _leave_out(self, data: Any, **_: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if key in self.fields or key not in IGNORED}


def _text(**options: Any) -> fields.String:
    return fields.String(load_default="", allow_none=True, **options)


class InputSchema(FileSchema):
    name = fields.String(required=True, validate=Length(1, 128))
    desc = _text()
    required = ExactBoolean(load_default=False)
    type = fields.String(load_default="any", validate=OneOf(INPUT_TYPES))
    default = fields.Raw(allow_none=True)

    @validates_schema
    def _default_fits(self, data: dict[str, Any], **_: Any) -> None:
        default = data.get("default")
        if default is not None and not fits(data["type"], default):
            raise ValidationError(f"The default is not of the type {data['type']}.", "default")


class FlowSchema(FileSchema):
    name = fields.String(required=True, validate=IDENTIFIER)
    file = fields.String(validate=Length(1))
    entrypoint = fields.String(
        validate=Regexp(r"[^:]+:[A-Za-z_]\w*\Z", error="Must be 'file.py:name' or 'module:name'.")
    )
    isolation = fields.String(validate=OneOf(("process", "thread")))
    notes = _text()

    @validates_schema
    def _is_one_of_two(self, data: dict[str, Any], **_: Any) -> None:
        if ("file" in data) == ("entrypoint" in data):
            raise ValidationError("A flow has either a 'file' (a prompt) or an 'entrypoint' (Python).")
        if "file" in data and "isolation" in data:
            raise ValidationError("Only a Python flow has an isolation; prompts always run in threads.", "isolation")


class DescribedSchema(FileSchema):
    id = fields.String(validate=IDENTIFIER)
    name = _text()
    description = _text()
    version = fields.Raw(load_default="")
    inputs = fields.List(fields.Nested(InputSchema), allow_none=True, load_default=None)


class AgentSchema(DescribedSchema):
    default_flow = fields.String()
    flows = fields.List(
        fields.Nested(FlowSchema), required=True, validate=Length(1, error="At least one flow is needed.")
    )


class OutputParserSchema(FileSchema):
    type = fields.String(load_default="none", validate=OneOf(("none", "json", "list")))
    schema = fields.Dict(load_default=None, allow_none=True)
    retry_on_error = ExactBoolean(load_default=False)
    max_retries = ExactInteger(load_default=1, validate=Range(0, 10))

    @pre_load
    def _leave_out(self, data: Any, **_: Any) -> Any:
        return data  # here `type` is a key with a meaning


class PromptSchema(FileSchema):
    id = _text()
    name = _text()
    description = _text()
    version = fields.Raw(load_default="")
    system_prompt = _text()
    user_template = fields.String(required=True)
    defaults = fields.Dict(keys=fields.String(), load_default=dict)
    model = fields.String(load_default=None, allow_none=True)
    temperature = ExactNumber(load_default=None, allow_none=True, validate=Range(0, 2))
    max_tokens = ExactInteger(load_default=None, allow_none=True, validate=Range(1))
    output_parser = fields.Nested(OutputParserSchema, load_default=None, allow_none=True)


class Retries(ExactInteger):
    """A step's `retries`: a number, or a mapping with `max`, as in `config.retries`."""

    def _validated(self, value: Any) -> int:
        return super()._validated(value.get("max") if isinstance(value, dict) else value)


class StepSchema(FileSchema):
    id = fields.String(required=True, validate=IDENTIFIER)
    type = fields.String(load_default="agent_flow")
    agent = fields.String()
    flow = fields.String(load_default=None, allow_none=True)
    input_mapping = fields.Dict(keys=fields.String(), values=fields.String(), load_default=dict)
    output_key = fields.String(validate=Length(1, 128))
    depends_on = fields.List(fields.String(), load_default=list)
    required = ExactBoolean(load_default=True)
    timeout = ExactNumber(load_default=None, allow_none=True, validate=Range(0, 86_400, min_inclusive=False))
    retries = Retries(load_default=0, validate=Range(0, 10))
    when = fields.String(load_default=None, allow_none=True)
    model_override = fields.String(load_default=None, allow_none=True)
    concurrent_group = fields.Raw(allow_none=True)
    batch_mode = ExactBoolean(load_default=False)
    batch_size = ExactInteger(load_default=None, allow_none=True, validate=Range(1))
    concurrent = ExactBoolean(load_default=True)
    max_workers = ExactInteger(load_default=None, allow_none=True, validate=Range(1, 64))
    aggregation_strategy = fields.String(allow_none=True)
    separator = fields.String()
    fields_ = fields.List(fields.String(), data_key="fields")
    condition = fields.String()
    group_by = fields.String()
    summary_fields = fields.List(fields.String())
    description = _text()

    @pre_load
    def _leave_out(self, data: Any, **_: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if key in _STEP_KEYS or key not in IGNORED}

    @validates_schema
    def _fits_its_type(self, data: dict[str, Any], **_: Any) -> None:
        if data["type"] == "code_node" or data.get("aggregation_strategy") == "custom":
            raise ValidationError("Code inside YAML is not run. Write an agent with a Python flow instead.", "type")
        if data["type"] == "batch_aggregator":
            _check_aggregator(data)
        elif data["type"] != "agent_flow":
            raise ValidationError("Must be 'agent_flow' or 'batch_aggregator'.", "type")
        elif "agent" not in data:
            raise ValidationError("This step names no agent.", "agent")


_STEP_KEYS = {"fields" if name == "fields_" else name for name in StepSchema().fields}

_STRATEGIES = {
    "concat": None,
    "stats": "fields",
    "filter": "condition",
    "group": "group_by",
    "summary": "summary_fields",
}


def _check_aggregator(data: dict[str, Any]) -> None:
    strategy = data.get("aggregation_strategy") or "concat"
    if strategy not in _STRATEGIES:
        raise ValidationError(f"Must be one of {', '.join(_STRATEGIES)}.", "aggregation_strategy")
    needed = _STRATEGIES[strategy]
    if needed and not data.get("fields_" if needed == "fields" else needed):
        raise ValidationError(f"The strategy {strategy!r} needs this.", needed)
    if "items" not in data["input_mapping"]:
        raise ValidationError("A batch_aggregator works on the list that is mapped to 'items'.", "input_mapping")


class OutputSchema(FileSchema):
    key = fields.String(required=True, validate=Length(1))
    label = _text()


class OverrideSchema(FileSchema):
    flow = fields.String()
    model = fields.String()

    @pre_load
    def _leave_out(self, data: Any, **_: Any) -> Any:
        return data  # here `model` is a key with a meaning


class VariantSchema(FileSchema):
    name = _text()
    description = _text()
    overrides = fields.Dict(keys=fields.String(), values=fields.Nested(OverrideSchema), load_default=dict)


class PipelineSchema(DescribedSchema):
    steps = fields.List(
        fields.Nested(StepSchema),
        required=True,
        validate=Length(1, MAX_STEPS, error=f"A pipeline has 1 to {MAX_STEPS} steps."),
    )
    outputs = fields.List(fields.Nested(OutputSchema), load_default=list)
    variants = fields.Dict(keys=fields.String(), values=fields.Nested(VariantSchema), load_default=dict)
