"""Classifies a text into one of several topics: naive Bayes over example lines of each topic.

The weight of a word is log(how often it occurs in the topic / how often in the other topics), so a
word of every topic weighs nothing. Pairs of words near each other are features as well. Synonyms
count as one word, endings are removed, and an unknown word counts as the known word that it is a
misspelling of. Chinese has no spaces between words, so pairs of neighbouring characters are used.

Used by the flows of `intent_classifier` and `knowledge_answerer`.
"""

import difflib
import functools
import math
import re
import unicodedata
from collections import Counter

OTHER = "other"

MAX_WORDS = 400
"""The rest of a longer text is ignored."""

_PAIR, _MISSPELT, _COMMON = 0.5, 0.7, 0.2
"""How much a pair of words, a misspelt and a common word count; any other counts 1."""

_PAIR_DISTANCE = 3
_SMOOTHING = 0.25

_AGAINST = -1.0
"""The lowest weight of a single word, so that one unusual word cannot rule out a topic."""

_NAME_WORDS, _NAME_WORTH = 2, 3
"""A line of at most so many words names the topic, and counts as so many lines."""

_ENOUGH = 2.0
"""The lowest score of any topic but `OTHER`."""

_SHARPNESS = 0.6
_LIKENESS = 0.82

_COMMON_WORDS = """
    a about after all already also am an and any are as at be because been before being but by can could did do does
    down each even ever every few find for from get give go good got had has have he help her here him his how i if
    in into is it its just kindly let like long make many may me mine more most much must my need never no not now of
    off on once one only or our out over page please put say see set she should site so some still such take tell
    than that the their them then there these they this those though through time to today too under until up us
    very want was way we week well were what when where which while who why will with would yet you your
"""
"""Function words. With so few example lines, their counts are chance."""

_SHORT_FORMS = {
    "can't": "can n't",
    "cannot": "can n't",
    "won't": "will not",
    "n't": " not",
    "'m": " am",
    "'s": "",
    "'re": " are",
    "'ll": " will",
    "'d": " would",
    "'ve": " have",
    "colour": "color",
}
_ENDINGS = {
    "ations": "",
    "ation": "",
    "ies": "y",
    "ing": "",
    "ed": "",
    "es": "e",
    "s": "",
    "ly": "",
}
_CHINESE = re.compile("[\u3400-\u9fff]+")


class Weighing:
    """Learns from `topics` (example lines by topic, with `OTHER`) and `same` (synonyms by meaning)."""

    def __init__(self, topics, same):
        self._meaning = {
            stems_of(word): name for name, words in same.items() for word in [name, *words]
        }
        self._longest = max(map(len, self._meaning), default=1)
        self._said = {topic: Counter() for topic in topics}
        self._lines = Counter()
        for topic, lines in topics.items():
            for line in lines:
                self._learn(topic, line)
        self._everywhere = sum(self._said.values(), Counter())
        single = {stem for stems in self._meaning for stem in stems} | self._everywhere.keys()
        self._words = sorted(
            word for word in single if word.isascii() and word.isalpha() and len(word) > 3
        )
        self._spelt = functools.lru_cache(10_000)(self._nearest_known)

    def rank(self, text):
        """Returns pairs of topic and probability (0 to 1, sum 1), the most probable first."""
        features = self._features(map(self._spelt, stems_of(text)), text)
        scores = {topic: self._score(topic, features) for topic in self._said}
        scores[OTHER] = max(scores[OTHER], _ENOUGH)
        best = max(scores.values())
        shares = {topic: math.exp(_SHARPNESS * (score - best)) for topic, score in scores.items()}
        together = sum(shares.values())
        return sorted(
            ((topic, share / together) for topic, share in shares.items()),
            key=lambda pair: -pair[1],
        )

    def _learn(self, topic, line):
        stems = stems_of(line)
        worth = _NAME_WORTH if len(stems) <= _NAME_WORDS else 1
        self._said[topic].update(
            dict.fromkeys(self._features(((stem, 1) for stem in stems), line), worth)
        )
        self._lines[topic] += worth

    def _score(self, topic, features):
        said = self._said[topic]
        own = self._lines[topic]
        others = self._lines.total() - self._lines[topic]
        score = 0
        for feature, counts in features.items():
            if everywhere := self._everywhere[feature]:
                here = (said[feature] + _SMOOTHING) / (own + 1)
                elsewhere = (everywhere - said[feature] + 2 * _SMOOTHING) / (others + 1)
                score += counts * max(_AGAINST, math.log(here / elsewhere))
        return score

    def _features(self, stems, text):
        """Returns the features of a text with their weights. `stems` are pairs of stem and weight."""
        words = self._meanings(list(stems))
        features = {
            word: worth * (_COMMON if word in _COMMON_STEMS else 1) for word, worth in words
        }
        names = [word for word, _ in words]
        for distance in range(1, _PAIR_DISTANCE + 1):
            for one, other in zip(names, names[distance:], strict=False):
                common = one in _COMMON_STEMS and other in _COMMON_STEMS
                features[f"{one} {other}"] = _PAIR * (_COMMON if common else 1)
        for run in _CHINESE.findall(text):
            features |= {run[at : at + 2]: 1 for at in range(len(run) - 1)}
        return features

    def _meanings(self, stems):
        """Returns the words in order, with synonyms (also of several words) replaced by their
        meaning.
        """
        words, at = [], 0
        while at < len(stems):
            for size in range(min(self._longest, len(stems) - at), 0, -1):
                several = stems[at : at + size]
                meaning = self._meaning.get(tuple(stem for stem, _ in several))
                if meaning or size == 1:
                    words.append(
                        (
                            f"={meaning}" if meaning else several[0][0],
                            min(worth for _, worth in several),
                        )
                    )
                    at += size
                    break
        return words

    def _nearest_known(self, stem):
        if len(stem) < 5 or stem in self._everywhere or (stem,) in self._meaning:
            return stem, 1
        near = difflib.get_close_matches(stem, self._words, 1, _LIKENESS)
        return (near[0], _MISSPELT) if near else (stem, 1)


def stems_of(text):
    """Returns the first `MAX_WORDS` words of a text, in lower case and without endings."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    for short, long in _SHORT_FORMS.items():
        plain = plain.replace(short, long)
    return tuple(_stem(word) for word in re.findall(r"[a-z]+|\d+", plain)[:MAX_WORDS])


def _stem(word):
    for ending, instead in _ENDINGS.items():
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word.removesuffix(ending) + instead
            break
    doubled = len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz"
    if doubled or (word.endswith("ll") and len(word) > 5):
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


_COMMON_STEMS = frozenset(_stem(word) for word in _COMMON_WORDS.split())
