"""Who trains and who tests, under each system's protocol and with patients apart; a seed decides every draw."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from monai_train.config import TrainConfig
from monai_train.data.labels import ANY_TUMOUR, CLASS_NAMES, NO_TUMOUR
from monai_train.data.manifest import ManifestRow, deduplicate
from monai_train.data.patients import SplitRole, split_roles
from monai_train.systems.definitions import Protocol, Task
from worker.errors import StartError

LABELS = {Task.FOUR: CLASS_NAMES, Task.YES_NO: ("tumor", "notumor")}
# System B's numbers of altered copies: together with the originals about 2,065 of 253.
COPIES = {0: 6, 1: 9}
FEWEST_OF_A_FRACTION = 30  # pictures of a class that a fraction leaves, where there are as many
_FEWEST = 2
_GROUPED_TEST_SHARE = {Task.FOUR: 0.2, Task.YES_NO: 0.3}

Example = tuple[int, int]  # position of a row, number of its copy: 0 is the picture itself


@dataclass(frozen=True, slots=True)
class Parts:
    """Training and test examples of one protocol."""

    train: tuple[Example, ...]
    test: tuple[Example, ...]
    before: tuple[int, ...] = ()  # positions of what the weights that training starts from have learned from


def task_class(row: ManifestRow, task: Task) -> int | None:
    """The row's class in LABELS[task]; None where the row does not say (a tumour of unknown kind, four classes)."""
    if task is Task.YES_NO:
        return int(row.label == NO_TUMOUR)
    return None if row.label == ANY_TUMOUR else row.label


def part(rows: Sequence[ManifestRow], dataset: str, task: Task, protocol: Protocol, seed: int = 7) -> Parts:
    """The examples of a protocol. Raises StartError for an empty class or one that training or test lacks."""
    own = [i for i, row in enumerate(rows) if row.dataset == dataset and task_class(row, task) is not None]
    if not own:
        raise StartError("no-data", f"the folder holds no picture of {dataset!r} with the labels of the {task} task")
    parts = _parted(rows, own, task, protocol, np.random.default_rng(seed))
    for side, examples in (("training", parts.train), ("test", parts.test)):
        check_classes([task_class(rows[i], task) for i, _ in examples], task, side)
    return parts


def check_classes(labels: Sequence[int | None], task: Task, side: str) -> None:
    """StartError for a class without pictures, or with a single one in training."""
    held = Counter(labels)
    fewest = _FEWEST if side == "training" else 1
    for index, name in enumerate(LABELS[task]):
        if held[index] < fewest:
            raise StartError("empty-class", f"class {name} has {held[index]} {side} pictures; {fewest} are needed")


def _parted(
    rows: Sequence[ManifestRow], own: Sequence[int], task: Task, protocol: Protocol, random: np.random.Generator
) -> Parts:
    if protocol is Protocol.OFFICIAL:
        sides = {side: [(i, 0) for i in own if rows[i].split == side] for side in ("train", "test")}
        return Parts(tuple(sides["train"]), tuple(sides["test"]))
    if protocol is Protocol.GROUPED:
        return _grouped(rows, own, task)
    if protocol is Protocol.AUGMENT_FIRST:
        # 15 % is held back for a validation that decides nothing here.
        drawn = _shuffled([(i, k) for i in own for k in _numbers(rows[i], task)], random)
        sides_at = math.floor(0.15 * len(drawn))
        return Parts(tuple(drawn[2 * sides_at :]), tuple(drawn[:sides_at]))
    if protocol is Protocol.RANDOM_VALIDATION:
        drawn = _shuffled([(i, 0) for i in own if rows[i].split != "test"], random)
        held = math.floor(0.2 * len(drawn))
    else:
        drawn = _shuffled([(i, 0) for i in own], random)
        held = min(51, len(drawn) // 2)
    return Parts(tuple(drawn[held:]), tuple(drawn[:held]))


def _numbers(row: ManifestRow, task: Task) -> range:
    return range(1 + COPIES[task_class(row, task) or 0])


def _shuffled(examples: list[Example], random: np.random.Generator) -> list[Example]:
    return [examples[i] for i in random.permutation(len(examples))]


def _grouped(rows: Sequence[ManifestRow], own: Sequence[int], task: Task) -> Parts:
    """Patients apart by their share, as `train` splits them."""
    roles = split_roles([rows[i] for i in own], (), _GROUPED_TEST_SHARE[task], 0.1)
    test = [i for i, role in zip(own, roles, strict=True) if role is SplitRole.TEST]
    train = [
        (i, 0) for i, role in zip(own, roles, strict=True) if role is not SplitRole.TEST and not rows[i].in_conflict
    ]
    return Parts(tuple(train), tuple((i, 0) for i in deduplicate(rows, test)))


def take_fraction(parts: Parts, rows: Sequence[ManifestRow], task: Task, fraction: float, seed: int = 7) -> Parts:
    """The fraction of each class of either side, drawn at random; FEWEST_OF_A_FRACTION where there are as many."""
    random = np.random.default_rng(seed)

    def some(examples: Sequence[Example]) -> tuple[Example, ...]:
        kept: list[Example] = []
        for label in range(len(LABELS[task])):
            own = [one for one in examples if task_class(rows[one[0]], task) == label]
            count = min(len(own), max(FEWEST_OF_A_FRACTION, math.ceil(fraction * len(own))))
            kept += [own[i] for i in sorted(random.permutation(len(own))[:count])]
        return tuple(kept)

    return parts if fraction >= 1 else replace(parts, train=some(parts.train), test=some(parts.test))


def start_from_default(parts: Parts, rows: Sequence[ManifestRow], protocol: Protocol) -> Parts:
    """The parts where training starts from the shipped model: with patients apart, its patients are not in the test."""
    shipped = TrainConfig()
    roles = split_roles(rows, shipped.external, shipped.test_share, shipped.validation_share)
    before = tuple(i for i, role in enumerate(roles) if role in (SplitRole.TRAIN, SplitRole.VALIDATION))
    begun = replace(parts, before=before)
    if protocol is not Protocol.GROUPED:
        return begun
    return replace(begun, test=tuple(one for one in parts.test if not known(replace(begun, test=(one,)), rows)))


def known(parts: Parts, rows: Sequence[ManifestRow]) -> int:
    """How many test examples show a picture or a patient that is in training, or was before."""
    learned = {*parts.before, *(i for i, _ in parts.train)}
    pictures = {rows[i].picture_group for i in learned}
    patients = {rows[i].patient_group for i in learned}
    return sum(rows[i].picture_group in pictures or rows[i].patient_group in patients for i, _ in parts.test)
