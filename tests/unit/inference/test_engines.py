from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.testbed.tiny_bundle import copy_bundle, write_worker_json
from worker.errors import StartError
from worker.inference import engines
from worker.inference.bundle import Bundle, default_bundle, load_bundle
from worker.inference.engines import BATCH, OpenVinoEngine, TorchEngine
from worker.inference.golden import check_golden

SLICES = 2 * BATCH + 3


@pytest.fixture
def tensor(bundle: Bundle) -> np.ndarray:
    size = bundle.preprocessing.size
    return np.random.default_rng(5).random((SLICES, 1, size, size), np.float32)


def test_engines_agree_on_every_output(bundle: Bundle, tensor: np.ndarray) -> None:
    torch, openvino = TorchEngine(bundle).run(tensor), OpenVinoEngine(bundle, "fp32").run(tensor)
    assert torch.logits.shape == (SLICES, 4)
    assert torch.features.shape == (SLICES, 32)
    assert torch.maps.shape[:2] == (SLICES, 4)
    for name in ("logits", "features", "maps"):
        np.testing.assert_allclose(getattr(openvino, name), getattr(torch, name), atol=1e-3)


def test_int8_is_near_but_not_the_same(bundle: Bundle, tensor: np.ndarray) -> None:
    exact, quantised = OpenVinoEngine(bundle, "fp32").run(tensor), OpenVinoEngine(bundle, "int8").run(tensor)
    assert 0 < np.abs(exact.logits - quantised.logits).max() < 0.5 * np.abs(exact.logits).max()


@pytest.mark.parametrize("shipped", [False, True])
def test_a_processor_without_exact_int8_gives_the_answers_of_one_with_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, shipped: bool
) -> None:
    """Golden cases hold what int8 may deviate by, which was measured on a processor that has it."""
    monkeypatch.setattr(engines, "has_exact_int8", lambda: False)
    served = load_bundle(default_bundle()) if shipped else bundle
    assert check_golden(served, OpenVinoEngine(served, "fp32")) < check_golden(served, OpenVinoEngine(served, "int8"))


@pytest.mark.parametrize(
    ("flags", "machine", "exact"),
    [
        ("sse4_2 avx2 fma", "x86_64", False),
        ("avx2 avx512f avx512bw", "x86_64", False),
        ("avx2 avx512_vnni amx_int8", "x86_64", True),
        ("avx2 avx_vnni", "x86_64", True),
        ("asimd", "aarch64", True),
    ],
)
def test_exact_int8_is_a_matter_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, flags: str, machine: str, exact: bool
) -> None:
    described = f"model name\t: a processor\nflags\t\t: fpu {flags}\nbugs\t\t:\n"
    monkeypatch.setattr(engines.platform, "machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", lambda _path: described)
    assert engines.has_exact_int8.__wrapped__() is exact


def test_maps_average_to_the_logits(bundle: Bundle, tensor: np.ndarray) -> None:
    outputs = OpenVinoEngine(bundle, "fp32").run(tensor)
    np.testing.assert_allclose(outputs.maps.mean(axis=(2, 3)), outputs.logits, atol=1e-3)


def test_a_slice_has_one_answer_in_any_batch(bundle: Bundle, tensor: np.ndarray) -> None:
    engine = OpenVinoEngine(bundle, "int8", threads=2)
    together = engine.run(tensor).logits
    alone = np.concatenate([engine.run(tensor[index : index + 1]).logits for index in range(SLICES)])
    np.testing.assert_allclose(alone, together, atol=1e-4)


def test_a_mirroring_bundle_says_the_same_of_a_picture_and_its_mirror_image(
    bundle: Bundle, tensor: np.ndarray, tmp_path: Path
) -> None:
    both = replace(bundle, mirror=True)
    for engine in (TorchEngine(both), OpenVinoEngine(both, "fp32")):
        one, other = engine.run(tensor), engine.run(np.ascontiguousarray(tensor[..., ::-1]))
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)
        np.testing.assert_allclose(one.maps, other.maps[..., ::-1], atol=1e-5)
        plain = TorchEngine(bundle).run(tensor).logits
        assert np.abs(one.logits - plain).max() > 1e-4


def test_weights_of_another_network_are_refused(bundle_folder: Path, tmp_path: Path) -> None:
    changed = copy_bundle(bundle_folder, tmp_path / "b")
    weights = load_file(changed / "models/model.safetensors")
    weights["fc.weight"] = weights["fc.weight"][:, :8].copy()
    save_file(weights, changed / "models/model.safetensors")
    write_worker_json(changed)
    with pytest.raises(StartError, match="do not fit"):
        TorchEngine(load_bundle(changed))


def test_a_network_with_other_outputs_than_described_is_refused(
    bundle_folder: Path, bundle_two_folder: Path, tmp_path: Path
) -> None:
    changed = copy_bundle(bundle_folder, tmp_path / "b")
    inference = (bundle_two_folder / "configs/inference.json").read_bytes()
    (changed / "configs/inference.json").write_bytes(inference)
    write_worker_json(changed, format=2)
    bundle = load_bundle(changed)
    with pytest.raises(StartError, match=r"output logits of the int8 network is \[\?,4\]; expected are 13"):
        OpenVinoEngine(bundle, "int8")
    with pytest.raises(StartError, match="do not fit"):
        TorchEngine(bundle)


@pytest.mark.parametrize("name", ["models/model_fp32.xml", "models/model_fp32.bin"])
def test_broken_openvino_network_is_refused(bundle_folder: Path, tmp_path: Path, name: str) -> None:
    changed = copy_bundle(bundle_folder, tmp_path / "b")
    (changed / name).write_bytes(b"")
    write_worker_json(changed)
    with pytest.raises(StartError, match="cannot load the fp32 network"):
        OpenVinoEngine(load_bundle(changed), "fp32")
