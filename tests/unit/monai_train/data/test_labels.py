"""One vocabulary: every spelling of a class that a folder may have is understood in a manifest, too."""

from __future__ import annotations

import pytest

from monai_train.data.labels import UNLABELLED, Classes, are_in_conflict, class_name
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


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("notumor", "tumor", "pituitary", "glioma", "", "meningioma"), "glioma meningioma pituitary notumor"),
        (("other", "notumor", "glioma"), "glioma other notumor"),
        (("metastasis", "notumor", "abscess", "glioma"), "glioma notumor abscess metastasis"),
        (("glioma", "meningioma"), "glioma meningioma notumor"),
        (("tumor", "notumor"), "notumor tumor"),
    ],
)
def test_classes_are_the_known_ones_in_their_order_and_then_the_others_by_name(
    labels: tuple[str, ...], names: str
) -> None:
    classes = Classes.of(labels)
    assert classes.names == tuple(names.split())
    assert classes.names[classes.no_tumour] == "notumor"
    assert classes.lesions == [index for index, name in enumerate(classes.names) if name != "notumor"]


def test_what_a_picture_shows_is_a_class_or_a_lesion_of_unknown_kind_or_unknown() -> None:
    classes = Classes.of(["abscess", "glioma"])
    assert classes.names == ("glioma", "notumor", "abscess")
    assert [classes.index(name) for name in classes.label_names] == [0, 1, 2, 3]
    assert classes.any_tumour == 3
    assert classes.index("metastasis") == classes.any_tumour  # a lesion that this model has no class for
    assert classes.index("") == UNLABELLED
    assert Classes.of(["tumor"]).index("tumor") == 1  # no kind is named: it is the class itself


@pytest.mark.parametrize("labels", [["notumor"], [""], []])
def test_labels_without_a_lesion_make_no_classes(labels: list[str]) -> None:
    with pytest.raises(StartError, match="the labels name no lesion"):
        Classes.of(labels)


@pytest.mark.parametrize("names", [("glioma", "glioma", "notumor"), ("glioma", "meningioma")])
def test_classes_are_named_once_and_include_no_tumour(names: tuple[str, ...]) -> None:
    with pytest.raises(StartError, match="are not notumor and others, once"):
        Classes.named(names)


def test_tumor_of_unknown_kind_contradicts_only_no_tumour() -> None:
    assert not are_in_conflict({"tumor", "glioma"})
    assert are_in_conflict({"tumor", "notumor"})
    assert are_in_conflict({"meningioma", "glioma"})
