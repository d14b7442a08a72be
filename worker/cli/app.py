"""The `worker` command. Every import that costs time waits until its command is called."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker import __version__
from worker.audit import events
from worker.cli.context import EXIT_FAULT, EXIT_START, ConfigOption, Format, FormatOption, settings_from
from worker.cli.context import audited as _audited
from worker.cli.context import open_database as _open_store
from worker.cli.models import models_app, routes_app
from worker.cli.readings import readings_app, report
from worker.config.settings import Settings
from worker.errors import StartError, WorkerError
from worker.process import ProcessRole
from worker.send.destinations import destinations_of

if TYPE_CHECKING:
    from worker.db.views.search import Search
    from worker.send.destinations.base import Destination

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="AI worker for the PACS: receives MRI series, classifies them, returns Structured Reports. "
    "[bold]Research use only.[/bold]",
    epilog="Exit codes: 0 all well, 1 something was found wrong, 2 could not start.",
)
results_app = typer.Typer(no_args_is_help=True, help="Look up what became of the series.")
jobs_app = typer.Typer(no_args_is_help=True, help="Classification jobs: what is waiting, running or parked.")
app.add_typer(results_app, name="results")
app.add_typer(jobs_app, name="jobs")
tokens_app = typer.Typer(no_args_is_help=True, help="Tokens of the web interface.")
audit_app = typer.Typer(no_args_is_help=True, help="The audit trail: who connected, sent, asked and changed.")
app.add_typer(tokens_app, name="tokens")
app.add_typer(audit_app, name="audit")
app.add_typer(models_app, name="models")
app.add_typer(routes_app, name="routes")
app.add_typer(readings_app, name="readings")
app.command("report", epilog="Example: worker report --month 2026-11")(report)


class StatusName(StrEnum):
    CLASSIFIED = "classified"
    NOT_ASSESSED = "not-assessed"
    REFUSED = "refused"
    FAILED = "failed"
    PENDING = "pending"


class TokenRoleName(StrEnum):
    READ = "read"
    ANNOTATE = "annotate"
    OPERATE = "operate"


def main() -> None:
    """Entry point: a fault that a person can mend is one line on standard error."""
    from worker.logs import guard_standard_error, unexpected

    guard_standard_error()
    try:
        app()
    except StartError as error:
        typer.echo(f"worker: {error.detail}", err=True)
        sys.exit(EXIT_START)
    except WorkerError as error:
        typer.echo(f"worker: {error.detail}", err=True)
        sys.exit(EXIT_FAULT)
    except BrokenPipeError:  # the reader of our output had enough
        sys.exit(0)
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "sqlalchemy":
            typer.echo(unexpected(error), err=True)
            sys.exit(EXIT_FAULT)
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        typer.echo(f"worker: the database failed: {cause}", err=True)
        sys.exit(EXIT_FAULT)


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


# --- the service -----------------------------------------------------------------------------------------------


@app.command(epilog="Example: worker serve --config config.toml")
def serve(
    config: ConfigOption = None,
    role: Annotated[ProcessRole | None, typer.Option(help="Run one role only; without it all of them.")] = None,
) -> None:
    """Receive, classify and report until SIGTERM or Ctrl-C."""
    from worker.logs import configure_logs
    from worker.service.roles import run_role, run_service

    settings, path = settings_from(config)
    configure_logs()
    settings.worker.data_dir.mkdir(parents=True, exist_ok=True)
    if role is not None:
        run_role(role, settings)
        return
    raise typer.Exit(run_service(settings, path))


@app.command(epilog="Example: worker migrate --config config.toml")
def migrate(config: ConfigOption = None) -> None:
    """Bring the database to the schema of this version."""
    from worker.db.engine import Database
    from worker.db.migrate import migrate as apply

    settings, _ = settings_from(config)
    before, after = apply(Database(settings.database.url))
    typer.echo(f"database: {before or 'empty'} → {after}" if before != after else f"database: {after}, up to date")


@app.command(epilog="Example: worker backup /backup/today --config config.toml")
def backup(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    config: ConfigOption = None,
) -> None:
    """Copy database and files to a folder, each file checked against its hash; the service may run."""
    from worker.cli import output
    from worker.ops.backup import back_up

    settings, _ = settings_from(config)
    copied, missing = output.with_steps("copying", lambda step: back_up(settings, folder, step))
    with _audited(config) as (_, _, record, user):
        record(events.exported(user, None, "worker backup", str(folder)))
    typer.echo(f"database and {copied} files copied to {folder}")
    if missing:
        typer.echo(f"worker: {missing} files are missing or damaged and are not in the copy", err=True)
        raise typer.Exit(EXIT_FAULT)


@app.command(epilog="Example: worker restore /backup/today --config config.toml")
def restore(
    folder: Annotated[Path, typer.Argument(help="A folder that `worker backup` made.")],
    config: ConfigOption = None,
) -> None:
    """Put a backup into the empty data folder and database of the configuration."""
    from worker.cli import output
    from worker.ops.backup import put_back

    settings, _ = settings_from(config)
    files = output.with_steps("copying", lambda step: put_back(settings, folder, step))
    with _audited(config) as (_, _, record, user):
        record(events.imported(user, str(folder)))
    typer.echo(f"database and {files} files restored from {folder}")


@app.command(epilog="Example: worker doctor --config config.toml")
def doctor(
    config: ConfigOption = None,
    role: Annotated[ProcessRole | None, typer.Option(help="Ask only whether this role is alive on this host.")] = None,
) -> None:
    """Check configuration, database, disk, bundle and every destination, and say what to do about each fault."""
    from worker.cli.output import print_findings
    from worker.ops.doctor import examine, examine_role

    settings, path = settings_from(config)
    moment = datetime.now(UTC)
    findings = [examine_role(settings, role, moment)] if role else list(examine(settings, path, moment))
    print_findings(findings)
    if not all(one.well for one in findings):
        raise typer.Exit(EXIT_FAULT)


# --- without the service ---------------------------------------------------------------------------------------


@app.command(epilog="Example: worker classify /data/series --out /tmp/answers --format json")
def classify(
    folder: Annotated[Path, typer.Argument(help="A folder of DICOM files (searched through), or one file.")],
    out: Annotated[Path, typer.Option(help="Where reports and heat maps are written.")] = Path("worker-answers"),
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Classify the series in a folder without network or database.

    Prints the answers and writes the Structured Report, the Secondary Capture and a PNG of each series. JSON is one
    object for one series, a list for several.
    """
    from rich.progress import track

    from worker.cli import output
    from worker.jobs.bundle_store import BundleStore
    from worker.logs import configure_logs
    from worker.ops import classify_folder

    settings, _ = settings_from(config)
    configure_logs("ERROR")
    if settings.route:
        typer.echo(
            "note: the configured bundle is asked about every eligible series, whatever [[route]] says", err=True
        )
    series, unread = classify_folder.read_folder(folder)
    for one in unread:
        typer.echo(f"not read: {one.path.name}: {one.detail}", err=True)
    if not series:
        raise StartError("no-series", f"no DICOM series could be read in {folder}")
    model = BundleStore(settings).load_configured()
    answers = [
        classify_folder.classify_series(members, settings, model, out / f"series-{number}", datetime.now(UTC))
        for number, members in enumerate(
            track(series.values(), description="classifying", console=output.progress_console(), transient=True), 1
        )
    ]
    output.print_offline(answers, format)


