"""Where the bundles of models lie: `data_dir`/models/<bundle hash>, copied there durably; and how one is made to run.

A folder that bears its hash as its name is whole: it was written beside, flushed, and renamed. The configured bundle
may stay where it is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worker.config.settings import Settings
from worker.errors import StartError
from worker.files import fsync
from worker.inference.bundle import Bundle, default_bundle, load_bundle, verified_identity
from worker.inference.illustrated import IllustratedResult
from worker.results import ModelIdentity

if TYPE_CHECKING:
    from worker.inference.engines import Engine

Classify = Callable[[Sequence[Path]], IllustratedResult]


@dataclass(frozen=True)
class Ready:
    """A verified model that runs: its golden cases came out as they should, with the engine that serves."""

    identity: ModelIdentity
    classify: Classify


def configured_bundle(settings: Settings) -> Path:
    """[worker] bundle, or the one that is installed with the worker. Raises StartError when there is none."""
    return settings.worker.bundle or default_bundle()


def make_ready(settings: Settings, folder: Path) -> Ready:
    """Raises StartError for a bundle that is missing, damaged, unsafe or fails its golden cases."""
    from worker.inference.classify import classify
    from worker.inference.golden import check_golden

    bundle = load_bundle(folder)
    threads = settings.worker.inference_threads or max(1, (os.cpu_count() or 1) // settings.worker.inference_processes)
    engine = _engine(settings, bundle, threads)
    check_golden(bundle, engine)
    return Ready(bundle.identity, lambda paths: classify(paths, bundle, engine))


def _engine(settings: Settings, bundle: Bundle, threads: int) -> Engine:
    from worker.inference.engines import OpenVinoEngine, TorchEngine

    match settings.worker.engine:
        case "openvino-int8":
            return OpenVinoEngine(bundle, "int8", threads)
        case "openvino-fp32":
            return OpenVinoEngine(bundle, "fp32", threads)
        case "torch":
            return TorchEngine(bundle)


def find_bundle(settings: Settings, sha256: str) -> Path | None:
    """The folder of a bundle of that hash on this host; what is in it is verified when it is loaded."""
    kept = settings.worker.data_dir / "models" / sha256
    if (kept / "worker.json").is_file():
        return kept
    try:
        configured = configured_bundle(settings)
        raw = (configured / "worker.json").read_bytes()
    except (StartError, OSError):
        return None
    return configured if hashlib.sha256(raw).hexdigest() == sha256 else None


def kept_bundles(settings: Settings) -> list[Path]:
    """The folders of the data folder's bundles."""
    return sorted(one.parent for one in (settings.worker.data_dir / "models").glob("[0-9a-f]*/worker.json"))


def require_bundle(settings: Settings, sha256: str) -> Path:
    """As find_bundle. Raises StartError bundle-missing where this host has none."""
    folder = find_bundle(settings, sha256)
    if folder is None:
        raise StartError("bundle-missing", f"this host has no bundle {sha256[:12]} in its data folder")
    return folder


def keep_bundle(settings: Settings, folder: Path) -> Path:
    """Copy a bundle to its place, durably; what was copied is verified. Raises StartError."""
    identity = verified_identity(folder)
    shelf = settings.worker.data_dir / "models"
    place = shelf / identity.sha256
    if (place / "worker.json").is_file():
        return place
    beside = shelf / f".{identity.sha256[:12]}-{uuid.uuid4().hex}"
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, beside)
        if verified_identity(beside).sha256 != identity.sha256:
            raise StartError("bundle-corrupt", "the model bundle changed while it was copied")
        for path in [*beside.rglob("*"), beside]:
            fsync(path)
        _put_in_place(beside, place)
        fsync(shelf)
        fsync(shelf.parent)
    except (OSError, shutil.Error) as error:
        why = getattr(error, "strerror", None) or "it cannot be copied"
        raise StartError("bundle-not-kept", f"the model bundle does not get into the data folder: {why}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return place


def _put_in_place(beside: Path, place: Path) -> None:
    if place.exists():  # without worker.json: a removal that did not come to its end
        shutil.rmtree(place)
    try:
        beside.rename(place)
    except OSError:
        if not (place / "worker.json").is_file():  # else another process was first, with the same bytes
            raise


def discard_bundle(settings: Settings, sha256: str) -> None:
    """Delete what `keep_bundle` made; worker.json first, so that what is left is no bundle any more."""
    place = settings.worker.data_dir / "models" / sha256
    (place / "worker.json").unlink(missing_ok=True)
    shutil.rmtree(place, ignore_errors=True)
