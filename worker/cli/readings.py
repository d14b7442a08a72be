"""`worker readings` and `worker report`: what people said of series, out to training and into the monthly report."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from worker.audit import events
from worker.cli.context import EXIT_FAULT, ConfigOption, audited

readings_app = typer.Typer(no_args_is_help=True, help="What readers said that series show.")


@readings_app.command("export", epilog="Example: worker readings export /data/confirmed --config config.toml")
def export(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    config: ConfigOption = None,
) -> None:
    """Write the series that readers gave a class, with their labels, for `monai-train convert --from-worker`.

    The files are those that were received: they name their patients.
    """
    from worker.cli.output import with_steps
    from worker.ops.export_readings import export_readings

    with audited(config) as (settings, database, record, user):
        done = with_steps("exporting", lambda step: export_readings(database, settings.worker.data_dir, out, step))
        record(events.exported(user, None, "worker readings export", str(out)))
    typer.echo(f"{done.series} series with {done.slices} slices written to {out}")
    for reason, number in sorted(Counter(reason for _, reason in done.left_out).items()):
        typer.echo(f"worker: {number} series left out: {reason}", err=True)
    if not done.series:
        raise typer.Exit(EXIT_FAULT)


def report(
    month: Annotated[str | None, typer.Option(help="As 2026-11; without it the last month that has ended.")] = None,
    config: ConfigOption = None,
) -> None:
    """Write the monthly report: agreement with readers, drift, calibration. The service does so by itself."""
    from worker.web.monthly_report import month_before, write_report

    now = datetime.now(UTC)
    with audited(config) as (settings, database, record, user):
        page = write_report(database, settings.worker.data_dir, month or month_before(now), now)
        record(events.exported(user, None, "worker report", str(page)))
    typer.echo(page)
