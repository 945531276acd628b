"""The schema of pipeline files.

It checks what each part of a file shows by itself. `graph` checks how the steps fit together, and
`pipelines` what they ask of agents.
"""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, fields, pre_load, validates_schema
from marshmallow.validate import Length, OneOf, Range

from app.catalog import conditions
from app.catalog.fields import ExactBoolean, ExactInteger, ExactNumber, Table
from app.catalog.schemas import IDENTIFIER, DescribedSchema, FileSchema, text
from app.catalog.suggestions import did_you_mean

# The state of every step is stored and shown with each execution, so its size stays bounded.
MAX_STEPS = 1000

NO_CODE = "Code in YAML files is not supported. Write an agent with a Python flow instead."


class RetriesSchema(FileSchema):
    """`retries` of a step, in its long form."""

    max = ExactInteger(load_default=0, validate=Range(0, 10))
    backoff_seconds = fields.List(ExactNumber(validate=Range(0, 86_400)), load_default=list)


class Retries(fields.Nested):
    """A step's `retries`: a number, or a mapping like `config.retries` of a request."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        mapping = value if isinstance(value, dict) else {"max": value}
        return super()._deserialize(mapping, *args, **kwargs)


class SourceSchema(FileSchema):
    """An entry of `input_mapping` in its long form: `{from: key.part}` or `{value: constant}`."""

    keeps_null = frozenset(["value"])

    from_ = fields.String(data_key="from", validate=Length(1, 512))
    value = fields.Raw(allow_none=True)

    @validates_schema
    def _is_one_of_two(self, data: dict[str, Any], **_: Any) -> None:
        if ("from_" in data) == ("value" in data):
            raise ValidationError(
                "Give either 'from' (a key, or a part of it) or 'value' (a constant)."
            )


class MappedSource(fields.Nested):
    """An entry of `input_mapping`: the name of a key, or a mapping of `SourceSchema`."""

    def __init__(self) -> None:
        super().__init__(SourceSchema, metadata={"or_text": True})

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, str):
            return value
        if isinstance(value, dict):
            return super()._deserialize(value, *args, **kwargs)
        raise ValidationError("Must be a key, {from: key.part} or {value: constant}.")


class StepSchema(FileSchema):
    """One entry of `steps`. Which keys it needs depends on its `type`."""

    id = fields.String(required=True, validate=IDENTIFIER)
    type = fields.String(
        load_default="agent_flow", validate=OneOf(("agent_flow", "batch_aggregator"))
    )
    agent = fields.String()
    flow = fields.String(load_default=None)
    input_mapping = Table(MappedSource(), load_default=dict)
    output_key = fields.String(validate=Length(1, 128))
    depends_on = fields.List(fields.String(), load_default=list)
    required = ExactBoolean(load_default=True)
    timeout = ExactNumber(load_default=None, validate=Range(0, 86_400, min_inclusive=False))
    retries = Retries(RetriesSchema, load_default={"max": 0, "backoff_seconds": []})
    when = fields.String(load_default=None)
    on_error = fields.String(validate=OneOf(("warn", "fail")))
    model_override = fields.String(load_default=None)
    concurrent_group = fields.Raw()  # a hint in old files: the graph decides what runs together
    batch_mode = ExactBoolean(load_default=False)
    # No default: the definitions of files without this key keep their hash.
    batch_over = fields.String()
    batch_size = ExactInteger(validate=Range(1))
    concurrent = ExactBoolean(load_default=True)
    max_workers = ExactInteger(load_default=None, validate=Range(1, 64))
    aggregation_strategy = fields.String(load_default="concat")
    separator = fields.String(metadata={"keeps_tilde": True})  # `~` is a text here, not null
    # `fields` is a name that marshmallow's schemas use themselves.
    fields_ = fields.List(fields.String(), data_key="fields", load_default=list)
    condition = fields.String()
    group_by = fields.String()
    summary_fields = fields.List(fields.String())
    description = text()

    @pre_load
    def _leave_out(self, data: Any, **_: Any) -> Any:
        # Checked before everything else: the keys of such a step (`code`, `language`) are unknown
        # too, and messages about them would hide the reason.
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
            raise ValidationError("This step needs an agent.", "agent")
        elif data["batch_mode"] and not data["input_mapping"]:
            raise ValidationError(
                "A step with batch_mode needs an input that is mapped to a list.", "input_mapping"
            )
        if "batch_over" in data:
            _check_batch_over(data)

    @validates_schema
    def _condition_is_valid(self, data: dict[str, Any], **_: Any) -> None:
        if data["when"] is not None and (problem := conditions.problem(data["when"])):
            raise ValidationError(problem, "when")


def _check_batch_over(data: dict[str, Any]) -> None:
    name, mapping = data["batch_over"], data["input_mapping"]
    if data["type"] != "agent_flow" or not data["batch_mode"]:
        raise ValidationError("Only a step with 'batch_mode: true' runs over a list.", "batch_over")
    if name not in mapping:
        # The key that is mapped is an easy mistake for the input that it is mapped to.
        mapped = next((input for input, source in mapping.items() if source == name), None)
        near = f" Did you mean {mapped!r}?" if mapped else did_you_mean(name, mapping)
        message = f"Must be one of the inputs that this step maps; {name!r} is not.{near}"
        raise ValidationError(message, "batch_over")


# The strategies of a `batch_aggregator`, and the key of the step that each one requires.
_REQUIRED_KEYS = {
    "concat": None,
    "stats": "fields",
    "filter": "condition",
    "group": "group_by",
    "summary": "summary_fields",
}


def _check_aggregator(data: dict[str, Any]) -> None:
    strategy = data["aggregation_strategy"]
    if strategy not in _REQUIRED_KEYS:
        message = f"Must be one of: {', '.join(_REQUIRED_KEYS)}."
        raise ValidationError(message, "aggregation_strategy")
    required = _REQUIRED_KEYS[strategy]
    if required and not data.get("fields_" if required == "fields" else required):
        raise ValidationError(f"The strategy {strategy!r} requires this key.", required)
    if strategy == "filter" and (
        problem := conditions.problem(conditions.modern(data["condition"]))
    ):
        raise ValidationError(problem, "condition")
    if "items" not in data["input_mapping"]:
        raise ValidationError(
            "A batch_aggregator needs a list that is mapped to 'items'.", "input_mapping"
        )


class OutputSchema(FileSchema):
    """One entry of `outputs`."""

    key = fields.String(required=True, validate=Length(1))
    label = text()


class OverrideSchema(FileSchema):
    """What a variant changes in one step."""

    flow = fields.String()
    model = fields.String()


class VariantSchema(FileSchema):
    """One entry of `variants`; `overrides` maps ids of steps to their changes."""

    name = text()
    description = text()
    overrides = Table(fields.Nested(OverrideSchema), load_default=dict)


class PipelineSchema(DescribedSchema):
    """`pipelines/<id>.yaml`."""

    steps = fields.List(
        fields.Nested(StepSchema),
        required=True,
        validate=Length(1, MAX_STEPS, error=f"A pipeline must have 1 to {MAX_STEPS} steps."),
    )
    outputs = fields.List(fields.Nested(OutputSchema), load_default=list)
    variants = Table(fields.Nested(VariantSchema), load_default=dict)
