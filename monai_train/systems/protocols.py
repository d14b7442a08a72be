"""Training and test examples under each system's protocol and split by patient; a seed decides every draw."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from monai_train.config import TrainConfig
from monai_train.data.labels import ANY_TUMOUR, NO_TUMOUR, Classes
from monai_train.data.manifest import ManifestRow, deduplicate
from monai_train.data.patients import SplitRole, split_roles
from monai_train.systems.definitions import Protocol, Task
from worker.errors import StartError

FOUR = Classes.named(("glioma", "meningioma", "pituitary", NO_TUMOUR))
LABELS = {Task.FOUR: FOUR.names, Task.YES_NO: (ANY_TUMOUR, NO_TUMOUR)}
# System B's numbers of altered copies: together with the originals about 2,065 of 253.
COPIES = {0: 6, 1: 9}
FEWEST_OF_A_FRACTION = 30  # pictures per class that a fraction retains, if the class has as many
_FEWEST_TRAINING = 2
_GROUPED_TEST_SHARE = {Task.FOUR: 0.2, Task.YES_NO: 0.3}

Example = tuple[int, int]  # position of a row, number of its copy: 0 is the picture itself


@dataclass(frozen=True, slots=True)
class ProtocolSplit:
    """Training and test examples of a protocol; `pretraining` holds the positions that the initial weights learned."""

    train: tuple[Example, ...]
    test: tuple[Example, ...]
    pretraining: tuple[int, ...] = ()


def task_class(row: ManifestRow, task: Task) -> int | None:
    """The row's class in LABELS[task]; None for a label that the task does not have."""
    if task is Task.YES_NO and row.label:
        return int(row.label == NO_TUMOUR)
    return LABELS[task].index(row.label) if row.label in LABELS[task] else None


def split_by_protocol(
    rows: Sequence[ManifestRow], dataset: str, task: Task, protocol: Protocol, seed: int = 7
) -> ProtocolSplit:
    """The examples of a protocol. Raises StartError for a class without enough training or test pictures."""
    own = [i for i, row in enumerate(rows) if row.dataset == dataset and task_class(row, task) is not None]
    if not own:
        raise StartError("no-data", f"the folder holds no picture of {dataset!r} with the labels of the {task} task")
    split = _split(rows, own, task, protocol, np.random.default_rng(seed))
    for side, examples in (("training", split.train), ("test", split.test)):
        check_classes([task_class(rows[i], task) for i, _ in examples], task, side)
    return split


def check_classes(labels: Sequence[int | None], task: Task, side: str) -> None:
    """Raise StartError for a class without pictures, or with only one in training."""
    pictures = Counter(labels)
    fewest = _FEWEST_TRAINING if side == "training" else 1
    for index, name in enumerate(LABELS[task]):
        if pictures[index] < fewest:
            raise StartError("empty-class", f"class {name} has {pictures[index]} {side} pictures; {fewest} are needed")


def _split(
    rows: Sequence[ManifestRow], own: Sequence[int], task: Task, protocol: Protocol, random: np.random.Generator
) -> ProtocolSplit:
    if protocol is Protocol.OFFICIAL:
        sides = {side: [(i, 0) for i in own if rows[i].split == side] for side in ("train", "test")}
        return ProtocolSplit(tuple(sides["train"]), tuple(sides["test"]))
    if protocol is Protocol.GROUPED:
        return _grouped(rows, own, task)
    if protocol is Protocol.AUGMENT_FIRST:
        # 15 % is held back for a validation that decides nothing here.
        drawn = _shuffled(
            [(i, copy) for i in own for copy in range(1 + COPIES[task_class(rows[i], task) or 0])], random
        )
        held_back = math.floor(0.15 * len(drawn))
        return ProtocolSplit(tuple(drawn[2 * held_back :]), tuple(drawn[:held_back]))
    if protocol is Protocol.RANDOM_VALIDATION:
        drawn = _shuffled([(i, 0) for i in own if rows[i].split != "test"], random)
        held_out = math.floor(0.2 * len(drawn))
    else:
        drawn = _shuffled([(i, 0) for i in own], random)
        held_out = min(51, len(drawn) // 2)
    return ProtocolSplit(tuple(drawn[held_out:]), tuple(drawn[:held_out]))


def _shuffled(examples: list[Example], random: np.random.Generator) -> list[Example]:
    return [examples[i] for i in random.permutation(len(examples))]


def _grouped(rows: Sequence[ManifestRow], own: Sequence[int], task: Task) -> ProtocolSplit:
    """Split by patient, by the same rule as `train`."""
    roles = split_roles([rows[i] for i in own], (), _GROUPED_TEST_SHARE[task], 0.1)
    test = [i for i, role in zip(own, roles, strict=True) if role is SplitRole.TEST]
    train = [
        (i, 0) for i, role in zip(own, roles, strict=True) if role is not SplitRole.TEST and not rows[i].in_conflict
    ]
    return ProtocolSplit(tuple(train), tuple((i, 0) for i in deduplicate(rows, test)))


def take_fraction(
    split: ProtocolSplit, rows: Sequence[ManifestRow], task: Task, fraction: float, seed: int = 7
) -> ProtocolSplit:
    """A random fraction of each class on both sides, but FEWEST_OF_A_FRACTION pictures if the class has as many."""
    random = np.random.default_rng(seed)

    def drawn(examples: Sequence[Example]) -> tuple[Example, ...]:
        kept: list[Example] = []
        for label in range(len(LABELS[task])):
            own = [(i, copy) for i, copy in examples if task_class(rows[i], task) == label]
            count = min(len(own), max(FEWEST_OF_A_FRACTION, math.ceil(fraction * len(own))))
            kept += [own[i] for i in sorted(random.permutation(len(own))[:count])]
        return tuple(kept)

    return split if fraction >= 1 else replace(split, train=drawn(split.train), test=drawn(split.test))


def start_from_default(split: ProtocolSplit, rows: Sequence[ManifestRow], protocol: Protocol) -> ProtocolSplit:
    """The split when training starts from the shipped model.

    The positions that the shipped model learned are noted; split by patient, its patients also leave the test.
    """
    shipped = TrainConfig()
    roles = split_roles(rows, shipped.external, shipped.test_share, shipped.validation_share)
    learned = tuple(i for i, role in enumerate(roles) if role in (SplitRole.TRAIN, SplitRole.VALIDATION))
    pretrained = replace(split, pretraining=learned)
    if protocol is not Protocol.GROUPED:
        return pretrained
    unknown = [example for example in split.test if not count_known(replace(pretrained, test=(example,)), rows)]
    return replace(pretrained, test=tuple(unknown))


def count_known(split: ProtocolSplit, rows: Sequence[ManifestRow]) -> int:
    """How many test examples show a picture or a patient that is in training or in pretraining."""
    learned = {*split.pretraining, *(i for i, _ in split.train)}
    pictures = {rows[i].picture_group for i in learned}
    patients = {rows[i].patient_group for i in learned}
    return sum(rows[i].picture_group in pictures or rows[i].patient_group in patients for i, _ in split.test)
