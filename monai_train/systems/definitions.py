"""The schema of this folder's TOML files: a system, its protocol, and how each of its networks is trained."""

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
    """Which of four classes, or tumour against none."""

    FOUR = "four"
    YES_NO = "yes-no"


class Protocol(StrEnum):
    """How pictures are split into training and test; all but GROUPED are the systems' own."""

    RANDOM_VALIDATION = "random-validation"  # 20 % of the training part's pictures at random
    AUGMENT_FIRST = "augment-first"  # altered copies first, then 15 % of all at random: the leak reproduced
    OFFICIAL = "official"  # the folders Training and Testing
    RANDOM_TEST = "random-test"  # 51 pictures at random
    GROUPED = "grouped"  # split by patient and picture, one copy of a picture in the test


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Recipe(_Strict):
    """How a network is trained. Adam if `weight_decay` is 0, else AdamW."""

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
    balanced: bool = False  # every class is drawn equally often
    frozen: bool = False  # if weights are given, only the last layer learns
    from_default: bool = False  # starts from the shipped model, which was trained on other data sets
    flip_test: bool = False  # averages the answers to a picture and its mirror image
    augmentation: Augmentation | None = None


class System(_Strict):
    """An earlier system and what it reported."""

    name: str
    title: str
    task: Task
    dataset: str
    protocol: Protocol
    reported: str
    goal: float | None = Field(None, ge=0, le=1)
    network: tuple[Recipe, ...] = Field(min_length=1)
    reported_by_network: dict[str, str] = {}
    also_apart: bool = False  # its own networks split by patient, too
    ensemble: bool = False  # the mean of its networks' answers, too


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
    """Read the systems of these letters. Raises StartError for a letter without a file and for an invalid file."""
    systems = []
    for letter in names:
        path = folder / f"{letter}.toml"
        try:
            systems.append(System.model_validate(_read(path)))
        except ValidationError as error:
            raise _fault(path, error) from error
    return tuple(systems)


def read_ours(folder: Path = FOLDER) -> dict[Task, Recipe]:
    """Read our own recipe for each task. Raises StartError for an invalid file."""
    path = folder / "ours.toml"
    stored = _read(path)
    try:
        return {task: Recipe.model_validate(stored.get(task, {})) for task in Task}
    except ValidationError as error:
        raise _fault(path, error) from error
