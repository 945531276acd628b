"""Cuts a prompt into pieces: text, expressions, statements and placeholders.

`compiler` calls `scan` first. Users' files mix three styles in one prompt: `{name}` of
`str.format`, `{{ name }}` and `{% if %}` of Jinja, and braces that are text (JSON, LaTeX, code).
Jinja's own lexer knows only the second one, so the prompt is cut here, and Jinja parses the inside
of its tags.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

from app.catalog.prompts import syntax
from app.catalog.prompts.syntax import RESERVED_WORDS, STATEMENTS, tag_end, without_mark
from app.catalog.suggestions import did_you_mean

MAX_PIECES = 10_000  # each becomes a node of Jinja's tree and a line of Python

# The least similarity of a word to a tag's name at which it is taken for a typing error. The usual
# 0.6 would refuse words of code (`{% format %}`).
_TAG_SIMILARITY = 0.75

# The same for a name in single braces among braces that are text.
_NAME_SIMILARITY = 0.8


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt, with its line from 1.

    `text` is the text itself, the inside of a tag, or the name of a placeholder. `fallback` is what
    a placeholder becomes if the run has no value for it.
    """

    kind: Literal["text", "expression", "statement", "placeholder"]
    text: str
    line: int
    fallback: str = ""


class PromptError(Exception):
    """A mistake in a prompt: `reason` is one sentence, `line` its line from 1."""

    def __init__(self, line: int, reason: str):
        super().__init__(reason)
        self.line = line
        self.reason = reason


def is_formatted(*texts: str) -> bool:
    """Whether the texts of a flow use `{name}`.

    If one does, doubled braces before a quoted key (`{{"a": 1}}`) mean single ones in all of them,
    as they do for `str.format`.
    """
    names = (found[1] for text in texts for found in syntax.SINGLE.finditer(text))
    return any(name.isidentifier() and name not in RESERVED_WORDS for name in names)


def scan(
    text: str,
    names: Collection[str] | None,
    formatted: bool,
    is_expression: Callable[[str], bool],
) -> list[Piece]:
    """The pieces of a prompt. Raises `PromptError`.

    `names` are the names that a run can give, None if it can give any. `is_expression` says whether
    the inside of `{{ }}` is an expression of Jinja.
    """
    scanner = _Scanner(text, names, formatted, is_expression)
    scanner.run()
    return scanner.pieces


def unfilled(
    text: str, names: Collection[str], formatted: bool, is_expression: Callable[[str], bool]
) -> Iterator[tuple[int, str]]:
    """Each `{name}` that looks like a placeholder and is text, as no run can fill it: line, name.

    In a prompt that uses braces as text (LaTeX), only those that resemble a known name.
    """
    scanner = _Scanner(text, names, formatted, is_expression)
    scanner.run()
    for line, name in scanner.unfilled:
        if not scanner.braces_are_text or did_you_mean(name, names, _NAME_SIMILARITY):
            yield line, name


