"""A classifier of MONAI's tutorial becomes a bundle that answers as the tutorial's own code does."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import DenseNet
from PIL import Image
from pydicom import dcmread

from monai_train.export.imported.import_model import import_model
from tests.testbed import tutorial
from worker.errors import NotAssessable, StartError
from worker.inference.bundle import load_bundle, verified_identity
from worker.inference.classify import classify
from worker.inference.engines import OpenVinoEngine, TorchEngine
from worker.inference.run_bundle import classify_folder, series_below

ARGUMENTS = next(line for line in tutorial.MODEL.splitlines() if line.startswith("network_arguments"))
GRAPH = tutorial.MODEL.replace(ARGUMENTS, "")


def test_the_bundle_answers_as_the_tutorial_does_on_the_same_pictures(
    made: tutorial.Made, imported: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(imported)
    [files] = series_below(made.dicom / "top-1").values()
    pictures = []
    for file in files:
        pictures.append(tmp_path / f"{file.stem}.png")
        Image.fromarray(dcmread(file).pixel_array).save(pictures[-1])
    expected = tutorial.predictions(made.network, pictures)
    result = classify(files, bundle, OpenVinoEngine(bundle, "int8"))
    assert np.array([item.probabilities for item in result.slices]) == pytest.approx(expected, abs=1e-4)
    assert result.label == "top"
    by_torch = classify(files, bundle, TorchEngine(bundle))
    assert by_torch.probabilities == pytest.approx(result.probabilities, abs=1e-4)


def test_every_series_is_answered_by_what_it_shows(made: tutorial.Made, imported: Path) -> None:
    bundle = load_bundle(imported)
    engine = OpenVinoEngine(bundle)
    for kind in tutorial.KINDS:
        [files] = series_below(made.dicom / f"{kind}-0").values()
        result = classify(files, bundle, engine)
        assert (result.label, result.reason) == (kind, None)
        assert result.key_image is not None
        if kind == "none":
            assert result.key_image.activation is None
            continue
        assert result.key_image.activation is not None
        assert all(item.activation is not None for item in result.slices if item.deciding)


def test_the_bundle_says_what_it_is_and_holds_no_name(made: tutorial.Made, imported: Path) -> None:
    identity = verified_identity(imported)
    assert (identity.name, identity.version, identity.family) == ("spot-finder", "1.2.0", "DenseNet")
    assert [item.is_lesion for item in identity.classes] == [True, True, False]
    described = json.loads((imported / "worker.json").read_text())
    assert described["input"] == {"kind": "slices", "shape": [1, 64, 64]}
    assert described["out_of_distribution"]["maximum_distance"] < 1e9
    for path in imported.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"Family" not in content
            assert b"ID-" not in content, path
    assert "Spot at the top" in (imported / "docs/README.md").read_text()


def test_images_unlike_those_of_the_import_are_out_of_distribution(
    made: tutorial.Made, imported: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(imported)
    files = tutorial.write_series(tmp_path, "top", seed=7)
    for file in files:
        ds = dcmread(file)
        ds.PixelData = np.random.default_rng(1).integers(0, 2000, (64, 64), np.uint16).tobytes()
        ds.save_as(file)
    result = classify(files, bundle, OpenVinoEngine(bundle))
    assert result.reason == "out-of-distribution"
    assert "with which the model was imported" in str(result.detail)
    odd = tutorial.write_series(tmp_path / "odd", "top", seed=8, Rows=32, Columns=128)
    with pytest.raises(NotAssessable, match="1 x 128 x 32; the model reads 1 x 64 x 64"):
        classify(odd, bundle, OpenVinoEngine(bundle))


@pytest.mark.parametrize("kind", ["scripted", "traced with softmax", "onnx", "onnx of a single image with softmax"])
def test_graphs_answer_as_the_network_does(made: tutorial.Made, imported: Path, tmp_path: Path, kind: str) -> None:
    network = torch.nn.Sequential(made.network, torch.nn.Softmax(1)) if "softmax" in kind else made.network
    path = tmp_path / ("graph.onnx" if "onnx" in kind else "graph.pt")
    if "onnx" not in kind:
        with warnings.catch_warnings(action="ignore"):  # torch deprecates TorchScript, which people have
            made_script = torch.jit.script if kind == "scripted" else torch.jit.trace
            made_script(network, *([] if kind == "scripted" else [torch.zeros(1, 1, 64, 64)])).save(str(path))
    elif kind == "onnx":
        tutorial.write_onnx(network, path, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    else:
        tutorial.write_onnx(network, path)
    (tmp_path / "model.toml").write_text(GRAPH)
    out, notes = import_model(path, tmp_path / "model.toml", made.dicom, tmp_path / "bundle")
    assert [note for note in notes if "probabilities" in note] == notes
    assert bool(notes) == ("softmax" in kind)
    bundle, reference = load_bundle(out), load_bundle(imported)
    [files] = series_below(made.dicom / "left-2").values()
    result = classify(files, bundle, OpenVinoEngine(bundle))
    expected = classify(files, reference, OpenVinoEngine(reference))
    assert result.label == "left"
    assert result.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
    assert all(item.activation is None for item in result.slices)
    with pytest.raises(StartError, match="OpenVINO engine"):
        TorchEngine(bundle)


VOLUME = """
[[transform]]
name = "LoadImage"
[[transform]]
name = "EnsureChannelFirst"
[[transform]]
name = "Orientation"
axcodes = "RAS"
[[transform]]
name = "Spacing"
pixdim = [2, 2, 5]
[[transform]]
name = "NormalizeIntensity"
[[transform]]
name = "Resize"
spatial_size = [32, 32, 32]
"""


def test_a_network_of_volumes_gives_a_series_one_answer(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = DenseNet(spatial_dims=3, in_channels=1, out_channels=3, **tutorial.NETWORK).eval()
    torch.save({"epoch": 7, "state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}},
               tmp_path / "volume.pt")  # fmt: skip
    (tmp_path / "model.toml").write_text(tutorial.MODEL[: tutorial.MODEL.index("[[transform]]")] + VOLUME)
    files = tutorial.write_series(tmp_path / "dicom", "left", 10)
    out, notes = import_model(tmp_path / "volume.pt", tmp_path / "model.toml", tmp_path / "dicom", tmp_path / "out")
    assert notes == ["no image will be called out of distribution: the folder has 1 volume, and limits need 20"]
    [answer] = classify_folder(out, tmp_path / "dicom")
    bundle = load_bundle(out)
    result = classify(list(reversed(files)), bundle, OpenVinoEngine(bundle))
    assert len({item.probabilities for item in result.slices}) == 1
    assert (len(result.slices), sum(item.deciding for item in result.slices)) == (10, 0)
    assert result.probabilities == answer["probabilities"]
    torch_result = classify(files, bundle, TorchEngine(bundle))
    assert torch_result.probabilities == pytest.approx(result.probabilities, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"text": ('name = "none"', 'name = "left"')}, "two classes have the same name"),
        ({"text": ('name = "ScaleIntensity"', 'name = "ScaleIntensty"')}, "did you mean ScaleIntensity"),
        ({"text": ('name = "ScaleIntensity"', 'name = "RandFlip"')}, "leave random transforms out"),
        ({"text": ('growth_rate = 8', 'growth_rate = 9')}, "differences.*instead of"),
        ({"drop": "none"}, "has 3 outputs, but 2 classes given: left, top"),
        ({"dicom": True}, "does not exist"),
        ({"nan": True}, "infinite or no numbers: features.conv0.weight"),
        ({"pickle": True}, "save model.state_dict"),
    ],
)  # fmt: skip
def test_a_fault_is_named_and_nothing_is_written(
    made: tutorial.Made, tmp_path: Path, changes: dict[str, object], fault: str
) -> None:
    text, checkpoint = tutorial.MODEL, made.checkpoint
    if isinstance(pair := changes.get("text"), tuple):
        assert pair[0] in text
        text = text.replace(*pair)
    if "drop" in changes:
        start, end = text.index('[[class]]\nname = "none"'), text.index("[[transform]]")
        text = text[:start] + text[end:]
    if "nan" in changes:
        state = {key: value.clone() for key, value in made.network.state_dict().items()}
        state["features.conv0.weight"][0] = float("nan")
        checkpoint = tmp_path / "nan.pth"
        torch.save(state, checkpoint)
    if "pickle" in changes:
        checkpoint = tmp_path / "whole.pth"
        torch.save(made.network, checkpoint)
    (tmp_path / "model.toml").write_text(text)
    dicom = tmp_path / "nowhere" if "dicom" in changes else made.dicom
    with pytest.raises(StartError, match=fault):
        import_model(checkpoint, tmp_path / "model.toml", dicom, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("tmp*"))
