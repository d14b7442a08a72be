"""Classification speed of the default model: against MONAI in torch and the processor's int8 limit, with files.

    PYTHONPATH=. python benchmarks/classify.py
    BRAIN_MRI_DATA=folder PYTHONPATH=. python benchmarks/classify.py --json classify.json   # agreement on real images

speed        the same network on the same tensors in batches of 16, with a thread per core: ours (OpenVINO, int8 and
             fp32) and MONAI's network in torch (eager, float32) in turn
roofline     see int8_limit.py; only where the processor has exact int8
agreement    share of slices with the same most probable class in int8 and fp32: on images of the folder
             BRAIN_MRI_DATA if it is set, otherwise on varied slices of the MNI template, with and without a mass
reading      decoding and preprocessing a slice of whole series (uncompressed, and JPEG lossless by DCMTK), also as a
             share of the int8 network's time for the same slices: processor time on one thread
3-D series   reading and network of a thin series that is reformatted, against the same slice by slice
threads      processor time per second while series are classified, with the engine as `worker serve` configures it
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLosslessSV1

from benchmarks.int8_limit import int8_limit
from benchmarks.rows import Row, against, arguments, at_least, at_most, cores, finish, plain, processor_seconds
from monai_train.data.images import UnreadableImage, find_files, is_picture_name, read_picture
from monai_train.data.sources.stacks import as_stored
from tests.testbed import dcmtk
from tests.testbed.phantom import Grid, head_series
from worker.errors import NotAssessable
from worker.inference.bundle import Bundle, default_bundle, load_bundle
from worker.inference.classify import classify
from worker.inference.engines import BATCH, OpenVinoEngine, TorchEngine, has_exact_int8
from worker.inference.preprocess import Preprocessing, preprocess, preprocess_image
from worker.pixels.arrays import FloatArray

PICTURES = 2000
SERIES = (24, 200)
READING_MS = 0.8  # of a processor, for a slice: the goal, of JPEG lossless too


def slices_of_heads(folder: Path, bundle: Bundle, series: int, count: int) -> FloatArray:
    """[count, 1, size, size]: heads with and without a mass, then the same with other gamma, noise and flips."""
    tensors = []
    for index in range(series):
        grid = Grid(slices=24, plane=("axial", "coronal", "sagittal")[index // 2 % 3])
        files = head_series(folder / f"head{index}", grid=grid, mass=index % 2 == 1, seed=index)
        tensors.append(preprocess(files, bundle.preprocessing).tensor)
    plain_slices = np.concatenate(tensors)
    random = np.random.default_rng(3)
    slices = [plain_slices]
    while sum(map(len, slices)) < count:
        varied = plain_slices ** random.uniform(0.6, 1.6) + random.normal(
            0, random.uniform(0, 0.06), plain_slices.shape
        )
        slices.append(np.clip(varied, 0, 1).astype(np.float32)[..., :: random.choice([-1, 1]), :])
    return np.ascontiguousarray(np.concatenate(slices)[:count])


def slices_of_pictures(folder: Path, bundle: Bundle, count: int) -> FloatArray:
    """[about count, 1, size, size]: readable PNG and JPEG files, spread evenly over the folder."""
    names = sorted(name for name in find_files(folder) if is_picture_name(name))
    tensors = []
    for name in names[:: max(1, len(names) // count)]:
        try:
            tensors.append(preprocess_image(read_picture(folder / name).pixels, bundle.preprocessing))
        except (UnreadableImage, NotAssessable):
            continue
    return np.stack(tensors)


def speed(bundle: Bundle, tensor: FloatArray, threads: int, rounds: int) -> tuple[list[Row], list[float]]:
    """The rows, and the rate of the int8 network in each round, in images per second."""
    once = replace(bundle, mirror=False)  # a bundle may run the network twice for a slice
    engines = {precision: OpenVinoEngine(once, precision, threads) for precision in ("int8", "fp32")}
    torch.set_num_threads(threads)
    network = TorchEngine(once)._net
    pictures = torch.from_numpy(tensor)

    def eager() -> None:
        with torch.inference_mode():
            for start in range(0, len(pictures), BATCH):
                network(pictures[start : start + BATCH])

    turns: dict[str, Callable[[], object]] = {"torch": eager}
    turns |= {name: lambda engine=engine: engine.run(tensor) for name, engine in engines.items()}  # type: ignore[misc]
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            time.sleep(0.1)  # let the threads of the previous engine go to sleep
            elapsed, _ = processor_seconds(turn)
            if number:  # the first round warms up
                rates[name].append(len(tensor) / elapsed)
    peer = "MONAI, torch eager fp32"
    return [
        against("network int8", rates["int8"], rates["torch"], peer, "images/s", 6.0),
        replace(against("network fp32", rates["fp32"], rates["torch"], peer, "images/s", 1.0), goal=None),
    ], rates["int8"]


def roofline(bundle: Bundle, rates: Sequence[float], threads: int, repeats: int) -> list[Row]:
    limit = int8_limit(bundle.openvino_model("int8"), bundle.preprocessing.size, BATCH, threads, repeats)
    best = max(rates)  # against the best rate of the convolutions
    facts = f"our best round; peak {limit.peak / 1e9:.0f} Gop/s, {limit.operations / 1e9:.2f} Gop an image"
    share = Row(
        "share of the int8 roofline", best, "images/s", len(rates), limit.images_a_second, "int8 peak",
        best / limit.images_a_second, 0.6, facts,
    )  # fmt: skip
    alone = plain("time that the convolutions would take alone", [best * limit.alone], "of the network's")
    return [share, alone]


def agreement(bundle: Bundle, tensor: FloatArray, threads: int, kind: str) -> Row:
    classes = len(bundle.identity.classes)  # the first outputs
    labels = [
        OpenVinoEngine(bundle, precision, threads).run(tensor).logits[:, :classes].argmax(axis=1)
        for precision in ("int8", "fp32")
    ]
    same = float((labels[0] == labels[1]).mean())
    counts = ", ".join(f"{number} {name}" for name, number in _counted(bundle, labels[1]).items())
    return at_least("class agreement of int8 with fp32", [100 * same], 99.5, "%", f"{len(tensor)} {kind}: {counts}")


def _counted(bundle: Bundle, labels: np.ndarray) -> dict[str, int]:
    return {label.name: int((labels == index).sum()) for index, label in enumerate(bundle.identity.classes)}


def reading(folder: Path, bundle: Bundle, slices: int, rounds: int) -> list[Row]:
    """A row for each transfer syntax."""
    rows, engine, definition = [], OpenVinoEngine(bundle, "int8", threads=1), as_stored(bundle.preprocessing)
    for name, syntax in (("uncompressed", ExplicitVRLittleEndian), ("JPEG lossless", JPEGLosslessSV1)):
        if syntax == JPEGLosslessSV1 and not dcmtk.installed("dcmcjpeg"):
            print("JPEG lossless: skipped, dcmcjpeg (DCMTK) is not installed")
            continue
        files = head_series(folder / f"{slices}-{name}", grid=_grid(slices), transfer_syntax=UID(syntax))
        tensor = preprocess(files, definition).tensor
        read = [processor_seconds(lambda files=files: preprocess(files, definition))[1] for _ in range(rounds)]  # type: ignore[misc]
        run = [processor_seconds(lambda tensor=tensor: engine.run(tensor))[1] for _ in range(rounds)]  # type: ignore[misc]
        shares = [100 * mine / network for mine, network in zip(read, run, strict=True)]
        note = f"{median(shares):.0f} % of the network's {1000 * median(run) / slices:.2f} ms"
        each = [1000 * seconds / slices for seconds in read]
        rows.append(at_most(f"reading, {slices} slices {name}", each, READING_MS, "ms a slice", note))
    return rows


def three_d(folder: Path, bundle: Bundle, slices: int, rounds: int) -> Row:
    """Reading and network of a 3-D series, reformatted, against the same slice by slice."""
    files, engine = head_series(folder / "3-D", grid=_grid(slices)), OpenVinoEngine(bundle, "int8", threads=1)
    plain = as_stored(bundle.preprocessing)
    reformatting = replace(plain, slice_spacing_mm=5.0, reformat_below_mm=2.5)

    def cost(definition: Preprocessing) -> float:
        return processor_seconds(lambda: engine.run(preprocess(files, definition).tensor))[1]

    pairs = [(cost(reformatting), cost(plain)) for _ in range(rounds)]
    note = f"{median(made for made, _ in pairs):.2f} s instead of {median(each for _, each in pairs):.2f}"
    shares = [100 * made / each for made, each in pairs]
    return at_most(f"3-D series of {slices} slices, reformatted", shares, 50.0, "% of the time slice by slice", note)


def _grid(slices: int) -> Grid:
    return Grid(slices=slices, slice_mm=144 / slices)


def busy(folder: Path, bundle: Bundle, engine: OpenVinoEngine, threads: int, rounds: int) -> Row:
    files = head_series(folder / "busy", grid=_grid(24))
    ratios = []
    for _ in range(rounds):
        wall, processor = processor_seconds(lambda: classify(files, bundle, engine))
        ratios.append(processor / wall)
    return at_most("processors kept busy by one process", ratios, float(threads), "of them", f"{threads} threads")


def main() -> int:
    chosen = arguments(__doc__)
    rounds, bundle, threads = 2 if chosen.quick else 9, load_bundle(default_bundle()), cores()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real = os.environ.get("BRAIN_MRI_DATA")
        count = 48 if chosen.quick else PICTURES
        heads = slices_of_heads(folder, bundle, 1 if chosen.quick else 6, count)
        images = slices_of_pictures(Path(real), bundle, count) if real else heads
        rows, rates = speed(bundle, heads[:BATCH] if chosen.quick else heads[: 8 * BATCH], threads, rounds)
        if has_exact_int8():  # elsewhere no layer is computed as int8
            rows += roofline(bundle, rates, threads, 3 if chosen.quick else 30)
        rows.append(agreement(bundle, images, threads, "pictures" if real else "slices of simulated heads"))
        engine = OpenVinoEngine(bundle, "int8", threads)
        for slices in SERIES[:1] if chosen.quick else SERIES:
            rows += reading(folder, bundle, slices, rounds)
        rows.append(three_d(folder, bundle, 24 * 4 if chosen.quick else SERIES[1], rounds))
        rows.append(busy(folder, bundle, engine, threads, rounds))
    finish(f"Classify: {bundle.identity.name} {bundle.identity.version}", rows, chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
