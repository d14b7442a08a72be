"""The TOML files of the reference systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_train.networks.registry import find_network
from monai_train.systems.definitions import OURS, Protocol, read_ours, read_systems
from monai_train.systems.seeds import table_rows
from monai_train.systems.table import rows_of_system
from worker.errors import StartError


def test_the_five_files_are_read_and_share_ours() -> None:
    systems = read_systems()
    assert [system.name for system in systems] == ["A", "B", "C", "D", "E"]
    rows = table_rows(systems, read_ours())
    assert len({row.key for row in rows}) == len(rows)
    for system in systems:
        assert (OURS, Protocol.GROUPED) in rows_of_system(system)
        for recipe in system.network:
            find_network(recipe.network)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("name =", "is not TOML"),
        ('name = "X"', "title: Field required"),
    ],
)
def test_a_file_that_is_missing_or_invalid_is_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.toml").write_text(content)
    with pytest.raises(StartError, match=message) as caught:
        read_systems("x", tmp_path)
    assert "x.toml" in caught.value.detail


def test_an_unknown_key_of_our_recipe_is_named(tmp_path: Path) -> None:
    (tmp_path / "ours.toml").write_text('[four]\nnetwork = "c-linear"\nsize = 32\nepochs = 1\nbatches = 2\n')
    with pytest.raises(StartError, match="batches: Extra inputs"):
        read_ours(tmp_path)
