"""What `serve` lends the web role of the other stages: pictures, echo, and the models on this host."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from worker.config.settings import Settings
from worker.errors import StartError
from worker.inference import display
from worker.inference.bundle import verified_identity
from worker.jobs.bundle_store import configured_bundle, keep_bundle, kept_bundles, require_bundle
from worker.pixels import frames
from worker.reporting.draw_picture import ACTIVATION_THRESHOLD, colours
from worker.results import Activation
from worker.send import sender
from worker.web.parts import Intake, Model, Parts

_SIZE = 256


def web_parts(settings: Settings, intake: Intake | None = None) -> Parts:
    """The parts for one configuration."""
    destinations = {one.name: one for one in settings.destination}

    @cache
    def described(folder: Path) -> Model:
        identity = verified_identity(folder)
        figures = folder / "docs" / "figures.json"
        return Model(
            sha256=identity.sha256,
            manufacturer=identity.manufacturer,
            family=identity.family,
            limits=identity.limits,
            parameters=identity.parameters,
            titles={one.name: one.title for one in identity.classes},
            card=(folder / "docs" / "README.md").read_text(encoding="utf-8"),
            figures=figures.read_text(encoding="utf-8") if figures.is_file() else None,
        )

    def models() -> list[Model]:
        """Those of every bundle on this host that is whole, the configured one first."""
        found: dict[str, Model] = {}
        for folder in [configured_bundle(settings), *kept_bundles(settings)]:
            try:
                one = described(folder)
            except (StartError, OSError):
                continue  # said where it is loaded
            found.setdefault(one.sha256, one)
        return list(found.values())

    def verify(sha256: str) -> None:
        verified_identity(require_bundle(settings, sha256))
        keep_bundle(settings, configured_bundle(settings))  # what is left must be there to come back to

    return Parts(
        settings=settings,
        echo=lambda name: sender.probe(destinations[name], settings.worker.ae_title),
        pictures=Viewer(),
        models=models,
        intake=intake,
        verify_model=verify,
    )


class Viewer:
    """Slices by inference's decoding, activation maps in the colours of the picture that is sent."""

    def window(self, files: Sequence[Path]) -> tuple[float, float]:
        return display.grey_window(files)

    def slice_png(self, file: Path, frame_number: int | None, window: tuple[float, float]) -> bytes:
        return display.slice_png(file, frame_number, window)

    def open_file(self, file: Path) -> frames.ImageFile:
        return frames.open_file(file)

    def explicit_little_endian(self, file: Path) -> bytes:
        return frames.explicit_little_endian(file)

    def activation_png(self, activation: Activation) -> bytes:
        """The map over the whole slice, stretched to a square; clear below the threshold, as in the sent picture."""
        map_ = Image.fromarray(np.array(activation.rows, np.float32))
        side = (max(1, round(activation.width * _SIZE)), max(1, round(activation.height * _SIZE)))
        canvas = Image.new("F", (_SIZE, _SIZE), 0.0)
        resized = map_.resize(side, Image.Resampling.BICUBIC)
        canvas.paste(resized, (round(activation.left * _SIZE), round(activation.top * _SIZE)))
        strength = np.clip(np.asarray(canvas, np.float32) / 255, 0, 1)
        above = np.clip((strength - ACTIVATION_THRESHOLD) / (1 - ACTIVATION_THRESHOLD), 0, 1).astype(np.float32)
        alpha = np.where(strength >= ACTIVATION_THRESHOLD, 0.42 + 0.58 * above, 0.0)
        painted = np.concatenate([colours(above), alpha[..., None] * 255], axis=-1)
        buffer = io.BytesIO()
        Image.fromarray(np.rint(painted).astype(np.uint8), "RGBA").save(buffer, format="PNG")
        return buffer.getvalue()
