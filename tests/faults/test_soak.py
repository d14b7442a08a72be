"""The short form of `make soak`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import soak
from tests.faults.soak import Outcome

needs_mount = pytest.mark.skipif(not soak.can_mount(), reason="mounting a small tmpfs takes root")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(lambda folder: soak.killed_processes(folder, 8, 5), id="killed-processes"),
        pytest.param(lambda folder: soak.misbehaving_pacs(folder, 4, 5), id="misbehaving-pacs"),
        pytest.param(lambda folder: soak.locked_database(folder, 4, 5), id="locked-database"),
        pytest.param(lambda folder: soak.full_disk(folder, 4), id="full-disk", marks=needs_mount),
    ],
)
def test_nothing_is_lost_and_nothing_comes_twice(scenario: Callable[[Path], Outcome], tmp_path: Path) -> None:
    outcome = scenario(tmp_path)
    assert (outcome.lost, outcome.duplicated, outcome.notes) == (0, 0, [])
    assert outcome.tries > 0
    assert outcome.instances == outcome.series * soak.SLICES
