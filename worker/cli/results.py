"""`worker results`: search, show and export the results of series."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.audit import events
from worker.cli.context import EXIT_FAULT, ConfigOption, Format, FormatOption, audited
from worker.dicom.series_terms import Contrast, Sequence
from worker.errors import StartError

if TYPE_CHECKING:
    from worker.db.views.search import Search


class StatusName(StrEnum):
    """As `worker.db.tables.SeriesStatus`, whose import takes time."""

    CLASSIFIED = "classified"
    NOT_ASSESSED = "not-assessed"
    REFUSED = "refused"
    FAILED = "failed"
    PENDING = "pending"


commands = typer.Typer(no_args_is_help=True, help="Search, show and export the results of series.")
PatientIdOption = Annotated[str | None, typer.Option(help="Patient ID, matched exactly.")]
StudyOption = Annotated[str | None, typer.Option(help="Study Instance UID.")]
SeriesOption = Annotated[str | None, typer.Option(help="Series Instance UID.")]
AccessionOption = Annotated[str | None, typer.Option(help="Accession number.")]
LabelOption = Annotated[str | None, typer.Option(help="Class, e.g. glioma.")]
StatusOption = Annotated[StatusName | None, typer.Option(help="Status of the series.")]
SinceOption = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Received on this day or later.")]
UntilOption = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Received on this day or earlier.")]
SequenceOption = Annotated[Sequence | None, typer.Option(help="Sequence by the headers, e.g. FLAIR.")]
ContrastOption = Annotated[Contrast | None, typer.Option(help="Contrast agent by the headers.")]
MinProbabilityOption = Annotated[float | None, typer.Option(min=0, max=1, help="Lowest probability of the class.")]


@commands.command("list", epilog="Example: worker results list --label glioma --min-probability 0.9 --format csv")
def list_results(
    patient_id: PatientIdOption = None,
    study: StudyOption = None,
    series: SeriesOption = None,
    accession: AccessionOption = None,
    label: LabelOption = None,
    status: StatusOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    min_probability: MinProbabilityOption = None,
    sequence: SequenceOption = None,
    contrast: ContrastOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of series; the newest are listed.")] = 1000,
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """List series: classified, not assessed, refused, failed or pending, with the reason."""
    from worker.cli.output import print_answers
    from worker.db.views.search import find_series
    from worker.db.views.studies import deliveries_of_studies

    search = _search(
        patient_id, study, series, accession, label, status, since, until, min_probability, limit, sequence, contrast
    )
    with audited(config) as (_, database, record, user):
        with database.read() as session:
            answers = find_series(session, search)
            of_studies = deliveries_of_studies(session, {answer.study_instance_uid for answer in answers})
        record(events.queried(user, None, "worker results list", _criteria(search)))
    print_answers(answers, format, of_studies)


@commands.command("show", epilog="Example: worker results show 1.2.840.113619.2.5.17 --format json")
def show_result(
    series: Annotated[str, typer.Argument(help="Series Instance UID, or the end of it.")],
    format: FormatOption = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Show everything about one series: probabilities, slices, deliveries."""
    from worker.cli.output import print_answer
    from worker.db.views.search import Search, find_series, find_series_by_suffix
    from worker.db.views.series_detail import latest_slices, refused_images
    from worker.db.views.studies import deliveries_of_studies

    with audited(config) as (_, database, record, user):
        with database.read() as session:
            uids = find_series_by_suffix(session, series.lstrip("…"))
            if len(uids) != 1:
                fault = "the UIDs of several series end in this" if uids else "no such series was received"
                typer.echo(f"worker: {fault}", err=True)
                raise typer.Exit(EXIT_FAULT)
            [answer] = find_series(session, Search(series_instance_uid=uids[0]))
            slices = latest_slices(session, uids[0])
            refused = refused_images(session, uids[0])
            of_studies = deliveries_of_studies(session, [answer.study_instance_uid])
        record(events.viewed(user, None, answer.study_instance_uid))
    print_answer(answer, slices, format, refused, of_studies.get(answer.study_instance_uid, ()))


@commands.command("export", epilog="Example: worker results export results.csv --since 2026-01-01")
def export_results(
    file: Annotated[Path, typer.Argument(help="The file to write: .csv or .json.")],
    patient_id: PatientIdOption = None,
    study: StudyOption = None,
    series: SeriesOption = None,
    accession: AccessionOption = None,
    label: LabelOption = None,
    status: StatusOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    min_probability: MinProbabilityOption = None,
    sequence: SequenceOption = None,
    contrast: ContrastOption = None,
    config: ConfigOption = None,
) -> None:
    """Write every matching series to a file, without a limit."""
    from worker.cli.output import answers_as_text
    from worker.db.views.search import find_series

    suffix = file.suffix.lower().lstrip(".")
    if suffix not in ("csv", "json"):
        raise StartError("export-format", f"{file}: the file name must end in .csv or .json")
    search = _search(
        patient_id, study, series, accession, label, status, since, until, min_probability, None, sequence, contrast
    )
    with audited(config) as (_, database, record, user):
        with database.read() as session:
            answers = find_series(session, search)
        record(events.exported(user, None, "worker results export", str(file)))
    try:
        file.write_text(answers_as_text(answers, Format(suffix)), encoding="utf-8")
    except OSError as error:
        raise StartError("export-unwritable", f"cannot write {file}: {error.strerror}") from None
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
    sequence: Sequence | None,
    contrast: Contrast | None,
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
        sequence=sequence.value if sequence else None,
        contrast_agent=contrast.value if contrast else None,
    )


def _criteria(search: Search) -> dict[str, str]:
    """The search as the audit trail records it."""
    return {key: str(value) for key, value in asdict(search).items() if value is not None}


def _day(moment: datetime | None) -> date | None:
    return moment.date() if moment else None
