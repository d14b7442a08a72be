from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.testbed.tiny_bundle import CLASSES, NETWORK, PREPROCESSING, copy_bundle, write_worker_json
from worker.errors import StartError
from worker.inference.bundle import Bundle, default_bundle, load_bundle
from worker.inference.study.fusion import StudyRule


def test_bundle_says_what_its_files_say(bundle: Bundle, bundle_folder: Path) -> None:
    assert bundle.preprocessing == PREPROCESSING
    assert bundle.network == NETWORK
    assert [one.name for one in bundle.identity.classes] == [name for name, *_ in CLASSES]
    assert bundle.identity.class_named("glioma").finding is not None
    assert bundle.identity.class_named("notumor").finding is None
    assert bundle.accepted_input.modalities == ("MR",)
    assert bundle.statistics.components.shape == (1, 32)
    assert "temperature 1" in bundle.identity.parameters
    assert bundle.openvino_model("int8").is_file()
    assert bundle.weights.is_file()


def test_a_bundle_of_format_two_says_how_it_decides(bundle_two: Bundle, bundle: Bundle) -> None:
    decision = bundle_two.decision
    assert decision.layout.classes == ("glioma", "meningioma", "pituitary", "other", "notumor")
    assert (decision.layout.no_lesion, decision.undetermined) == ("notumor", "tumor")
    assert decision.layout.outputs == bundle_two.outputs == 13
    assert decision.rules["T2"].planes == ("axial", "coronal", "sagittal")
    assert not decision.rules["other"].supported
    assert decision.limits.neighbourhood_mm == 10
    assert bundle_two.study == StudyRule(), "without the section, all sequences count alike"
    assert "T1C (axial, coronal, sagittal): lesion from 0.5" in bundle_two.identity.parameters
    assert "other (axial" not in bundle_two.identity.parameters
    assert bundle_two.identity.parameters.isprintable()
    assert bundle_two.identity.undetermined is not None
    assert bundle.identity.undetermined is None
    with pytest.raises(StartError, match="format 1"):
        bundle_two.temperature  # noqa: B018
    with pytest.raises(StartError, match="format 2"):
        bundle.decision  # noqa: B018


def test_any_change_of_worker_json_is_another_bundle(bundle: Bundle, bundle_folder: Path, tmp_path: Path) -> None:
    changed = copy_bundle(bundle_folder, tmp_path / "b")
    write_worker_json(changed, temperature=2.0)
    assert load_bundle(changed).identity.sha256 != bundle.identity.sha256


def _edit_json(name: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | changes))
        if name != "worker.json":
            write_worker_json(folder)

    return edit