@app.command(epilog="Example: worker push /data/series --to 127.0.0.1:11112 --called AI_WORKER")
def push(
    folder: Annotated[Path, typer.Argument(help="A folder of DICOM files (searched through), or one file.")],
    to: Annotated[str, typer.Option(help="The name of a [[destination]], or HOST:PORT.")],
    called: Annotated[str, typer.Option(help="Called AE title, with HOST:PORT.")] = "ANY-SCP",
    config: ConfigOption = None,
) -> None:
    """Send DICOM files to a destination by C-STORE."""
    from worker.cli import output
    from worker.ops.classify_folder import read_folder
    from worker.ops.push import push_files

    settings, _ = settings_from(config)
    destination = _destination(settings, to, called)
    peer = destination.application_entity
    if peer is None:
        raise StartError("not-c-store", f"'{to}' is reached over HTTP; `worker push` speaks C-STORE")
    series, unread = read_folder(folder)
    for one in unread:
        typer.echo(f"not sent: {one.path.name}: {one.detail}", err=True)
    members = [member for group in series.values() for member in group]
    if not members:
        raise StartError("no-series", f"no DICOM file could be read in {folder}")
    sent, failures = output.with_progress(
        "sending",
        len(members),
        lambda tick: push_files(destination.name, peer, settings.worker.ae_title, members, tick),
    )
    for path, why in failures:
        typer.echo(f"not sent: {path.name}: {why}", err=True)
    typer.echo(f"{sent} of {len(members)} instances sent to {destination.name}")
    if failures or unread:
        raise typer.Exit(EXIT_FAULT)


