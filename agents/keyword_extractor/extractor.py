"""Finds the keywords of a text: its most frequent words, without common ones such as "the"."""

import re
from collections import Counter

_COMMON = frozenset(
    """
    about after again all also although always among and another any are because been before being between both
    but can could did does doing down during each either even ever every few for from further had has have
    having her here him his how however into its itself just least less like made make many may might more most
    much must never not now off often only other others our out over own rather same several shall she should
    since some still such than that the their them then there these they this those though through too under
    until upon very was well were what when where whether which while who whom whose why will with within
    without would yet you your
    """.split()  # noqa: SIM905 - as a list it would be pages
)
_WORD = re.compile(r"[^\W\d_][\w'-]{2,}")
_CHINESE = re.compile(r"[\u3400-\u9fff]{2,}")
_PARTICLES = re.compile("[的了和是在我有就不都一上也很到说要去你会着看好这那与及或而被把对为从以]")

_CANDIDATES = 300


def run(inputs):
    """Returns at most `max_keywords`, the most frequent first, in their first spelling in the text."""
    text, spelling = inputs["text"], {}
    counts = _chinese_terms(text)
    for word in _WORD.findall(_CHINESE.sub(" ", text)):
        if word.lower() not in _COMMON:
            counts[spelling.setdefault(word.lower(), word)] += 1
    return [term for term, _ in counts.most_common(max(0, inputs["max_keywords"]))]


def _chinese_terms(text):
    """Counts repeated runs of 2 to 4 characters that overlap no better run: Chinese has no spaces."""
    runs = _CHINESE.findall(_PARTICLES.sub(" ", text))
    counts = Counter(
        run[at : at + size]
        for run in runs
        for size in (4, 3, 2)
        for at in range(len(run) - size + 1)
    )
    terms, taken = Counter(), set()
    for term, count in sorted(
        counts.most_common(_CANDIDATES), key=lambda pair: (-pair[1], -len(pair[0]))
    ):
        pairs = {term[at : at + 2] for at in range(len(term) - 1)}
        if count > 1 and not pairs & taken:
            terms[term] = count
            taken |= pairs
    return terms
