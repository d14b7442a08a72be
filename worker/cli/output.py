"""What the commands print: tables for a person, JSON and CSV for a script."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from worker.db.views.json_values import json_value
from worker.db.views.queue import Unfinished
from worker.db.views.search import SeriesAnswer
from worker.db.views.series_detail import SliceAnswer

if TYPE_CHECKING:
    from worker.db.views.model_comparison import Comparison, ModelStatus
    from worker.ops.classify_folder import OfflineAnswer
    from worker.ops.doctor import Finding

RESEARCH_USE = "Research use only: not for diagnosis. Every result is unverified until a physician has looked."
T = TypeVar("T")

_STYLES = {"classified": "green", "not-assessed": "yellow", "refused": "yellow", "failed": "red", "pending": "cyan"}


def console() -> Console:
    """Prints texts as they are: what a peer sent, a patient's ID of `[/]` or `:x:`, is no markup."""
    return Console(highlight=False, markup=False, emoji=False)


def progress_console() -> Console:
    """Progress goes to standard error, so that JSON on standard output stays clean."""
    return Console(stderr=True)


def with_progress(title: str, total: int, work: Callable[[Callable[[], None]], T]) -> T:
    """Run `work`, which calls its argument once for each of `total` steps."""
    with Progress(console=progress_console(), transient=True) as progress:
        task = progress.add_task(title, total=total)
        return work(lambda: progress.advance(task))


def with_steps(title: str, work: Callable[[Callable[[int, int], None]], T]) -> T:
    """Run `work`, which calls its argument with (steps done, steps in all)."""
    with Progress(console=progress_console(), transient=True) as progress:
        task = progress.add_task(title, total=None)
        return work(lambda done, total: progress.update(task, completed=done, total=total))


def answers_as_text(answers: Sequence[SeriesAnswer], format: str) -> str:
    """`format` json: a list of objects; csv: one line a series, deliveries as destination:object=state."""
    if format == "json":
        return json.dumps(json_value(answers), indent=2, ensure_ascii=False) + "\n"
    buffer = io.StringIO()
    rows = [_flat(json_value(one)) for one in answers]
    columns = list(SeriesAnswer.__dataclass_fields__)
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat = {key: _not_a_formula(value) for key, value in row.items()}
    flat["probabilities"] = " ".join(f"{name}={value:.4f}" for name, value in row["probabilities"].items())
    flat["deliveries"] = " ".join(f"{one['destination']}:{one['object']}={one['state']}" for one in row["deliveries"])
    return flat


