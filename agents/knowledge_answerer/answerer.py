"""Answers out of `knowledge.toml`: by the intent if it is known, else by what the words of the query speak for."""

import functools
import re
import tomllib
from pathlib import Path

from .weighing import Weighing


def _read(name):
    return tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


_KNOWLEDGE = _read("knowledge.toml")
_BY_INTENT = {topic["intent"]: topic for topic in _KNOWLEDGE["topic"]}


@functools.cache
def _weighing():
    """Built when it is first needed: in a pipeline, the intent is known already."""
    return Weighing(**_read("intents.toml"))


_CHINESE = "\u3400-\u9fff"


def run(inputs):
    """The answer, in the language of the query. An intent that is not in the knowledge gets the honest fallback.

    `metadata` has the intent that is answered, and how sure it is if it was found here.
    """
    query, intent, metadata = inputs["query"], inputs.get("intent"), {}
    if not intent:
        intent, sure = _weighing().rank(query)[0]
        metadata = {"confidence": round(sure, 3)}
    return {"output": _answer(query, intent, inputs.get("entities")), "metadata": {"intent": intent, **metadata}}


def _answer(query, intent, entities):
    language = "zh" if re.search(f"[{_CHINESE}]", query) else "en"
    topic = _BY_INTENT.get(intent)
    if topic is None:
        return _KNOWLEDGE["fallback"][language]
    orders = (entities or {}).get("order")
    mentioned = [_KNOWLEDGE["mentioned"][language].format(", ".join(orders))] if orders else []
    return "\n\n".join([topic[language], *mentioned])
