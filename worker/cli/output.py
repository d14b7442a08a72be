"""What the commands print: tables for a person, JSON and CSV for a script."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.db.views.json_values import json_value
from worker.wording import counted

if TYPE_CHECKING:
    from rich.progress import Progress

    from worker.db.views.model_comparison import ModelStatus
    from worker.db.views.queue import Unfinished
    from worker.db.views.search import DeliveryAnswer, SeriesAnswer
    from worker.db.views.series_detail import RefusedImages, SliceAnswer
    from worker.ops.classify_folder import OfflineAnswer, Written
    from worker.ops.host_checks import Finding
    from worker.results import StudyResult

RESEARCH_USE = "Research use only: not for diagnosis. Every result is unverified until a physician has looked."
T = TypeVar("T")
_ESTIMATE_SECONDS = 60.0  # between two lines of progress
_FORMULA = ("=", "+", "-", "@", "\t", "\n")  # the first character of what a spreadsheet computes

_STYLES = {"classified": "green", "not-assessed": "yellow", "refused": "yellow", "failed": "red", "pending": "cyan"}


def console() -> Console:
    """A console that prints text as it is: a patient ID of `[/]` or `:x:` from a peer is no markup."""
    return Console(highlight=False, markup=False, emoji=False)


def progress_console() -> Console:
    """Progress goes to standard error, so that JSON on standard output stays clean."""
    return Console(stderr=True)


def as_line(text: str) -> str:
    """A text on a single line: of the name or header of somebody's file, what is no character to print is escaped."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def with_progress(title: str, total: int, work: Callable[[Callable[[], None]], T]) -> T:
    """Run `work`, which calls its argument once for each of `total` steps."""
    with _progress() as progress:
        task = progress.add_task(title, total=total)
        return work(lambda: progress.advance(task))


def with_steps(title: str, work: Callable[[Callable[[int, int], None]], T]) -> T:
    """Run `work`, which calls its argument with (steps done, steps in all)."""
    with _progress() as progress:
        task = progress.add_task(title, total=None)
        return work(lambda done, total: progress.update(task, completed=done, total=total))


def with_estimate(title: str, work: Callable[[Callable[[int, int], None]], T]) -> T:
    """As `with_steps`, for hours: where there is no terminal, a line a minute says how long the rest will take."""
    started = told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if (now := time.monotonic()) >= told + _ESTIMATE_SECONDS or done == total:
            told, left = now, (now - started) / done * (total - done) if done else 0.0
            about = f", about {timedelta(seconds=round(left))} left" if 0 < done < total else ""
            print(f"{title}: {done:,} of {total:,}{about}", file=sys.stderr, flush=True)

    return with_steps(title, work) if progress_console().is_terminal else work(tell)


def _progress() -> Progress:
    """A bar on a terminal, otherwise nothing."""
    from rich.progress import Progress

    out = progress_console()
    return Progress(console=out, transient=True, disable=not out.is_terminal)


def answers_as_text(answers: Sequence[SeriesAnswer], format: str) -> str:
    """JSON: a list of objects. CSV: a line for each series, deliveries as destination:object=state."""
    if format == "json":
        return json.dumps(json_value(answers), indent=2, ensure_ascii=False) + "\n"
    from worker.db.views.search import SeriesAnswer

    return as_csv(list(SeriesAnswer.__dataclass_fields__), (_flat(json_value(answer)) for answer in answers))


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat = dict(row)
    flat["series_type"] = "; ".join((row["series_type"] or {}).get("evidence", ()))
    flat["probabilities"] = " ".join(f"{name}={value:.4f}" for name, value in row["probabilities"].items())
    flat["deliveries"] = flat_deliveries(row["deliveries"])
    return flat


def flat_deliveries(deliveries: Sequence[Mapping[str, Any]]) -> str:
    return " ".join(f"{delivery['destination']}:{delivery['object']}={delivery['state']}" for delivery in deliveries)


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Each row's values of these columns."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: not_a_formula(value) for key, value in row.items()} for row in rows)
    return buffer.getvalue()


