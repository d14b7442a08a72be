"""Whoever asks for a cluster is told why there is none. tests/integration/test_bulk.py has clusters that run."""

from __future__ import annotations

import sys

import pytest

from tests.testbed.dcmtk import free_port
from worker import cluster
from worker.cluster import open_cluster
from worker.errors import StartError
from worker.imports import without


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "distributed"]:
        monkeypatch.delitem(sys.modules, name)
    with without("distributed"), pytest.raises(StartError, match=r"pip install 'brain-mri-worker\[bulk\]'"):
        open_cluster(1, None).__enter__()


def test_one_kind_of_cluster_is_asked_for() -> None:
    for workers, scheduler in ((None, None), (1, "tcp://127.0.0.1:8786")):
        with pytest.raises(StartError, match="not both"):
            open_cluster(workers, scheduler).__enter__()


@pytest.mark.parametrize("address", ["nonsense://host", f"tcp://127.0.0.1:{free_port()}"])
def test_a_scheduler_that_does_not_answer_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    with pytest.raises(StartError, match=f"no Dask scheduler can be reached at {address}"):
        open_cluster(None, address).__enter__()
