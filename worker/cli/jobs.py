"""`worker jobs`: list what is not done, and retry it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from worker.audit import events
from worker.cli.context import EXIT_FAULT, ConfigOption, Format, FormatOption, audited, open_database
from worker.errors import StartError

commands = typer.Typer(no_args_is_help=True, help="Classification jobs: list and retry what is waiting or parked.")


@commands.command("list", epilog="Example: worker jobs list --format json")
def list_jobs(format: FormatOption = Format.TABLE, config: ConfigOption = None) -> None:
    """List unfinished jobs and undelivered objects, with attempts and reasons."""
    from worker.cli.output import print_unfinished
    from worker.db.views.queue import find_unfinished

    with open_database(config).read() as session:
        unfinished = find_unfinished(session)
    print_unfinished(unfinished, format)


@commands.command("retry", epilog="Example: worker jobs retry 17 18    or    worker jobs retry --all")
def retry_jobs(
    job: Annotated[list[int] | None, typer.Argument(help="Numbers of parked jobs.")] = None,
    all_parked: Annotated[bool, typer.Option("--all", help="Every parked job and every failed delivery.")] = False,
    config: ConfigOption = None,
) -> None:
    """Retry parked jobs, and with --all failed deliveries too."""
    from worker.db.deliveries import retry_failed_deliveries
    from worker.db.jobs import retry_parked_jobs

    if not job and not all_parked:
        raise StartError("usage", "name the jobs to retry, or give --all")
    moment = datetime.now(UTC)
    with audited(config) as (_, database, record, user):
        with database.write() as session:
            jobs = retry_parked_jobs(session, job or [], moment)
            deliveries = retry_failed_deliveries(session, moment) if all_parked else []
        numbers = " ".join(map(str, sorted(jobs)))
        record(
            events.operated(user, None, f"worker jobs retry: {len(deliveries)} deliveries, jobs {numbers or 'none'}")
        )
    typer.echo(f"{len(jobs)} jobs and {len(deliveries)} deliveries will be retried")
    if job and len(jobs) < len(set(job)):
        typer.echo("worker: the other jobs are not parked", err=True)
        raise typer.Exit(EXIT_FAULT)
