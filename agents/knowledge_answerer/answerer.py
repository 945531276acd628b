"""Answers out of `knowledge.toml`: by the intent where it is known, else by the words of the query."""

import re
import tomllib
from pathlib import Path

_KNOWLEDGE = tomllib.loads(Path(__file__).with_name("knowledge.toml").read_text(encoding="utf-8"))
_BY_INTENT = {topic["intent"]: topic for topic in _KNOWLEDGE["topic"]}

_CHINESE = "\u3400-\u9fff"


def run(inputs):
    """The answer, in the language of the query. An intent that is not in the knowledge gets the honest fallback."""
    query, intent = inputs["query"], inputs.get("intent")
    language = "zh" if re.search(f"[{_CHINESE}]", query) else "en"
    topic = _BY_INTENT.get(intent) if intent else _nearest(query)
    if topic is None:
        return _KNOWLEDGE["fallback"][language]
    orders = (inputs.get("entities") or {}).get("order")
    mentioned = [_KNOWLEDGE["mentioned"][language].format(", ".join(orders))] if orders else []
    return "\n\n".join([topic[language], *mentioned])


def _nearest(query):
    """The topic that shares the most words with the query; None where there is none."""
    words = _words(query)
    best = max(_BY_INTENT.values(), key=lambda topic: len(words & _words(topic["about"])))
    return best if words & _words(best["about"]) else None


def _words(text):
    """Lower-case words; of Chinese, which writes none apart, each pair of neighbouring characters."""
    chinese = re.findall(f"[{_CHINESE}]+", text)
    pairs = (run[at : at + 2] for run in chinese for at in range(len(run) - 1))
    return {*re.findall(r"[a-z]+", text.lower()), *pairs}
