"""Which intent the words of a query speak for, and how surely. What customers say is in `intents.toml`."""

import tomllib
from pathlib import Path

from .weighing import Weighing

_SAID = tomllib.loads(Path(__file__).with_name("intents.toml").read_text(encoding="utf-8"))
_WEIGHING = Weighing(**_SAID)


def run(inputs):
    """The intent, `other` if the words speak for none. `metadata` has how sure it is, and the next best."""
    (intent, sure), (second, less_sure), *_ = _WEIGHING.rank(inputs["query"])
    metadata = {"confidence": round(sure, 3), "second": second, "second_confidence": round(less_sure, 3)}
    return {"output": intent, "metadata": metadata}