def not_a_formula(value: Any) -> Any:
    """A peer's text must not run as a formula when the CSV is opened in a spreadsheet (OWASP, CSV injection)."""
    if not isinstance(value, str):
        return value
    text = value.replace("\r", "\n")  # which Python's writer does not quote, though readers end a line there
    return f"'{text}" if unicodedata.normalize("NFKC", text[:1]) in _FORMULA else text


def print_answers(
    answers: Sequence[SeriesAnswer], format: str, of_studies: Mapping[str, Sequence[DeliveryAnswer]] | None = None
) -> None:
    """Print series. `of_studies` has deliveries of studies by their UIDs; the table shows what has any."""
    if format != "table":
        print(answers_as_text(answers, format), end="")
        return
    out = console()
    if not answers:
        out.print("No series matches.")
        return
    table = Table(title=f"{len(answers)} series", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    sent = [_sent(answer.deliveries, (of_studies or {}).get(answer.study_instance_uid, ())) for answer in answers]
    for name in ("received", "patient", "series", "n", "status", "result or reason", *(["sent"] if any(sent) else [])):
        table.add_column(name, overflow="fold", no_wrap=name in ("received", "series", "status"))
    for answer, deliveries in zip(answers, sent, strict=True):
        table.add_row(
            short_text(answer.received_at),
            answer.patient_id,
            _short_series(answer),
            str(answer.instances),
            Text(answer.status, _STYLES[answer.status]),
            ", ".join(filter(None, (_result(answer), answer.reason or ("incomplete" if answer.missing else "")))),
            *([deliveries] if any(sent) else []),
        )
    out.print(table)
    out.print(f"Each series is listed by the end of its UID, which `worker results show` accepts.\n{RESEARCH_USE}")


def short_uid(uid: str) -> str:
    """The end of a UID, which distinguishes series; the whole UID does not fit a terminal."""
    return uid if len(uid) <= 9 else f"…{uid[-8:]}"


def _result(answer: SeriesAnswer) -> str:
    return f"{answer.label} {answer.probability:.1%}" if answer.label and answer.probability is not None else ""


def _short_series(answer: SeriesAnswer) -> str:
    """The end of the UID; below it the sequence, if the headers tell it."""
    agent = " +C" if answer.contrast_agent == "with" else ""
    known = answer.sequence not in (None, "unknown")
    return short_uid(answer.series_instance_uid) + (f"\n{answer.sequence}{agent}" if known else "")


def _series_type(answer: SeriesAnswer) -> str:
    """Sequence, contrast agent, plane, acquisition and body part, as far as they are known."""
    known = answer.series_type or {}
    agent = f"{answer.contrast_agent} contrast agent" if answer.contrast_agent in ("with", "without") else ""
    parts = [answer.plane, *(known.get(name) for name in ("acquisition", "body_part", "derived"))]
    return ", ".join([answer.sequence or "unknown", *(part for part in (agent, *parts) if part and part != "unknown")])


def _sent(of_series: Sequence[DeliveryAnswer], of_study: Sequence[DeliveryAnswer]) -> Text:
    """How many deliveries arrived, of a series and below it of its study, without those that were withdrawn."""
    lines = []
    for name, deliveries in (("", of_series), ("study\n", of_study)):
        states = [delivery.state for delivery in deliveries if delivery.state != "superseded"]
        if states:
            text = f"{name}{states.count('delivered')} of {len(states)}"
            lines.append(Text(text, "red" if "failed" in states else ""))
    return Text("\n").join(lines)


def print_answer(
    answer: SeriesAnswer,
    slices: Sequence[SliceAnswer],
    format: str,
    refused: Sequence[RefusedImages] = (),
    of_study: Sequence[DeliveryAnswer] = (),
) -> None:
    """Print a series with its slices, what was refused of it and did not come again, and deliveries of its study."""
    if format == "json":
        print(
            json.dumps(
                json_value(answer) | {"slices": json_value(slices), "refused": json_value(refused)},
                indent=2,
                ensure_ascii=False,
            )
        )
        return
    if format == "csv":
        print(answers_as_text([answer], "csv"), end="")
        return
    out = console()
    facts = Table(show_header=False, box=None, padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name in ("patient_id", "accession_number", "study_instance_uid", "series_instance_uid", "series_description"):
        facts.add_row(name.replace("_", " "), str(getattr(answer, name)))
    facts.add_row("instances", str(answer.instances))
    if answer.series_type is not None:
        facts.add_row("series type", _series_type(answer))
        facts.add_row("evidence", "\n".join(answer.series_type.get("evidence", ())))
    facts.add_row("status", Text(answer.status, _STYLES[answer.status]))
    facts.add_row("result", _result(answer) or "none")
    facts.add_row("probabilities", "  ".join(f"{name} {value:.3f}" for name, value in answer.probabilities.items()))
    facts.add_row("reason", answer.detail or answer.reason or "")
    for images in refused:
        facts.add_row("refused", f"{counted(images.number, 'image')}: {images.status} {images.reason}")
    if answer.missing:
        facts.add_row("incomplete", answer.missing)
    facts.add_row("model", answer.model or "")
    out.print(facts)
    if answer.deliveries:
        out.print(delivery_table(answer.deliveries))
    if of_study:
        out.print(delivery_table(of_study, "deliveries of the study"))
    if slices:
        out.print(_slice_table(answer, slices))
    out.print(RESEARCH_USE)


def delivery_table(deliveries: Sequence[DeliveryAnswer], title: str = "deliveries") -> Table:
    table = Table(title=title)
    for name in ("destination", "object", "state", "attempts", "status", "reason"):
        table.add_column(name)
    for delivery in deliveries:
        status = f"0x{delivery.status:04X}" if delivery.status is not None else ""
        reason = delivery.detail or delivery.reason or ""
        table.add_row(delivery.destination, delivery.object, delivery.state, str(delivery.attempts), status, reason)
    return table


def _slice_table(answer: SeriesAnswer, slices: Sequence[SliceAnswer]) -> Table:
    table = Table(title="slices (* key slice)")
    names = list(answer.probabilities) or [f"class {number}" for number in range(len(slices[0].probabilities))]
    for name in ("slice", "position mm", *names, "like training data"):
        table.add_column(name, justify="right")
    for slice_ in slices:
        table.add_row(
            f"{slice_.ordinal + 1}{' *' if slice_.deciding else ''}",
            f"{slice_.position_mm:.1f}" if slice_.position_mm is not None else "",
            *[f"{value:.3f}" for value in slice_.probabilities],
            "yes" if slice_.in_distribution else "no",
        )
    return table


def print_offline(answers: Sequence[OfflineAnswer], studies: Mapping[str, StudyResult], format: str) -> None:
    """Print what `worker classify` found of series and, by their UIDs, studies, and where it wrote the objects."""
    rows = [offline.answer for offline in answers]
    if format == "csv":
        print(answers_as_text(rows, "csv"), end="")
        return
    if format == "json":
        objects = [
            json_value(offline.answer)
            | {"written": _paths(offline.written), "study": json_value(studies[offline.answer.study_instance_uid])}
            for offline in answers
        ]
        print(json.dumps(objects[0] if len(objects) == 1 else objects, indent=2, ensure_ascii=False))
        return
    print_answers(rows, "table")
    out = console()
    for offline in answers:
        if offline.answer.detail:
            out.print(f"{offline.answer.series_instance_uid}: {offline.answer.detail}")
        if offline.written:
            report, picture, png = offline.written.report, offline.written.picture, offline.written.png
            out.print(f"  report {report}\n  picture {picture}\n  PNG {png}")
    for uid, study in studies.items():
        answer = f"{study.label} {study.probability:.1%}" if study.label and study.probability is not None else ""
        why = study.detail or study.contradiction or ""
        out.print(f"study {uid}, {len(study.contributions)} series: {answer or study.reason}{'. ' if why else ''}{why}")


def _paths(written: Written | None) -> dict[str, str] | None:
    return {name: str(path) for name, path in json_value(written).items()} if written else None


def print_rows(title: str, rows: Sequence[Any], format: str) -> None:
    """Print dataclasses of the same class: a column for each field."""
    from dataclasses import asdict

    plain_rows = [{key: _cell(value) for key, value in asdict(row).items()} for row in rows]
    if format == "json":
        print(json.dumps(plain_rows, indent=2, ensure_ascii=False))
        return
    columns = list(plain_rows[0]) if plain_rows else []
    if format == "csv":
        print(as_csv(columns, plain_rows), end="")
        return
    cells = [{key: short_text(value) for key, value in asdict(row).items()} for row in rows]
    columns = [name for name in columns if any(row[name] for row in cells)]
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in cells:
        table.add_row(*(row[name] for name in columns))
    out = console()
    if not cells or out.width >= _natural_width(cells, columns):
        out.print(table)
        return
    out.print(title)  # a table would be cut up: a block for each row
    for row in cells:
        out.print()
        for name in columns:
            if row[name]:
                out.print(f"{name.replace('_', ' ')}: {row[name]}", soft_wrap=True)


def _natural_width(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> int:
    """The characters that a table needs for each value to have a line."""
    return sum(max(len(name), *(len(row[name]) for row in rows)) + 1 for name in columns)


def short_text(value: Any) -> str:
    """A value in a table; a time without seconds, in the time zone of this host, as on the page."""
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M}"
    return "" if value is None else str(value)


def print_models(models: Sequence[ModelStatus], format: str) -> None:
    """Print models, the newest first."""
    if format != "table":
        print_rows("", models, format)
        return
    table = Table(title=counted(len(models), "model"), box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("model", "version", "state", "since", "by", "bundle"):
        table.add_column(name, overflow="fold", no_wrap=name in ("state", "since", "bundle"))
    for model in models:
        since = short_text(model.state_at)
        table.add_row(model.name, model.version, model.state, since, model.state_by, model.sha256[:12])
    out = console()
    out.print(table)
    for model in models:
        if model.not_loaded:
            out.print(Text.assemble((f"{model.name} {model.version} is not loaded", "red"), f" on {model.not_loaded}"))


def _cell(value: Any) -> Any:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else value


def print_unfinished(unfinished: Unfinished, format: str) -> None:
    """Jobs, then deliveries; CSV has the jobs only, which is what `jobs retry` takes."""
    if format == "json":
        print(json.dumps(json_value(unfinished), indent=2, ensure_ascii=False))
        return
    if format == "csv":
        columns = ["number", "state", "attempts", "reason", "detail", "series_instance_uid", "shadow", "urgent"]
        print(as_csv(columns, (json_value(job) for job in unfinished.jobs)), end="")
        return
    out = console()
    jobs = Table(title=counted(len(unfinished.jobs), "unfinished job"), box=SIMPLE_HEAD, pad_edge=False)
    for name in ("job", "state", "tries", "reason", "series"):
        jobs.add_column(name, overflow="fold", no_wrap=name != "reason")
    for job in unfinished.jobs:
        state = ", ".join([job.state, *(word for word in ("shadow", "urgent") if getattr(job, word))])
        reason = job.detail or job.reason or ""
        jobs.add_row(str(job.number), state, str(job.attempts), reason, short_uid(job.series_instance_uid))
    out.print(jobs)
    if unfinished.deliveries:
        out.print(f"{counted(len(unfinished.deliveries), 'object')} not delivered yet: worker deliveries list")


def print_findings(findings: Iterable[Finding]) -> bool:
    """Print a line for each finding as it comes, and below a fault what to do about it; whether all is well."""
    out = console()
    well = True
    for finding in findings:
        well = well and finding.well
        mark = ("ok   ", "green") if finding.well else ("fault", "red")
        out.print(Text.assemble(mark, f" {finding.subject}: {finding.detail}"), soft_wrap=True)
        if finding.advice:
            out.print(f"      → {finding.advice}", soft_wrap=True)
    return well
