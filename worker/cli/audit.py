"""`worker audit`: verify, list and accept the audit trail."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from worker.audit import events
from worker.cli.context import EXIT_FAULT, ConfigOption, Format, FormatOption, audited
from worker.wording import counted

commands = typer.Typer(no_args_is_help=True, help="The audit trail: who connected, sent, searched and changed what.")


@commands.command("verify", epilog="Example: worker audit verify --format json")
def verify_audit(
    first: Annotated[
        int, typer.Option(min=1, help="Number of the first record that is still here; earlier ones were archived.")
    ] = 1,
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Verify the hash chain of every trail; for a broken chain print where it breaks, exit code 1."""
    from worker.audit.verify import verify_trails
    from worker.cli.output import print_rows

    with audited(config) as (settings, database, record, user):
        verdicts = verify_trails(settings, database, first)
        record(events.trail_read(user, str(settings.audit_dir)))
    print_rows("audit trails", verdicts, format)
    for verdict in verdicts:
        state = f"BROKEN: {verdict.fault}" if verdict.fault else "intact"
        typer.echo(f"{verdict.host}: {counted(verdict.records, 'record')}, {state}", err=True)
    if any(verdict.fault for verdict in verdicts):
        raise typer.Exit(EXIT_FAULT)


@commands.command("list", epilog="Example: worker audit list --limit 20")
def list_audit(
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of records; the newest are listed.")] = 50,
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """List the newest records of this host."""
    from worker.audit.verify import newest_entries
    from worker.cli.output import print_rows

    with audited(config) as (settings, _, record, user):
        entries = newest_entries(settings, limit)
        record(events.trail_read(user, str(settings.audit_dir)))
    print_rows("audit trail", entries, format)


@commands.command("accept", epilog="Example: worker audit accept --config config.toml")
def accept_audit(config: ConfigOption = None) -> None:
    """Accept this host's trail as it is, after a break was investigated; the trail records this too."""
    from worker.audit.recorder import accept_head, host_name, trail_of

    with audited(config) as (settings, database, record, user):
        record(events.operated(user, None, "worker audit accept"))
        head = trail_of(settings).sync()
        with database.write() as session:
            accept_head(session, host_name(settings), head, datetime.now(UTC))
    typer.echo(f"the trail of {host_name(settings)} is accepted up to record {head.number}")
