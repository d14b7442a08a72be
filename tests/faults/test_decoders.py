"""The short form of the row "decoder-deaths" of `make soak`, and a decoder in a job."""

from __future__ import annotations

import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from pydicom.uid import JPEGLSLossless

from tests.faults import decoders


@pytest.mark.timeout(900)
def test_damaged_pixels_end_in_an_answer_and_the_next_image_is_decoded(tmp_path: Path) -> None:
    outcome = decoders.decoder_deaths(tmp_path, 60)
    assert outcome.notes == []
    assert outcome.tries == outcome.survived == 60 * len(decoders.SYNTAXES)


def test_an_image_that_keeps_its_codec_busy_ends_the_job_that_decodes_it(tmp_path: Path) -> None:
    """A JPEG-LS stream of 32 x 32 pixels, of whose damage the codec learns after seconds."""
    ds = decoders.compressed(JPEGLSLossless, tmp_path)
    slow = next(islice(decoders.mutants(ds, 400, 11), 82, None))
    (tmp_path / "slow.dcm").write_bytes(slow)
    program = """
import sys
from pathlib import Path
from worker.pixels.decode import decode
from worker.process_limits import limit_decoders
limit_decoders(0.5)
decode(Path(sys.argv[1]))
"""
    for name, ended in (("slow.dcm", -signal.SIGVTALRM), (f"{JPEGLSLossless}.dcm", 0)):
        done = subprocess.run([sys.executable, "-c", program, tmp_path / name], capture_output=True, check=False)
        assert done.returncode == ended, done.stderr
