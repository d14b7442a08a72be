"""A tiny reference system and manifest rows of patients, for the tests of `monai_train.systems`."""

from __future__ import annotations

from monai_train.data.manifest import ManifestRow
from monai_train.systems.definitions import Protocol, Recipe, System, Task
from tests.testbed.converted import CLASSES

TINY_RECIPE = Recipe(network="c-linear", size=32, epochs=3, batch=8, learning_rate=3e-3)


def manifest_row(index: int, label: int | str, group: str, dataset: str = "main", split: str = "train") -> ManifestRow:
    name = CLASSES.label_names[label] if isinstance(label, int) else label
    return ManifestRow(f"{index}.dcm", name, group, f"p{index}", dataset, f"{index:064x}", 9, 9, None, False, split)


def rows_of_patients(patients: int, each: int = 3, labels: tuple[int, ...] = (0, 1, 2, 3)) -> list[ManifestRow]:
    """`each` pictures of `patients` with each label; the first of a patient is in the test folder."""
    names = [(label, patient, k) for label in labels for patient in range(patients) for k in range(each)]
    return [
        manifest_row(n, label, f"{label}-{patient}", split="test" if k == 0 else "train")
        for n, (label, patient, k) in enumerate(names)
    ]


def tiny_system(protocol: Protocol, recipe: Recipe = TINY_RECIPE, ensemble: bool = False) -> System:
    return System(
        name="T", title="tiny", task=Task.FOUR, dataset="main", protocol=protocol, reported="0.5", network=(recipe,),
        goal=0.5, ensemble=ensemble,
    )  # fmt: skip
