"""Summarizes a text by extraction: ranks its sentences and returns the best ones in their order.

The rank of a sentence is its cosine similarity to the whole text, with TF-IDF weights (each
sentence is a document). A sentence that is too similar to a better one is skipped.
"""

# ruff: noqa: RUF001, RUF003 - Chinese punctuation is meant

import math
import re
from collections import Counter

MAX_SIMILARITY = 0.6
"""Sentences with a higher cosine similarity (0 to 1) count as repetitions."""

# A sentence ends after 。！？ anywhere, after . ! ? before white space, and before a blank line, a
# list item or another speaker's turn. So neither `3.14` nor a wrapped line ends a sentence.
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
    """Returns a summary of `text` with at most `max_sentences`. A shorter text is returned as it
    is.
    """
    text, limit = inputs["text"].strip(), inputs["max_sentences"]
    if limit < 1:
        raise ValueError("max_sentences must be at least 1.")
    sentences = _sentences(text)
    summary = text if len(sentences) <= limit else _join(_best(sentences, limit))
    return {"output": summary, "metadata": {"model_used": "extractive", "tokens_used": 0}}


def _sentences(text):
    """Returns the sentences, each on one line. A Markdown heading is left out, but ends a sentence."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    clean = "\n".join("" if _HEADING.match(line) else line for line in lines)
    return [" ".join(part.split()) for part in _END.split(clean) if part.strip()]


def _best(sentences, limit):
    vectors = _vectors(sentences)
    whole = Counter()
    for vector in vectors:
        whole.update(vector)
    ranked = sorted(range(len(sentences)), key=lambda index: -_similarity(vectors[index], whole))
    chosen = []
    for candidate in ranked:
        if len(chosen) == limit:
            break
        if all(
            _similarity(vectors[candidate], vectors[other]) < MAX_SIMILARITY for other in chosen
        ):
            chosen.append(candidate)
    return [sentences[index] for index in sorted(chosen)]


def _vectors(sentences):
    """Returns a vector of word weights for each sentence, scaled to length 1."""
    counts = [Counter(_words(sentence)) for sentence in sentences]
    found_in = Counter(word for count in counts for word in count)
    return [
        _scaled(
            {word: n * math.log(1 + len(sentences) / found_in[word]) for word, n in count.items()}
        )
        for count in counts
    ]


def _scaled(vector):
    length = math.hypot(*vector.values())
    return {word: weight / length for word, weight in vector.items()}


def _similarity(one, other):
    """Returns the cosine of two sentences. If `other` is the sum of all, the result ranks `one`."""
    return sum(weight * other[word] for word, weight in one.items() if word in other)


def _words(sentence):
    """Yields words in lower case; of Chinese and Japanese, pairs of neighbouring characters."""
    for run_of_letters in _WORD.findall(sentence.lower()):
        if re.match(f"[{_CJK}]", run_of_letters) and len(run_of_letters) > 1:
            yield from (run_of_letters[at : at + 2] for at in range(len(run_of_letters) - 1))
        else:
            yield run_of_letters


def _join(sentences):
    """Joins with a space, but not after Chinese and Japanese punctuation."""
    parts = [text if text[-1] in "。！？”’」』）" else f"{text} " for text in sentences]
    return "".join(parts).strip()
