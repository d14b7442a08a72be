from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from pydicom import Dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRootFind

from tests.testbed.dcmtk import free_port
from tests.testbed.find_scp import FAILURE, PENDING, Responses, sender
from worker.config.sections import PeerSection
from worker.errors import Retry
from worker.network.count_queries import associate_for_count, counted, find_matches


def match(series: str = "1.2.3") -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.SeriesInstanceUID = "SERIES", series
    return ds


def find(responses: Responses, maximum: int = 4, seconds: float = 10) -> list[str] | None:
    identifier = match("")
    with sender(responses) as peer:
        assoc = associate_for_count(peer, "AI_WORKER")
        matches = find_matches(assoc, identifier, maximum, seconds)
        assert find_matches(assoc, identifier, maximum, seconds) is None or matches is not None
        if assoc.is_established:
            assoc.release()
    return None if matches is None else [str(match.SeriesInstanceUID) for match in matches]


def test_an_association_for_counts_has_the_query_model_alone() -> None:
    with sender(lambda _: iter(())) as peer:
        assoc = associate_for_count(peer, "AI_WORKER")
        assert [context.abstract_syntax for context in assoc.accepted_contexts] == [StudyRootFind]
        assoc.release()


def test_a_peer_that_is_away_raises_retry() -> None:
    with pytest.raises(Retry, match="does not answer"):
        associate_for_count(PeerSection(ae_title="SENDER", host="127.0.0.1", port=free_port()), "AI_WORKER")


def test_all_matches_of_a_success() -> None:
    assert find(lambda _: iter([(PENDING, match("1.2")), (PENDING, match("1.3"))])) == ["1.2", "1.3"]
    assert find(lambda _: iter(())) == []


def test_a_failure_and_too_many_matches_are_no_answer() -> None:
    assert find(lambda _: iter([(PENDING, match()), (FAILURE, None)])) is None
    assert find(lambda _: iter([(PENDING, match())] * 5)) is None


def test_a_peer_that_goes_on_and_on_is_left() -> None:
    def trickle(_identifier: Dataset) -> Iterator[tuple[int, Dataset | None]]:
        for _ in range(40):
            time.sleep(0.05)
            yield PENDING, match()

    began = time.monotonic()
    assert find(trickle, maximum=10_000, seconds=0.3) is None
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(("value", "number"), [("12", 12), ("0", 0), (None, None), ("-1", None), ("2147483647", None)])
def test_what_counts(value: str | None, number: int | None) -> None:
    ds = Dataset()
    if value is not None:
        ds.NumberOfStudyRelatedSeries = value
    assert counted(ds, "NumberOfStudyRelatedSeries") == number
