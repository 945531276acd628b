"""Serves the pages' static files. Their addresses contain a digest of all of them, so browsers may
keep them, and a script finds the others beside it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from werkzeug.exceptions import NotFound

from app.api.application import Answer
from app.pages.blueprint import pages

RULE = "/ui/static/<digest>/<name>"

# Not the system's own table of types, which differs from machine to machine.
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_KEPT = "public, max-age=31536000, immutable"

_files = {
    path.name: path.read_bytes()
    for path in sorted((Path(__file__).parent / "static").iterdir())
    if path.suffix in _KINDS
}
_digest = hashlib.sha256(b"\0".join(_files.values())).hexdigest()[:16]


def url(name: str) -> str:
    """The address of a file. Raises `KeyError` for a name that does not exist."""
    if name not in _files:
        raise KeyError(name)
    return f"/ui/static/{_digest}/{name}"


@pages.get(RULE)
def static_file(digest: str, name: str) -> Answer:
    """A file of the dashboard. An old digest, which an open page may still ask for, gets the
    present file, which must not be kept under the old address.
    """
    if name not in _files:
        raise NotFound
    kind = _KINDS[Path(name).suffix]
    kept = _KEPT if digest == _digest else "no-store"
    return Answer(
        _files[name], headers={"Cache-Control": kept}, content_type=f"{kind}; charset=utf-8"
    )
