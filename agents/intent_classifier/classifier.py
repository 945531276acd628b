"""Which intent the words of a query speak for. The words are in `intents.toml`."""

import re
import tomllib
from pathlib import Path

_INTENTS = tomllib.loads(Path(__file__).with_name("intents.toml").read_text(encoding="utf-8"))

OTHER = "other"


def run(inputs):
    """The intent with the most letters of its words in the query; `other` where there are none."""
    query = " ".join(inputs["query"].lower().split())
    scores = {intent: sum(len(word) for word in words if _holds(query, word)) for intent, words in _INTENTS.items()}
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] else OTHER


def _holds(query, word):
    """Whole words, with their usual endings, where they are written apart: a "bill" is not in "billion"."""
    return bool(re.search(rf"\b{word}(e?[sd]|ing)?\b", query)) if word.isascii() else word in query
