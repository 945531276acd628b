"""The file formats: what may stand in `agent.yaml`, in a prompt file and in a pipeline file.

Only what one file can tell is checked here; what needs other files is the business of `agents` and
`pipelines`, and what makes a graph sound is `graph`'s.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from marshmallow import ValidationError, fields, pre_load, validates_schema
from marshmallow.validate import Length, OneOf, Range, Regexp

from app.catalog import conditions, model_options
from app.catalog.fields import ExactBoolean, ExactInteger, ExactNumber, StrictSchema, Table
from app.catalog.inputs import fits

IDENTIFIER = Regexp(
    r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}\Z",
    error="Must be 1 to 128 letters, digits, '_', '-' or '.'.",
)

ENTRYPOINT = Regexp(
    r"([^:]+\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):[A-Za-z_]\w*\Z",
    error="Must be 'file.py:name' or 'package.module:name'.",
)

INPUT_TYPES = ("any", "string", "integer", "number", "boolean", "array", "object")

MAX_STEPS = 1000

MAX_PATH_CHARACTERS = 512

IGNORED = frozenset(
    """
    business_goal expectations evaluation default_testset extra_testsets case_fields baseline variants
    category environment owner maintainer status tags deprecated notes type model temperature
    location documentation_url dependencies performance_metrics created_at updated_at
    """.split()  # noqa: SIM905 - as a list it would be a page
)
"""Keys that the format carries for other tools. Where a schema does not know them, they mean nothing."""

NO_CODE = "Code inside YAML is not run. Write an agent with a Python flow instead."


class FileSchema(StrictSchema):
    """A mapping in a file. A known key without a value counts as left out."""

    keeps_null: frozenset[str] = frozenset()

    @pre_load
    def _leave_out(self, data: Any, **_: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = self.names
        return {
            key: value
            for key, value in data.items()
            if (value is not None or key in self.keeps_null if key in known else key not in IGNORED)
        }


def _text() -> fields.String:
    return fields.String(load_default="")


def _inside(path: str) -> None:
    if PurePath(path).is_absolute() or ".." in PurePath(path).parts:
        raise ValidationError("Must be inside the agent's folder.")


class InputSchema(FileSchema):
    keeps_null = frozenset(["default"])

    name = fields.String(required=True, validate=Length(1, 128))
    desc = _text()
    required = ExactBoolean(load_default=False)
    type = fields.String(load_default="any", validate=OneOf(INPUT_TYPES))
    default = fields.Raw(allow_none=True, metadata={"typed_by_sibling": "default"})

    @validates_schema
    def _default_fits(self, data: dict[str, Any], **_: Any) -> None:
        default = data.get("default")
        if default is not None and not fits(data["type"], default):
            raise ValidationError(f"The default is not of the type {data['type']}.", "default")


class FlowSchema(FileSchema):
    name = fields.String(required=True, validate=IDENTIFIER)
    file = fields.String(validate=[Length(1, MAX_PATH_CHARACTERS), _inside])
    entrypoint = fields.String(validate=[Length(1, MAX_PATH_CHARACTERS), ENTRYPOINT, _inside])
    isolation = fields.String(validate=OneOf(("process", "thread", "fresh")))

    @validates_schema
    def _is_one_of_two(self, data: dict[str, Any], **_: Any) -> None:
        if ("file" in data) == ("entrypoint" in data):
            raise ValidationError(
                "A flow has either a 'file' (a prompt) or an 'entrypoint' (Python)."
            )
        if "file" in data and "isolation" in data:
            raise ValidationError(
                "Only a Python flow has an isolation; prompts always run in threads.", "isolation"
            )


class DescribedSchema(FileSchema):
    """What agents and pipelines have in common."""

    id = fields.String(validate=IDENTIFIER)
    name = _text()
    description = _text()
    version = _text()
    inputs = fields.List(fields.Nested(InputSchema), load_default=None)

    @validates_schema
    def _inputs_differ(self, data: dict[str, Any], **_: Any) -> None:
        names = [each["name"] for each in data["inputs"] or ()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValidationError(f"Two inputs have the name {twice[0]!r}.", "inputs")


class AgentSchema(DescribedSchema):
    default_flow = fields.String()
    flows = fields.List(
        fields.Nested(FlowSchema),
        required=True,
        validate=Length(1, error="At least one flow is needed."),
    )


class OutputParserSchema(FileSchema):
    type = fields.String(load_default="none", validate=OneOf(("none", "json", "list")))
    schema = fields.Dict(load_default=None)
    retry_on_error = ExactBoolean(load_default=False)
    max_retries = ExactInteger(load_default=1, validate=Range(0, 10))


class PromptSchema(FileSchema):
    id = _text()
    name = _text()
    description = _text()
    version = _text()
    system_prompt = _text()
    user_template = fields.String(required=True)
    defaults = Table(load_default=dict)
    model = fields.String(load_default=None)
    temperature = ExactNumber(load_default=None, validate=Range(0, 2))
    max_tokens = ExactInteger(load_default=None, validate=Range(1))
    max_completion_tokens = ExactInteger(load_default=None, validate=Range(1))
    response_format = Table(
        fields.Raw(allow_none=True), load_default=None, validate=model_options.response_format
    )
    top_p = ExactNumber(load_default=None, validate=Range(0, 1))
    stop = fields.Raw(load_default=None, validate=model_options.stop)
    seed = ExactInteger(load_default=None, validate=Range(-(2**63), 2**63 - 1))
    reasoning_effort = fields.String(load_default=None, validate=Length(1, 64))
    extra_body = Table(
        fields.Raw(allow_none=True), load_default=None, validate=model_options.extra_body
    )
    output_parser = fields.Nested(OutputParserSchema, load_default=None)

    @validates_schema
    def _limits_are_one(self, data: dict[str, Any], **_: Any) -> None:
        if data["max_tokens"] is not None and data["max_completion_tokens"] is not None:
            raise ValidationError(
                "Give max_tokens or max_completion_tokens, not both.", "max_completion_tokens"
            )


class RetriesSchema(FileSchema):
    max = ExactInteger(load_default=0, validate=Range(0, 10))
    backoff_seconds = fields.List(ExactNumber(validate=Range(0, 86_400)), load_default=list)


class Retries(fields.Nested):
    """A step's `retries`: a number, or the mapping of `config.retries`."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        return super()._deserialize(
            value if isinstance(value, dict) else {"max": value}, *args, **kwargs
        )