@app.command(epilog="Example: worker echo pacs")
def echo(
    to: Annotated[str, typer.Argument(help="The name of a [[destination]], or HOST:PORT.")],
    called: Annotated[str, typer.Option(help="Called AE title, with HOST:PORT.")] = "ANY-SCP",
    config: ConfigOption = None,
) -> None:
    """C-ECHO to a destination, or a search that finds nothing for one that speaks DICOMweb."""
    settings, _ = settings_from(config)
    destination = _destination(settings, to, called)
    destination.probe(settings.worker.ae_title)
    typer.echo(f"{destination.name}: {destination.describe().answer}")


def _destination(settings: Settings, to: str, called: str) -> Destination:
    from worker.send.destinations.c_store import CStoreDestination

    for destination in destinations_of(settings):
        if destination.name == to:
            return destination
    host, _, port = to.rpartition(":")
    if not host or not port.isdigit():
        known = ", ".join(destination.name for destination in settings.destination) or "none"
        raise StartError("no-such-destination", f"'{to}' is no [[destination]] (known: {known}) and not HOST:PORT")
    try:
        return CStoreDestination(name=host, ae_title=called, host=host, port=int(port))
    except ValueError as error:
        raise StartError("no-such-destination", f"'{to}' with AE title '{called}' is not an address: {error}") from None


# --- results ---------------------------------------------------------------------------------------------------


