"""`worker jobs` and `worker deliveries`: list what is not done, retry it, and send again what arrived."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from worker.audit import events
from worker.cli.context import EXIT_FAULT, ConfigOption, Format, FormatOption, audited, open_database
from worker.errors import StartError
from worker.wording import counted, written_date

if TYPE_CHECKING:
    from worker.config.settings import Settings
    from worker.db.deliveries import Chosen
    from worker.db.views.deliveries import DeliveryAnswer, DestinationCounts
    from worker.send.destinations.base import Destination

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
        sent = counted(len(deliveries), "delivery")
        record(events.operated(user, None, f"worker jobs retry: {sent}, jobs {numbers or 'none'}"))
    typer.echo(f"{counted(len(jobs), 'job')} and {sent} will be retried")
    if job and len(jobs) < len(set(job)):
        typer.echo("worker: the other jobs are not parked", err=True)
        raise typer.Exit(EXIT_FAULT)


# --- deliveries ------------------------------------------------------------------------------------------------

delivery_commands = typer.Typer(
    no_args_is_help=True, help="Reports and pictures on their way: list, send now, send again or elsewhere."
)
DestinationOption = Annotated[str | None, typer.Option("--destination", help=r"The name of a [\[destination]].")]
_Numbers = Annotated[list[int] | None, typer.Argument(help="Numbers, as `worker deliveries list` shows them.")]


class DeliveryStateName(StrEnum):
    """As `worker.db.tables.DeliveryState`, whose import takes time."""

    PENDING = "pending"
    SENDING = "sending"
    FAILED = "failed"
    DELIVERED = "delivered"
    SUPERSEDED = "superseded"


@delivery_commands.command("list", epilog="Example: worker deliveries list --destination pacs --state failed")
def list_deliveries(
    destination: DestinationOption = None,
    state: Annotated[
        list[DeliveryStateName] | None,
        typer.Option(help="Repeat the option for several; by default what has not arrived."),
    ] = None,
    patient_id: Annotated[str | None, typer.Option(help="Patient ID, matched exactly.")] = None,
    study: Annotated[str | None, typer.Option(help="Study Instance UID.")] = None,
    series: Annotated[str | None, typer.Option(help="Series Instance UID.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of deliveries; the oldest are listed.")] = 200,
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """List deliveries by destination, with patient, study and the reason of what waits or failed."""
    from worker.cli.output import print_rows
    from worker.db.tables import DeliveryState
    from worker.db.views.deliveries import DeliverySearch, count_by_destination, find_deliveries

    states = [DeliveryState(name) for name in state or ()]
    search = DeliverySearch(destination, states, patient_id, study, series, limit=limit)
    with audited(config) as (_, database, record, user):
        with database.read() as session:
            deliveries, counts = find_deliveries(session, search), count_by_destination(session)
        record(events.queried(user, None, "worker deliveries list", {"destination": destination or "every"}))
    if format != Format.TABLE:
        print_rows("", deliveries, format)
        return
    _print_deliveries(deliveries, counts)


@delivery_commands.command(
    "retry", epilog="Example: worker deliveries retry 17    or    worker deliveries retry --destination pacs --waiting"
)
def retry_deliveries(
    delivery: _Numbers = None,
    destination: DestinationOption = None,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Also what only waits for its next attempt: send it now.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="To every destination.")] = False,
    config: ConfigOption = None,
) -> None:
    """Send now what failed, and what waits if it is named or --waiting is given: after a destination was mended."""
    from worker.db.deliveries import retry_failed_deliveries

    if [bool(delivery), destination is not None, every].count(True) != 1:
        raise StartError("usage", "name the deliveries to retry, or give --destination or --all")
    with audited(config) as (settings, database, record, user):
        if destination is not None:
            _require_destination(settings, destination)
        with database.write() as session:
            retried = retry_failed_deliveries(session, datetime.now(UTC), delivery or [], destination, waiting=waiting)
        of = f"to {destination}" if destination else " ".join(map(str, delivery or [])) or "--all"
        record(events.operated(user, None, f"worker deliveries retry {of}: {counted(len(retried), 'delivery')}"))
    typer.echo(f"{counted(len(retried), 'delivery')} will be tried now")
    if delivery and len(retried) < len(set(delivery)):
        typer.echo("worker: the others are being sent, have arrived, or do not exist", err=True)
        raise typer.Exit(EXIT_FAULT)


@delivery_commands.command("resend", epilog="Example: worker deliveries resend --to pacs --study 1.2.840.113619.2.5.17")
def resend_deliveries(
    to: Annotated[str, typer.Option("--to", help=r"The name of a [\[destination]]; it may be a new one.")],
    delivery: _Numbers = None,
    study: Annotated[str | None, typer.Option(help="What was made of this study: its Study Instance UID.")] = None,
    series: Annotated[str | None, typer.Option(help="What was made of this series: its Series Instance UID.")] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Every newest result made on this day or later.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Send again what has arrived, or send it to a destination that never had it."""
    from worker.db.deliveries import Chosen, resend

    if [bool(delivery), study is not None, series is not None, since is not None].count(True) != 1:
        raise StartError("usage", "name the deliveries to send, or give --study, --series or --since")
    start = since.astimezone() if since is not None else None
    chosen = Chosen(tuple(delivery or ()), study, series, start)
    with audited(config) as (settings, database, record, user):
        destination = _require_destination(settings, to)
        sent = resend(database, chosen, to, destination.accepted_kinds, datetime.now(UTC))
        record(events.operated(user, None, _resent(chosen, to, len(sent.again) + len(sent.added))))
    typer.echo(f"{counted(len(sent.again), 'delivery')} to {to} sent again, {len(sent.added)} new")
    if not sent.again and not sent.added:
        typer.echo("worker: nothing matches: nothing was made of it, or it was withdrawn, or is not for it", err=True)
        raise typer.Exit(EXIT_FAULT)


