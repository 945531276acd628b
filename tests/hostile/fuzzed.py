"""A fuzzer: makes valid requests for every endpoint and changes them at random places.

`test_any_request` sends them. The same seed and number give the same bytes, if the ids of the
executions are the same.
"""

from __future__ import annotations

import functools
import gzip
import json
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.hostile import odd

HOST = (b"Host", b"localhost")
CANARY = (
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: canary\r\nConnection: close\r\n\r\n"
)
"""Sent after a request. If a server reads too much or too little of that, this answer is wrong."""


@dataclass
class Request:
    """A request in its parts. `raw` joins them."""

    method: bytes
    path: bytes
    query: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    version: bytes = b"HTTP/1.1"
    chunks: list[bytes] | None = None
    bent: int = 0
    """How often it was changed."""

    framed: bool = True
    """Whether its headers say in exactly one way where it ends."""

    def raw(self) -> bytes:
        target = self.path + (b"?" + self.query if self.query else b"")
        lines = [b"%s %s %s" % (self.method, target, self.version)]
        lines += [name + b": " + value for name, value in self.headers]
        if self.chunks is not None:
            lines.append(b"Transfer-Encoding: chunked")
            return b"\r\n".join(lines) + b"\r\n\r\n" + b"".join(self.chunks)
        if self.body or self.method == b"POST":
            lines.append(b"Content-Length: %d" % len(self.body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


@dataclass(frozen=True, slots=True)
class Sent:
    """The bytes to send, in pieces, and what the judge may expect of the answer."""

    pieces: list[bytes]
    methods: list[bytes]
    plain: bool
    """It was not changed, so it must be accepted."""

    framed: bool
    """A canary follows it, which must be answered unless the connection was closed before."""


class Fuzzer:
    """Makes requests about these executions, with this API key if there is one."""

    def __init__(self, ids: Sequence[str], key: str = ""):
        self._ids, self._key = ids, key

    def request(self, seed: int, number: int) -> Sent:
        chance = random.Random(f"{seed}:{number}")
        return bent(Bent(chance, self._valid(chance)), BENDS)

    def _valid(self, chance: random.Random) -> Request:
        method, path, query, body = chance.choice(_ENDPOINTS)
        path = path.replace(b"ID", chance.choice(self._ids).encode())
        headers = [HOST]
        if self._key and chance.random() < 0.95:
            sent = (
                ("Authorization", f"Bearer {self._key}")
                if chance.random() < 0.5
                else ("X-API-Key", self._key)
            )
            headers.append((sent[0].encode(), sent[1].encode()))
        request = Request(method, path, query, headers)
        request.bent = int(bool(self._key) and len(headers) == 1)
        if body is not None:
            headers.append((b"Content-Type", b"application/json"))
            request.body = json.dumps(body).encode()
            if chance.random() < 0.3 and path.endswith((b"executions", b"retry")):
                headers.append((b"Idempotency-Key", b"%032x" % chance.getrandbits(128)))
        return request


_START = {
    "type": "agent",
    "target_id": "behaves",
    "inputs": {"do": "echo", "text": "hello", "list": [1, {"a": None}]},
}
_CONFIG = {
    "flow_id": "thread",
    "max_workers": 4,
    "timeout": 60,
    "max_attempts": 2,
    "retries": {"max": 1, "backoff_seconds": [0.1, 1]},
    "budget": {"max_tokens": 100, "max_steps": 3, "max_seconds": 9.5},
}
_CALLBACK = {
    "callback_url": "https://hooks.example.com:8443/a?b=%20",
    "callback_events": ["execution.completed", "execution.started"],
}
_RELAY = {"type": "pipeline", "target_id": "relay", "inputs": {"first": {}, "second": {}}}
_ONE = b"/api/v1/executions/ID"
_PAGE = b"page=1&page_size=5&status=completed&type=agent&target_id=behaves&order=asc"
_ENDPOINTS: tuple[tuple[bytes, bytes, bytes, Any], ...] = (
    *(
        (
            b"POST",
            b"/api/v1/executions",
            b"",
            {**_START, "config": _CONFIG, "expires_in": 60, "tags": ["a", "b"], **_CALLBACK},
        )
        for _ in range(4)  # four times as likely: it has by far the most to check
    ),
    (b"POST", b"/api/v1/executions", b"", _START),
    (b"POST", b"/api/v1/executions", b"", _RELAY),
    (b"GET", b"/api/v1/executions", _PAGE, None),
    (b"GET", b"/api/v1/executions", b"page_size=1", None),
    (b"GET", _ONE, b"include=steps", None),
    (b"HEAD", _ONE, b"", None),
    (b"GET", _ONE + b"/steps", b"include=outputs", None),
    (b"GET", _ONE + b"/deliveries", b"after=0", None),
    (b"GET", _ONE + b"/events", b"after=0&types=execution.completed", None),
    *(
        (b"GET", b"/api/v1" + path, b"", None)
        for path in (b"", b"/agents", b"/agents/behaves", b"/pipelines")
    ),
    (b"GET", b"/api/v1/pipelines/diamond", b"", None),
    *(
        (b"GET", path, b"", None)
        for path in (b"/healthz", b"/readyz", b"/metrics", b"/openapi.json", b"/docs/")
    ),
    (b"GET", b"/docs/swagger-ui.css", b"", None),
    (b"OPTIONS", b"/api/v1/executions", b"", None),
)
"""Requests that are accepted unchanged: all endpoints but those that change an ended execution."""

_REFUSED_ENDPOINTS: tuple[tuple[bytes, bytes, bytes, Any], ...] = (
    (b"POST", _ONE + b"/cancel", b"", {}),
    (
        b"POST",
        _ONE + b"/retry",
        b"",
        {"from": "start", "config": {"timeout": 30, "max_attempts": 1}},
    ),
    (b"POST", _ONE + b"/retry", b"", {"from": "failure"}),
    (b"POST", _ONE + b"/deliveries/1/redeliver", b"", {}),
)


class Bent:
    """A request while it is changed: one method for each kind of change.

    Once a change was made to the bytes of the whole request, they are in `raw`.
    """

    def __init__(self, chance: random.Random, request: Request):
        self.chance, self.request = chance, request
        self.raw: bytes | None = None

    def _number(self, most: int) -> int:
        return self.chance.randrange(most + 1)

    def method(self) -> None:
        self.request.method = self.chance.choice(odd.METHODS)

    def endpoint(self) -> None:
        method, path, query, body = self.chance.choice(_REFUSED_ENDPOINTS)
        old = self.request
        id = next(
            (part for part in old.path.split(b"/") if part.startswith(b"exec_")),
            b"exec_" + b"0" * 20,
        )
        old.method = method
        old.path = path.replace(b"ID", id)
        old.query = query
        old.body = json.dumps(body).encode()
        if not any(name == b"Content-Type" for name, _ in old.headers):
            old.headers.append((b"Content-Type", b"application/json"))

    def path(self) -> None:
        path, bit = self.request.path, self.chance.choice(odd.PATH_BITS)
        at = self._number(len(path))
        self.request.path = path[:at] + bit + path[at + self.chance.choice((0, 0, 1, 5)) :]
        # These can end the path early, so that the rest of the line reads as something else.
        if any(byte in bit for byte in b" \t\x00#?"):
            self.request.framed = False

    def encoded_path(self) -> None:
        path = self.request.path
        chosen = [self.chance.random() < 0.3 and byte != ord("/") for byte in path]
        self.request.path = b"".join(
            b"%%%02x" % byte if encode else bytes([byte])
            for byte, encode in zip(path, chosen, strict=True)
        )

    def query(self) -> None:
        bits = [
            self.request.query,
            *self.chance.choices(odd.QUERY_BITS, k=self.chance.choice((1, 1, 2, 4))),
        ]
        self.chance.shuffle(bits)
        self.request.query = b"&".join(filter(None, bits))
        if b" " in self.request.query:
            self.request.framed = False

    def header(self) -> None:
        name = self.chance.choice(odd.NAMES).encode()
        value = self.chance.choice(odd.VALUES).encode("latin-1")
        if self.chance.random() < 0.3:
            value = bytes(self.chance.choice(range(0x20, 0x100)) for _ in range(self._number(40)))
        self._add_header(name, value)

    def header_twice(self) -> None:
        if not self.request.headers:
            return
        name, value = self.chance.choice(self.request.headers)
        self._add_header(name, self.chance.choice((value, b"", value + b"x")))

    def header_lost(self) -> None:
        if self.request.headers:
            self.request.headers.pop(self._number(len(self.request.headers) - 1))

    def header_bent(self) -> None:
        if not self.request.headers:
            return
        at = self._number(len(self.request.headers) - 1)
        name, value = self.request.headers[at]
        bent = bytearray(value or b" ")
        bent[self._number(len(bent) - 1)] = self.chance.choice(range(0x20, 0x100))
        self.request.headers[at] = (
            self.chance.choice((name, name.lower(), name.upper())),
            bytes(bent),
        )

    def header_odd(self) -> None:
        """Adds an invalid or very large header."""
        odd = (
            (b"", b"x"),
            (b"A B", b"x"),
            (b"\xe4", b"x"),
            (b"X\x00", b"x"),
            (b"X-N", b"a\x00b"),
            (b"X-CR", b"a\rb"),
        )
        large = (
            # One below and one above the limit for a header.
            (b"X-Large", b"x" * 8100),
            (b"X-Large", b"x" * 9000),
            (b"X" * 9000, b"x"),
            (b"X-Fold", b"a\r\n b"),
        )
        self._add_header(*self.chance.choice((*odd, *large)))
        self.request.framed = False

    def headers_many(self) -> None:
        self.request.headers += [
            (b"X-Many-%d" % number, b"x") for number in range(self.chance.choice((30, 70)))
        ]
        self.request.framed = False

    def _add_header(self, name: bytes, value: bytes) -> None:
        self.request.headers.append((name, value))
        # These decide where a request ends, or who answers it, so no canary can follow.
        if name.lower() in (
            b"expect",
            b"content-length",
            b"transfer-encoding",
            b"connection",
            b"upgrade",
            b"host",
        ):
            self.request.framed = False

    def version(self) -> None:
        versions = (
            b"HTTP/1.0",
            b"HTTP/0.9",
            b"HTTP/1.5",
            b"HTTP/2.0",
            b"HTTP/1.1 ",
            b"http/1.1",
            b"",
        )
        self.request.version = self.chance.choice(versions)
        self.request.framed = False

    def value(self) -> None:
        """Replaces a value somewhere in the body."""
        body = self._object()
        place = self._place(body)
        if place:
            holder, name = place
            holder[name] = self._any()
        self._write(body)

    def raw_value(self) -> None:
        """Replaces a value by text that is invalid or dangerous JSON."""
        body = self._object()
        place = self._place(body)
        if place:
            holder, name = place
            holder[name] = "HERE"
        text = json.dumps(body).replace('"HERE"', self.chance.choice(odd.RAW), 1)
        self.request.body = text.encode("utf-8", "surrogatepass")

    def field_lost(self) -> None:
        body = self._object()
        if place := self._place(body):
            del place[0][place[1]]
        self._write(body)

    def field_more(self) -> None:
        body = self._object()
        places = [body, *(value for value in body.values() if isinstance(value, dict))]
        names = (
            *odd.SERVER_OWNED,
            *odd.TEXTS,
            "timeuot",
            "callback_url",
            "inputs",
            "config",
            "flow_id",
            "variant",
            "thread_id",
        )
        for _ in range(self.chance.choice((1, 1, 3, 120, 300))):
            name = self.chance.choice(names) + self.chance.choice(("", "", str(self._number(999))))
            self.chance.choice(places)[name] = self._any()
        self._write(body)

    def encoded_body(self) -> None:
        """Encodes the same text in other bytes."""
        body = self.request.body
        texts: tuple[Callable[[], bytes], ...] = (
            lambda: gzip.compress(body, mtime=0),
            lambda: zlib.compress(body),
            lambda: b"\xef\xbb\xbf" + body,
            lambda: body.decode("latin-1").encode("utf-16"),
            lambda: body.decode("latin-1").encode("utf-32-le"),
            lambda: body + body,
            lambda: body[: self._number(len(body))],
            # Longer than a body that is parsed in the event loop, and longer than any body may be.
            lambda: b" " * 70_000 + body,
            lambda: b" " * 1_100_000 + body,
            lambda: b"",
        )
        self.request.body = self.chance.choice(texts)()

    def bytes_of_body(self) -> None:
        self.request.body = _noise(self.chance, self.request.body)

    def chunked(self) -> None:
        body, chunks = self.request.body, []
        while body:
            size = self._number(len(body)) or 1
            extension = self.chance.choice((b"", b"", b";a=b", b';a="b;c"', b";" + b"x" * 300))
            chunks.append(b"%x%s\r\n%s\r\n" % (size, extension, body[:size]))
            body = body[size:]
        trailers = self.chance.choice(
            (b"", b"", b"X-Trailer: 1\r\n", b"Content-Length: 5\r\n", b"Host: evil\r\n" * 3)
        )
        self.request.chunks = [*chunks, b"0\r\n" + trailers + b"\r\n"]
        # Servers may refuse trailers and extensions of chunks, and close the connection then.
        self.request.framed = not trailers and all(
            b";" not in chunk.partition(b"\r\n")[0] for chunk in chunks
        )

    def length(self) -> None:
        """Sends a wrong or invalid `Content-Length`."""
        lengths = (
            b"0",
            b"1",
            b"99999999",
            b"-1",
            b"+5",
            b"0x5",
            b"5, 5",
            b"",
            b"\xb2",
            b"1" * 500,
            b"5 5",
            b"1e1",
        )
        self._add_header(b"Content-Length", self.chance.choice(lengths))

    def coding(self) -> None:
        codings = (b"chunked", b"identity", b"gzip", b"x", b"", b"\x0bchunked")
        self._add_header(b"Transfer-Encoding", self.chance.choice(codings))

    def bytes_of_all(self) -> None:
        self.raw = _noise(self.chance, self.request.raw() if self.raw is None else self.raw)

    def cut(self) -> None:
        raw = self.request.raw() if self.raw is None else self.raw
        self.raw = raw[: self._number(len(raw))]

    def line_ends(self) -> None:
        raw = self.request.raw() if self.raw is None else self.raw
        self.raw = raw.replace(
            b"\r\n", self.chance.choice((b"\n", b"\r", b"\r\r\n")), self.chance.choice((1, 2, -1))
        )

    def _object(self) -> dict[str, Any]:
        try:
            body = json.loads(self.request.body)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict) or not body:
            body = json.loads(json.dumps({**_START, "config": _CONFIG}))
        return body

    def _write(self, body: Any) -> None:
        ascii_only = self.chance.random() < 0.5
        self.request.body = json.dumps(body, ensure_ascii=ascii_only).encode(
            "utf-8", "surrogatepass"
        )

    def _place(self, value: Any) -> tuple[Any, Any] | None:
        """Returns a random place in it, at any depth: the container, and the key or index."""
        places: list[tuple[Any, Any]] = []
        waiting = [value]
        while waiting:
            holder = waiting.pop()
            names = (
                list(holder)
                if isinstance(holder, dict)
                else range(len(holder))
                if isinstance(holder, list)
                else ()
            )
            places += [(holder, name) for name in names]
            waiting += [holder[name] for name in names]
        return self.chance.choice(places) if places else None

    def _any(self, depth: int = 0) -> Any:
        kind = self._number(7 if depth < 3 else 4)
        if kind <= 1:
            return self.chance.choice(odd.TEXTS)
        if kind <= 3:
            return self.chance.choice(odd.NUMBERS)
        if kind == 4:
            return self.chance.choice((None, True, False))
        if kind <= 6:
            return [self._any(depth + 1) for _ in range(self.chance.choice((0, 1, 3, 20)))]
        return {
            self.chance.choice(odd.TEXTS[:40]): self._any(depth + 1) for _ in range(self._number(4))
        }


def bent(made: Bent, bends: Sequence[Callable[[Any], None]]) -> Sent:
    """The request after some of these changes."""
    chance = made.chance
    # Mostly one change: a request with many is refused for the first of them alone.
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        chance.choice(bends)(made)
    request = made.request
    raw = request.raw() if made.raw is None else made.raw
    framed = request.framed and made.raw is None
    methods = [raw.partition(b" ")[0]]
    if framed:
        raw, methods = raw + CANARY, [*methods, b"GET"]
    return Sent(_pieces(chance, raw), methods, not request.bent, framed)


def counted(bend: Callable[[Bent], None]) -> Callable[[Bent], None]:
    @functools.wraps(bend)
    def act(made: Bent) -> None:
        made.request.bent += 1
        bend(made)

    return act


BENDS = [
    counted(bend)
    for often, bends in (
        (1, (Bent.method, Bent.version, Bent.header_odd, Bent.headers_many, Bent.header_lost)),
        (1, (Bent.line_ends, Bent.cut)),
        (
            2,
            (
                Bent.encoded_path,
                Bent.chunked,
                Bent.length,
                Bent.coding,
                Bent.bytes_of_all,
                Bent.header_twice,
            ),
        ),
        (
            3,
            (
                Bent.path,
                Bent.query,
                Bent.header_bent,
                Bent.encoded_body,
                Bent.bytes_of_body,
                Bent.field_lost,
            ),
        ),
        (4, (Bent.endpoint, Bent.field_more, Bent.raw_value)),
        (8, (Bent.header, Bent.value)),
    )
    for bend in bends
    for _ in range(often)
]


def _noise(chance: random.Random, text: bytes) -> bytes:
    noisy = bytearray(text)
    for _ in range(chance.choice((1, 1, 2, 8, 40))):
        at = chance.randrange(len(noisy) + 1)
        match chance.randrange(3):
            case 0:
                noisy[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                noisy[at:at] = chance.randbytes(chance.choice((1, 1, 4, 100)))
            case _:
                del noisy[at : at + chance.choice((1, 1, 4, 50))]
    return bytes(noisy)


def _pieces(chance: random.Random, raw: bytes) -> list[bytes]:
    """Splits the bytes into pieces: mostly one, sometimes several."""
    if chance.random() < 0.8 or len(raw) < 2:
        return [raw]
    cuts = sorted(chance.sample(range(1, len(raw)), min(len(raw) - 1, chance.choice((1, 2, 5)))))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