def _not_a_formula(value: Any) -> Any:
    """A peer's text must not run as a formula when the CSV is opened in a spreadsheet (OWASP, CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t") else value


def print_answers(answers: Sequence[SeriesAnswer], format: str) -> None:
    if format != "table":
        print(answers_as_text(answers, format), end="")
        return
    out = console()
    if not answers:
        out.print("No series matches.")
        return
    table = Table(title=f"{len(answers)} series", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("received", "patient", "series", "n", "status", "result", "why", "sent"):
        table.add_column(name, overflow="fold", no_wrap=name in ("received", "series", "status", "result"))
    for one in answers:
        table.add_row(
            f"{one.received_at:%m-%d %H:%M}",
            one.patient_id,
            short_uid(one.series_instance_uid),
            str(one.instances),
            Text(one.status, _STYLES[one.status]),
            _result(one),
            one.reason or ("incomplete" if one.missing else ""),
            _delivered(one),
        )
    out.print(table)
    out.print(f"A series is shown by the end of its UID; `worker results show` takes that too.\n{RESEARCH_USE}")


def short_uid(uid: str) -> str:
    """The end of a UID, which tells series apart; the whole does not fit a terminal."""
    return uid if len(uid) <= 9 else f"…{uid[-8:]}"


def _result(one: SeriesAnswer) -> str:
    return f"{one.label} {one.probability:.1%}" if one.label and one.probability is not None else ""


def _delivered(one: SeriesAnswer) -> Text:
    arrived = sum(each.state == "delivered" for each in one.deliveries)
    text = f"{arrived}/{len(one.deliveries)}" if one.deliveries else ""
    return Text(text, "red" if any(each.state == "failed" for each in one.deliveries) else "")


def print_answer(one: SeriesAnswer, slices: Sequence[SliceAnswer], format: str) -> None:
    """One series with its slices."""
    if format == "json":
        print(json.dumps(json_value(one) | {"slices": json_value(slices)}, indent=2, ensure_ascii=False))
        return
    if format == "csv":
        print(answers_as_text([one], "csv"), end="")
        return
    out = console()
    facts = Table(show_header=False, box=None, padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name in ("patient_id", "accession_number", "study_instance_uid", "series_instance_uid", "series_description"):
        facts.add_row(name.replace("_", " "), str(getattr(one, name)))
    facts.add_row("instances", str(one.instances))
    facts.add_row("status", Text(one.status, _STYLES[one.status]))
    facts.add_row("result", _result(one) or "none")
    facts.add_row("probabilities", "  ".join(f"{name} {value:.3f}" for name, value in one.probabilities.items()))
    facts.add_row("why", one.detail or one.reason or "")
    if one.missing:
        facts.add_row("incomplete", one.missing)
    facts.add_row("model", one.model or "")
    out.print(facts)
    if one.deliveries:
        table = Table(title="deliveries")
        for name in ("destination", "object", "state", "attempts", "status", "why"):
            table.add_column(name)
        for each in one.deliveries:
            status = f"0x{each.status:04X}" if each.status is not None else ""
            why = each.detail or each.reason or ""
            table.add_row(each.destination, each.object, each.state, str(each.attempts), status, why)
        out.print(table)
    if slices:
        out.print(_slice_table(one, slices))
    out.print(RESEARCH_USE)


def _slice_table(one: SeriesAnswer, slices: Sequence[SliceAnswer]) -> Table:
    table = Table(title="slices (* deciding)")
    names = list(one.probabilities) or [f"class {number}" for number in range(len(slices[0].probabilities))]
    for name in ("slice", "position mm", *names, "like training data"):
        table.add_column(name, justify="right")
    for each in slices:
        table.add_row(
            f"{each.ordinal + 1}{' *' if each.deciding else ''}",
            f"{each.position_mm:.1f}" if each.position_mm is not None else "",
            *[f"{value:.3f}" for value in each.probabilities],
            "yes" if each.in_distribution else "no",
        )
    return table


def print_offline(answers: Sequence[OfflineAnswer], format: str) -> None:
    """What `worker classify` found and where it wrote it."""
    rows = [one.answer for one in answers]
    if format == "csv":
        print(answers_as_text(rows, "csv"), end="")
        return
    if format == "json":
        objects = [
            json_value(one.answer)
            | {"written": {name: str(path) for name, path in json_value(one.written).items()} if one.written else None}
            for one in answers
        ]
        print(json.dumps(objects[0] if len(objects) == 1 else objects, indent=2, ensure_ascii=False))
        return
    print_answers(rows, "table")
    out = console()
    for one in answers:
        if one.answer.detail:
            out.print(f"{one.answer.series_instance_uid}: {one.answer.detail}")
        if one.written:
            out.print(f"  report {one.written.report}\n  picture {one.written.picture}\n  PNG {one.written.png}")


def print_rows(title: str, rows: Sequence[Any], format: str) -> None:
    """Dataclasses of one kind: a column for each field."""
    from dataclasses import asdict

    plain_rows = [{key: _cell(value) for key, value in asdict(one).items()} for one in rows]
    if format == "json":
        print(json.dumps(plain_rows, indent=2, ensure_ascii=False))
        return
    columns = list(plain_rows[0]) if plain_rows else []
    if format == "csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(plain_rows)
        print(buffer.getvalue(), end="")
        return
    table = Table(title=title, box=SIMPLE_HEAD)
    for name in columns:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in plain_rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console().print(table)


def print_models(models: Sequence[ModelStatus], format: str) -> None:
    """The newest first."""
    if format != "table":
        print_rows("", models, format)
        return
    table = Table(title=f"{len(models)} models", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("model", "version", "state", "since", "by", "bundle"):
        table.add_column(name, overflow="fold", no_wrap=name in ("state", "since", "bundle"))
    for one in models:
        since = f"{one.state_at:%Y-%m-%d %H:%M}"
        table.add_row(one.name, one.version, one.state, since, one.state_by, one.sha256[:12])
    out = console()
    out.print(table)
    for one in models:
        if one.not_loaded:
            out.print(Text.assemble((f"{one.name} {one.version} is not loaded", "red"), f" on {one.not_loaded}"))


def print_comparison(one: Comparison, format: str) -> None:
    """Agreement first, then who said what; CSV has the cells."""
    if format == "json":
        print(json.dumps(json_value(one), indent=2, ensure_ascii=False))
        return
    if format == "csv":
        print_rows("", one.confusion, format)
        return
    out = console()
    out.print(f"A  {one.first}, not assessed: {one.first_not_assessed}")
    out.print(f"B  {one.second}, not assessed: {one.second_not_assessed}")
    out.print(f"{one.n} input sets were seen by both; both gave a class for {one.classified_by_both} of them")
    if one.agreement is not None:
        out.print(f"agreement: {one.agree} of {one.classified_by_both}, {one.agreement:.1%}")
    table = Table(title="A in rows, B in columns", box=SIMPLE_HEAD, pad_edge=False)
    counts = {(cell.first, cell.second): cell.n for cell in one.confusion}
    columns = sorted({cell.second for cell in one.confusion})
    for name in ("", *columns):
        table.add_column(name, justify="left" if not name else "right")
    for row in sorted({cell.first for cell in one.confusion}):
        table.add_row(row, *(str(counts.get((row, column), 0)) for column in columns))
    if one.confusion:
        out.print(table)
    if not one.read:
        out.print("none of them has a reader's class yet")
        return
    out.print(f"{one.read} of them have a reader's class:")
    for name, found in (("A", one.first_against_readers), ("B", one.second_against_readers)):
        out.print(f"{name}  right {found.right}, wrong {found.wrong}, not assessed {found.not_assessed}")


def _cell(value: Any) -> Any:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else value


def print_unfinished(unfinished: Unfinished, format: str) -> None:
    """Jobs, then deliveries; CSV has the jobs only, which is what `jobs retry` takes."""
    if format == "json":
        print(json.dumps(json_value(unfinished), indent=2, ensure_ascii=False))
        return
    if format == "csv":
        columns = ["number", "state", "attempts", "reason", "detail", "series_instance_uid", "shadow"]
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(json_value(one) for one in unfinished.jobs)
        print(buffer.getvalue(), end="")
        return
    out = console()
    jobs = Table(title=f"{len(unfinished.jobs)} jobs not done")
    for name in ("job", "state", "attempts", "why", "series"):
        jobs.add_column(name, overflow="fold")
    for job in unfinished.jobs:
        state = f"{job.state}, shadow" if job.shadow else job.state
        why = job.detail or job.reason or ""
        jobs.add_row(str(job.number), state, str(job.attempts), why, short_uid(job.series_instance_uid))
    deliveries = Table(title=f"{len(unfinished.deliveries)} deliveries not arrived")
    for name in ("destination", "object", "state", "attempts", "status", "why", "next try"):
        deliveries.add_column(name, overflow="fold")
    for one in unfinished.deliveries:
        status = f"0x{one.status:04X}" if one.status is not None else ""
        when = f"{one.not_before:%H:%M:%S}" if one.state == "pending" else ""
        why = one.detail or one.reason or ""
        deliveries.add_row(one.destination, one.object, one.state, str(one.attempts), status, why, when)
    out.print(jobs, deliveries)


def print_findings(findings: Sequence[Finding]) -> None:
    out = console()
    for one in findings:
        mark = ("well ", "green") if one.well else ("fault", "red")
        out.print(Text.assemble(mark, f" {one.subject}: {one.detail}"))
        if one.advice:
            out.print(f"      → {one.advice}")
