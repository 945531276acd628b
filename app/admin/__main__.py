"""Reads the command line of `python -m app.admin`, and prints what the command finds.

Errors go to stderr as one sentence. The exit code is 0, 1 for an error, or 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from app import settings
from app.admin.commands import Admin
from app.admin.text import shown
from app.domain.errors import ServiceError, StoreUnavailable
from app.domain.execution import Status, TargetType
from app.domain.webhook_secret import new_secret
from app.store import connection


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "webhook-secret":
        print(new_secret())
        return 0
    try:
        print(_found(settings.load(), options))
        sys.stdout.flush()
    except ServiceError as error:
        print(_sentence(error), file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (`head`) has seen enough. Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130  # as a shell says that Ctrl-C ended a command
    return 0


def _found(chosen: settings.Settings, options: argparse.Namespace) -> str:
    try:
        found = _call(Admin(chosen), options)
    except StoreUnavailable as error:
        raise ServiceError(connection.explained(error, chosen)) from error
    # What is stored may be half of a character, which no terminal can show.
    text = json.dumps(found, indent=2, ensure_ascii=False) if options.json else shown(found)
    return text.encode(errors="backslashreplace").decode()


def _call(admin: Admin, options: argparse.Namespace) -> dict[str, Any]:
    if options.command == "status":
        return admin.status()
    if options.command == "list":
        status = Status(options.status) if options.status else None
        type = TargetType(options.type) if options.type else None
        return admin.list(options.tenant, status, type, options.target, options.limit)
    return {
        "execution": admin.execution,
        "cancel": admin.cancel,
        "retry": admin.retry,
    }[options.command](options.id)


def _sentence(error: ServiceError) -> str:
    """The error, with its fields if it has some."""
    fields = [field.message for field in getattr(error, "errors", ())]
    return " ".join([str(error), *fields])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app.admin",
        description="Shows and changes executions of all tenants, directly in the store.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON, for programs")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "status", parents=[common], help="queues, workers, and running executions with their leases"
    )
    for name, help in (
        ("execution", "everything that the store holds of an execution, with secrets masked"),
        ("cancel", "cancel an execution, and wait some seconds for its end"),
        ("retry", "start a failed or cancelled execution again, with its finished steps"),
    ):
        commands.add_parser(name, parents=[common], help=help).add_argument("id", metavar="ID")
    listing = commands.add_parser("list", parents=[common], help="the newest executions")
    listing.add_argument("--tenant", help="only of this tenant")
    listing.add_argument("--status", choices=[status.value for status in Status])
    listing.add_argument("--type", choices=[type.value for type in TargetType])
    listing.add_argument("--target", help="only of this agent or pipeline")
    listing.add_argument("--limit", type=_limit, default=50, help="how many, 1 to 1000 (50)")
    commands.add_parser("webhook-secret", help="print a new secret for WEBHOOK_SECRET")
    return parser


def _limit(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError("must be a number from 1 to 1000")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
