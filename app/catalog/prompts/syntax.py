"""The words and patterns by which `scanner` recognizes tags and placeholders in a prompt.

All patterns take time that is linear in the text, or are bounded in length: prompts can be a MiB of
text that only looks like tags.
"""

from __future__ import annotations

import re

STATEMENTS = ("if", "elif", "else", "endif", "for", "endfor", "set", "with", "endwith")

# Tags of Jinja that prompts cannot use. `{% word %}` with any other word is text (LaTeX, code).
OTHER_STATEMENTS = frozenset(
    """
    autoescape block break call continue do extends filter from import include macro
    endautoescape endblock endcall endfilter endmacro endset endraw
    """.split()  # noqa: SIM905 - as a list it would be a page
)

# Words that have a meaning in Jinja's expressions, and so are never names there.
RESERVED_WORDS = frozenset(
    "true false none True False None not and or in is if else elif for".split()  # noqa: SIM905
)

# Looking for the end of a tag stops here. Otherwise a text of many unclosed `{{` would take
# quadratic time.
MAX_TAG_CHARACTERS = 4000

# Everything at which the scanner has to stop.
OPENING = re.compile(r"\{\{|\{%|\{#|\{|\}\}")

# `{%`, an optional mark, and the first word of the tag.
STATEMENT = re.compile(r"\{%([-+]?)\s*([^\W\d]\w*)")

RAW_END = re.compile(r"\{%(-?)\s*endraw\s*(-?)%\}")

# `{name}`, with what could be a name in it.
SINGLE = re.compile(r"\{([^{}\n]{1,128})\}")

# A name as people write it: `customer name`, `order-id`.
NAME_LIKE = re.compile(r"\w+(?:[ .\-]\w+)*")

# Doubled braces before a quoted key: `{{"a": 1}}` is JSON, written for `str.format`.
DOUBLED = re.compile(r"((?:\{\{){1,8})(?=\s*[\"'])")

# An expression that was probably meant and is not closed well: `{{ name | }}`, `{{ name }`.
BROKEN = re.compile(r"\{\{[-+]?(?:\s*([^\W\d]\w*)\s*[|.\[]|\s+([^\W\d]\w*)\s*\}(?!\}))")

# Signs that single braces are text in this prompt: `\frac{`, `^{`, `{your answer here}`.
BRACES_AS_TEXT = re.compile(
    r"\\[A-Za-z]{2,}\*?(?:\[[^\[\]{}]*\])?\{|\^\{|\{[^\W\d]\w*(?: [\w'’-]+)+\}"  # noqa: RUF001
)

# Strings, which may contain braces, and all braces inside a tag.
_INSIDE = re.compile(
    r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|\{\{|\{%|\}\}|%\}|[{}]',
    re.DOTALL,
)

# What `for`, `set` and `with` assign to.
_TARGETS = re.compile(r"\s*(?:for\s+(.+?)\s+in\b|set\s+([\w\s,]+?)\s*=|with\s+(.*))", re.DOTALL)


def tag_end(text: str, closing: str, begin: int) -> int | None:
    """Where `closing` ends the tag whose inside begins at `begin`; None if nothing does.

    Strings are skipped, and so are braces in pairs: `{{ {"a": {}} }}`.
    """
    depth = 0
    limit = begin + MAX_TAG_CHARACTERS
    while found := _INSIDE.search(text, begin, limit):
        begin = found.end()
        part = found[0]
        if part == closing and not depth:
            return found.start()
        if part in ("{{", "{%"):
            return None  # another tag begins before this one has ended
        if part == "{":
            depth += 1
        elif part in ("}", "}}"):
            if not depth:
                return None
            depth -= 1
            begin = found.start() + 1  # of `}}`, only the first brace closes the inner one
    return None


def without_mark(inside: str) -> str:
    """The inside of a tag without the `-` or `+` before its end."""
    return inside[:-1] if inside.endswith(("-", "+")) else inside


def targets(statement: str) -> set[str]:
    """The names that a statement assigns to."""
    found = _TARGETS.match(statement)
    if not found:
        return set()
    if found[3] is not None:  # with a = 1, b = 2
        return set(re.findall(r"(\w+)\s*=(?!=)", found[3]))
    return set(re.findall(r"\w+", found[1] or found[2] or ""))
