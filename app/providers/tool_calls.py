"""Puts the tool calls of a streamed answer together. Used by `stream.py`."""

from __future__ import annotations

from typing import Any

_ENTRY_BYTES = 100
"""What an entry counts for a limit of size beside its arguments."""


class ToolCalls:
    """The calls so far, in the form of an answer that came as a whole.

    A call begins with its name and goes on with pieces of its arguments. Servers differ in how they
    say which call a piece belongs to: by `index`, by `id`, or not at all.
    """

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self._by_index: dict[int, dict[str, Any]] = {}

    def add(self, delta: dict[str, Any]) -> int:
        """Adds the pieces in a delta. Returns about how many bytes they take."""
        pieces = delta.get("tool_calls")
        old = delta.get("function_call")
        if isinstance(old, dict):  # the form before there could be several
            pieces = [{"index": 0, "type": "function", "function": old}]
        found = pieces if isinstance(pieces, list) else []
        return sum(self._add(piece) for piece in found if isinstance(piece, dict))

    def _add(self, piece: dict[str, Any]) -> int:
        call = self._call_of(piece)
        function = piece.get("function")
        function = function if isinstance(function, dict) else {}
        for name, value in piece.items():
            if name not in ("index", "function") and value and not call.get(name):
                call[name] = value
        known: dict[str, Any] = call["function"]
        for name, value in function.items():
            if name == "arguments" and isinstance(value, str):
                before = known.get("arguments")
                known["arguments"] = (before if isinstance(before, str) else "") + value
            elif value and not known.get(name):
                known[name] = value
        arguments = function.get("arguments")
        size = len(arguments.encode(errors="replace")) if isinstance(arguments, str) else 0
        return size + _ENTRY_BYTES

    def _call_of(self, piece: dict[str, Any]) -> dict[str, Any]:
        """The call that a piece belongs to; a new one if it begins one."""
        index, id = piece.get("index"), piece.get("id")
        index = index if isinstance(index, int) else None
        if index is not None:
            call = self._by_index.get(index)
        else:
            call = self.listed[-1] if self.listed else None
        # Some servers give each of several whole calls the same index, or none.
        function = piece.get("function")
        named = isinstance(function, dict) and bool(function.get("name"))
        if call is not None and named and id and call.get("id") not in (None, id):
            call = None
        if call is None:
            call = {"function": {}}
            self.listed.append(call)
        if index is not None:
            self._by_index[index] = call
        return call