class StepSchema(FileSchema):
    id = fields.String(required=True, validate=IDENTIFIER)
    type = fields.String(
        load_default="agent_flow", validate=OneOf(("agent_flow", "batch_aggregator"))
    )
    agent = fields.String()
    flow = fields.String(load_default=None)
    input_mapping = Table(fields.String(), load_default=dict)
    output_key = fields.String(validate=Length(1, 128))
    depends_on = fields.List(fields.String(), load_default=list)
    required = ExactBoolean(load_default=True)
    timeout = ExactNumber(load_default=None, validate=Range(0, 86_400, min_inclusive=False))
    retries = Retries(RetriesSchema, load_default={"max": 0, "backoff_seconds": []})
    when = fields.String(load_default=None)
    on_error = fields.String(validate=OneOf(("warn", "fail")))
    model_override = fields.String(load_default=None)
    concurrent_group = fields.Raw()
    batch_mode = ExactBoolean(load_default=False)
    batch_size = ExactInteger(validate=Range(1))
    concurrent = ExactBoolean(load_default=True)
    max_workers = ExactInteger(load_default=None, validate=Range(1, 64))
    aggregation_strategy = fields.String(load_default="concat")
    separator = fields.String(metadata={"keeps_tilde": True})
    fields_ = fields.List(fields.String(), data_key="fields", load_default=list)
    condition = fields.String()
    group_by = fields.String()
    summary_fields = fields.List(fields.String())
    description = _text()

    @pre_load
    def _leave_out(self, data: Any, **_: Any) -> Any:
        """Code is refused before anything else, since its keys (`code`, `language`, ...) are unknown as well."""
        if isinstance(data, dict):
            for key, value in (("type", "code_node"), ("aggregation_strategy", "custom")):
                if data.get(key) == value:
                    raise ValidationError(NO_CODE, key)
        return super()._leave_out(data)

    @validates_schema
    def _fits_its_type(self, data: dict[str, Any], **_: Any) -> None:
        if data["type"] == "batch_aggregator":
            _check_aggregator(data)
        elif "agent" not in data:
            raise ValidationError("This step names no agent.", "agent")
        elif data["batch_mode"] and not data["input_mapping"]:
            raise ValidationError(
                "A step in batch_mode needs a list among its mapped inputs.", "input_mapping"
            )

    @validates_schema
    def _condition_is_well_formed(self, data: dict[str, Any], **_: Any) -> None:
        if data["when"] is not None and (complaint := conditions.complaint(data["when"])):
            raise ValidationError(complaint, "when")


_NEEDED_BY = {
    "concat": None,
    "stats": "fields",
    "filter": "condition",
    "group": "group_by",
    "summary": "summary_fields",
}
"""The strategies of a `batch_aggregator`, each with the key that it can not do without."""


def _check_aggregator(data: dict[str, Any]) -> None:
    strategy = data["aggregation_strategy"]
    if strategy not in _NEEDED_BY:
        raise ValidationError(f"Must be one of: {', '.join(_NEEDED_BY)}.", "aggregation_strategy")
    needed = _NEEDED_BY[strategy]
    if needed and not data.get("fields_" if needed == "fields" else needed):
        raise ValidationError(f"The strategy {strategy!r} needs this.", needed)
    if strategy == "filter" and (
        complaint := conditions.complaint(conditions.modern(data["condition"]))
    ):
        raise ValidationError(complaint, "condition")
    if "items" not in data["input_mapping"]:
        raise ValidationError(
            "A batch_aggregator works on the list that is mapped to 'items'.", "input_mapping"
        )


class OutputSchema(FileSchema):
    key = fields.String(required=True, validate=Length(1))
    label = _text()


class OverrideSchema(FileSchema):
    flow = fields.String()
    model = fields.String()


class VariantSchema(FileSchema):
    name = _text()
    description = _text()
    overrides = Table(fields.Nested(OverrideSchema), load_default=dict)


class PipelineSchema(DescribedSchema):
    steps = fields.List(
        fields.Nested(StepSchema),
        required=True,
        validate=Length(1, MAX_STEPS, error=f"A pipeline has 1 to {MAX_STEPS} steps."),
    )
    outputs = fields.List(fields.Nested(OutputSchema), load_default=list)
    variants = Table(fields.Nested(VariantSchema), load_default=dict)
