"""Cuts a prompt into text, expressions, statements and placeholders.

Users' files mix three styles: `{name}` of `str.format`, `{{ name }}` and `{% if %}` of Jinja, and
braces that are text (JSON, LaTeX, code). Jinja's own lexer knows one of them, so the cutting is done
here, and Jinja is given the insides of its tags alone.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

STATEMENTS = ("if", "elif", "else", "endif", "for", "endfor", "set", "with", "endwith")

_OTHER_STATEMENTS = frozenset(
    """
    autoescape block break call continue do extends filter from import include macro
    endautoescape endblock endcall endfilter endmacro endset
    """.split()  # noqa: SIM905 - as a list it would be a page
)

MAX_TAG_CHARACTERS = 4000

MAX_PIECES = 10_000

_OPENING = re.compile(r"\{\{|\{%|\{#|\{|\}\}")
_STATEMENT = re.compile(r"\{%([-+]?)\s*([^\W\d]\w*)")
_RAW_END = re.compile(r"\{%(-?)\s*endraw\s*(-?)%\}")
_INSIDE = re.compile(
    r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|\{\{|\{%|\}\}|%\}|[{}]',
    re.DOTALL,
)
_BROKEN = re.compile(r"\{\{[-+]?(?:\s*([^\W\d]\w*)\s*[|.\[]|\s+([^\W\d]\w*)\s*\}(?!\}))")
_SINGLE = re.compile(r"\{([^{}\n]{1,128})\}")
_NAME_LIKE = re.compile(r"\w+(?:[ .\-]\w+)*")
_DOUBLED = re.compile(r"((?:\{\{){1,8})(?=\s*[\"'])")
_TARGETS = re.compile(r"\s*(?:for\s+(.+?)\s+in\b|set\s+([\w\s,]+?)\s*=|with\s+(.*))", re.DOTALL)
_BRACES_AS_TEXT = re.compile(
    r"\\[A-Za-z]{2,}\*?(?:\[[^\[\]{}]*\])?\{|\^\{|\{[^\W\d]\w*(?: [\w'’-]+)+\}"  # noqa: RUF001
)
WORDS = frozenset(
    "true false none True False None not and or in is if else elif for".split()  # noqa: SIM905
)
"""What is a word of Jinja's in an expression, and never a name."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt, with its line from 1.

    `text` is what stands in it: the text, the inside of a tag, or a placeholder's name. `otherwise` is
    what a placeholder is where nobody gave its name.
    """

    kind: Literal["text", "expression", "statement", "placeholder"]
    text: str
    line: int
    otherwise: str = ""


class PromptError(Exception):
    """What is wrong in a prompt, and on which of its lines."""

    def __init__(self, line: int, reason: str):
        super().__init__(reason)
        self.line, self.reason = line, reason


def is_formatted(*texts: str) -> bool:
    """Whether the texts of a flow use `{name}`: then `{{` before a quoted key is `str.format`'s for `{`."""
    return any(
        found[1].isidentifier() and found[1] not in WORDS
        for text in texts
        for found in _SINGLE.finditer(text)
    )


def scan(
    text: str,
    names: Collection[str] | None,
    formatted: bool,
    is_expression: Callable[[str], bool],
) -> list[Piece]:
    """The pieces of a prompt. `names` are those that can be given, None where any can.

    Raises `PromptError`.
    """
    scanner = _Scanner(text, names, formatted, is_expression)
    scanner.run()
    return scanner.pieces


