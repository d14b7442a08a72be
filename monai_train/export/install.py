"""`export --as-default`: a bundle becomes the worker's default unless it is worse than the present one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import worker
from monai_train.data.manifest import read_manifest
from monai_train.data.patients import SplitRole
from monai_train.evaluation.evaluate import measure_bundle, read_split, select_pictures
from worker.errors import StartError
from worker.inference.bundle import load_bundle


def install_default(bundle: Path, data: Path, bundles: Path | None = None) -> Path:
    """Make a bundle the worker's default; refuses one that is worse than the present on the test part of both.

    A picture counts where it is in the test part of both models, so neither is measured on its own training patients.
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
        new, old = (measure_bundle(one, data, test).report()["slice"]["balanced_accuracy"] for one in (bundle, other))
        if new < old:
            raise StartError("worse-than-default", f"balanced accuracy {new:.4f}, the present default has {old:.4f}")
    bundles.mkdir(parents=True, exist_ok=True)
    coming = Path(tempfile.mkdtemp(dir=bundles.parent)) / target.name
    shutil.copytree(bundle, coming)
    for other in present:
        shutil.rmtree(other)
    coming.rename(target)
    coming.parent.rmdir()
    return target
