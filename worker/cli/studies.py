"""`worker studies`: one answer for each study; `worker series`: settle again, classify again."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.audit import events
from worker.cli.context import EXIT_FAULT, ConfigOption, Format, FormatOption, audited
from worker.errors import StartError
from worker.wording import counted, written_date

if TYPE_CHECKING:
    from worker.db.engine import Database
    from worker.db.views.studies import StudyAnswer

commands = typer.Typer(no_args_is_help=True, help="Studies: one answer for each, from the answers for its series.")
series_commands = typer.Typer(
    no_args_is_help=True, help="Received series: settle refused ones again, classify with another model."
)


@commands.command("list", epilog="Example: worker studies list --format json")
def list_studies(
    limit: Annotated[int, typer.Option(min=1, max=500, help="Maximum number of studies; the newest are listed.")] = 100,
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """List studies: the answer, or why there is none, and what their series say."""
    from worker.db.views.studies import find_studies

    with audited(config) as (_, database, record, user):
        with database.read() as session:
            page = find_studies(session, limit=limit)
        record(events.queried(user, None, "worker studies list", {}))
    _print(page.studies, format)


@commands.command("show", epilog="Example: worker studies show 1.2.840.113619.2.5.17")
def show_study(
    study: Annotated[str, typer.Argument(help="Study Instance UID.")],
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Show the answer for a study, and how each of its series counted."""
    from worker.db.views.studies import find_study

    with audited(config) as (_, database, record, user):
        with database.read() as session:
            answer = find_study(session, study)
        if answer is None:
            typer.echo("worker: no series of such a study was answered", err=True)
            raise typer.Exit(EXIT_FAULT)
        record(events.viewed(user, None, study))
    _print([answer], format, in_detail=True)


