from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.testbed.instances import MODEL
from tests.testbed.results import MODEL_OF_LESIONS
from tests.testbed.shown_bundle import make_shown_bundle
from worker.errors import StartError
from worker.inference.bundle import verified_identity
from worker.jobs.bundle_store import BundleStore
from worker.results import ModelIdentity
from worker.web.dependencies import Site, describe_bundle


def test_the_bundles_of_a_host_come_once_each_the_configured_one_first(
    site: Site, model: ModelIdentity, shown_bundle: Path, tmp_path: Path
) -> None:
    store = BundleStore(site.settings)
    store.add(shown_bundle)
    other = make_shown_bundle(tmp_path / "other", replace(MODEL, version="2.0"), card="# Another\n")
    store.add(other)
    assert [bundle.sha256 for bundle in site.bundles()] == [model.sha256, verified_identity(other).sha256]
    described = site.bundle(verified_identity(other).sha256)
    assert described is not None
    assert (described.card, described.figures, described.identity.manufacturer) == ("# Another\n", None, "test")
    assert site.bundle("12" * 32) is None
    assert site.bundle(None) is None


def test_a_damaged_bundle_is_left_out(site: Site, model: ModelIdentity, tmp_path: Path) -> None:
    folder = BundleStore(site.settings).add(make_shown_bundle(tmp_path / "other", replace(MODEL, version="2.0")))
    (folder / "docs/README.md").write_text("changed")
    with pytest.raises(StartError):
        describe_bundle(folder)
    assert [bundle.sha256 for bundle in site.bundles()] == [model.sha256]


def test_a_bundle_that_leaves_the_kind_open_has_one_more_label(site: Site, tmp_path: Path) -> None:
    folder = BundleStore(site.settings).add(make_shown_bundle(tmp_path / "lesions", MODEL_OF_LESIONS))
    sha256 = verified_identity(folder).sha256
    described = site.bundle(sha256)
    assert described is not None
    assert list(described.titles) == ["glioma", "meningioma", "pituitary", "other", "notumor"]
    assert (site.class_titles()["tumor"], site.class_titles()["other"]) == (
        "Tumour, kind not determined",
        "Other lesion",
    )
    lesions = [label for label in (*described.titles, "tumor") if site.is_lesion(label, sha256)]
    assert lesions == ["glioma", "meningioma", "pituitary", "other", "tumor"]
    assert site.no_lesion_labels() == {"notumor"}
    assert not site.is_lesion("glioma", "12" * 32)


def test_the_titles_are_those_of_every_model_of_the_host(site: Site) -> None:
    assert site.class_titles() == {"glioma": "Glioma", "notumor": "No tumour"}
