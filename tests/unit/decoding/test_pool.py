"""The decoder processes: what a file that kills, hangs or fills one costs, and who gets how much of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.images import image, save
from tests.testbed.waiting import wait_until
from tests.unit.decoding.pictures import FRAMES
from worker.config.sections import WebSection
from worker.decoding import pool as pool_module
from worker.decoding import tasks
from worker.decoding.answers import Busy
from worker.decoding.pool import WAITING, DecoderPool, FileKilledDecoder
from worker.errors import NotAssessable
from worker.process import is_running

POISONED = "tests.testbed.poisoned_decoder"


@pytest.fixture
def poisoned(tmp_path: Path) -> Iterator[DecoderPool]:
    pool = DecoderPool(WebSection(decoder_processes=1, decoder_seconds=2), tmp_path, POISONED)
    yield pool
    pool.close()


def file_of(folder: Path, word: str, name: str = "a") -> Path:
    file = folder / f"{name}-{word}.dcm"
    file.write_text(f"{word} {name}")
    return file


def decoded(pool: DecoderPool, file: Path, caller: str = "reader") -> bytes:
    return pool.answer(tasks.native_frames(file), caller).content()


@pytest.mark.parametrize("word", ["segfault", "abort", "hang", "noise"])
def test_file_that_ends_its_decoder_is_refused_and_the_next_file_is_decoded(
    poisoned: DecoderPool, tmp_path: Path, word: str
) -> None:
    killer, good = file_of(tmp_path, word), file_of(tmp_path, "good")
    assert decoded(poisoned, good) == b"decoded good"
    with pytest.raises(FileKilledDecoder):
        decoded(poisoned, killer)
    assert decoded(poisoned, good) == b"decoded good"
    assert poisoned.deaths.total() == 1


def test_file_that_ended_a_decoder_is_not_tried_again_under_another_name_until_its_time_is_over(
    poisoned: DecoderPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = file_of(tmp_path, "segfault")
    monkeypatch.setattr(pool_module, "_REMEMBERED_SECONDS", 0.5)
    with pytest.raises(FileKilledDecoder):
        decoded(poisoned, killer)
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(killer.read_bytes())
    for _ in range(20):
        with pytest.raises(FileKilledDecoder):
            decoded(poisoned, copy)
    assert poisoned.deaths.total() == 1
    wait_until(lambda: not poisoned.is_killer(copy), 5)
    with pytest.raises(FileKilledDecoder):
        decoded(poisoned, copy)
    assert poisoned.deaths.total() == 2


def test_no_more_files_that_ended_a_decoder_are_remembered_than_some(
    poisoned: DecoderPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_REMEMBERED_FILES", 2)
    killers = [file_of(tmp_path, "segfault", name) for name in "abc"]
    for killer in killers:
        with pytest.raises(FileKilledDecoder):
            decoded(poisoned, killer)
    assert [poisoned.is_killer(killer) for killer in killers] == [False, True, True]


def test_memory_beyond_the_limit_is_an_answer_and_no_death(poisoned: DecoderPool, tmp_path: Path) -> None:
    with pytest.raises(NotAssessable, match="image-too-large"):
        decoded(poisoned, file_of(tmp_path, "greedy"))
    assert decoded(poisoned, file_of(tmp_path, "good")) == b"decoded good"
    assert (poisoned.deaths.total(), len(poisoned.pids)) == (0, 1)


def test_decoder_that_was_killed_from_outside_is_replaced_and_no_file_is_blamed(
    poisoned: DecoderPool, tmp_path: Path
) -> None:
    good = file_of(tmp_path, "good")
    decoded(poisoned, good)
    [pid] = poisoned.pids
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), 5)
    assert decoded(poisoned, good) == b"decoded good"
    assert (poisoned.deaths.total(), poisoned.is_killer(good)) == (0, False)


def test_requests_beyond_the_queue_are_refused_at_once_and_a_caller_gets_half(
    poisoned: DecoderPool, tmp_path: Path
) -> None:
    slow = file_of(tmp_path, "slow")
    outcomes: list[str] = []

    def ask(caller: str) -> None:
        try:
            outcomes.append(decoded(poisoned, slow, caller).decode())
        except Busy:
            outcomes.append(f"busy {caller}")

    greedy = [threading.Thread(target=ask, args=("greedy",)) for _ in range(60)]
    for thread in greedy:
        thread.start()
    wait_until(lambda: len(outcomes) >= 60 - (1 + WAITING) // 2, 5)
    assert outcomes[:52] == ["busy greedy"] * 52
    assert decoded(poisoned, slow, "somebody else") == b"decoded slow"
    for thread in greedy:
        thread.join()
    assert outcomes.count("decoded slow") == (1 + WAITING) // 2


def test_all_callers_together_have_few_places_and_processes(
    poisoned: DecoderPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "WAITING", 2)
    slow, outcomes, processes = file_of(tmp_path, "slow"), [], set()

    def ask(caller: str) -> None:
        try:
            outcomes.append(decoded(poisoned, slow, caller).decode())
        except Busy:
            outcomes.append("busy")
        processes.update(poisoned.pids)

    callers = [threading.Thread(target=ask, args=(f"caller {number}",)) for number in range(10)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert 3 <= outcomes.count("decoded slow") < 10
    assert outcomes.count("busy") == 10 - outcomes.count("decoded slow")
    assert len(processes) == 1


def test_process_is_replaced_after_some_tasks(
    poisoned: DecoderPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_TASKS_OF_A_PROCESS", 2)
    processes = []
    for _ in range(4):
        assert decoded(poisoned, file_of(tmp_path, "good")) == b"decoded good"
        processes.append(poisoned.pids)
    assert processes[0] == processes[1] or processes[1] == []
    assert len({pid for pids in processes for pid in pids}) == 2
    assert poisoned.deaths.total() == 0


def test_picture_is_decoded_once_until_its_file_changes(poisoned: DecoderPool, tmp_path: Path) -> None:
    file = file_of(tmp_path, "good")
    assert poisoned.picture(tasks.picture_png(file), "a") == poisoned.picture(tasks.picture_png(file), "b")
    poisoned.close()  # what is answered now comes from the cache
    assert poisoned.picture(tasks.picture_png(file), "c") == b"decoded good"
    file.write_text("other content")
    with pytest.raises(Busy):
        poisoned.picture(tasks.picture_png(file), "d")


def test_decoders_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from worker.config.sections import WebSection
from worker.decoding import tasks
from worker.decoding.pool import DecoderPool
pool = DecoderPool(WebSection(), Path(sys.argv[1]), "tests.testbed.poisoned_decoder")
pool.answer(tasks.native_frames(Path(sys.argv[2])), "x")
print(*pool.pids, flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", program, str(tmp_path), str(file_of(tmp_path, "good"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    wait_until(lambda: not is_running(pid), 10)


def test_answer_larger_than_memory_comes_whole_and_its_room_is_given_back(tmp_path: Path) -> None:
    frames = FRAMES.repeat(400, axis=0)
    file = save(image(frames, NumberOfFrames=len(frames)), tmp_path / "large.dcm")
    pool = DecoderPool(WebSection(), tmp_path)
    answer = pool.answer(tasks.native_frames(file), "reader")
    assert answer.size == frames.nbytes
    assert answer.content() == frames.tobytes()
    assert [len(b"".join(part)) for part in answer.parts()] == [frames[0].nbytes] * len(frames)
    answer.close()
    assert pool._budget._left == 2 << 30
    pool.close()
