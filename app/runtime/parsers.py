"""Parses a model's answer into the type that a prompt flow declares: text, JSON or a list.

`prompt_flow.py` calls `parse`. Models write their reasoning first, put fences around the value, or
write a sentence before it. The value is taken if it is certain which part of the answer it is.
Otherwise the answer is refused, so that the flow can ask again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from app.catalog.model import OutputParser
from app.runtime import strict_json
from app.runtime.errors import InvalidOutput
from app.runtime.strict_json import NotJson

_LINE_BREAK = re.compile(r"\r\n|\n|\r")
_FENCE = re.compile(r"[ \t]*(?:>[ \t]*)?(`{3,}|~{3,})(.*)", re.DOTALL)
_IN_ONE_LINE = re.compile(r"(`{3,}|~{3,})[\w.+-]*[ \t]([^`~\r\n]*)\1")
_THOUGHT_END = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_THOUGHT = re.compile(r"\s*<(?:think|thinking|reasoning)>", re.IGNORECASE)
_BULLET = re.compile(r"(?:[-*](?:\s+|$)|•\s*)")
# "1. " or "1) ", where Chinese and Japanese text may follow without a space; or "1、" and the like.
_NUMBER = re.compile(
    r"(\d{1,4})(?:[.)](?:\s+|(?=[\u3040-\u30ff\u3400-\u9fff]))|[、．）]\s*(?!\d))"  # noqa: RUF001
)


def parse(parser: OutputParser, text: str) -> Any:
    """The value in a model's answer. Raises `InvalidOutput`, which says what is wrong with it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidOutput(
            "The answer is not valid Unicode: it contains a lone surrogate."
        ) from None
    if parser.type == "none":
        value: Any = text
    else:
        value = _json(text) if parser.type == "json" else _list(text)
    if parser.schema is not None:
        from app.catalog import json_schema  # imports much, and few prompts have a schema

        if complaint := json_schema.complaint(parser.schema, value):
            raise InvalidOutput(f"The answer does not match its schema: {complaint}")
    return value


def _json(text: str) -> Any:
    """The answer as a whole if that is JSON, else its only block, else the only value in it."""
    try:
        return strict_json.loads(text)
    except NotJson as error:
        reason = error
    answer = _without_thoughts(text)
    blocks = [block for block in _blocks(answer) if block.strip()]
    tries = [answer, *(blocks if len(blocks) == 1 else [])]
    for bare in tries:
        try:
            return strict_json.loads(bare)
        except NotJson as error:
            reason = error
    try:
        return strict_json.within(blocks[0] if len(blocks) == 1 else answer)
    except NotJson as error:
        whole = any(strict_json.begins(bare.strip()) for bare in tries)
        raise InvalidOutput(f"The answer is not JSON: {reason if whole else error}.") from None


def _list(text: str) -> list[Any]:
    """A JSON list if there is one, else the lines without their bullets or numbers."""
    answer = _without_thoughts(text)
    blocks = [block for block in _blocks(answer) if block.strip()]
    bare = (blocks[0] if len(blocks) == 1 else answer).strip().removeprefix("\ufeff")
    try:
        value = strict_json.loads(bare)
    except NotJson as error:
        if strict_json.begins(bare):
            raise InvalidOutput(f"The answer is not JSON: {error}.") from None
        value = _list_within(bare)
    if isinstance(value, dict):
        raise InvalidOutput("The answer is not a list.")
    return value if isinstance(value, list) else _lines(bare)


def _list_within(text: str) -> Any:
    try:
        return strict_json.within(text, own_lines=True)
    except NotJson:
        return None


def _without_thoughts(text: str) -> str:
    """The part of the answer after the model's reasoning."""
    parts = _THOUGHT_END.split(text)
    if len(parts) == 1 and _THOUGHT.match(text):
        # The closing tag is missing: the reasoning was cut off.
        raise InvalidOutput("The answer contains only reasoning.")
    return parts[-1]


def _blocks(text: str) -> list[str]:
    """The texts between fences (of backticks or tildes), with their lines unchanged."""
    if alone := _IN_ONE_LINE.fullmatch(text.strip()):
        return [alone[2]]
    return list(_fenced(_LINE_BREAK.split(text)))


def _fenced(lines: list[str]) -> Iterator[str]:
    fence, kept = "", list[str]()
    for line in lines:
        found = _FENCE.match(line)
        if not fence:
            if found and "`" not in found[2]:
                fence, kept = found[1], []
        elif found and found[1].startswith(fence) and not found[2].strip():
            yield "\n".join(kept)
            fence = ""
        # Models sometimes put the last fence at the end of the last line of the value.
        elif line.rstrip().endswith(fence) and line.strip() != fence and line is lines[-1]:
            kept.append(line.rstrip().removesuffix(fence))
        else:
            kept.append(line)
    if fence:
        yield "\n".join(kept)  # the closing fence was forgotten, or cut off


@dataclass
class _Numbering:
    """Decides whether the numbers at the beginning of lines count the lines ("1.", "2.").

    They do if they rise by one, or begin again at 1, among lines with the same indent. A single
    number counts lines only if it is 0 or 1: "1984. A novel" is an item.
    """

    last: dict[int, int] = field(default_factory=dict)
    right: bool = True
    count: int = 0
    first: int = 1

    def add(self, indent: int, number: int) -> None:
        if not self.count:
            self.first = number
        self.count += 1
        before = self.last.get(indent)
        if before is not None and number not in (before + 1, 1):
            self.right = False
        self.last = {at: known for at, known in self.last.items() if at <= indent} | {
            indent: number
        }

    @property
    def is_one(self) -> bool:
        return self.right and (self.count > 1 or self.first in (0, 1))


def _lines(text: str) -> list[str]:
    """The lines without bullets, and without numbers if these count the lines. No empty lines."""
    lines = _LINE_BREAK.split(text)
    numbering = _Numbering()
    for line in lines:
        bare = line.lstrip()
        if found := _NUMBER.match(bare):
            numbering.add(len(line) - len(bare), int(found[1]))
    items = (_bare(line.strip(), numbering.is_one) for line in lines)
    return [item for item in items if item]


def _bare(line: str, numbered: bool) -> str:
    found = _BULLET.match(line) or (_NUMBER.match(line) if numbered else None)
    return line[found.end() :].strip() if found else line
