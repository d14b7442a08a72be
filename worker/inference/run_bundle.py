"""`python -m monai.bundle run`: classify a folder of DICOM files with a bundle, as the worker would.

MONAI's configurations run Python by `$` expressions, which `load_bundle` refuses. The entry is therefore one component:
MONAI calls `run_bundle` with the two values that its command line may override.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from worker.errors import NotAssessable, StartError
from worker.inference.bundle import load_bundle
from worker.inference.classify import classify
from worker.inference.engines import OpenVinoEngine
from worker.inference.golden import check_golden

# Exporters add this to configs/inference.json.
MONAI_ENTRY: dict[str, Any] = {
    "bundle_root": ".",
    "dicom": "dicom",
    "run": {"_target_": "worker.inference.run_bundle.run_bundle", "bundle_root": "@bundle_root", "dicom": "@dicom"},
}


def run_bundle(bundle_root: str, dicom: str) -> None:
    """Print the result of every series below the folder (or file) `dicom` as a JSON list.

    Exits with a one-line message for a damaged bundle and for a folder without a DICOM series.
    """
    try:
        answers = classify_folder(Path(bundle_root), Path(dicom))
    except StartError as error:
        raise SystemExit(error.detail) from None  # MONAI would wrap any other exception twice
    print(json.dumps(answers, indent=2))


def classify_folder(bundle_root: Path, dicom: Path) -> list[dict[str, Any]]:
    """Run the golden cases, then classify every series with the bundle's int8 engine. Raises StartError."""
    bundle = load_bundle(bundle_root)
    engine = OpenVinoEngine(bundle)
    check_golden(bundle, engine)
    answers: list[dict[str, Any]] = []
    for uid, files in series_below(dicom).items():
        answer: dict[str, Any] = {"series_instance_uid": uid, "instances": len(files)}
        try:
            result = classify(files, bundle, engine)
        except NotAssessable as refusal:
            answers.append({**answer, "status": "not-assessed", "reason": refusal.reason, "detail": refusal.detail})
            continue
        fields = {key: getattr(result, key) for key in ("status", "label", "probability", "reason", "detail")}
        basis = {"basis": asdict(result.basis)} if result.basis is not None else {}
        answers.append({**answer, **fields, "probabilities": dict(result.probabilities), **basis})
    return answers


def series_below(path: Path) -> dict[str, list[Path]]:
    """The DICOM files below a folder, or the file itself, by Series Instance UID; other files are skipped.

    Raises StartError when there is none.
    """
    series: dict[str, list[Path]] = {}
    for file in [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file()):
        try:
            header = dcmread(file, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True)
        except (InvalidDicomError, OSError):
            continue
        if "SeriesInstanceUID" in header:
            series.setdefault(str(header.SeriesInstanceUID), []).append(file)
    if not series:
        raise StartError("no-series", f"no DICOM series could be read in {path}: name a folder with --dicom")
    return series
