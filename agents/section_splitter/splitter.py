"""Cuts a document into sections, at its headings and between paragraphs, for a summary of each."""

import re

ENOUGH_CHARACTERS = 1500
"""A section of at least this length ends with its present paragraph."""


def run(inputs):
    """Returns the sections in order, at least one. Only white space between them is lost."""
    sections = [[]]
    for paragraph in re.split(r"\n[^\S\n]*\n", inputs["text"].strip()):
        if sections[-1] and (
            paragraph.lstrip().startswith("#") or _length(sections[-1]) >= ENOUGH_CHARACTERS
        ):
            sections.append([])
        sections[-1].append(paragraph.strip())
    return ["\n\n".join(filter(None, section)) for section in sections]


def _length(paragraphs):
    return sum(map(len, paragraphs))
