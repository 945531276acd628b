"""An extractive summary: ranks the sentences of a text and returns the best of them, in their own order.

A sentence is as good as its words are telling (TF-IDF, each sentence a document), measured by how close it
comes to the text as a whole. A sentence that repeats a better one is passed over.
"""

# ruff: noqa: RUF001, RUF003 - Chinese punctuation is meant

import math
import re
from collections import Counter

MAX_SIMILARITY = 0.6
"""Two sentences closer to each other than this (cosine, 0 to 1) say the same."""

# A sentence ends after 。！？ anywhere, after . ! ? where white space follows, and before a blank line, a list
# item or another speaker's turn. So neither `3.14` nor a line that is merely wrapped ends one.
_END = re.compile(
    r"(?<=[。！？])(?![。！？”’」』）])"
    r"|(?<=[。！？][”’」』）])"
    r"|(?<=[.!?…])\s+"
    r"|(?<=[.!?…][\"'”’)\]])\s+"
    r"|\n\n+"
    r"|\n(?=[-*•] |\d{1,3}[.)] |\w{1,20}[:：])"
)
_HEADING = re.compile("#{1,6} ")
_CJK = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_CJK}]+|[^\W{_CJK}]+")


def run(inputs):
    """`text` and `max_sentences` (from 1) in, the summary out. A text that is short enough stays as it is."""
    text, limit = inputs["text"].strip(), inputs["max_sentences"]
    if limit < 1:
        raise ValueError("max_sentences must be at least 1.")
    sentences = _sentences(text)
    summary = text if len(sentences) <= limit else _join(_best(sentences, limit))
    return {"output": summary, "metadata": {"model_used": "extractive", "tokens_used": 0}}


def _sentences(text):
    """The sentences, each on one line. A Markdown heading is none, but ends the one before."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    clean = "\n".join("" if _HEADING.match(line) else line for line in lines)
    return [" ".join(part.split()) for part in _END.split(clean) if part.strip()]


def _best(sentences, limit):
    vectors = _vectors(sentences)
    whole = Counter()
    for vector in vectors:
        whole.update(vector)
    ranked = sorted(range(len(sentences)), key=lambda each: -_closeness(vectors[each], whole))
    chosen = []
    for each in ranked:
        if len(chosen) == limit:
            break
        if all(_closeness(vectors[each], vectors[other]) < MAX_SIMILARITY for other in chosen):
            chosen.append(each)
    return [sentences[each] for each in sorted(chosen)]


def _vectors(sentences):
    """The weight of each word in each sentence, each sentence scaled to the length 1."""
    counts = [Counter(_words(sentence)) for sentence in sentences]
    found_in = Counter(word for count in counts for word in count)
    return [
        _scaled({word: n * math.log(1 + len(sentences) / found_in[word]) for word, n in count.items()})
        for count in counts
    ]


def _scaled(vector):
    length = math.hypot(*vector.values())
    return {word: weight / length for word, weight in vector.items()}


def _closeness(one, other):
    """The cosine of two sentences; how well a sentence stands for the whole, where `other` is their sum."""
    return sum(weight * other[word] for word, weight in one.items() if word in other)


def _words(sentence):
    """Words in lower case; where a language writes none apart, each pair of neighbouring characters."""
    for run_of_letters in _WORD.findall(sentence.lower()):
        if re.match(f"[{_CJK}]", run_of_letters) and len(run_of_letters) > 1:
            yield from (run_of_letters[at : at + 2] for at in range(len(run_of_letters) - 1))
        else:
            yield run_of_letters


def _join(sentences):
    """With a space between, but for after Chinese and Japanese punctuation."""
    return "".join(each if each[-1] in "。！？”’」』）" else f"{each} " for each in sentences).strip()
