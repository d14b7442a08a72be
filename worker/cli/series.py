"""`worker series`: settle refused series again, classify by another model; `worker studies`: one answer for each."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from worker.audit import events
from worker.cli.context import EXIT_FAULT, ConfigOption, Format, FormatOption, audited
from worker.errors import StartError

commands = typer.Typer(
    no_args_is_help=True, help="Received series: settle refused ones again, classify with another model."
)

study_commands = typer.Typer(
    no_args_is_help=True, help="Studies: one answer for each, from the answers for its series."
)


@commands.command("reconsider", epilog="Example: worker series reconsider --all-refused")
def reconsider(
    series: Annotated[str | None, typer.Argument(help="Series Instance UID, or the end of it.")] = None,
    all_refused: Annotated[bool, typer.Option("--all-refused", help="Every refused series.")] = False,
    config: ConfigOption = None,
) -> None:
    """Settle refused series again, after rules or models were changed and the service restarted."""
    from worker.db.series import reconsider_refused, reconsider_series
    from worker.db.views.search import find_series_by_suffix

    if (series is None) is not all_refused:
        raise StartError("usage", "name a series to settle again, or give --all-refused")
    with audited(config) as (_, database, record, user):
        if series is not None:
            with database.write() as session:
                uids = find_series_by_suffix(session, series.lstrip("…"))
                if len(uids) != 1:
                    fault = "the UIDs of several series end in this" if uids else "no such series was received"
                    typer.echo(f"worker: {fault}", err=True)
                    raise typer.Exit(EXIT_FAULT)
                if not reconsider_series(session, uids[0]):
                    typer.echo("worker: the series is not refused", err=True)
                    raise typer.Exit(EXIT_FAULT)
            opened, what = 1, uids[0]
        else:
            opened, what, after = 0, "--all-refused", 0
            while True:  # in parts, so that a receiver waits for none of them long
                with database.write() as session:
                    ids = reconsider_refused(session, after)
                if not ids:
                    break
                opened, after = opened + len(ids), ids[-1]
        record(events.operated(user, None, f"worker series reconsider {what}: {opened} series"))
    typer.echo(f"{opened} series will be settled again")


@commands.command("classify", epilog="Example: worker series classify 42808680 --model brain-mri-tumour:0.3.0")
def classify(
    series: Annotated[str, typer.Argument(help="Series Instance UID, or the end of it.")],
    model: Annotated[str, typer.Option(help="NAME:VERSION; it need not be the active model.")],
    config: ConfigOption = None,
) -> None:
    """Classify an answered series again with another model; its answer replaces the series', and is reported."""
    from worker.db.models import find_model_named
    from worker.db.series import classify_again
    from worker.db.views.search import find_series_by_suffix
    from worker.jobs.bundle_store import BundleStore

    with audited(config) as (settings, database, record, user):
        with database.read() as session:
            row = find_model_named(session, model)
            uids = find_series_by_suffix(session, series.lstrip("…"))
        if len(uids) != 1:
            fault = "the UIDs of several series end in this" if uids else "no such series was received"
            typer.echo(f"worker: {fault}", err=True)
            raise typer.Exit(EXIT_FAULT)
        BundleStore(settings).require(row.sha256)
        with database.write() as session:
            job = classify_again(session, uids[0], row, datetime.now(UTC))
        record(events.operated(user, None, f"worker series classify {uids[0]} {row.name} {row.version}"))
    typer.echo(f"job {job.id}: the series will be classified by {row.name} {row.version}")


@study_commands.command("list", epilog="Example: worker studies list --format json")
def list_studies(
    limit: Annotated[int, typer.Option(min=1, max=500, help="Maximum number of studies; the newest are listed.")] = 100,
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """List studies: the answer, or why there is none, and what their series say."""
    from worker.cli.output import print_studies
    from worker.db.views.studies import find_studies

    with audited(config) as (_, database, record, user):
        with database.read() as session:
            page = find_studies(session, limit=limit)
        record(events.queried(user, None, "worker studies list", {}))
    print_studies(page.studies, format)


@study_commands.command("show", epilog="Example: worker studies show 1.2.840.113619.2.5.17")
def show_study(
    study: Annotated[str, typer.Argument(help="Study Instance UID.")],
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Show the answer for a study, and how each of its series counted."""
    from worker.cli.output import print_studies
    from worker.db.views.studies import find_study

    with audited(config) as (_, database, record, user):
        with database.read() as session:
            answer = find_study(session, study)
        if answer is None:
            typer.echo("worker: no series of such a study was answered", err=True)
            raise typer.Exit(EXIT_FAULT)
        record(events.viewed(user, None, study))
    print_studies([answer], format, in_detail=True)


@study_commands.command("retry", epilog="Example: worker studies retry")
def retry_studies(
    study: Annotated[list[str] | None, typer.Argument(help="Study Instance UIDs; all parked ones if none.")] = None,
    config: ConfigOption = None,
) -> None:
    """Answer studies again whose attempts were spent."""
    from worker.db.studies.answering import retry_parked_studies

    with audited(config) as (_, database, record, user):
        with database.write() as session:
            retried = retry_parked_studies(session, study or [])
        record(events.operated(user, None, f"worker studies retry: {len(retried)} studies"))
    typer.echo(f"{len(retried)} studies will be answered again")