def _resent(chosen: Chosen, to: str, number: int) -> str:
    """What was sent, as the audit trail has it."""
    named = chosen.study_instance_uid or chosen.series_instance_uid or " ".join(map(str, chosen.delivery_ids))
    what = named or f"since {chosen.since:%Y-%m-%d}"
    return f"worker deliveries resend --to {to} {what}: {counted(number, 'delivery')}"


def _require_destination(settings: Settings, name: str) -> Destination:
    """Raises StartError for a name that the configuration does not have: nobody would send it."""
    from worker.send.destinations import destinations_of

    for destination in destinations_of(settings):
        if destination.name == name:
            return destination
    known = ", ".join(destination.name for destination in settings.destination) or "none"
    raise StartError("no-such-destination", f"'{name}' is not a [[destination]] (known: {known})")


def _print_deliveries(deliveries: Sequence[DeliveryAnswer], counts: Sequence[DestinationCounts]) -> None:
    """A table for each destination; a reason that several share once below it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from worker.cli.output import console, short_uid

    out = console()
    if not deliveries:
        out.print("No delivery matches.")
    unfinished = {count.destination: count for count in counts}
    by_destination = sorted(deliveries, key=lambda row: (row.destination, row.number))
    for name, rows in groupby(by_destination, key=lambda row: row.destination):
        shown = list(rows)
        count = unfinished.get(name)
        title = f"{name}: {count.failed} failed, {count.pending} waiting" if count else f"{name}: everything arrived"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for column in ("no.", "patient", "study date", "series", "object", "state", "tries", "next try"):
            table.add_column(column, overflow="fold", no_wrap=column in ("no.", "series", "object", "state"))
        for row in shown:
            waits = f"{row.not_before.astimezone():%H:%M:%S}" if row.state == "pending" else ""
            table.add_row(
                str(row.number), row.patient_id, written_date(row.study_date),
                short_uid(row.series_instance_uid) if row.series_instance_uid else "study",
                row.object, row.state, str(row.attempts), waits,
            )  # fmt: skip
        out.print(table)
        for reason, numbers in _reasons(shown):
            out.print(f"{reason}: {numbers}", soft_wrap=True)


def _reasons(deliveries: Iterable[DeliveryAnswer]) -> list[tuple[str, str]]:
    """Each reason of what has not arrived, with the numbers of the deliveries that have it."""
    numbers: dict[str, list[int]] = {}
    for row in deliveries:
        reason = row.detail or row.reason
        if reason and row.state != "delivered":
            numbers.setdefault(reason, []).append(row.number)
    return [(reason, _few(of_reason)) for reason, of_reason in numbers.items()]


def _few(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"no. {shown}" + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
