"""Stored files that the disk changes, cuts, empties or loses: found by the scrub, replaced by their repetition."""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.faults.bed import START_SECONDS, UNFINISHED, Outcome, Sender, bed, check
from tests.testbed.waiting import wait_until


def _change(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


RUINS: dict[str, Callable[[Path], object]] = {
    "changed": _change,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "emptied": lambda file: file.write_bytes(b""),
    "lost": Path.unlink,
}


def rotten_files(folder: Path, series: int, tries: int, seed: int = 11) -> Outcome:
    """Files of a settled archive are ruined; the scrub finds each, and senders that send all again heal each."""
    outcome = Outcome("stored files changed, cut, emptied or lost, then sent again", tries=tries, seed=seed)
    dice = random.Random(seed)
    with bed(folder, series, 2, 240 + 4 * series) as site:
        for thread in site.threads:
            thread.join()
        wait_until(lambda: not site.rows(UNFINISHED)[0][0], "every series to be answered", 240 + 4 * series, every=1)
        site.worker.kill()
        ruined: Counter[str] = Counter()
        for (path,) in dice.sample(site.rows("SELECT path FROM instance ORDER BY id"), tries):
            kind = dice.choice(list(RUINS))
            RUINS[kind](site.data / path)
            ruined[kind] += 1
        with closing(sqlite3.connect(site.data / "worker.db", isolation_level=None)) as connection:
            connection.execute("DELETE FROM scrub")  # the next pass begins now, not tomorrow
        site.worker.start(START_SECONDS)
        began = time.monotonic()
        wait_until(lambda: _faults(site.rows) == tries, "the scrub to find what is ruined", 120 + series, every=0.5)
        outcome.measured.append(", ".join(f"{number} {kind}" for kind, number in sorted(ruined.items())))
        outcome.measured.append(f"all found {time.monotonic() - began:.0f} s after a start")
        names = [f"s{number}" for number in range(series)]
        again = Sender([(site.worker.host, site.worker.port)], names)
        again.run(time.monotonic() + 120 + 4 * series)
        check(outcome, site, series, 120 + series)
        outcome.survived = tries - _faults(site.rows)
        if len(again.acknowledged) != len(site.acknowledged):
            outcome.fault_found("a repetition was not acknowledged")
        return outcome


def _faults(rows: Callable[[str], list[tuple[int]]]) -> int:
    [(number,)] = rows("SELECT count(*) FROM file_fault")
    return number