@dataclass(slots=True)
class _Scanner:
    text: str
    names: Collection[str] | None
    formatted: bool
    is_expression: Callable[[str], bool]
    pieces: list[Piece] = field(default_factory=list)
    position: int = 0

    # Text that is not yet a piece: parts of it, since a brace at a time may turn out to be text.
    pending: list[str] = field(default_factory=list)
    pending_line: int = 1

    # `line` is the line of `counted_to`; lines are counted only once.
    line: int = 1
    counted_to: int = 0

    # The last tag ended with `-`: the text behind it loses its leading white space.
    strip_next: bool = False

    # For each group of doubled braces that is open: of how many pairs it is.
    doubled: list[int] = field(default_factory=list)

    # `{name}` that no run can fill, with its line: probably text, perhaps a misspelled name.
    unfilled: list[tuple[int, str]] = field(default_factory=list)

    # Names that the prompt sets itself.
    local_names: set[str] = field(default_factory=set)

    # False once a `{#` had no end: then no later one has, and looking would be quadratic.
    comments_possible: bool = True
    braces_are_text: bool = False

    def run(self) -> None:
        self.braces_are_text = syntax.BRACES_AS_TEXT.search(self.text) is not None
        while found := syntax.OPENING.search(self.text, self.position):
            self._take_text(found.start())
            self._read(found[0])
            if len(self.pieces) > MAX_PIECES:
                message = f"The prompt has more than {MAX_PIECES} parts."
                raise PromptError(self._line(), message)
        self._take_text(len(self.text))
        self._end_text("")

    def _read(self, opening: str) -> None:
        """Reads what begins here: each reader returns False if it is not what it reads."""
        if opening == "{#" and self._comment():
            return
        if opening == "{%" and self._statement():
            return
        if opening == "{{" and (self._expression() or self._doubled_braces()):
            return
        if opening == "}}":
            self._doubled_end()
            return
        # The first brace of `{{`, `{%` and `{#` may also begin `{name}`; otherwise it is text.
        if not self._placeholder():
            self._take_text(self.position + 1)

    def _take_text(self, end: int) -> None:
        """Takes everything up to `end` as text."""
        if end > self.position:
            if not self.pending:
                self.pending_line = self._line()
            self.pending.append(self.text[self.position : end])
            self.position = end

    def _line(self) -> int:
        self.line += self.text.count("\n", self.counted_to, self.position)
        self.counted_to = self.position
        return self.line

    def _end_text(self, mark: str) -> None:
        """Makes a piece of the text before a tag; the tag's mark `-` strips its trailing space."""
        text = "".join(self.pending)
        self.pending.clear()
        if self.strip_next:
            text = text.lstrip()
        if mark == "-":
            text = text.rstrip()
        self.strip_next = False
        if text:
            self.pieces.append(Piece("text", text, self.pending_line))

    def _end_tag(self, piece: Piece | None, mark: str, inside: str, end: int) -> None:
        """Adds the text before a tag and the tag's piece, and goes on behind the tag."""
        self._end_text(mark)
        if piece:
            self.pieces.append(piece)
        self.strip_next = inside.endswith("-")
        self.position = end

    def _comment(self) -> bool:
        end = self.text.find("#}", self.position + 2) if self.comments_possible else -1
        if end < 0:
            self.comments_possible = False
            return False
        inside = self.text[self.position + 2 : end]
        mark = self.text[self.position + 2 : self.position + 3]
        self._end_tag(None, mark, inside, end + 2)
        return True

    def _statement(self) -> bool:
        found = syntax.STATEMENT.match(self.text, self.position)
        if not found:
            return False
        mark, word = found[1], found[2]
        end = tag_end(self.text, "%}", self.position + 2)
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
        statement = Piece("statement", without_mark(inside), self._line())
        self.local_names |= syntax.targets(statement.text)
        self._end_tag(statement, mark, inside, end + 2)
        return True

    def _refuse_other(self, word: str) -> None:
        """Raises `PromptError` if a tag was probably meant; any other `{% word %}` is text."""
        if word in syntax.OTHER_STATEMENTS:
            tags = "if, for, set (of one value), with or raw"
            message = f"The tag {{% {word} %}} cannot be used here. Use {tags}."
            raise PromptError(self._line(), message)
        if near := did_you_mean(word, [*STATEMENTS, "endraw"], _TAG_SIMILARITY):
            raise PromptError(self._line(), f"There is no tag {word!r}.{near}")

    def _raw(self, mark: str, inside: str, begin: int) -> None:
        found = syntax.RAW_END.search(self.text, begin)
        if not found:
            raise PromptError(self._line(), "The tag {% raw %} has no {% endraw %}.")
        line = self._line()
        self._end_text(mark)
        raw = self.text[begin : found.start()]
        raw = raw.lstrip() if inside.endswith("-") else raw
        raw = raw.rstrip() if found[1] else raw
        if raw:
            self.pieces.append(Piece("text", raw, line))
        self.strip_next = bool(found[2])
        self.position = found.end()

    def _expression(self) -> bool:
        end = tag_end(self.text, "}}", self.position + 2)
        if end is None:
            self._refuse_broken()
            return False
        mark = self.text[self.position + 2] if self.text[self.position + 2] in "-+" else ""
        inside = self.text[self.position + 2 + len(mark) : end]
        bare = without_mark(inside)
        if self.is_expression(bare):
            piece = Piece("expression", bare, self._line())
        elif self._can_be_given(bare.strip()):
            # A name that Jinja cannot spell: `{{ customer name }}`.
            tag = self.text[self.position : end + 2]
            fallback = self._fallback(bare, tag)
            piece = Piece("placeholder", bare.strip(), self._line(), fallback)
        else:
            self._refuse_broken()
            return False
        self._end_tag(piece, mark, inside, end + 2)
        return True

    def _refuse_broken(self) -> None:
        """Raises `PromptError` for `{{ name |` and the like, if the name is a known one.

        With any other name it may well be text, which needs no repair.
        """
        found = syntax.BROKEN.match(self.text, self.position)
        if found and (found[1] or found[2]) in {*(self.names or ()), *self.local_names}:
            line = self.text[self.position :].split("\n", 1)[0][:60]
            raise PromptError(self._line(), f"This placeholder is not well formed: {line}")

    def _placeholder(self) -> bool:
        found = syntax.SINGLE.match(self.text, self.position)
        if not found:
            return False
        if not self._can_be_given(found[1]):
            if found[1].isidentifier() and found[1] not in RESERVED_WORDS:
                self.unfilled.append((self._line(), found[1]))
            return False
        fallback = self._fallback(found[1], found[0])
        piece = Piece("placeholder", found[1], self._line(), fallback)
        self._end_text("")
        self.pieces.append(piece)
        self.position = found.end()
        return True

    def _can_be_given(self, name: str) -> bool:
        """Whether a run can have a value with this name."""
        if name in self.local_names or (self.names is not None and name in self.names):
            return True
        return self.names is None and syntax.NAME_LIKE.fullmatch(name) is not None

    def _fallback(self, name: str, source: str) -> str:
        """The text of a placeholder without a value: `source`, as the prompt has it, or nothing."""
        # A name that is known to be one is an input that was left out.
        if name in self.local_names or self.names is not None:
            return ""
        is_name = name.isidentifier() and name not in RESERVED_WORDS
        return "" if is_name and not self.braces_are_text else source

    def _doubled_braces(self) -> bool:
        found = syntax.DOUBLED.match(self.text, self.position) if self.formatted else None
        if not found:
            return False
        self._halve(len(found[1]) // 2)
        self.doubled.append(len(found[1]) // 2)
        return True

    def _doubled_end(self) -> None:
        pairs = self.doubled[-1] if self.doubled else 0
        if pairs and self.text.startswith("}}" * pairs, self.position):
            self.doubled.pop()
            self._halve(pairs)
        else:
            self._take_text(self.position + 1)

    def _halve(self, pairs: int) -> None:
        """Takes one brace of each pair as text and skips the other one."""
        self._take_text(self.position + pairs)
        self.position += pairs
