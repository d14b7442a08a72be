"""SIGSTOP of whole roles under load: each is found silent, ended and replaced, and its work is done once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults.bed import Bed, Outcome, bed, check, process_of_role
from tests.testbed.waiting import patience, wait_until
from worker.process import is_running
from worker.service.supervisor import SILENCE_SECONDS

ROLES = ("receive", "infer", "send", "web")
_START_SECONDS = 60.0  # of a role that replaces another
_BREAK_SECONDS = SILENCE_SECONDS + 10  # how long a sender may be cut off until its series is settled without it


def frozen_roles(
    folder: Path, series: int, rounds: int, roles: Sequence[str] = ROLES, *, together: bool = False, seed: int = 12
) -> Outcome:
    """Stop `rounds` times one of the roles after the other, or all of them together, and wait for the successors."""
    outcome = Outcome(f"SIGSTOP for good of {', '.join(roles)}{' at once' if together else ' in turn'}", seed=seed)
    dice = random.Random(seed)
    turns = [tuple(roles)] * rounds if together else [(role,) for role in roles] * rounds
    seconds = len(turns) * (SILENCE_SECONDS + 5)
    settings = {"receive": {"quiet_seconds": 2, "idle_seconds": _BREAK_SECONDS / 2, "incomplete_seconds": 0}}
    slowest = 0.0
    with bed(
        folder, series, 2, 240 + 2 * seconds, pause=2 * seconds / series / 5, answer_seconds=60, settings=settings
    ) as site:
        for turn in turns:
            time.sleep(dice.uniform(0.5, 2))
            slowest = max(slowest, _freeze(outcome, site, turn))
        outcome.measured.append(
            f"replaced {slowest:.1f} s after they stopped at most (silence of {SILENCE_SECONDS:g} s allowed)"
        )
        replaced = outcome.survived
        check(outcome, site, series, 300 + series)
        outcome.survived = min(replaced, outcome.survived)
    return outcome


def _freeze(outcome: Outcome, site: Bed, roles: Sequence[str]) -> float:
    """Stop a process of each role; seconds until all are gone and have successors."""
    stopped = {role: _stop(site, role) for role in roles}
    outcome.tries += len(roles)
    start, latest = time.monotonic(), patience(SILENCE_SECONDS + _START_SECONDS)
    for role, pid in stopped.items():
        try:
            wait_until(lambda pid=pid: not is_running(pid), f"the end of {role}", latest, every=0.1)  # type: ignore[misc]
            wait_until(
                lambda role=role, pid=pid: process_of_role(site.worker, role) not in (None, pid),  # type: ignore[misc]
                f"another {role}", latest, every=0.1,
            )  # fmt: skip
        except TimeoutError as error:
            outcome.fault_found(str(error))
            os.kill(pid, signal.SIGCONT)
        else:
            outcome.survived += 1
    return time.monotonic() - start


def _stop(site: Bed, role: str) -> int:
    pid = wait_until(lambda: process_of_role(site.worker, role), f"a process of {role}", _START_SECONDS, every=0.1)
    os.kill(pid, signal.SIGSTOP)
    return pid