@results_app.command("list", epilog="Example: worker results list --label glioma --min-probability 0.9 --format csv")
def list_results(
    patient_id: Annotated[str | None, typer.Option(help="Patient ID, exactly.")] = None,
    study: Annotated[str | None, typer.Option(help="Study Instance UID.")] = None,
    series: Annotated[str | None, typer.Option(help="Series Instance UID.")] = None,
    accession: Annotated[str | None, typer.Option(help="Accession number.")] = None,
    label: Annotated[str | None, typer.Option(help="The class, e.g. glioma.")] = None,
    status: Annotated[StatusName | None, typer.Option(help="What became of the series.")] = None,
    since: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Received on this day or later.")] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Received on this day or earlier.")
    ] = None,
    min_probability: Annotated[float | None, typer.Option(min=0, max=1, help="Probability of the class.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 1000,
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """One line a series: classified, not assessed, refused, failed or pending, with the reason."""
    from worker.cli.output import print_answers
    from worker.db.views.search import find_series

    search = _search(patient_id, study, series, accession, label, status, since, until, min_probability, limit)
    with _audited(config) as (_, database, record, user):
        with database.read() as session:
            answers = find_series(session, search)
        record(events.queried(user, None, "worker results list", _asked(search)))
    print_answers(answers, format)


@results_app.command("show", epilog="Example: worker results show 1.2.840.113619.2.5.17 --format json")
def show_result(
    series: Annotated[str, typer.Argument(help="Series Instance UID, or its end.")],
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Everything that is known of one series: probabilities, slices, deliveries."""
    from worker.cli.output import print_answer
    from worker.db.views.search import Search, find_series, find_series_by_suffix
    from worker.db.views.series_detail import latest_slices

    with _audited(config) as (_, database, record, user):
        with database.read() as session:
            uids = find_series_by_suffix(session, series.lstrip("…"))
            if len(uids) != 1:
                what = "more than one series ends in this" if uids else "no such series was received"
                typer.echo(f"worker: {what}", err=True)
                raise typer.Exit(EXIT_FAULT)
            [found] = find_series(session, Search(series_instance_uid=uids[0]))
            slices = latest_slices(session, uids[0])
        record(events.viewed(user, None, found.study_instance_uid))
    print_answer(found, slices, format)


@results_app.command("export", epilog="Example: worker results export results.csv --since 2026-01-01")
def export_results(
    file: Annotated[Path, typer.Argument(help="The file to write: .csv or .json.")],
    patient_id: Annotated[str | None, typer.Option(help="Patient ID, exactly.")] = None,
    study: Annotated[str | None, typer.Option(help="Study Instance UID.")] = None,
    series: Annotated[str | None, typer.Option(help="Series Instance UID.")] = None,
    accession: Annotated[str | None, typer.Option(help="Accession number.")] = None,
    label: Annotated[str | None, typer.Option(help="The class, e.g. glioma.")] = None,
    status: Annotated[StatusName | None, typer.Option(help="What became of the series.")] = None,
    since: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Received on this day or later.")] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Received on this day or earlier.")
    ] = None,
    min_probability: Annotated[float | None, typer.Option(min=0, max=1, help="Probability of the class.")] = None,
    config: ConfigOption = None,
) -> None:
    """Write every series that matches to a file, without a limit."""
    from worker.cli.output import answers_as_text
    from worker.db.views.search import find_series

    suffix = file.suffix.lower().lstrip(".")
    if suffix not in ("csv", "json"):
        raise StartError("export-format", f"{file}: the name must end in .csv or .json")
    search = _search(patient_id, study, series, accession, label, status, since, until, min_probability, None)
    with _audited(config) as (_, database, record, user):
        with database.read() as session:
            answers = find_series(session, search)
        record(events.exported(user, None, "worker results export", str(file)))
    try:
        file.write_text(answers_as_text(answers, Format(suffix)), encoding="utf-8")
    except OSError as error:
        raise StartError("export-unwritable", f"{file} cannot be written: {error.strerror}") from None
    typer.echo(f"{len(answers)} series written to {file}")


def _search(
    patient_id: str | None,
    study: str | None,
    series: str | None,
    accession: str | None,
    label: str | None,
    status: StatusName | None,
    since: datetime | None,
    until: datetime | None,
    minimum_probability: float | None,
    limit: int | None,
) -> Search:
    from worker.db.tables import SeriesStatus
    from worker.db.views.search import Search

    return Search(
        patient_id=patient_id,
        study_instance_uid=study,
        series_instance_uid=series,
        accession_number=accession,
        label=label,
        status=SeriesStatus(status) if status else None,
        since=_day(since),
        until=_day(until),
        minimum_probability=minimum_probability,
        limit=limit,
    )


def _asked(search: Search) -> dict[str, str]:
    from dataclasses import asdict

    return {key: str(value) for key, value in asdict(search).items() if value is not None}


def _day(moment: datetime | None) -> date | None:
    return moment.date() if moment else None


# --- jobs ------------------------------------------------------------------------------------------------------


@jobs_app.command("list", epilog="Example: worker jobs list --format json")
def list_jobs(format: FormatOption = Format.TABLE, config: ConfigOption = None) -> None:
    """Jobs that are not done, and deliveries that are not delivered, with attempts and reasons."""
    from worker.cli.output import print_unfinished
    from worker.db.views.queue import find_unfinished

    with _open_store(config).read() as session:
        unfinished = find_unfinished(session)
    print_unfinished(unfinished, format)


@jobs_app.command("retry", epilog="Example: worker jobs retry 17 18    or    worker jobs retry --all")
def retry_jobs(
    job: Annotated[list[int] | None, typer.Argument(help="Numbers of parked jobs.")] = None,
    all_parked: Annotated[bool, typer.Option("--all", help="Every parked job and every failed delivery.")] = False,
    config: ConfigOption = None,
) -> None:
    """Give parked jobs (and with --all failed deliveries) another chance."""
    from worker.db.deliveries import retry_failed_deliveries
    from worker.db.jobs import retry_parked_jobs

    if not job and not all_parked:
        raise StartError("usage", "name the jobs to retry, or --all")
    moment = datetime.now(UTC)
    with _audited(config) as (_, database, record, user):
        with database.write() as session:
            jobs = retry_parked_jobs(session, job or [], moment)
            deliveries = retry_failed_deliveries(session, moment) if all_parked else []
        which = " ".join(map(str, sorted(jobs)))
        record(events.operated(user, None, f"worker jobs retry: {len(deliveries)} deliveries, jobs {which or 'none'}"))
    typer.echo(f"{len(jobs)} jobs and {len(deliveries)} deliveries will be tried again")
    if job and len(jobs) < len(set(job)):
        typer.echo("worker: the others are not parked", err=True)
        raise typer.Exit(EXIT_FAULT)


# --- who may, and who did --------------------------------------------------------------------------------------


@tokens_app.command("add", epilog="Example: worker tokens add --role read --name ward-3 --days 90")
def add_token(
    role: Annotated[
        TokenRoleName, typer.Option(help="read: look results up. annotate: also say what a series shows. operate: all.")
    ],
    name: Annotated[str | None, typer.Option(help="Who will use it; named so in the audit trail.")] = None,
    days: Annotated[int, typer.Option(min=0, help="Valid so long; 0 for ever.")] = 365,
    config: ConfigOption = None,
) -> None:
    """Make a token and print it, once: only its hash is kept."""
    from worker.db import tokens as access
    from worker.db.tables import TokenRole

    moment = datetime.now(UTC)
    until = moment + timedelta(days=days) if days else None
    with _audited(config) as (_, database, record, user):
        with database.write() as session:
            name, token = access.add_token(session, name, TokenRole(role), moment, until)
        record(events.token_changed(user, name, f"made, role {role}, valid {f'{days} days' if days else 'for ever'}"))
    typer.echo(f"token '{name}', role {role}; it is shown this once:", err=True)
    typer.echo(token)


@tokens_app.command("list", epilog="Example: worker tokens list --format json")
def list_tokens(format: FormatOption = Format.TABLE, config: ConfigOption = None) -> None:
    """Every token that was made, never the token itself."""
    from worker.cli.output import print_rows
    from worker.db.tokens import list_tokens

    with _open_store(config).read() as session:
        found = list_tokens(session)
    print_rows(f"{len(found)} tokens", found, format)


@tokens_app.command("revoke", epilog="Example: worker tokens revoke ward-3")
def revoke_token(
    token: Annotated[str, typer.Argument(help="Its name, or its key.")],
    config: ConfigOption = None,
) -> None:
    """Make a token, and every browser session made from it, invalid at once."""
    from worker.db import tokens as access

    with _audited(config) as (_, database, record, user):
        with database.write() as session:
            name = access.revoke_token(session, token, datetime.now(UTC))
        if name is None:
            typer.echo(f"worker: there is no token '{token}'", err=True)
            raise typer.Exit(EXIT_FAULT)
        record(events.token_changed(user, name, "revoked"))
    typer.echo(f"token '{name}' is revoked")


@audit_app.command("verify", epilog="Example: worker audit verify --format json")
def verify_audit(
    first: Annotated[int, typer.Option(min=1, help="The first record that is here; those before were archived.")] = 1,
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Check the chain of every trail from end to end; exit code 1, and where, if one is broken."""
    from worker.audit.verify import verify_trails
    from worker.cli.output import print_rows

    with _audited(config) as (settings, database, record, user):
        verdicts = verify_trails(settings, database, first)
        record(events.trail_read(user, str(settings.audit_dir)))
    print_rows("audit trails", verdicts, format)
    for one in verdicts:
        state = f"BROKEN: {one.fault}" if one.fault else "intact"
        typer.echo(f"{one.host}: {one.records} records, {state}", err=True)
    if any(one.fault for one in verdicts):
        raise typer.Exit(EXIT_FAULT)


@audit_app.command("list", epilog="Example: worker audit list --limit 20")
def list_audit(
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """The newest records of this host."""
    from worker.audit.verify import newest_entries
    from worker.cli.output import print_rows

    with _audited(config) as (settings, _, record, user):
        entries = newest_entries(settings, limit)
        record(events.trail_read(user, str(settings.audit_dir)))
    print_rows("audit trail", entries, format)


@audit_app.command("accept", epilog="Example: worker audit accept --config config.toml")
def accept_audit(config: ConfigOption = None) -> None:
    """Take this host's trail as it is for the one that is known, after a break was looked into; recorded itself."""
    from worker.audit.recorder import accept_head, host_name, trail_of

    with _audited(config) as (settings, database, record, user):
        record(events.operated(user, None, "worker audit accept"))
        head = trail_of(settings).sync()
        with database.write() as session:
            accept_head(session, host_name(settings), head, datetime.now(UTC))
    typer.echo(f"the trail of {host_name(settings)} is known up to record {head.number}")