@dataclass(slots=True)
class _Scanner:
    text: str
    names: Collection[str] | None
    formatted: bool
    is_expression: Callable[[str], bool]
    pieces: list[Piece] = field(default_factory=list)
    position: int = 0
    pending: list[str] = field(default_factory=list)
    pending_line: int = 1
    line: int = 1
    counted: int = 0
    strip_next: bool = False
    doubled: list[int] = field(default_factory=list)
    local: set[str] = field(default_factory=set)
    comments: bool = True
    braces_are_text: bool = False

    def run(self) -> None:
        self.braces_are_text = _BRACES_AS_TEXT.search(self.text) is not None
        while found := _OPENING.search(self.text, self.position):
            self._keep(found.start())
            self._at(found[0])
            if len(self.pieces) > MAX_PIECES:
                raise PromptError(self._line(), f"The prompt has more than {MAX_PIECES} parts.")
        self._keep(len(self.text))
        self._flush("")

    def _at(self, opening: str) -> None:
        if opening == "{#" and self._comment():
            return
        if opening == "{%" and self._statement():
            return
        if opening == "{{" and (self._expression() or self._doubled_braces()):
            return
        if opening == "}}":
            self._doubled_end()
            return
        if not self._placeholder():
            self._keep(self.position + 1)

    def _keep(self, end: int) -> None:
        """Takes everything up to `end` as text."""
        if end > self.position:
            if not self.pending:
                self.pending_line = self._line()
            self.pending.append(self.text[self.position : end])
            self.position = end

    def _line(self) -> int:
        self.line += self.text.count("\n", self.counted, self.position)
        self.counted = self.position
        return self.line

    def _flush(self, mark: str) -> None:
        """Ends the text before a tag, whose opening `mark` may take its white space away."""
        text = "".join(self.pending)
        self.pending.clear()
        if self.strip_next:
            text = text.lstrip()
        if mark == "-":
            text = text.rstrip()
        self.strip_next = False
        if text:
            self.pieces.append(Piece("text", text, self.pending_line))

    def _tag(self, piece: Piece | None, mark: str, inside: str, end: int) -> None:
        """Ends the text before a tag and goes on behind it."""
        self._flush(mark)
        if piece:
            self.pieces.append(piece)
        self.strip_next = inside.endswith("-")
        self.position = end

    def _comment(self) -> bool:
        end = self.text.find("#}", self.position + 2) if self.comments else -1
        if end < 0:
            self.comments = False  # no other one has an end either
            return False
        mark = self.text[self.position + 2 : self.position + 3]
        self._tag(None, mark, self.text[self.position + 2 : end], end + 2)
        return True

    def _statement(self) -> bool:
        found = _STATEMENT.match(self.text, self.position)
        if not found:
            return False
        mark, word = found[1], found[2]
        end = self._end("%}", self.position + 2)
        if word not in STATEMENTS and word != "raw":
            if end is not None:
                self._refuse_other(word)
            return False
        if end is None:
            raise PromptError(self._line(), f"The tag {{% {word} is never closed with %}}.")
        inside = self.text[self.position + 2 + len(mark) : end]
        if word == "raw":
            self._raw(mark, inside, end + 2)
            return True
        statement = Piece("statement", _without_mark(inside), self._line())
        self.local |= _targets(statement.text)
        self._tag(statement, mark, inside, end + 2)
        return True

    def _refuse_other(self, word: str) -> None:
        """Raises `PromptError` where a tag was meant; any other `{% word %}` is text."""
        if word in _OTHER_STATEMENTS or word == "endraw":
            raise PromptError(
                self._line(),
                f"The tag {{% {word} %}} cannot be used here; if, for, set (of one value), with and raw can.",
            )
        if near := difflib.get_close_matches(word, [*STATEMENTS, "endraw"], 1, 0.75):
            raise PromptError(self._line(), f"There is no tag {word!r}. Did you mean {near[0]!r}?")

    def _raw(self, mark: str, inside: str, begin: int) -> None:
        found = _RAW_END.search(self.text, begin)
        if not found:
            raise PromptError(self._line(), "The tag {% raw %} has no {% endraw %}.")
        line = self._line()
        self._flush(mark)
        kept = self.text[begin : found.start()]
        kept = kept.lstrip() if inside.endswith("-") else kept
        kept = kept.rstrip() if found[1] else kept
        if kept:
            self.pieces.append(Piece("text", kept, line))
        self.strip_next, self.position = bool(found[2]), found.end()

    def _expression(self) -> bool:
        end = self._end("}}", self.position + 2)
        if end is None:
            self._refuse_broken()
            return False
        mark = self.text[self.position + 2] if self.text[self.position + 2] in "-+" else ""
        inside = self.text[self.position + 2 + len(mark) : end]
        bare = _without_mark(inside)
        if self.is_expression(bare):
            piece = Piece("expression", bare, self._line())
        elif self._is_given(bare.strip()):
            whole = self.text[self.position : end + 2]
            piece = Piece("placeholder", bare.strip(), self._line(), self._otherwise(bare, whole))
        else:
            self._refuse_broken()
            return False
        self._tag(piece, mark, inside, end + 2)
        return True

    def _refuse_broken(self) -> None:
        """`{{ name |` and the like, where the name is one that can be given."""
        found = _BROKEN.match(self.text, self.position)
        if found and (found[1] or found[2]) in {*(self.names or ()), *self.local}:
            line = self.text[self.position :].split("\n", 1)[0][:60]
            raise PromptError(self._line(), f"This placeholder is not well formed: {line}")

    def _end(self, closing: str, begin: int) -> int | None:
        """Where a tag that begins here is closed, strings and inner braces passed over."""
        depth, limit = 0, begin + MAX_TAG_CHARACTERS
        while found := _INSIDE.search(self.text, begin, limit):
            begin, part = found.end(), found[0]
            if part == closing and not depth:
                return found.start()
            if part in ("{{", "{%"):
                return None
            if part == "{":
                depth += 1
            elif part in ("}", "}}"):
                if not depth:
                    return None
                depth, begin = depth - 1, found.start() + 1
        return None

    def _placeholder(self) -> bool:
        found = _SINGLE.match(self.text, self.position)
        if not found or not self._is_given(found[1]):
            return False
        piece = Piece("placeholder", found[1], self._line(), self._otherwise(found[1], found[0]))
        self._flush("")
        self.pieces.append(piece)
        self.position = found.end()
        return True

    def _is_given(self, name: str) -> bool:
        """Whether a run may bring a value of this name."""
        if name in self.local or (self.names is not None and name in self.names):
            return True
        return self.names is None and _NAME_LIKE.fullmatch(name) is not None

    def _otherwise(self, name: str, whole: str) -> str:
        """Nothing for an input that was left out; the text as it is where it may be none at all."""
        if name in self.local or self.names is not None:
            return ""
        is_name = name.isidentifier() and name not in WORDS
        return "" if is_name and not self.braces_are_text else whole

    def _doubled_braces(self) -> bool:
        found = _DOUBLED.match(self.text, self.position) if self.formatted else None
        if not found:
            return False
        pairs = len(found[1]) // 2
        self._keep(self.position + pairs)
        self.position += pairs
        self.doubled.append(pairs)
        return True

    def _doubled_end(self) -> None:
        pairs = self.doubled[-1] if self.doubled else 0
        if pairs and self.text.startswith("}}" * pairs, self.position):
            self.doubled.pop()
            self._keep(self.position + pairs)
            self.position += pairs
        else:
            self._keep(self.position + 1)


def _without_mark(inside: str) -> str:
    """The inside of a tag without the mark before its end."""
    return inside[:-1] if inside.endswith(("-", "+")) else inside


def _targets(statement: str) -> set[str]:
    """The names that a statement gives a value to."""
    found = _TARGETS.match(statement)
    if not found:
        return set()
    if found[3] is not None:
        return set(re.findall(r"(\w+)\s*=(?!=)", found[3]))
    return set(re.findall(r"\w+", found[1] or found[2] or ""))
