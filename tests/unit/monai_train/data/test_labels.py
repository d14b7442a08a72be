"""One vocabulary: every spelling of a class that a folder may have is understood in a manifest, too."""

from __future__ import annotations

import pytest

from monai_train.data.labels import (
    ANY_TUMOUR,
    CLASS_NAMES,
    LABEL_NAMES,
    are_in_conflict,
    class_name,
    label_index,
)
from worker.errors import StartError


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("no", "notumor"),
        ("Normal", "notumor"),
        ("No Tumour", "notumor"),
        ("yes", "tumor"),
        ("glioma-tumour", "glioma"),
        ("meningioma_tumor", "meningioma"),
        ("Ependymoma", "ependymoma"),
        ("T1 weird", "t1 weird"),
    ],
)
def test_names_of_classes_are_understood(folder: str, label: str) -> None:
    assert class_name(folder) == label


@pytest.mark.parametrize(
    ("word", "index"), [("no", 3), ("Normal", 3), ("no_tumour", 3), ("yes", ANY_TUMOUR), ("glioma", 0)]
)
def test_aliases(word: str, index: int) -> None:
    assert label_index(word) == index


SPELLINGS = (
    ("healthy", "notumor"),
    ("no tumor", "notumor"),
    ("No_Tumour", "notumor"),
    ("non-tumor", "notumor"),
    ("none", "notumor"),
    ("gliomas", "glioma"),
    ("Glioma Tumour", "glioma"),
    ("meningiomas", "meningioma"),
    ("pituitary_tumor", "pituitary"),
    (" Pituitary ", "pituitary"),
    ("brain tumour", "tumor"),
    ("tumour", "tumor"),
)


@pytest.mark.parametrize(("spelling", "name"), SPELLINGS)
def test_label_and_folder_are_read_alike(spelling: str, name: str) -> None:
    assert class_name(spelling) == name
    assert LABEL_NAMES[label_index(spelling)] == name


def test_class_names_are_their_own_labels() -> None:
    assert [label_index(name) for name in CLASS_NAMES] == [0, 1, 2, 3]


@pytest.mark.parametrize("word", ["", "abscess", "gliomatosis"])
def test_unknown_class_is_kept_for_a_folder_and_refused_as_a_label(word: str) -> None:
    assert class_name(word) == word
    with pytest.raises(StartError, match="is none of glioma, meningioma, pituitary, notumor, tumor"):
        label_index(word)


def test_tumor_of_unknown_kind_contradicts_only_no_tumour() -> None:
    assert not are_in_conflict({"tumor", "glioma"})
    assert are_in_conflict({"tumor", "notumor"})
    assert are_in_conflict({"meningioma", "glioma"})
