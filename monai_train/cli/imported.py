"""`import`: a bundle of a model that was trained elsewhere."""

from __future__ import annotations

from pathlib import Path

import typer


def import_command(
    checkpoint: Path = typer.Argument(help="state_dict of a MONAI network (.pth, .pt), TorchScript or ONNX."),
    model: Path = typer.Option(..., "--model", help="TOML file that describes the model (docs/import.md)."),
    dicom: Path = typer.Option(..., "--dicom", help="Folder of DICOM series like those that the model is for."),
    out: Path = typer.Option(..., "--out", help="Folder of the bundle; must not exist."),
) -> None:
    """Make a bundle of a classifier that was trained elsewhere.

    Example: monai-train import best_metric_model.pth --model model.toml --dicom series --out bundle
    """
    from monai_train.export.imported.import_model import import_model
    from worker.inference.bundle import load_bundle

    bundle, notes = import_model(checkpoint, model, dicom, out)
    for note in notes:
        typer.echo(f"note: {note}")
    identity = load_bundle(bundle).identity
    typer.echo(f"bundle: {bundle}")
    typer.echo("run it in shadow:")
    typer.echo(f"  worker models add {bundle}\n  worker models shadow {identity.name} {identity.version}")
