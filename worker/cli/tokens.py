"""`worker tokens`: make, list and revoke tokens of the web interface."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer

from worker.audit import events
from worker.cli.context import EXIT_FAULT, ConfigOption, Format, FormatOption, audited, open_database
from worker.wording import counted


class TokenRoleName(StrEnum):
    """As `worker.db.tables.TokenRole`, whose import takes time."""

    READ = "read"
    ANNOTATE = "annotate"
    OPERATE = "operate"


commands = typer.Typer(no_args_is_help=True, help="Tokens of the web interface.")


@commands.command("add", epilog="Example: worker tokens add --role read --name ward-3 --days 90")
def add_token(
    role: Annotated[
        TokenRoleName,
        typer.Option(help="read: view results. annotate: also record readings. operate: everything."),
    ],
    name: Annotated[str | None, typer.Option(help="The user or program, as the audit trail names it.")] = None,
    days: Annotated[int, typer.Option(min=0, help="Days until it expires; 0: never.")] = 365,
    config: ConfigOption = None,
) -> None:
    """Make a token and print it; it cannot be shown again, because only its hash is stored."""
    from worker.db import tokens
    from worker.db.tables import TokenRole

    moment = datetime.now(UTC)
    expires_at = moment + timedelta(days=days) if days else None
    with audited(config) as (_, database, record, user):
        with database.write() as session:
            name, token = tokens.add_token(session, name, TokenRole(role), moment, expires_at)
        valid = counted(days, "day") if days else "for ever"
        record(events.token_changed(user, name, f"made, role {role}, valid {valid}"))
    typer.echo(f"token '{name}', role {role}; it will not be shown again:", err=True)
    typer.echo(token)


@commands.command("list", epilog="Example: worker tokens list --format json")
def list_tokens(format: FormatOption = Format.TABLE, config: ConfigOption = None) -> None:
    """List every token with its role and dates, never the token itself."""
    from worker.cli.output import print_rows
    from worker.db import tokens

    with open_database(config).read() as session:
        rows = tokens.list_tokens(session)
    print_rows(counted(len(rows), "token"), rows, format)


@commands.command("revoke", epilog="Example: worker tokens revoke ward-3")
def revoke_token(
    token: Annotated[str, typer.Argument(help="Its name, or its key.")],
    config: ConfigOption = None,
) -> None:
    """Revoke a token at once, and with it every browser session that it opened."""
    from worker.db import tokens

    with audited(config) as (_, database, record, user):
        with database.write() as session:
            name = tokens.revoke_token(session, token, datetime.now(UTC))
        if name is None:
            typer.echo(f"worker: there is no token '{token}'", err=True)
            raise typer.Exit(EXIT_FAULT)
        record(events.token_changed(user, name, "revoked"))
    typer.echo(f"token '{name}' is revoked")
