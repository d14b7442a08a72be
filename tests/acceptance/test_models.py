"""A second model: added, run in shadow, compared, activated and taken back, while one service runs on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.testbed import pacs, phantom, site
from tests.testbed.site import Site
from tests.testbed.tiny_bundle import copy_bundle, make_tiny_bundle, write_worker_json
from tests.testbed.waiting import wait_until

SMALL = phantom.Grid(slices=4)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two of equal networks; the second never finds itself sure enough."""
    folder = tmp_path_factory.mktemp("bundles")
    first = make_tiny_bundle(folder / "first")
    second = copy_bundle(first, folder / "second")
    write_worker_json(second, version="0.0.2", thresholds={"minimum_probability": 1.0, "minimum_in_distribution": 0.0})
    return first, second


@pytest.fixture(scope="module")
def clinic(bundles: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site.running(tmp_path_factory.mktemp("clinic"), settings={"worker": {"bundle": str(bundles[0])}}) as running:
        yield running


def _models(clinic: Site, *arguments: str) -> str:
    done = clinic.worker.run("models", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _states(clinic: Site) -> dict[str, str]:
    return dict(clinic.worker.rows("SELECT version, state FROM model"))


def _pushed(clinic: Site, folder: Path, seed: int) -> str:
    """The version of the model that the one report on a new series names."""
    source = clinic.push(phantom.head_series(folder / str(seed), grid=SMALL, seed=seed))
    found = wait_until(lambda: clinic.pacs.files(pacs.REPORTS, source.StudyInstanceUID), "the report")
    [report] = (dcmread(BytesIO(content)) for content in found.values())
    named = [one.value for one in report.iterall() if one.keyword == "TextValue" and one.value.startswith("0.0.")]
    assert len(set(named)) == 1
    return str(named[0])


def test_a_model_goes_from_the_shadow_into_the_light_and_back(
    clinic: Site, bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    assert "is added" in _models(clinic, "add", str(bundles[1]))
    _models(clinic, "shadow", "tiny-test-model", "0.0.2")
    assert _states(clinic) == {"0.0.1": "active", "0.0.2": "shadow"}

    assert _pushed(clinic, tmp_path, 1) == "0.0.1"
    shadow = "SELECT status, reason FROM shadow_result"
    assert wait_until(lambda: clinic.worker.rows(shadow), "the result in shadow") == [("not-assessed", "too-uncertain")]
    compared = json.loads(
        _models(clinic, "compare", "tiny-test-model:0.0.1", "tiny-test-model:0.0.2", "--format", "json")
    )
    assert (compared["n"], compared["first_not_assessed"], compared["second_not_assessed"]) == (1, 0, 1)

    _models(clinic, "activate", "tiny-test-model", "0.0.2")
    assert _states(clinic) == {"0.0.1": "retired", "0.0.2": "active"}
    assert _pushed(clinic, tmp_path, 2) == "0.0.2"

    _models(clinic, "rollback")
    assert _states(clinic) == {"0.0.1": "active", "0.0.2": "shadow"}
    assert _pushed(clinic, tmp_path, 3) == "0.0.1"
    clinic.worker.require_alive()


def test_a_bundle_that_fails_is_not_added(clinic: Site, bundles: tuple[Path, Path], tmp_path: Path) -> None:
    broken = copy_bundle(bundles[0], tmp_path / "broken")
    expected = json.loads((broken / "golden/expected.json").read_text())
    expected["cases"][0]["probabilities"][0].reverse()
    (broken / "golden/expected.json").write_text(json.dumps(expected))
    write_worker_json(broken, version="0.0.9")
    done = clinic.worker.run("models", "add", str(broken))
    assert done.returncode == 2
    assert "golden case 'head'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "0.0.9" not in _states(clinic)
    assert len(list((clinic.worker.data / "models").iterdir())) <= 2
