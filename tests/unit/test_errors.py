from __future__ import annotations

import pytest

from worker import errors
from worker.errors import RefusedInstance, Retry, WorkerError


def test_an_error_has_a_stable_reason_and_a_sentence() -> None:
    fault = Retry("peer-unavailable", "no association with 10.0.0.9:104")
    assert (fault.reason, fault.detail) == ("peer-unavailable", "no association with 10.0.0.9:104")
    assert str(fault) == "peer-unavailable: no association with 10.0.0.9:104"


def test_without_a_sentence_the_reason_is_shown() -> None:
    fault = Retry("peer-unavailable")
    assert (fault.detail, str(fault)) == ("peer-unavailable", "peer-unavailable")


def test_a_refused_instance_has_its_status() -> None:
    assert RefusedInstance(0xA700, "no-space").status == 0xA700


def test_each_class_has_a_single_response() -> None:
    """No class is a kind of another: a handler that catches the narrow class catches nothing else."""
    classes = [value for value in vars(errors).values() if isinstance(value, type) and value is not WorkerError]
    assert len(classes) == 5
    assert [found.__bases__ for found in classes] == [(WorkerError,)] * 5
    with pytest.raises(WorkerError):
        raise errors.Park("x")