def _append(name: str) -> Callable[[Path], None]:
    def append(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.write(b" ")

    return append


def _add(name: str, text: str = "x") -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        (folder / name).write_text(text)
        write_worker_json(folder)

    return add


def _remove_listed(name: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        (folder / name).unlink()
        write_worker_json(folder)

    return remove


def _statistics(**arrays: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        save_file(arrays, folder / "models/features.safetensors")
        write_worker_json(folder)

    return write


def _link(folder: Path) -> None:
    (folder / "docs/README.md").unlink()
    (folder / "docs/README.md").symlink_to(folder / "configs/metadata.json")
    write_worker_json(folder)


def _classes(**changes: Any) -> list[dict[str, Any]]:
    code = {"value": "1", "scheme": "SCT", "meaning": "x"}
    one = {"name": "a", "title": "A", "neoplasm": True, "finding": code, "site": code}
    return [one, one | {"name": "b"} | changes]


ONES = np.ones(4, np.float32)
FAULTS: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "no folder": ("bundle-missing", "no model bundle", lambda folder: (folder / "worker.json").unlink()),
    "changed weights": ("bundle-corrupt", "model.safetensors", _append("models/model.safetensors")),
    "changed network": ("bundle-corrupt", "model.bin", _append("models/model.bin")),
    "missing file": ("bundle-corrupt", "missing", lambda folder: (folder / "models/model.bin").unlink()),
    "never had it": ("bundle-corrupt", "model.bin", _remove_listed("models/model.bin")),
    "unlisted file": ("bundle-corrupt", "not listed", lambda folder: (folder / "x.json").write_text("{}")),
    "not JSON": ("bundle-corrupt", "not JSON", lambda folder: (folder / "worker.json").write_text("{")),
    "not an object": ("bundle-corrupt", "worker.json", lambda folder: (folder / "worker.json").write_text("[]")),
    "configuration not JSON": ("bundle-corrupt", "not JSON", _add("configs/metadata.json", "{")),
    "unknown key": ("bundle-corrupt", "extra", _edit_json("worker.json", extra=1)),
    "newer format": ("bundle-corrupt", "format: must be 1, 2 or 3", _edit_json("worker.json", format=4)),
    "the other format": ("bundle-corrupt", "Field required", _edit_json("worker.json", format=2)),
    "more outputs than classes": (
        "bundle-corrupt",
        "num_classes is 13, but worker.json describes 4 outputs",
        _edit_json("configs/inference.json", network_def=NETWORK | {"num_classes": 13}),
    ),
    "no temperature": ("bundle-corrupt", "temperature", _edit_json("worker.json", temperature=0)),
    "probability over one": (
        "bundle-corrupt",
        "thresholds.minimum_probability",
        _edit_json("worker.json", thresholds={"minimum_probability": 2, "minimum_in_distribution": 0}),
    ),
    "neoplasm without a finding": (
        "bundle-corrupt",
        "classes",
        _edit_json("worker.json", classes=_classes(finding=None)),
    ),
    "two classes of the same name": (
        "bundle-corrupt",
        "same name",
        _edit_json("worker.json", classes=_classes(name="a")),
    ),
    "pickled weights": ("bundle-unsafe", "model.pt", _add("models/model.pt")),
    "a script": ("bundle-unsafe", "run.py", _add("run.py")),
    "a pipe": ("bundle-unsafe", "x.json", lambda folder: os.mkfifo(folder / "x.json")),
    "a linked folder": ("bundle-unsafe", "docs/more", lambda folder: (folder / "docs/more").symlink_to("/etc")),
    "an escape in its version": ("bundle-corrupt", "version: ", _edit_json("worker.json", version="1\x1b[2J")),
    "an escape in a key": ("bundle-corrupt", r"a\x1b[2Jb", _edit_json("worker.json", **{"a\x1b[2Jb": 1})),
    "an escape in a file's name": ("bundle-corrupt", r"a\x1b[2Jb.json", _add("a\x1b[2Jb.json", "[]")),
    "deep JSON": ("bundle-corrupt", "not JSON", lambda folder: (folder / "worker.json").write_text("[" * 5000)),
    "a deep configuration": ("bundle-corrupt", "not JSON", _add("configs/metadata.json", "[" * 5000 + "]" * 5000)),
    "a link": ("bundle-unsafe", "README.md", _link),
    "an expression": ("bundle-unsafe", "expression", _edit_json("configs/metadata.json", run=["$print(1)"])),
    "an expression as key": ("bundle-unsafe", "expression", _edit_json("configs/metadata.json", **{" $x": 1})),
    "a macro": ("bundle-unsafe", "expression", _edit_json("configs/metadata.json", x={"y": "%other.json::a"})),
    "another target": (
        "bundle-unsafe",
        "_target_",
        _edit_json("configs/metadata.json", x=[{"_target_": "os.system", "command": "true"}]),
    ),
    "a target in a list": ("bundle-unsafe", "_target_", _edit_json("configs/metadata.json", _target_=["os.system"])),
    "weights from elsewhere": (
        "bundle-unsafe",
        "pretrained",
        _edit_json("configs/inference.json", network_def=NETWORK | {"pretrained": True}),
    ),
    "no network": ("bundle-corrupt", "network_def", _edit_json("configs/inference.json", network_def=None)),
    "a network that is none": (
        "bundle-corrupt",
        "names no known network",
        _edit_json("configs/inference.json", network_def={"_target_": "worker.inference.run_bundle.run_bundle"}),
    ),
    "preprocessing of another version": (
        "preprocessing-invalid",
        "'blur' is unknown",
        _edit_json("configs/inference.json", preprocessing=PREPROCESSING.to_json() | {"blur": 1}),
    ),
    "statistics that do not fit": (
        "bundle-corrupt",
        "shapes or values",
        _statistics(mean=ONES, components=np.ones((2, 3), np.float32), scale=ONES[:2]),
    ),
    "statistics with a zero": (
        "bundle-corrupt",
        "shapes or values",
        _statistics(mean=ONES, components=np.ones((2, 4), np.float32), scale=0 * ONES[:2]),
    ),
    "statistics of nothing": ("bundle-corrupt", "lacks", _statistics(mean=ONES)),
    "statistics damaged": ("bundle-corrupt", "lacks", _add("models/features.safetensors")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_bundle_is_one_clear_line(bundle_folder: Path, tmp_path: Path, fault: str) -> None:
    reason, message, damage = FAULTS[fault]
    damaged = copy_bundle(bundle_folder, tmp_path / "b")
    damage(damaged)
    with pytest.raises(StartError) as raised:
        load_bundle(damaged)
    assert raised.value.reason == reason
    assert message in raised.value.detail
    assert raised.value.detail.isprintable()


def test_default_bundle_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.inference.bundle.resources.files", lambda package: tmp_path)
    with pytest.raises(StartError, match="0 model bundles"):
        default_bundle()
    (tmp_path / "bundles/one").mkdir(parents=True)
    (tmp_path / "bundles/one/worker.json").touch()
    assert default_bundle() == tmp_path / "bundles/one"
