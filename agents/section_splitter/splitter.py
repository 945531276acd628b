"""Cuts a document into sections that are long enough to say something and short enough to be summarized."""

import re

ENOUGH_CHARACTERS = 1500
"""A section that is at least so long ends with the paragraph."""


def run(inputs):
    """The sections in order, at least one; together they are the document, but for white space between them."""
    sections = [[]]
    for paragraph in re.split(r"\n[^\S\n]*\n", inputs["text"].strip()):
        if sections[-1] and (paragraph.lstrip().startswith("#") or _length(sections[-1]) >= ENOUGH_CHARACTERS):
            sections.append([])
        sections[-1].append(paragraph.strip())
    return ["\n\n".join(filter(None, section)) for section in sections]


def _length(paragraphs):
    return sum(map(len, paragraphs))
