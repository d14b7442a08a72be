"""A default is replaced only by a bundle that is not worse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from monai_train.export.install import install_default
from worker.errors import StartError
from worker.inference.bundle import load_bundle


def test_default_is_replaced_only_by_one_that_is_not_worse(exported: Path, tiny_data: Path, tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    first = install_default(exported, tiny_data, bundles)
    assert load_bundle(first).identity.sha256 == load_bundle(exported).identity.sha256
    assert install_default(exported, tiny_data, bundles) == first  # as good as itself
    assert [path.name for path in bundles.iterdir()] == ["tiny-export"]
    worse = tmp_path / "worse"
    shutil.copytree(exported, worse)
    _turn_classes_round(worse)
    with pytest.raises(StartError, match="the present default has"):
        install_default(worse, tiny_data, bundles)
    assert load_bundle(first).identity.sha256 == load_bundle(exported).identity.sha256


def _turn_classes_round(bundle: Path) -> None:
    """The int8 network replaced by one that has the class scores in another order, hashes and all."""
    import hashlib

    import openvino
    from openvino import opset13

    model = openvino.Core().read_model(exported_model := bundle / "models/model.xml")
    logits = next(result for result in model.get_results() if "logits" in result.output(0).get_names())
    source = logits.input_value(0)
    order = opset13.constant(np.array([1, 2, 3, 0]))
    turned = opset13.gather(source, order, opset13.constant(1))
    logits.input(0).replace_source_output(turned.output(0))
    source.get_tensor().set_names(set())
    turned.output(0).get_tensor().set_names({"logits"})
    model.validate_nodes_and_infer_types()
    openvino.save_model(model, bundle / "turned.xml")
    (bundle / "turned.xml").rename(exported_model)
    (bundle / "turned.bin").rename(exported_model.with_suffix(".bin"))
    described = json.loads((bundle / "worker.json").read_text())
    for name in ("models/model.xml", "models/model.bin"):
        described["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    (bundle / "worker.json").write_text(json.dumps(described))
