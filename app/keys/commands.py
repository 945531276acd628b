"""`flask keys`: makes, lists and revokes keys. Errors go to stderr with exit code 1."""

from __future__ import annotations

import click

from app.errors import ServiceError
from app.keys.model import DEFAULT_TENANT, NAME, USUAL, Identity, parse_scopes, show_scopes
from app.keys.ring import REMEMBERED_SECONDS
from app.keys.store import KeyStore
from app.settings import Settings


class _Name(click.ParamType[str]):
    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not NAME.fullmatch(value):
            self.fail(
                "Up to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit.",
                param,
                ctx,
            )
        return value


class _Scopes(click.ParamType[str]):
    name = "scopes"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return show_scopes(parse_scopes(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Group(click.Group):
    """Says what this service raises on purpose in one sentence."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ServiceError as error:
            raise click.ClickException(str(error)) from None


def group(settings: Settings, store: KeyStore) -> click.Group:
    """The commands, on this store."""

    @click.group("keys", cls=_Group, help="API keys: who may use the service.")
    def keys() -> None:
        pass

    @keys.command()
    @click.argument("name", type=_Name())
    @click.option(
        "--scopes", type=_Scopes(), default=show_scopes(USUAL), show_default=True, help="And admin."
    )
    @click.option(
        "--tenant",
        type=_Name(),
        default=DEFAULT_TENANT,
        show_default=True,
        help="Whose executions it sees.",
    )
    def add(name: str, scopes: str, tenant: str) -> None:
        """Make a key and print it: it is shown this once."""
        click.echo(store.add(Identity(tenant, name, parse_scopes(scopes))))
        click.echo("Keep it now: it is stored as a hash and can not be shown again.", err=True)
        if not settings.keys_required:
            click.echo(
                "Keys are asked for where the web process has AUTH=keys; here, that is not set.",
                err=True,
            )

    @keys.command("list")
    def list_keys() -> None:
        """Every key's name, tenant, scopes and day."""
        rows = [
            (
                str(each.identity.key),
                each.identity.tenant,
                show_scopes(each.identity.scopes),
                str(each.created),
            )
            for each in store.all()
        ]
        for row in [("NAME", "TENANT", "SCOPES", "CREATED"), *rows]:
            click.echo("{:24} {:24} {:24} {}".format(*row))

    @keys.command()
    @click.argument("name")
    def revoke(name: str) -> None:
        """Take a key away, for good."""
        if not store.revoke(name):
            raise click.ClickException(f"There is no key with the name {name!r}.")
        click.echo(f"Revoked. No web process accepts it after {REMEMBERED_SECONDS:.0f} s.")

    return keys
