"""Classifies a customer's query by intent. The example lines of each intent are in `intents.toml`."""

import tomllib
from pathlib import Path

from .weighing import Weighing

_SAID = tomllib.loads(Path(__file__).with_name("intents.toml").read_text(encoding="utf-8"))
_WEIGHING = Weighing(**_SAID)


def run(inputs):
    """Returns the intent, or `other`. `metadata` has its probability and the second best intent."""
    (intent, sure), (second, less_sure), *_ = _WEIGHING.rank(inputs["query"])
    metadata = {
        "confidence": round(sure, 3),
        "second": second,
        "second_confidence": round(less_sure, 3),
    }
    return {"output": intent, "metadata": metadata}
