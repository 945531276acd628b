"""Which `Host` headers mean this machine and nothing else."""

from __future__ import annotations

import pytest

from app.api.hosts import is_this_machine


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:8000", "LocalHost:80", "localhost.", "localhost.:8000"),
        *("app.localhost", "a.b.localhost:1"),
        *("127.0.0.1", "127.0.0.1:8000", "127.0.0.1.", "127.9.8.7:1"),
        *("[::1]", "[::1]:8000", "[0:0:0:0:0:0:0:1]"),
    ],
)
def test_a_name_of_this_machine_is_known(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.parametrize(
    "host",
    [
        *("", ".", ":", ":8000", " localhost", "localhost ", "localhost\t"),
        *("evil.example", "evil.example:8000", "localhost.evil.example", "evillocalhost"),
        *(
            "127.0.0.1.evil.example",
            "127.0.0.1.nip.io",
            "localhost..",
            "127.0.0.1..",
            "xlocalhost.",
        ),
        *("10.0.0.1", "0.0.0.0", "0", "127.1", "2130706433", "0x7f.0.0.1", "128.0.0.1"),
        *("[::2]", "[::]", "[::ffff:10.0.0.1]", "::1", "[::1", "::1]", "[::1]x", "[::1%25lo]"),
        *("[localhost]", "[127.0.0.1]", "[v1.localhost]"),
        *("evil.example@localhost", "localhost@evil.example", "localhost:80@evil.example"),
        *("evil.example/localhost", "evil.example#.localhost", "evil.example?.localhost"),
        *("evil.example\\.localhost", "localhost,evil.example", "evil.example, localhost"),
        *("localhost:x", "localhost:80:80", "localhost:\uff18\uff10", "evil.example\x00.localhost"),
        *("\uff4cocalhost", "locaIhost", "localhost\u3002", "evil.example:80.localhost"),
    ],
)
def test_every_other_name_is_foreign(host: str) -> None:
    assert not is_this_machine(host)
