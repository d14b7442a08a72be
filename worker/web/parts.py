"""What `serve` lends the web role of the other stages: the stages themselves never import one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from worker.config.settings import Settings
from worker.results import Activation


class ImageFile(Protocol):
    """The pixels of one file: see `worker.pixels.frames`. Frames count from 1; all may raise NotAssessable."""

    @property
    def frames(self) -> int: ...

    @property
    def compressed(self) -> bool: ...

    def native(self, numbers: Sequence[int]) -> Iterator[bytes]: ...

    def as_sent(self, numbers: Sequence[int]) -> Iterator[bytes]: ...

    def picture(
        self, number: int, kind: str, window: tuple[float, float] | None, most: int | None, quality: int
    ) -> bytes: ...


class Pictures(Protocol):
    """Draws what was received; see `worker.web.viewer.Viewer`."""

    def window(self, files: Sequence[Path]) -> tuple[float, float]:
        """The values to show as black and white. Raises NotAssessable; OSError when a file cannot be opened."""
        ...

    def slice_png(self, file: Path, frame_number: int | None, window: tuple[float, float]) -> bytes:
        """One frame as displayed. Raises NotAssessable; OSError when the file cannot be opened."""
        ...

    def activation_png(self, activation: Activation) -> bytes:
        """A map to lay over the displayed slice."""
        ...

    def open_file(self, file: Path) -> ImageFile:
        """Raises NotAssessable for what is no image or cannot be decoded; OSError when it cannot be opened."""
        ...

    def explicit_little_endian(self, file: Path) -> bytes:
        """The whole file in Explicit VR Little Endian, not compressed. Raises NotAssessable; OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle that this host can read: its class titles by name, its model card in Markdown, its docs/figures.json."""

    sha256: str
    manufacturer: str
    family: str
    limits: str
    parameters: str
    titles: dict[str, str]
    card: str
    figures: str | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of an instance that came over the web; `status` as a C-STORE would be answered. UIDs may be ""."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    status: int

    @property
    def failed(self) -> bool:
        return self.status != 0 and self.status >> 12 != 0xB  # PS3.7 Annex C: 0xBxxx is a warning


class IntakeRequest(Protocol):
    """One request: `keep` for each instance, then `end`."""

    def keep(self, encoded: bytes, study_instance_uid: str | None) -> Kept: ...

    def end(self) -> None: ...


class Intake(Protocol):
    """Keeps what STOW-RS brings: see `worker.web.dicomweb.stow_store`."""

    def begin(self, name: str, address: str) -> IntakeRequest: ...


@dataclass(frozen=True)
class Parts:
    """`intake` is None where nothing may be stored over the web.

    `echo` asks the named destination whether it is there and raises WorkerError when it is not.

    `verify_model` looks at the bundle of a hash and raises StartError when this host has none that is whole.
    """

    settings: Settings
    echo: Callable[[str], None]
    pictures: Pictures
    models: Callable[[], Sequence[Model]]
    verify_model: Callable[[str], None]
    intake: Intake | None = None
