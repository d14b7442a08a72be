"""The bundle store, and loading a bundle: copies lie in `data_dir`/models/<bundle hash>, written durably.

A folder that bears its hash as its name is complete: it was copied under another name, flushed to disk, and renamed.
The configured bundle is used where it lies until a copy is needed.
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
from worker.dicom.series_attributes import Kinds
from worker.errors import StartError
from worker.files import fsync
from worker.inference.bundle import Bundle, default_bundle, load_bundle, verified_identity
from worker.inference.illustrated import IllustratedResult
from worker.inference.study.fusion import EQUAL_WEIGHTS, StudyRule
from worker.results import ModelIdentity

if TYPE_CHECKING:
    from worker.inference.engines import Engine

Classify = Callable[[Sequence[Path], Sequence[Kinds] | None], IllustratedResult]


@dataclass(frozen=True)
class ServedModel:
    """A verified model that runs in this process; its golden cases passed on the engine that serves.

    `classify` takes the files of a series in any order, and the attributes that tell the type of each; None: it reads
    them. It raises NotAssessable for what the model may not judge.
    """

    identity: ModelIdentity
    classify: Classify
    study: StudyRule = EQUAL_WEIGHTS


class BundleStore:
    """The bundles of this host."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.worker.data_dir / "models"

    def configured(self) -> Path:
        """[worker] bundle, or the bundle that is installed with the worker. Raises StartError when there is none."""
        return self._settings.worker.bundle or default_bundle()

    def copies(self) -> list[Path]:
        """The folders of all complete copies in the data folder."""
        return sorted(file.parent for file in self._folder.glob("[0-9a-f]*/worker.json"))

    def find(self, sha256: str) -> Path | None:
        """The folder of the bundle of that hash on this host; its content is verified when it is loaded."""
        copy = self._folder / sha256
        if (copy / "worker.json").is_file():
            return copy
        try:
            configured = self.configured()
            raw = (configured / "worker.json").read_bytes()
        except (StartError, OSError):
            return None
        return configured if hashlib.sha256(raw).hexdigest() == sha256 else None

    def require(self, sha256: str) -> Path:
        """Like `find`. Raises StartError bundle-missing where this host has no such bundle."""
        folder = self.find(sha256)
        if folder is None:
            raise StartError("bundle-missing", f"this host has no bundle {sha256[:12]} in its data folder")
        return folder

    def add(self, folder: Path) -> Path:
        """Copy a bundle into the store, durably, and verify the copy; returns its folder. Raises StartError."""
        identity = verified_identity(folder)
        copy = self._folder / identity.sha256
        if (copy / "worker.json").is_file():
            return copy
        part = self._folder / f".{identity.sha256[:12]}-{uuid.uuid4().hex}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder, part)
            if verified_identity(part).sha256 != identity.sha256:
                raise StartError("bundle-corrupt", "the model bundle changed while it was copied")
            for path in [*part.rglob("*"), part]:
                fsync(path)
            _rename(part, copy)
            fsync(self._folder)
            fsync(self._folder.parent)
        except (OSError, shutil.Error) as error:
            why = getattr(error, "strerror", None) or "a file cannot be copied"
            raise StartError("bundle-not-kept", f"cannot copy the model bundle into the data folder: {why}") from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return copy

    def remove(self, sha256: str) -> None:
        """Delete a copy; worker.json first, so that a removal that is interrupted leaves no bundle."""
        copy = self._folder / sha256
        (copy / "worker.json").unlink(missing_ok=True)
        shutil.rmtree(copy, ignore_errors=True)

    def load(self, folder: Path) -> ServedModel:
        """Verify a bundle, load it and run its golden cases.

        Raises StartError for a bundle that is missing, damaged, unsafe or fails its golden cases.
        """
        from worker.inference.classify import classify
        from worker.inference.golden import check_golden

        bundle = load_bundle(folder)
        engine = self._engine(bundle)
        check_golden(bundle, engine)
        return ServedModel(bundle.identity, lambda paths, kinds: classify(paths, bundle, engine, kinds), bundle.study)

    def load_configured(self) -> ServedModel:
        """Load the configured bundle; raises as `load`."""
        return self.load(self.configured())

    def _engine(self, bundle: Bundle) -> Engine:
        from worker.inference.engines import OpenVinoEngine, TorchEngine

        worker = self._settings.worker
        threads = worker.inference_threads or max(1, (os.cpu_count() or 1) // worker.inference_processes)
        match worker.engine:
            case "openvino-int8":
                return OpenVinoEngine(bundle, "int8", threads)
            case "openvino-fp32":
                return OpenVinoEngine(bundle, "fp32", threads)
            case "torch":
                return TorchEngine(bundle)


def _rename(part: Path, copy: Path) -> None:
    if copy.exists():  # without worker.json: a removal that was interrupted
        shutil.rmtree(copy)
    try:
        part.rename(copy)
    except OSError:
        if not (copy / "worker.json").is_file():  # else another process was first, with the same bytes
            raise
