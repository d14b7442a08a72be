"""`export --as-default`: make a bundle the worker's default unless it is worse than the present default."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import worker
from monai_train.data.manifest import ManifestRow, read_manifest
from monai_train.data.patients import SplitRole
from monai_train.evaluation.evaluate import measure_bundle, read_split, select_pictures
from worker.errors import StartError
from worker.inference.bundle import load_bundle


def install_default(bundle: Path, data: Path, bundles: Path | None = None) -> Path:
    """Replace the worker's default bundle, unless the new bundle has a lower balanced accuracy.

    Both are measured on the pictures in the test part of both, so neither on its own training patients.
    Raises StartError worse-than-default.
    """
    bundles = bundles or Path(worker.__file__).parent / "bundles"
    target = bundles / load_bundle(bundle).identity.name
    present = [path.parent for path in sorted(bundles.glob("*/worker.json"))]
    rows = read_manifest(data)
    for other in present:
        roles = [read_split(folder).roles(rows) for folder in (bundle, other)]
        both = [SplitRole.TEST if a is b is SplitRole.TEST else SplitRole.TRAIN for a, b in zip(*roles, strict=True)]
        test = [rows[i] for i in select_pictures(rows, both, SplitRole.TEST, deduplicated=True)]
        new, old = (_balanced_accuracy(folder, data, test) for folder in (bundle, other))
        if new < old:
            raise StartError("worse-than-default", f"balanced accuracy {new:.4f}; the present default has {old:.4f}")
    bundles.mkdir(parents=True, exist_ok=True)
    copy = Path(tempfile.mkdtemp(dir=bundles.parent)) / target.name
    shutil.copytree(bundle, copy)
    for other in present:
        shutil.rmtree(other)
    copy.rename(target)
    copy.parent.rmdir()
    return target


def _balanced_accuracy(bundle: Path, data: Path, rows: Sequence[ManifestRow]) -> float:
    value: float = measure_bundle(bundle, data, rows).to_json()["slice"]["balanced_accuracy"]
    return value
