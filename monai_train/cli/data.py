"""`convert`, `explore` and `audit`: from pictures to a data set, and what is in it."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from monai_train.cli.options import GroupsOption
from monai_train.data.patients import DEFAULT_SALT
from worker.errors import StartError


def convert_command(
    src: Path = typer.Argument(..., metavar="SRC", help="Class folders of PNG/JPG, or a folder of DICOM."),
    out: Path = typer.Argument(..., metavar="OUT", help="Folder for DICOM files and manifest.csv."),
    groups: Path | None = typer.Option(
        None, help="CSV/TSV with path, label, patient_group and any other columns, which are kept."
    ),
    labels: Path | None = typer.Option(
        None, help="CSV/TSV with path, series_instance_uid or sop_instance_uid, and label: required for DICOM."
    ),
    audit: bool = typer.Option(False, help="Find copies of a picture that were flipped or changed, and group them."),
    from_worker: bool = typer.Option(
        False, "--from-worker", help="SRC is what `worker readings export` wrote: series confirmed by readers."
    ),
    salt: str = typer.Option(
        DEFAULT_SALT,
        envvar="MONAI_TRAIN_SALT",
        help="Secret for the hash of PatientID; set your own before a manifest leaves the institution.",
    ),
) -> None:
    """Convert pictures (or labelled DICOM) to DICOM files and a manifest.

    Example: monai-train convert data/brain-mri converted --groups data/audit.tsv
    """
    from monai_train.data.convert import convert, print_summary

    if from_worker:
        from monai_train.data.from_worker import convert_export, summary

        if groups or labels or audit:
            raise StartError("usage", "--from-worker includes labels and groups: omit --groups, --labels and --audit")
        converted = convert_export(src, out, salt)
        print_summary(converted, out, Console())
        typer.echo("\n".join(summary(converted, out)))
        return
    print_summary(convert(src, out, groups=groups, labels=labels, audit=audit, salt=salt), out, Console())


def explore_command(
    data: Path = typer.Argument(..., metavar="DATA", help="Class folders, DICOM, or a folder that convert wrote."),
    out: Path = typer.Option(..., "--out", help="Folder for report.html, images.csv and audit.json."),
    groups: GroupsOption = None,
) -> None:
    """Show classes, sizes, modes, samples, intensities and the audit as one HTML page.

    Example: monai-train explore data/nickparvar --out exploration
    """
    from monai_train.data.explore import explore
    from monai_train.data.leakage import print_audit

    print_audit(explore(data, out, groups), Console())
    Console().print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)


def audit_command(
    src: Path = typer.Argument(..., metavar="SRC", help="Class folders, DICOM, or a folder that convert wrote."),
    json_file: Path | None = typer.Option(None, "--json", help="Write groups and pairs to this file."),
    groups: GroupsOption = None,
) -> None:
    """Find pictures that occur on both sides of a split, regardless of flips, rotation or brightness.

    Example: monai-train audit data/nickparvar --json audit.json
    """
    from monai_train.data.leakage import as_json, audit, print_audit, write_json

    result = audit(src, groups)
    if json_file is not None:
        write_json(json_file, as_json(result))
    print_audit(result, Console())