@commands.command("delete", epilog="Example: worker studies delete 1.2.840.113619.2.5.17")
def delete_study(
    study: Annotated[str, typer.Argument(help="Study Instance UID.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Delete a study: images, answers, readings, reports. What was sent to other systems stays there."""
    from worker.storage import deletion

    if not yes:
        typer.confirm(f"Delete study {study} with all that was made of it?", abort=True)
    with audited(config) as (settings, database, record, user):
        deleted = deletion.delete_study(database, settings, study, user, None, record)
    if deleted is None:
        typer.echo("worker: no series of such a study was received", err=True)
        raise typer.Exit(EXIT_FAULT)
    typer.echo(f"deleted: {counted(deleted.instances, 'image')}, {counted(deleted.files, 'file')}")


@commands.command("hand-over", epilog="Example: worker studies hand-over 1.2.840.113619.2.5.17 --to ARCHIVE")
def hand_over(
    study: Annotated[str, typer.Argument(help="Study Instance UID.")],
    to: Annotated[
        str, typer.Option(help=r"The name of a [\[destination]] by C-STORE, or the AE title of a [\[peer]].")
    ],
    with_reports: Annotated[
        bool, typer.Option("--with-reports", help="Also send reports, pictures, key objects.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Send a study's images elsewhere, have each confirmed, and delete the study here.

    Nothing is deleted unless all of it was taken. Run again, it completes what was interrupted.
    """
    from worker.cli.output import with_steps
    from worker.send.hand_over import HandOver

    if not yes:
        typer.confirm(f"Send study {study} to {to}, then delete it here with all that was made of it?", abort=True)
    with audited(config) as (settings, database, record, user):
        handing = HandOver(settings, database, lambda: datetime.now(UTC), record, user)
        done = with_steps("sending", lambda steps: handing.run(study, to, with_reports=with_reports, steps=steps))
    if done is None:
        typer.echo("worker: no series of such a study was received", err=True)
        raise typer.Exit(EXIT_FAULT)
    sent = f"{counted(done.sent, 'instance')} sent" if done.sent else "sent before"
    typer.echo(f"handed over to {done.destination}: {sent}, {counted(done.deleted.instances, 'image')} deleted here")


def _print(studies: Sequence[StudyAnswer], format: str, in_detail: bool = False) -> None:
    """Studies, of which each series has a line `in_detail`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from worker.cli.output import RESEARCH_USE, as_csv, console, delivery_table, flat_deliveries, short_text, short_uid
    from worker.db.views.json_values import json_value
    from worker.db.views.studies import StudyAnswer

    if format == "json":
        print(json.dumps(json_value(studies), indent=2, ensure_ascii=False))
        return
    if format == "csv":
        columns = [name for name in StudyAnswer.__dataclass_fields__ if name not in ("probabilities", "series")]
        rows = (json_value(study) for study in studies)
        flat = ({**row, "deliveries": flat_deliveries(row["deliveries"])} for row in rows)
        print(as_csv(columns, flat), end="")
        return
    out = console()
    if not studies:
        out.print("No series of a study was answered.")
        return
    table = Table(title=counted(len(studies), "study"), box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("date", "patient", "study", "series", "state", "result", "reason"):
        table.add_column(name, overflow="fold", no_wrap=name in ("date", "state", "result"))
    for study in studies:
        result = f"{study.label} {study.probability:.1%}" if study.label and study.probability is not None else ""
        table.add_row(
            written_date(study.study_date), study.patient_id, study.study_instance_uid, str(len(study.series)),
            study.state, result, study.reason or "",
        )  # fmt: skip
        for series in study.series if in_detail else ():
            out_of = "" if series.weight is None else f"{series.weight:.0%}"
            name = f"{series.series_number or ''} {series.series_description} {series.sequence or ''}".strip()
            table.add_row(
                "", "", f"  {short_uid(series.series_instance_uid)} {name}", out_of, series.status,
                series.label or "", series.reason or ("contradicts" if series.contradicts else ""),
            )  # fmt: skip
    out.print(table)
    for study in studies if in_detail else ():
        if study.attributes_changed_at is not None:
            when = short_text(study.attributes_changed_at)
            out.print(f"Patient or study attributes changed on {when}; the newest count.")
        out.print(study.detail or study.contradiction or "No series contradicts another.")
        if study.deliveries:
            out.print(delivery_table(study.deliveries))
    out.print(RESEARCH_USE)


@commands.command("export", epilog="Example: worker studies export studies.csv")
def export_studies(
    file: Annotated[Path, typer.Argument(help="The file to write: .csv or .json.")],
    config: ConfigOption = None,
) -> None:
    """Write every study, the newest first, to a file, with what each of its series says and counts."""
    suffix = file.suffix.lower().lstrip(".")
    if suffix not in ("csv", "json"):
        raise StartError("export-format", f"{file}: the file name must end in .csv or .json")
    part = file.with_name(f"{file.name}.part")
    with audited(config) as (_, database, record, user):
        try:
            number = _write(_pages(database), part, suffix)
            os.replace(part, file)
        except OSError as error:
            raise StartError("export-unwritable", f"cannot write {file}: {error.strerror}") from None
        finally:
            part.unlink(missing_ok=True)
        record(events.exported(user, None, "worker studies export", str(file)))
    typer.echo(f"{counted(number, 'study')} written to {file}")


def _pages(database: Database) -> Iterator[Sequence[StudyAnswer]]:
    """All studies, in transactions of their own, so that an export of hours delays nothing."""
    from worker.db.views.studies import LARGEST_PAGE, find_studies

    older_than: int | None = None
    while True:
        with database.read() as session:
            page = find_studies(session, older_than, LARGEST_PAGE)
        yield page.studies
        if page.older_than is None:
            return
        older_than = page.older_than


def _write(pages: Iterator[Sequence[StudyAnswer]], path: Path, format: str) -> int:
    from worker.cli.output import not_a_formula
    from worker.db.views.json_values import json_value
    from worker.db.views.studies import StudyAnswer

    number = 0
    with path.open("w", encoding="utf-8", newline="") as out:
        if format == "json":
            for page in pages:
                for study in page:
                    out.write(("[\n" if not number else ",\n") + json.dumps(json_value(study), ensure_ascii=False))
                    number += 1
            out.write("\n]\n" if number else "[]\n")
            return number
        writer = csv.DictWriter(out, list(StudyAnswer.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        for page in pages:
            for study in page:
                writer.writerow({key: not_a_formula(value) for key, value in _flat(json_value(study)).items()})
                number += 1
    return number


def _flat(study: dict[str, Any]) -> dict[str, Any]:
    """A line of CSV: each series as number, sequence, answer and weight."""
    from worker.cli.output import flat_deliveries

    probabilities = " ".join(f"{name}={value:.4f}" for name, value in study["probabilities"].items())
    series = "; ".join(
        " ".join(
            str(part)
            for part in (
                item["series_number"] if item["series_number"] is not None else "-",
                item["sequence"] or "-",
                item["label"] or item["reason"] or item["status"],
                "" if item["weight"] is None else f"{item['weight']:.2f}",
            )
            if part != ""
        )
        for item in study["series"]
    )
    return study | {
        "probabilities": probabilities,
        "series": series,
        "deliveries": flat_deliveries(study["deliveries"]),
    }


@commands.command("retry", epilog="Example: worker studies retry")
def retry_studies(
    study: Annotated[list[str] | None, typer.Argument(help="Study Instance UIDs; all parked ones if none.")] = None,
    config: ConfigOption = None,
) -> None:
    """Answer studies again whose attempts were spent."""
    from worker.db.studies.answering import retry_parked_studies

    with audited(config) as (_, database, record, user):
        with database.write() as session:
            retried = retry_parked_studies(session, study or [])
        record(events.operated(user, None, f"worker studies retry: {counted(len(retried), 'study')}", retried))
    typer.echo(f"{counted(len(retried), 'study')} will be answered again")


@series_commands.command("tags", epilog="Example: worker series tags 1.2.840.113619.2.5.17 --image 3")
def show_tags(
    series: Annotated[str, typer.Argument(help="Series Instance UID.")],
    image: Annotated[int, typer.Option(min=1, help="Which image of the series, in the order in which they came.")] = 1,
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Show the header of an image; private values are not shown, long ones are cut."""
    from worker.cli.output import print_rows
    from worker.db.operating.images import stored_image
    from worker.dicom.header import read_stored_header
    from worker.dicom.text.tag_lines import tag_lines

    with audited(config) as (settings, database, record, user):
        if settings.privacy.pseudonymise:
            raise StartError(
                "pseudonymised", "with [privacy] pseudonymise headers are not shown: they name the patient"
            )
        with database.read() as session:
            stored = stored_image(session, series, image)
        if stored is None or stored.path is None:
            what = "there is no such image" if stored is None else "the image was deleted by the retention policy"
            typer.echo(f"worker: {what}", err=True)
            raise typer.Exit(EXIT_FAULT)
        record(events.viewed(user, None, stored.study_instance_uid))
        lines = tag_lines(read_stored_header(settings.worker.data_dir / stored.path))
    print_rows(f"image {image} of {stored.count}, {stored.sop_instance_uid}", lines, format)


@series_commands.command("reconsider", epilog="Example: worker series reconsider --all-refused")
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


@series_commands.command("classify", epilog="Example: worker series classify 42808680 --model brain-mri-tumour:0.3.0")
def classify(
    series: Annotated[str, typer.Argument(help="Series Instance UID, or the end of it.")],
    model: Annotated[str, typer.Option(help="NAME:VERSION; it need not be the active model.")],
    config: ConfigOption = None,
) -> None:
    """Classify an answered series again with another model; the new answer replaces the old, and is reported."""
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
