"""The inputs that a step of a pipeline gets: `input_mapping`, applied to the values of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.catalog.model import Step
from app.catalog.sources import BadPath, value_of
from app.runtime.errors import FlowError


def inputs_of(step: Step, values: Mapping[str, Any]) -> dict[str, Any]:
    """Raises `FlowError` if a path leads to a part that the value does not have."""
    given: dict[str, Any] = {}
    for name, source in step.input_mapping.items():
        try:
            given[name] = value_of(source, values)
        except BadPath as error:
            raise FlowError(
                f"The input {name!r} of the step {step.id!r} is mapped to {source}, but {error}."
            ) from None
    return given
