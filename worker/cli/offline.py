"""`worker classify`, `push` and `echo`, which work without the service and its database; `worker fetch` asks a PACS."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.context import EXIT_FAULT, ConfigOption, Format, FormatOption, audited, settings_from
from worker.errors import StartError
from worker.wording import counted

if TYPE_CHECKING:
    from worker.config.settings import Settings
    from worker.ops.classify_folder import Unread
    from worker.send.destinations.base import Destination

commands = typer.Typer()
_PANEL = "Without the service"
FolderArgument = Annotated[Path, typer.Argument(help="A folder of DICOM files, searched recursively, or one file.")]
FoldersArgument = Annotated[list[Path], typer.Argument(help="Folders of DICOM files, searched recursively, or files.")]
PeerHelp = r"The name of a [\[destination]], or HOST:PORT."
CalledOption = Annotated[str, typer.Option(help="The called AE title, for HOST:PORT.")]


@commands.command(
    rich_help_panel=_PANEL, epilog="Example: worker classify /data/series --out /tmp/answers --format json"
)
def classify(
    folder: FoldersArgument,
    out: Annotated[Path, typer.Option(help="Where reports and heat maps are written.")] = Path("worker-answers"),
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Classify on a local Dask cluster of this number of processes.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Classify on the Dask cluster whose scheduler is at tcp:// or tls://HOST:PORT.")
    ] = None,
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Classify the series in folders without network or database, and their studies.

    Prints the results and writes the Structured Report, the Secondary Capture and a PNG of each series. JSON is an
    object for one series, a list for several; each has the answer for its study. On a Dask cluster, a series that is
    in the output already is not classified again.
    """
    from rich.progress import track

    from worker.cli import output
    from worker.jobs.bundle_store import BundleStore
    from worker.logs import configure_logs
    from worker.ops import classify_folder

    settings, _ = settings_from(config)
    configure_logs("ERROR")
    if settings.route:
        typer.echo("note: the configured bundle classifies every eligible series; [[route]] is not applied", err=True)
    if workers is not None or scheduler is not None:
        _classify_on_cluster(folder, out, workers, scheduler, format, settings)
        return
    series, unread = classify_folder.read_files(classify_folder.files_below(folder))
    _require_series(folder, len(series), unread)
    model = BundleStore(settings).load_configured()
    answers = [
        classify_folder.classify_series(members, settings, model, out / f"series-{number}", datetime.now(UTC))
        for number, members in enumerate(
            track(series.values(), description="classifying", console=output.progress_console(), transient=True), 1
        )
    ]
    output.print_offline(answers, classify_folder.fuse_studies(answers, model), format)


def _require_series(folders: Sequence[Path], series: int, unread: Sequence[Unread]) -> None:
    """Name the files that are no images. Raises StartError where there is no series."""
    from worker.cli import output

    for fault in unread:
        typer.echo(output.as_line(f"not read: {fault.path.name}: {fault.detail}"), err=True)
    if not series:
        raise StartError("no-series", f"no DICOM series could be read in {', '.join(map(str, folders))}")


def _classify_on_cluster(
    folders: Sequence[Path], out: Path, workers: int | None, scheduler: str | None, format: Format, settings: Settings
) -> None:
    from worker.cli import output
    from worker.cluster import open_cluster
    from worker.db.tables import SeriesStatus
    from worker.ops.bulk.archive import Bulk, find_series
    from worker.ops.bulk.journal import Journal
    from worker.ops.classify_folder import files_below, fuse_studies

    bulk = Bulk(settings, out)
    model = bulk.model
    files = [path.absolute() for path in files_below(folders) if not path.absolute().is_relative_to(out.absolute())]
    with Journal(out) as journal, open_cluster(workers, scheduler) as cluster:
        if not bulk.check(cluster, folders):
            typer.echo("note: the Dask cluster has no workers; waiting for them", err=True)
        archive = output.with_estimate("reading files", lambda tick: find_series(cluster, files, tick))
        _require_series(folders, len(archive.series), archive.unread)
        answers = output.with_estimate(
            "classifying series", lambda tick: bulk.classify(cluster, journal, archive, tick)
        )
    output.print_offline(answers, fuse_studies(answers, model), format)
    if failed := sum(offline.answer.status == SeriesStatus.FAILED for offline in answers):
        typer.echo(f"{failed} of {len(answers)} series failed; the same command tries them again", err=True)
        raise typer.Exit(EXIT_FAULT)


