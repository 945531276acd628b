"""Answers a customer's query from `knowledge.toml`. Classifies the query first if no intent is
given.
"""

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
    """Built on first use: in a pipeline, the intent is usually given."""
    return Weighing(**_read("intents.toml"))


_CHINESE = "\u3400-\u9fff"


def run(inputs):
    """Returns the answer in the language of the query, or the fallback for an unknown intent.

    `metadata` has the intent, and its probability if it was classified here.
    """
    query, intent, metadata = inputs["query"], inputs.get("intent"), {}
    if not intent:
        intent, sure = _weighing().rank(query)[0]
        metadata = {"confidence": round(sure, 3)}
    return {
        "output": _answer(query, intent, inputs.get("entities")),
        "metadata": {"intent": intent, **metadata},
    }


def _answer(query, intent, entities):
    language = "zh" if re.search(f"[{_CHINESE}]", query) else "en"
    topic = _BY_INTENT.get(intent)
    if topic is None:
        return _KNOWLEDGE["fallback"][language]
    orders = (entities or {}).get("order")
    mentioned = [_KNOWLEDGE["mentioned"][language].format(", ".join(orders))] if orders else []
    return "\n\n".join([topic[language], *mentioned])
