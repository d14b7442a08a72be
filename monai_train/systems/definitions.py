"""What the TOML files of this folder may say: a system, its protocol, and how each network is trained."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monai_train.config import Augmentation
from worker.errors import StartError

FOLDER = Path(__file__).parent
OURS = "ours"


class Task(StrEnum):
    """The question: which of four classes, or a tumour or none."""

    FOUR = "four"
    YES_NO = "yes-no"


class Protocol(StrEnum):
    """How pictures are parted into training and test; all but GROUPED are the systems' own."""

    RANDOM_VALIDATION = "random-validation"  # of the training part, 20 % of the pictures at random
    AUGMENT_FIRST = "augment-first"  # altered copies are made, then 15 % of all at random: the leak reproduced
    OFFICIAL = "official"  # the folders Training and Testing
    RANDOM_TEST = "random-test"  # 51 pictures at random
    GROUPED = "grouped"  # patients and pictures apart, one copy of a picture in the test


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Recipe(_Strict):
    """How one network is trained. Adam where `weight_decay` is 0, else AdamW."""

    network: str
    size: int = Field(ge=32, le=512)  # rows and columns of a picture
    epochs: int = Field(ge=1)
    batch: int = Field(32, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    one_cycle: bool = False
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(None, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    balanced: bool = False  # every class as likely
    frozen: bool = False  # only the last layer learns, where weights are given
    from_default: bool = False  # starts from the shipped model, which learned from other data sets
    flip_test: bool = False  # the mean of a picture's answer and its mirror image's
    augmentation: Augmentation | None = None


class System(_Strict):
    """One earlier system and what it reported."""

    name: str
    title: str
    task: Task
    dataset: str
    protocol: Protocol
    reported: str
    goal: float | None = Field(None, ge=0, le=1)
    network: tuple[Recipe, ...] = Field(min_length=1)
    reported_by_network: dict[str, str] = {}
    also_apart: bool = False  # its own networks with patients apart, too
    ensemble: bool = False  # also the mean of its networks' answers


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartError("unreadable-config", f"cannot read {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise StartError("invalid-config", f"{path} is not TOML: {error}") from error


def _fault(path: Path, error: ValidationError) -> StartError:
    first = error.errors()[0]
    return StartError("invalid-config", f"{path}, {'.'.join(map(str, first['loc']))}: {first['msg']}")


def read_systems(names: str = "abcde", folder: Path = FOLDER) -> tuple[System, ...]:
    """The systems of these letters. StartError for a letter without a file or a file that does not fit."""
    systems = []
    for letter in names:
        path = folder / f"{letter}.toml"
        try:
            systems.append(System.model_validate(_read(path)))
        except ValidationError as error:
            raise _fault(path, error) from error
    return tuple(systems)


def read_ours(folder: Path = FOLDER) -> dict[Task, Recipe]:
    """Our own recipe for each task. StartError for a file that does not fit."""
    path = folder / "ours.toml"
    stored = _read(path)
    try:
        return {task: Recipe.model_validate(stored.get(task, {})) for task in Task}
    except ValidationError as error:
        raise _fault(path, error) from error
