"""The short form of `make soak`, of the rows that fit.

The hostile bytes are in test_fuzz, the kills in tests/acceptance/test_kill.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import backlog, breakages, floods, frozen_roles, header_bombs, load, rot, soak
from tests.faults.bed import SLICES, Outcome
from tests.testbed import bombs

needs_mount = pytest.mark.skipif(not breakages.can_mount(), reason="mounting a small tmpfs takes root")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(lambda folder: breakages.misbehaving_pacs(folder, 4, 6), id="misbehaving-pacs"),
        pytest.param(lambda folder: breakages.locked_database(folder, 4, 4), id="locked-database"),
        pytest.param(lambda folder: rot.rotten_files(folder, 4, 6), id="rot"),
        pytest.param(
            lambda folder: frozen_roles.frozen_roles(folder, 4, 1, ("infer", "send", "web"), together=True),
            id="frozen-roles",
        ),
        pytest.param(lambda folder: breakages.full_disk(folder, 4), id="full-disk", marks=needs_mount),
    ],
)
def test_nothing_is_lost_and_nothing_comes_twice(scenario: Callable[[Path], Outcome], tmp_path: Path) -> None:
    outcome = scenario(tmp_path)
    assert (outcome.lost, outcome.duplicated, outcome.notes) == (0, 0, [])
    assert outcome.tries > 0
    assert outcome.instances == outcome.series * SLICES


@pytest.mark.timeout(900)
def test_many_associations_take_nothing_that_they_do_not_give_back(tmp_path: Path) -> None:
    outcome = load.many_associations(tmp_path, seconds=4)
    assert (outcome.lost, outcome.duplicated, outcome.notes) == (0, 0, [])
    assert outcome.instances > 0


@pytest.mark.timeout(300)
def test_connection_floods_keep_nobody_out(tmp_path: Path) -> None:
    outcome = floods.connection_floods(tmp_path, seconds=8)
    assert (outcome.lost, outcome.duplicated, outcome.notes) == (0, 0, [])
    assert outcome.survived == outcome.tries > 4


@pytest.mark.timeout(300)
def test_header_bombs_take_little_memory_of_either_role(tmp_path: Path) -> None:
    outcome = header_bombs.header_bombs(tmp_path, rounds=1, at_once=1)
    assert (outcome.lost, outcome.duplicated, outcome.notes) == (0, 0, [])
    assert outcome.survived == outcome.tries == 2 * len(bombs.BOMBS)


@pytest.mark.timeout(300)
def test_a_new_report_does_not_wait_behind_a_backlog(tmp_path: Path) -> None:
    outcome = backlog.pending_backlog(tmp_path, 200)
    assert (outcome.lost, outcome.duplicated, outcome.notes) == (0, 0, [])
    assert outcome.tries == 200 + 2


def test_the_table_has_a_line_for_each_row_that_was_run(tmp_path: Path) -> None:
    outcome = Outcome("a fault", tries=2, survived=1)
    outcome.fault_found("it broke")
    soak.keep(tmp_path, "kills", 0.5, outcome)
    document = tmp_path / "document.md"
    earlier = "| pacs | an earlier measurement | 1 |"
    written = f"Machine: another.\n| kills | replaced |\n{earlier}\n| no-row | left |"
    document.write_text(f"before\n{soak.BEGIN}\n{written}\n{soak.END}\nafter\n")
    soak.write_document(document, tmp_path)
    content = document.read_text()
    soak.write_document(document, tmp_path)
    assert document.read_text() == content
    assert earlier in content
    assert content.count("Machine: ") == 2
    assert "| kills | a fault (a run of 0.5 of the full length) | 2 | 1 |" in content
    assert "**it broke**" in content
    assert content.startswith("before\n")
    assert content.endswith("after\n")
    assert "replaced" not in content
    assert "no-row" not in content
