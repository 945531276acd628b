"""A fuzzer for the pages: requests as a browser makes them, changed at random places.

It changes what `fuzzed` changes, and also the fields of forms and the parts that they are sent in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from urllib.parse import quote_plus

from tests.hostile import odd
from tests.hostile.fuzzed import BENDS, HOST, Bent, Request, Sent, bent, counted

BOUNDARY = b"----boundary7MA4YWxk"
URL_ENCODED = b"application/x-www-form-urlencoded"
MULTIPART = b"multipart/form-data; boundary=" + BOUNDARY

Fields = list[tuple[bytes, bytes]]

_ONE = b"/ui/executions/ID"
_AGENT, _PIPELINE = b"/ui/targets/agent/behaves", b"/ui/targets/pipeline/relay"
_READ = (
    *((b"/", query) for query in (b"", b"page=2", b"status=failed&type=agent&target_id=behaves")),
    *((path, b"") for path in (_ONE, _ONE, _ONE + b"/json", _ONE + b"/events", b"/ui/workers")),
    *((path, b"") for path in (b"/ui/targets", _AGENT, _PIPELINE, b"/ui", b"/ui/login")),
    (_AGENT, b"from=ID"),
    (_PIPELINE, b"as=json&from=ID"),
    (_ONE + b"/events", b"after=1"),
    (b"/ui/login", b"next=/%3Fstatus%3Dfailed"),
)
_INPUTS = (b"inputs", b'{"do": "echo", "text": "a"}')
_SENT: tuple[tuple[bytes, Fields], ...] = (
    (_AGENT, [_INPUTS, (b"config.flow_id", b"thread"), (b"config", b'{"timeout": 60}')]),
    (_PIPELINE, [(b"inputs", b'{"first": {}, "second": {}}'), (b"config", b"")]),
    (_ONE + b"/cancel", []),
    (_ONE + b"/retry", [(b"from", b"start")]),
    (_ONE + b"/deliveries/1/redeliver", []),
    (b"/ui/login", [(b"key", b"KEY"), (b"next", b"/ui/targets")]),
    (b"/ui/logout", []),
    (b"/ui/first", []),
)


class PageFuzzer:
    """Makes requests of a session about these executions. `token` is that of its forms."""

    def __init__(self, ids: Sequence[str], cookie: str, token: str, key: str):
        self._ids, self._cookie, self._key = ids, cookie.encode(), key.encode()
        self._token = token.encode()

    def request(self, seed: int, number: int) -> Sent:
        chance = random.Random(f"{seed}:{number}")
        return bent(self._valid(chance), _BENDS)

    def _valid(self, chance: random.Random) -> BentForm:
        id = chance.choice(self._ids).encode()
        headers = [HOST, (b"Cookie", self._cookie)]
        if chance.random() < 0.5:
            path, query = chance.choice(_READ)
            if chance.random() < 0.3:
                headers.append((b"HX-Request", b"true"))
            path, query = path.replace(b"ID", id), query.replace(b"ID", id)
            return BentForm(chance, Request(b"GET", path, query, headers), [])
        path, fields = chance.choice(_SENT)
        known = [(name, value.replace(b"KEY", self._key)) for name, value in fields]
        request = Request(b"POST", path.replace(b"ID", id), b"", headers)
        request.bent = 1  # some are refused by what has become of the execution
        headers.append((b"Content-Type", chance.choice((URL_ENCODED, MULTIPART))))
        return BentForm(chance, request, [(b"csrf_token", self._token), *known])


class BentForm(Bent):
    """A request with the fields of a form while it is changed."""

    def __init__(self, chance: random.Random, request: Request, fields: Fields):
        super().__init__(chance, request)
        self.fields = fields
        if fields:
            self._write_fields()

    def field(self) -> None:
        """Replaces or adds a field, or the name of one."""
        value = self.chance.choice((*odd.TEXTS, *odd.RAW)).encode("utf-8", "surrogatepass")
        at = self._number(len(self.fields))
        name, old = self.fields[at] if at < len(self.fields) else (b"inputs.text", b"")
        self.fields[at : at + 1] = [self.chance.choice(((name, value), (value, old)))]
        self._write_fields()

    def field_many(self) -> None:
        count = self.chance.choice((2, 999, 1001, 30_000))
        self.fields += self.chance.choice(self.fields or [(b"a", b"")]), *[(b"a", b"")] * count
        self._write_fields()

    def field_gone(self) -> None:
        if self.fields:
            self.fields.pop(self._number(len(self.fields) - 1))
        self._write_fields()

    def kind(self) -> None:
        """Says that the body is of another kind."""
        kinds = (
            *(URL_ENCODED, MULTIPART, b"multipart/form-data", b"text/plain", b"application/json"),
            *(b"multipart/form-data; boundary=", b"multipart/form-data; boundary=" + b"x" * 300),
            *(b"multipart/mixed; boundary=" + BOUNDARY, URL_ENCODED + b"; charset=utf-16", b""),
            *(b"multipart/form-data; boundary=\xff", MULTIPART + b"; charset=rot13"),
        )
        others = [header for header in self.request.headers if header[0] != b"Content-Type"]
        self.request.headers = [*others, (b"Content-Type", self.chance.choice(kinds))]

    def part(self) -> None:
        """Writes the head of a part in another way."""
        heads = (
            *(b"", b"Content-Disposition: form-data", b"Content-Disposition: attachment; name=a"),
            *(b"name=a", b'Content-Disposition: form-data; name="a', b"\xff: \xfe", b"X" * 9000),
            b'Content-Disposition: form-data; name="inputs"; filename="../../x"',
            b"Content-Disposition: form-data; name*=utf-8''%ff%00; name=a",
            b"Content-Disposition: form-data; name=a\r\nContent-Type: text/plain; charset=\xff",
            b"Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64",
            b"\r\n".join(b"X-%d: x" % number for number in range(2000)),
        )
        head = b"--" + BOUNDARY + b"\r\n" + self.chance.choice(heads) + b"\r\n\r\nx\r\n"
        self.request.body = head * self.chance.choice((1, 1, 50, 1200)) + self.request.body

    def _write_fields(self) -> None:
        if (b"Content-Type", MULTIPART) in self.request.headers:
            parts = (
                b'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
                % (BOUNDARY, name.replace(b'"', b"%22"), value)
                for name, value in self.fields
            )
            self.request.body = b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"
        else:
            pairs = (quote_plus(name) + "=" + quote_plus(value) for name, value in self.fields)
            self.request.body = "&".join(pairs).encode()


_OF_THE_API = ("endpoint", "value", "raw_value", "field_lost", "field_more")
_BENDS: list[Callable[[BentForm], None]] = [
    *(bend for bend in BENDS if bend.__name__ not in _OF_THE_API),
    *[counted(BentForm.field)] * 12,
    *[counted(BentForm.kind), counted(BentForm.part)] * 4,
    *[counted(BentForm.field_many), counted(BentForm.field_gone)] * 2,
]