@commands.command(
    rich_help_panel=_PANEL, epilog="Example: worker push /data/series --to 127.0.0.1:11112 --called AI_WORKER"
)
def push(
    folder: FolderArgument,
    to: Annotated[str, typer.Option(help=PeerHelp)],
    called: CalledOption = "ANY-SCP",
    config: ConfigOption = None,
) -> None:
    """Send DICOM files to a destination by C-STORE."""
    from worker.cli import output
    from worker.ops.classify_folder import read_folder
    from worker.send.push import push_files

    settings, _ = settings_from(config)
    destination = _destination(settings, to, called)
    peer = destination.application_entity
    if peer is None:
        protocol = destination.describe().protocol
        raise StartError("not-c-store", f"'{to}' cannot be pushed to: it is reached by {protocol}, not by C-STORE")
    series, unread = read_folder(folder)
    for fault in unread:
        typer.echo(output.as_line(f"not sent: {fault.path.name}: {fault.detail}"), err=True)
    members = [member for group in series.values() for member in group]
    if not members:
        raise StartError("no-series", f"no DICOM file could be read in {folder}")
    sent, failures = output.with_progress(
        "sending",
        len(members),
        lambda tick: push_files(destination.name, peer, settings.worker.ae_title, members, tick),
    )
    for path, reason in failures:
        typer.echo(output.as_line(f"not sent: {path.name}: {reason}"), err=True)
    typer.echo(f"{sent} of {counted(len(members), 'instance')} sent to {destination.name}")
    if failures or unread:
        raise typer.Exit(EXIT_FAULT)


@commands.command(rich_help_panel=_PANEL, epilog="Example: worker echo pacs")
def echo(
    to: Annotated[str, typer.Argument(help=PeerHelp)],
    called: CalledOption = "ANY-SCP",
    config: ConfigOption = None,
) -> None:
    """Check that a destination answers: C-ECHO, or over HTTP a request that changes nothing."""
    settings, _ = settings_from(config)
    destination = _destination(settings, to, called)
    destination.probe(settings.worker.ae_title)
    typer.echo(f"{destination.name}: {destination.describe().answer}")


class RetrieveBy(StrEnum):
    MOVE = "move"
    GET = "get"


@commands.command(rich_help_panel="The service", epilog="Example: worker fetch --from PACS --study 1.2.840.113619.2.5")
def fetch(
    source: Annotated[str, typer.Option("--from", help=r"The AE title of a [\[peer]].")],
    study: Annotated[str, typer.Option(help="Study Instance UID.")] = "",
    accession: Annotated[str, typer.Option(help="Accession number: every study that has it.")] = "",
    by: Annotated[
        RetrieveBy | None,
        typer.Option(
            help="move: the PACS sends to the running worker, whose AE title it must know. get: it sends to this "
            r"command, which stores. Default: fetch_by of the [\[peer]]."
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Have a PACS send studies to the worker: C-FIND, then C-MOVE or C-GET."""
    from worker.audit import events
    from worker.db.processes import FETCH
    from worker.fetch.queries import find_studies
    from worker.fetch.retrieval import fetch_study, storing
    from worker.service.heartbeat import beating

    if bool(study) == bool(accession):
        raise StartError("usage", "give --study or --accession")
    failed = 0
    with audited(config) as (settings, database, record, user):
        peer = next((peer for peer in settings.peer if peer.ae_title == source), None)
        if peer is None:
            known = ", ".join(peer.ae_title for peer in settings.peer) or "none"
            raise StartError("no-such-peer", f"'{source}' is not a [[peer]] (known: {known})")
        ours, how = settings.worker.ae_title, by.value if by is not None else peer.fetch_by
        try:
            uids = find_studies(peer, ours, study_instance_uid=study, accession_number=accession)
        except ValueError as fault:
            raise StartError("usage", str(fault)) from None
        record(events.operated(user, None, f"worker fetch --from {source} --by {how}", uids))
        lives: AbstractContextManager[None] = nullcontext()
        if how == "get":  # series wait for the end of a transfer only while its process lives
            lease = timedelta(seconds=settings.worker.lease_seconds)
            lives = beating(database, FETCH, lease, lambda: datetime.now(UTC))
        with lives, storing(how, settings, database, lambda: datetime.now(UTC), record) as store:
            for uid in uids:
                counts = fetch_study(peer, ours, uid, store)
                failed += counts.failed
                done = "stored" if store is not None else f"sent to {ours}"
                typer.echo(f"{uid}: {counted(counts.completed, 'image')} {done}, {counts.failed} failed")
    if not uids:
        typer.echo(f"worker: {source} has no such study", err=True)
    if failed or not uids:
        raise typer.Exit(EXIT_FAULT)


def _destination(settings: Settings, to: str, called: str) -> Destination:
    """The configured destination of this name, or a Storage SCP at HOST:PORT. Raises StartError for neither."""
    from worker.send.destinations import destinations_of
    from worker.send.destinations.c_store import CStoreDestination

    for destination in destinations_of(settings):
        if destination.name == to:
            return destination
    host, _, port = to.rpartition(":")
    if not host or not port.isdigit():
        known = ", ".join(section.name for section in settings.destination) or "none"
        raise StartError("no-such-destination", f"'{to}' is neither a [[destination]] (known: {known}) nor HOST:PORT")
    try:
        return CStoreDestination(name=host, ae_title=called, host=host, port=int(port))
    except ValueError as error:
        raise StartError("no-such-destination", f"'{to}' with AE title '{called}' is not an address: {error}") from None
