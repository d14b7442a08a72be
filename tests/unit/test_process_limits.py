from __future__ import annotations

import platform
import signal
import subprocess
import sys

import pytest

# The limits hold for a whole process, so each case runs in a process of its own.
_MEMORY = """
from worker.process_limits import lift_memory_limit, limit_memory
limit_memory({limit})
try:
    bytearray(64 << 20)
    print("allocated")
except MemoryError:
    print("refused")
lift_memory_limit()
bytearray(64 << 20)
print("lifted")
"""


def _run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA counts private memory on Linux")
@pytest.mark.parametrize(("limit", "answer"), [(16 << 20, "refused"), (256 << 20, "allocated"), (0, "allocated")])
def test_memory_beyond_the_limit_is_refused_until_it_is_lifted(limit: int, answer: str) -> None:
    done = _run(_MEMORY.format(limit=limit))
    assert done.stdout.split() == [answer, "lifted"], done.stderr


def test_process_ends_inside_a_c_library_when_its_time_is_up() -> None:
    program = """
import ctypes
from worker.process_limits import end_process_after
end_process_after(0.2)
ctypes.PyDLL(None).sleep(60)  # holds the interpreter's lock
"""
    assert _run(program).returncode == -signal.SIGALRM


def test_cancelled_time_limit_ends_nothing() -> None:
    program = """
import time
from worker.process_limits import end_process_after
end_process_after(0.2)
end_process_after(0)
time.sleep(0.4)
"""
    assert _run(program).returncode == 0


def test_open_files_are_allowed_up_to_the_hard_limit() -> None:
    program = """
import resource
from worker.process_limits import allow_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 200))
for count in (32, 128, 4096):
    allow_open_files(count)
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    assert _run(program).stdout.split() == ["64", "128", "200"]


def test_a_decoder_that_hangs_ends_its_process_and_one_that_waits_for_the_disk_does_not() -> None:
    program = """
import time
from worker.process_limits import limit_decoders, limited_decoder
limit_decoders(0.2)
with limited_decoder():
    time.sleep(0.4)
print("waited", flush=True)
with limited_decoder():
    pow(7, 10**8)  # within C, with the interpreter's lock held
"""
    done = _run(program)
    assert (done.stdout, done.returncode) == ("waited\n", -signal.SIGVTALRM)


def test_without_a_limit_a_decoder_may_take_its_time() -> None:
    program = """
import time
from worker.process_limits import limited_decoder
with limited_decoder():
    while time.process_time() < 0.3:
        pass
print("done")
"""
    assert _run(program).stdout == "done\n"


_RETAINED = """
import re, threading
from pathlib import Path
from worker.process_limits import return_large_blocks

if {returns}:
    return_large_blocks()

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

def connection():
    for size in (8, 16, 8, 16):
        bytearray(b"x") * (size << 20)
    freed.wait()
    measured.wait()

freed, measured = threading.Barrier(9), threading.Barrier(9)
before = resident()
for _ in range(8):
    threading.Thread(target=connection).start()
freed.wait()
print(resident() - before)
measured.wait()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt(3) is glibc's")
def test_threads_keep_nothing_of_large_blocks_that_they_freed() -> None:
    def retained(returns: bool) -> int:
        done = _run(_RETAINED.format(returns=returns))
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert retained(True) < 8
    assert retained(False) > 16  # MiB: what the measure has to prevent
