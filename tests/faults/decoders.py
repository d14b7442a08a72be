"""Damaged compressed pixels through the decoder processes of the web role: what each mutant costs, and who dies.

Codecs in C abort, fault or hang on some of them. Every request must end in an answer or an error in bounded time, and
the next good file must be decoded.
"""

from __future__ import annotations

import io
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gdcm
import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.faults.bed import Outcome
from tests.testbed.images import image, save
from worker.config.sections import WebSection
from worker.decoding import tasks
from worker.decoding.answers import Busy
from worker.decoding.pool import DecoderPool, FileKilledDecoder
from worker.errors import NotAssessable

SYNTAXES = {
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG 12-bit": JPEGExtended12Bit,
    "JPEG baseline": JPEGBaseline8Bit,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}
SIDE = 32
_THREADS = 2
_SECONDS = 3.0  # of a decoder in a task
_LATE_SECONDS = 60.0  # on a machine that has other work


def compressed(syntax: str, folder: Path) -> Dataset:
    """A small image in that transfer syntax, by the encoders that there are."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    noise = np.random.default_rng(5).integers(0, 200, (SIDE, SIDE))
    head = ((x**2 + y**2 < 0.6) * 2000 + noise).astype(np.uint16)
    path = folder / f"{syntax}.dcm"
    if syntax == JPEGBaseline8Bit:
        eight_bits = (head >> 4).astype(np.uint8)
        ds = image(eight_bits)
        buffer = io.BytesIO()
        Image.fromarray(eight_bits).save(buffer, "JPEG")
        ds.PixelData = encapsulate([buffer.getvalue()])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = syntax
        ds.save_as(path, enforce_file_format=True)
    elif syntax in (JPEGLosslessSV1, JPEGExtended12Bit):
        _by_gdcm(save(image(head, BitsStored=12, HighBit=11), folder / "plain.dcm"), path, syntax)
    else:
        save(image(head), path, syntax)
    return dcmread(path)


def _by_gdcm(plain: Path, path: Path, syntax: str) -> None:
    kind = "JPEGLosslessProcess14_1" if syntax == JPEGLosslessSV1 else "JPEGExtendedProcess2_4"
    reader = gdcm.ImageReader()
    reader.SetFileName(str(plain))
    reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, kind)))
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise RuntimeError("GDCM does not encode")
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    if not writer.Write():
        raise RuntimeError("GDCM does not write")


def mutants(ds: Dataset, count: int, seed: int) -> Iterator[bytes]:
    """Files whose compressed stream has flipped, missing, repeated or foreign bytes."""
    dice = random.Random(seed)
    [stream] = generate_fragments(ds.PixelData[8 + int.from_bytes(ds.PixelData[4:8], "little") :])
    for _ in range(count):
        damaged = bytearray(stream)
        for _ in range(dice.choice((1, 1, 2, 3, 8, 40))):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        if dice.random() < 0.15:
            del damaged[dice.randrange(8, len(damaged)) :]
        if dice.random() < 0.1:
            place = dice.randrange(len(damaged))
            damaged[place:place] = damaged[: dice.randrange(1, 200)]
        ds.PixelData = encapsulate([bytes(damaged)])
        ds["PixelData"].is_undefined_length = True
        buffer = io.BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        yield buffer.getvalue()


def decoder_deaths(folder: Path, mutants_of_a_syntax: int, seed: int = 11) -> Outcome:
    """Mutants of every compressed transfer syntax through a pool of decoders."""
    outcome = Outcome("damaged compressed pixels through the web role's decoders", seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    pool = DecoderPool(WebSection(decoder_processes=_THREADS, decoder_seconds=_SECONDS), folder)
    try:
        for name, syntax in SYNTAXES.items():
            _decode_mutants(outcome, pool, folder, name, syntax, mutants_of_a_syntax)
        if len(pool.pids) > _THREADS:
            outcome.fault_found(f"{len(pool.pids)} processes")
    finally:
        pool.close()
    return outcome


def _decode_mutants(outcome: Outcome, pool: DecoderPool, folder: Path, name: str, syntax: str, count: int) -> None:
    ds = compressed(syntax, folder)
    good = folder / f"{syntax}.dcm"
    expected = pool.answer(tasks.native_frames(good), "soak").content()
    before = Counter(pool.deaths)
    results: Counter[str] = Counter()
    work, lock = mutants(ds, count, outcome.seed), threading.Lock()

    def decode(path: Path) -> None:
        while True:
            with lock:
                content = next(work, None)
            if content is None:
                return
            path.write_bytes(content)
            start = time.monotonic()
            result = _decoded(pool, path)
            seconds = time.monotonic() - start
            with lock:
                results[result] += 1
                outcome.tries += 1
                if seconds > _LATE_SECONDS or result.startswith("fault"):
                    outcome.fault_found(f"{name}: {result} after {seconds:.0f} s")
                else:
                    outcome.survived += 1

    paths = [folder / f"mutant-{number}.dcm" for number in range(_THREADS)]
    threads = [threading.Thread(target=decode, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if pool.answer(tasks.native_frames(good), "soak").content() != expected:
        outcome.fault_found(f"{name}: a good file is decoded otherwise afterwards")
    deaths = pool.deaths - before
    causes = ", ".join(f"{cause} {times}" for cause, times in deaths.most_common())
    answers = ", ".join(f"{result} {times}" for result, times in results.most_common())
    outcome.measured.append(f"{name}: {deaths.total()} deaths{f' by {causes}' if causes else ''}; {answers}")


def _decoded(pool: DecoderPool, path: Path) -> str:
    try:
        pool.answer(tasks.native_frames(path), "soak")
    except FileKilledDecoder:
        return "death"
    except NotAssessable as fault:
        return fault.reason
    except (OSError, Busy) as fault:
        return f"fault {type(fault).__name__}"
    return "decoded"
