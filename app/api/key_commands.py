"""The commands `flask keys add`, `list` and `revoke`, with which an operator manages API keys.

Errors go to stderr as one sentence, with exit code 1.
"""

from __future__ import annotations

import click

from app.domain.errors import ServiceError
from app.domain.key import DEFAULT_TENANT, NAME, USUAL, Identity, parse_scopes, show_scopes
from app.services.authentication import CACHE_SECONDS
from app.settings import Settings
from app.store.keys import KeyStore


class _Name(click.ParamType[str]):
    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not NAME.fullmatch(value):
            self.fail(
                "Use up to 64 letters, digits, '.', '_' and '-'; begin with a letter or a digit.",
                param,
                ctx,
            )
        return value


class _Scopes(click.ParamType[str]):
    name = "scopes"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        # Returned as text, since click may call `convert` again with what it returned.
        try:
            return show_scopes(parse_scopes(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Group(click.Group):
    """Shows our own errors (the store is away, a name is taken) as a sentence, not a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ServiceError as error:
            raise click.ClickException(str(error)) from None


def group(settings: Settings, store: KeyStore) -> click.Group:
    """Builds the commands for this store. `create_app` adds them to Flask's command line."""

    @click.group("keys", cls=_Group, help="Manage API keys.")
    def keys() -> None:
        pass

    @keys.command()
    @click.argument("name", type=_Name())
    @click.option(
        "--scopes",
        type=_Scopes(),
        default=show_scopes(USUAL),
        show_default=True,
        help="What the key may do; 'admin' is possible too.",
    )
    @click.option(
        "--tenant",
        type=_Name(),
        default=DEFAULT_TENANT,
        show_default=True,
        help="The tenant whose executions the key can see and start.",
    )
    def add(name: str, scopes: str, tenant: str) -> None:
        """Create a key and print it. It cannot be shown again."""
        # Only the key goes to stdout, so that a script can read it from there.
        click.echo(store.add(Identity(tenant, name, parse_scopes(scopes))))
        click.echo("Save this key now: it is stored as a hash and cannot be shown again.", err=True)
        if not settings.keys_required:
            click.echo(
                "Keys are only required if the web process runs with AUTH=keys, which is not set"
                " here.",
                err=True,
            )

    @keys.command("list")
    def list_keys() -> None:
        """List all keys with their tenant, scopes and date of creation."""
        rows = [("NAME", "TENANT", "SCOPES", "CREATED")]
        for key in store.all():
            owner = key.identity
            scopes = show_scopes(owner.scopes)
            rows.append((str(owner.key), owner.tenant, scopes, str(key.created)))
        for row in rows:
            click.echo("{:24} {:24} {:24} {}".format(*row))

    @keys.command()
    @click.argument("name")
    def revoke(name: str) -> None:
        """Revoke a key for good."""
        if not store.revoke(name):
            raise click.ClickException(f"There is no key with the name {name!r}.")
        click.echo(f"Revoked. Every web process rejects it within {CACHE_SECONDS:.0f} s.")

    return keys
