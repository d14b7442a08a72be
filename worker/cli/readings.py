"""`worker readings` and `worker report`: readers' findings, exported for training and in the monthly report."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from worker.audit import events
from worker.cli.context import EXIT_FAULT, MODELS, ConfigOption, audited
from worker.wording import counted

commands = typer.Typer(no_args_is_help=True, help="Readers' findings.")
report_command = typer.Typer()


@commands.command("export", epilog="Example: worker readings export /data/confirmed --config config.toml")
def export_command(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    config: ConfigOption = None,
) -> None:
    """Write the series with a reader's finding, labelled, for `monai-train convert --from-worker`.

    The files are as they were received: they contain the names of the patients.
    """
    from worker.cli.output import with_steps
    from worker.ops.export_readings import export_readings

    with audited(config) as (settings, database, record, user):
        export = with_steps("exporting", lambda step: export_readings(database, settings.worker.data_dir, out, step))
        record(events.exported(user, None, "worker readings export", str(out)))
    typer.echo(f"{export.series} series with {counted(export.slices, 'slice')} written to {out}")
    for reason, number in sorted(Counter(reason for _, reason in export.left_out).items()):
        typer.echo(f"worker: {number} series left out: {reason}", err=True)
    if not export.series:
        raise typer.Exit(EXIT_FAULT)


@report_command.command(rich_help_panel=MODELS, epilog="Example: worker report --month 2026-11")
def report(
    month: Annotated[str | None, typer.Option(help="As 2026-11; by default the last complete month.")] = None,
    config: ConfigOption = None,
) -> None:
    """Write the monthly report: agreement with readers, drift, calibration. The service writes it every month."""
    from worker.web.monthly_report import month_before, write_report

    now = datetime.now(UTC)
    with audited(config) as (settings, database, record, user):
        page = write_report(database, settings.worker.data_dir, month or month_before(now), now)
        record(events.exported(user, None, "worker report", str(page)))
    typer.echo(page)
