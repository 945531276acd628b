"""Stores as older code left them: a file for each format, and how to write and restore one.

A format is named after its number. `make.py` writes such a file from a commit of that time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

FOLDER = Path(__file__).parent
TARGETS = FOLDER / "targets"
"""The agents and pipelines that the stored executions name."""


@dataclass(frozen=True)
class Fixture:
    name: str
    ids: dict[str, str]
    """The id of the execution in each state, such as `running agent`."""

    keys: dict[str, Any]


def fixtures() -> list[Fixture]:
    """All of them, the oldest format first."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        text = json.loads(path.read_text())
        found.append(Fixture(path.stem, text["ids"], text["keys"]))
    return found


def dump(client: redis.Redis) -> dict[str, Any]:
    """Every key with its type and value. Bytes are Latin-1 text, so that packed ones survive."""
    found = {}
    for key in sorted(client.keys()):
        name = key.decode()
        kind = client.type(key).decode()
        read = {
            "string": lambda key: _text(client.get(key)),
            "hash": lambda key: {_text(f): _text(v) for f, v in client.hgetall(key).items()},
            "list": lambda key: [_text(value) for value in client.lrange(key, 0, -1)],
            "set": lambda key: sorted(_text(value) for value in client.smembers(key)),
            "zset": lambda key: {
                _text(member): str(score)
                for member, score in client.zrange(key, 0, -1, withscores=True)
            },
            "stream": lambda key: [
                [_text(id), {_text(f): _text(v) for f, v in fields.items()}]
                for id, fields in client.xrange(key)
            ],
        }[kind]
        found[name] = {"type": kind, "value": read(key)}
    return found


def restore(client: redis.Redis, fixture: Fixture) -> None:
    """Writes the keys into an empty store."""
    for key, entry in fixture.keys.items():
        value = entry["value"]
        match entry["type"]:
            case "string":
                client.set(key, _bytes(value))
            case "hash":
                client.hset(key, mapping={_bytes(f): _bytes(v) for f, v in value.items()})
            case "list":
                client.rpush(key, *map(_bytes, value))
            case "set":
                client.sadd(key, *map(_bytes, value))
            case "zset":
                client.zadd(key, {_bytes(member): float(at) for member, at in value.items()})
            case "stream":
                for id, fields in value:
                    client.xadd(key, fields, id)


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")
