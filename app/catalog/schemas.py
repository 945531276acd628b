"""The schemas of `agent.yaml` and of prompt files, and what they share with pipeline files.

They check what one file shows by itself. `agents` checks what needs other files: whether prompts
and entrypoints exist, and whether templates are valid.
"""

from __future__ import annotations

from collections import Counter
from pathlib import PurePath
from typing import Any

from marshmallow import ValidationError, fields, pre_load, validates_schema
from marshmallow.validate import Length, OneOf, Range, Regexp

from app.catalog import model_options
from app.catalog.fields import ExactBoolean, ExactInteger, ExactNumber, StrictSchema, Table
from app.catalog.inputs import fits

# An id is also a folder's or file's name and a part of URLs, so no other characters are allowed.
IDENTIFIER = Regexp(
    r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}\Z",
    error="Must be 1 to 128 letters, digits, '_', '-' or '.'.",
)

ENTRYPOINT = Regexp(
    r"([^:]+\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):[A-Za-z_]\w*\Z",
    error="Must be 'file.py:name' or 'package.module:name'.",
)

INPUT_TYPES = ("any", "string", "integer", "number", "boolean", "array", "object")

MAX_PATH_CHARACTERS = 512

# Keys that existing files have for other tools (Prompt Lab). A schema that does not know one of
# them ignores it; any other unknown key is refused, since it is probably a typing error.
IGNORED_KEYS = frozenset(
    """
    business_goal expectations evaluation default_testset extra_testsets case_fields baseline
    variants category environment owner maintainer status tags deprecated notes type model
    temperature location documentation_url dependencies performance_metrics created_at updated_at
    """.split()  # noqa: SIM905 - as a list it would be a page
)


class FileSchema(StrictSchema):
    """A mapping in a file. A known key without a value counts as left out."""

    keeps_null: frozenset[str] = frozenset()
    """The keys for which null is a value."""

    @pre_load
    def _leave_out(self, data: Any, **_: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = self.names

        def counts(key: Any, value: Any) -> bool:
            if key in known:
                return value is not None or key in self.keeps_null
            return key not in IGNORED_KEYS

        return {key: value for key, value in data.items() if counts(key, value)}


def text() -> fields.String:
    """An optional text for people."""
    return fields.String(load_default="")


def _inside(path: str) -> None:
    if PurePath(path).is_absolute() or ".." in PurePath(path).parts:
        raise ValidationError("Must be inside the agent's folder.")


class InputSchema(FileSchema):
    """One entry of `inputs`."""

    keeps_null = frozenset(["default"])

    name = fields.String(required=True, validate=Length(1, 128))
    desc = text()
    required = ExactBoolean(load_default=False)
    type = fields.String(load_default="any", validate=OneOf(INPUT_TYPES))
    # Its type is that of the key `type` beside it; `yaml_spelling` reads this mark.
    default = fields.Raw(allow_none=True, metadata={"typed_by_sibling": "default"})

    @validates_schema
    def _default_fits(self, data: dict[str, Any], **_: Any) -> None:
        default = data.get("default")
        if default is not None and not fits(data["type"], default):
            raise ValidationError(f"The default is not of type {data['type']}.", "default")


class FlowSchema(FileSchema):
    """One entry of `flows`: a prompt flow has a `file`, a Python flow an `entrypoint`."""

    name = fields.String(required=True, validate=IDENTIFIER)
    file = fields.String(validate=[Length(1, MAX_PATH_CHARACTERS), _inside])
    entrypoint = fields.String(validate=[Length(1, MAX_PATH_CHARACTERS), ENTRYPOINT, _inside])
    isolation = fields.String(validate=OneOf(("process", "thread", "fresh")))

    @validates_schema
    def _is_one_of_two(self, data: dict[str, Any], **_: Any) -> None:
        if ("file" in data) == ("entrypoint" in data):
            raise ValidationError(
                "A flow must have either a 'file' (a prompt) or an 'entrypoint' (Python)."
            )
        if "file" in data and "isolation" in data:
            raise ValidationError(
                "Only a Python flow can have an isolation; prompts always run in threads.",
                "isolation",
            )


class DescribedSchema(FileSchema):
    """The keys that agents and pipelines share."""

    id = fields.String(validate=IDENTIFIER)
    name = text()
    description = text()
    version = text()
    inputs = fields.List(fields.Nested(InputSchema), load_default=None)

    @validates_schema
    def _inputs_differ(self, data: dict[str, Any], **_: Any) -> None:
        counts = Counter(field["name"] for field in data["inputs"] or ())
        repeated = sorted(name for name, count in counts.items() if count > 1)
        if repeated:
            raise ValidationError(f"Two inputs have the same name {repeated[0]!r}.", "inputs")


class AgentSchema(DescribedSchema):
    """`agents/<id>/agent.yaml`."""

    default_flow = fields.String()
    flows = fields.List(
        fields.Nested(FlowSchema),
        required=True,
        validate=Length(1, error="At least one flow is required."),
    )


class OutputParserSchema(FileSchema):
    """`output_parser` of a prompt file."""

    type = fields.String(load_default="none", validate=OneOf(("none", "json", "list")))
    schema = fields.Dict(load_default=None)
    retry_on_error = ExactBoolean(load_default=False)
    max_retries = ExactInteger(load_default=1, validate=Range(0, 10))


class PromptSchema(FileSchema):
    """`agents/<id>/prompts/<name>.yaml`. `model_options.MODEL_OPTIONS` lists its model options."""

    id = text()
    name = text()
    description = text()
    version = text()
    system_prompt = text()
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
    stream = ExactBoolean(load_default=None)

    @validates_schema
    def _limits_are_one(self, data: dict[str, Any], **_: Any) -> None:
        # Servers take one name or the other, by model, and refuse a request with both.
        if data["max_tokens"] is not None and data["max_completion_tokens"] is not None:
            raise ValidationError(
                "Give max_tokens or max_completion_tokens, not both.", "max_completion_tokens"
            )
