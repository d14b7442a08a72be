"""Two hosts with one PostgreSQL and one data folder, processes that stand still, and clocks that jump.

A host is a network namespace with a cable to a bridge, a host name and process numbers of its own; pulling its cable
cuts it off from the database, from the PACS and from the senders. Making one takes root.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from tests.faults.bed import LEASE_SECONDS, START_SECONDS, Address, Bed, Outcome, bed, check
from tests.testbed import postgres
from tests.testbed.waiting import wait_until
from tests.testbed.worker_process import WorkerProcess

_NETWORK = "10.213.{}.0/24"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@cache
def can_make_hosts() -> bool:
    """True where we may make network namespaces and cables."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        return False
    try:
        with Hosts(1):
            return subprocess.run(["unshare", "--uts", "--pid", "--fork", "true"], capture_output=True).returncode == 0
    except (subprocess.CalledProcessError, OSError):
        return False


class Hosts:
    """Namespaces with a cable each to a bridge that has `gateway` as our own address; removed at the end."""

    def __init__(self, count: int) -> None:
        self._mark = f"sk{os.getpid() % 100000}"
        subnet = os.getpid() % 250 + 1
        self.network = _NETWORK.format(subnet)
        self.gateway = f"10.213.{subnet}.1"
        self.addresses = [f"10.213.{subnet}.{number + 2}" for number in range(count)]

    def __enter__(self) -> Hosts:
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("addr", "add", f"{self.gateway}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            for number, address in enumerate(self.addresses):
                name = self.name(number)
                _ip("netns", "add", name)
                _ip("link", "add", self._cable(number), "type", "veth", "peer", "name", "eth0", "netns", name)
                _ip("link", "set", self._cable(number), "master", self._bridge, "up")
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
                _ip("-n", name, "link", "set", "eth0", "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for number in range(len(self.addresses)):
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", self.name(number))
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._bridge)

    @property
    def _bridge(self) -> str:
        return f"{self._mark}b"

    def _cable(self, number: int) -> str:
        return f"{self._mark}c{number}"

    def name(self, number: int) -> str:
        return f"{self._mark}h{number}"

    def prefix(self, number: int) -> list[str]:
        """The command that runs another one on that host; a kill of it kills all that runs there."""
        unshare = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = ["sh", "-c", f'hostname {self.name(number)}; exec "$@"', "host"]
        return ["ip", "netns", "exec", self.name(number), *unshare, *command]

    def cut(self, number: int) -> None:
        _ip("link", "set", self._cable(number), "down")

    def mend(self, number: int) -> None:
        _ip("link", "set", self._cable(number), "up")


@contextmanager
def _two_hosts(
    folder: Path, series: int, seconds: float, pause: float, real_peers: bool
) -> Iterator[tuple[Hosts, Bed]]:
    """Two whole workers, the senders and the PACS beside them."""
    with Hosts(2) as hosts, postgres.server(hosts.network) as server:

        def workers(settings: dict[str, dict[str, Any]], destinations: dict[str, Address]) -> list[WorkerProcess]:
            there = {name: (title, port, hosts.gateway) for name, (title, port) in destinations.items()}
            settings["worker"]["data_dir"] = str(folder / "shared")
            settings["database"] = {"url": server.url_at(hosts.gateway)}
            settings["receive"]["idle_seconds"] = 10
            made = []
            for number, address in enumerate(hosts.addresses):
                worker = WorkerProcess(
                    folder / f"host-{number}", host=address, prefix=hosts.prefix(number), port=11112,
                    destinations=there, settings=settings,
                )  # fmt: skip
                worker.web_port = 8080
                made.append(worker)
            return made

        with bed(
            folder, series, 4, seconds, pause=pause, database_url=server.url, hosts=workers, pacs_host=hosts.gateway,
            real_peers=real_peers, answer_seconds=4,
        ) as site:  # fmt: skip
            yield hosts, site


def lost_host(folder: Path, series: int, rounds: int, seed: int = 4, real_peers: bool = False) -> Outcome:
    """One of two hosts is cut off, or killed, in turn; the other goes on and finishes what the first had begun."""
    outcome = Outcome("two hosts with PostgreSQL: one cut off or killed", seed=seed)
    dice = random.Random(seed)
    slowest = 0.0
    pause = max(0.05, rounds * 4 / series)
    with _two_hosts(folder, series, 240 + 60 * rounds, pause, real_peers) as (hosts, site):
        for turn in range(rounds):
            time.sleep(dice.uniform(0.5, 3))
            number = dice.randrange(2)
            victim = site.workers[number]
            if turn % 2 == 0:
                hosts.cut(number)
            else:
                victim.kill()
            slowest = max(slowest, _others_take_over(outcome, site, hosts.name(number)))
            if turn % 2 == 0:
                hosts.mend(number)
            else:
                victim.start(START_SECONDS)
            outcome.tries += 1
        outcome.measured.append(
            f"the other host had all of its work {slowest:.1f} s later at most (lease {LEASE_SECONDS} s)"
        )
        return check(outcome, site, series, 300 + series)


def _others_take_over(outcome: Outcome, site: Bed, host: str) -> float:
    """Seconds until no job is leased to a host that is gone."""
    start = time.monotonic()
    held = f"SELECT count(*) FROM job WHERE state = 'running' AND lease_owner LIKE '{host}:%'"
    try:
        wait_until(lambda: site.rows(held)[0][0] == 0, "another host to take over", 60, every=0.2)
    except TimeoutError as error:
        outcome.fault_found(str(error))
    return time.monotonic() - start


# --- a process that stands still -------------------------------------------------------------------------------


def stopped_processes(folder: Path, series: int, stops: int, seconds: float, seed: int = 5) -> Outcome:
    """SIGSTOP of a process that holds a lease, for longer than the lease; another takes its work, then SIGCONT."""
    outcome = Outcome(f"SIGSTOP for {seconds:g} s of a process that holds a lease", seed=seed)
    with bed(
        folder, series, 4, 240 + stops * (60 + seconds), pause=max(0.05, stops * (seconds + 3) / series),
        settings={"worker": {"inference_processes": 2, "lease_seconds": 3}, "receive": {"quiet_seconds": 2}},
    ) as site:  # fmt: skip
        taken = 0
        while outcome.tries < stops:
            held = _stop_a_holder(site)
            if held is None:
                if not site.sending and not site.rows("SELECT count(*) FROM job WHERE state = 'running'")[0][0]:
                    outcome.fault_found("no process held a lease any more")
                    break
                continue
            table, row, owner, pid = held
            try:
                time.sleep(seconds)
            finally:
                os.kill(pid, signal.SIGCONT)
            [(now,)] = site.rows(f"SELECT lease_owner FROM {table} WHERE id = {row}")
            taken += now != owner
            outcome.tries += 1
        outcome.measured.append(f"{taken} of {outcome.tries} leases had gone to another process")
        return check(outcome, site, series, 300 + series)


def _stop_a_holder(site: Bed) -> tuple[str, int, str, int] | None:
    """Stop a process that holds a lease on a job and still holds it once it is stopped: (table, row, owner, pid)."""
    query = "SELECT id, lease_owner FROM job WHERE state = 'running'"
    try:
        found = wait_until(lambda: site.rows(query), "a lease", 20, every=0.002)
    except TimeoutError:
        return None
    row, owner = found[0]
    pid = int(owner.split(":")[1])
    try:
        os.kill(pid, signal.SIGSTOP)
    except ProcessLookupError:
        return None
    if (row, owner) in site.rows(query):
        return "job", row, owner, pid
    os.kill(pid, signal.SIGCONT)
    return None


# --- clocks ----------------------------------------------------------------------------------------------------


class FakeClock:
    """The time of day of one worker: `jump` changes it while it runs; how long things take stays true."""

    def __init__(self, folder: Path) -> None:
        self._file, library = folder / "clock", folder / "clock.so"
        source = Path(__file__).with_name("clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source)], check=True)
        self.jump(0)
        self.environment = {"LD_PRELOAD": str(library), "SOAK_CLOCK": str(self._file)}

    def jump(self, seconds: int) -> None:
        """Set the clock to so many seconds from the true time."""
        replacement = self._file.with_suffix(".new")
        replacement.write_text(f"{seconds:+d}")
        replacement.replace(self._file)


def jumping_clock(folder: Path, series: int, jumps: int, seed: int = 6, postgresql: bool = False) -> Outcome:
    """The worker's clock jumps an hour ahead or back, again and again; with PostgreSQL the database's does not."""
    name = "clock jumps of ±1 h, " + ("PostgreSQL" if postgresql else "SQLite")
    outcome = Outcome(name, seed=seed)
    dice = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    clock = FakeClock(folder)

    def scenario(database_url: str | None) -> Outcome:
        with bed(
            folder, series, 4, 240 + 30 * jumps, pause=max(0.05, jumps * 3 / series), database_url=database_url,
            environment=clock.environment, settings={"worker": {"inference_processes": 2}},
        ) as site:  # fmt: skip
            now = 0
            for _ in range(jumps):
                time.sleep(dice.uniform(1, 4))
                now = 0 if now else dice.choice((-3600, 3600))
                clock.jump(now)
                outcome.tries += 1
            return check(outcome, site, series, 300 + series)

    if not postgresql:
        return scenario(None)
    with postgres.server() as server:
        return scenario(server.url)
