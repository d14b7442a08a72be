"""What a bundle may name as preprocessing: transforms of MONAI that run no code of the bundle."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from worker.errors import StartError
from worker.inference.transforms.allowed import COMPOSE, NOT_RUN, TARGETS, MonaiTransforms


def _configured(*transforms: dict[str, Any]) -> dict[str, Any]:
    return {"_target_": COMPOSE, "transforms": [{"_target_": "monai.transforms.LoadImage"}, *transforms]}


def test_a_configuration_is_read_and_written_as_it_was() -> None:
    values = _configured({"_target_": "monai.transforms.Resize", "spatial_size": [64, 64], "mode": "bilinear"})
    assert MonaiTransforms.from_json(values).to_json() == values


@pytest.mark.parametrize(
    ("transform", "fault"),
    [
        ({"_target_": "monai.transforms.Lambda", "func": "print"}, "Lambda', which is not supported"),
        ({"_target_": "os.system", "command": "true"}, "os.system', which is not supported"),
        ({"_target_": "monai.transforms.LoadImage", "reader": "PydicomReader"}, "argument 'reader'"),
        ({"_target_": "monai.transforms.CropForeground", "select_fn": "print"}, "argument 'select_fn'"),
        ({"_target_": "monai.transforms.Resize"}, "Resize without spatial_size"),
        ({"_target_": "monai.transforms.Resize", "spatial_size": [100000, 100000]}, "value of spatial_size"),
        ({"_target_": "monai.transforms.Resize", "spatial_size": [1024, 1024, 1024]}, "value of spatial_size"),
        ({"_target_": "monai.transforms.Spacing", "pixdim": [1e-9, 1, 1]}, "value of pixdim"),
        ({"_target_": "monai.transforms.Orientation", "axcodes": "RAX"}, "value of axcodes"),
        ({"_target_": "monai.transforms.ScaleIntensity", "minv": float("nan")}, "value of minv"),
        ({"_target_": "monai.transforms.ScaleIntensity", "channel_wise": 1}, "value of channel_wise"),
        ({"_target_": "monai.transforms.LoadImage"}, "LoadImage, or has it twice"),
        ({"spatial_size": 3}, 'no object with a "_target_"'),
    ],
)
def test_everything_else_is_refused_with_its_name(transform: dict[str, Any], fault: str) -> None:
    with pytest.raises(StartError, match=fault):
        MonaiTransforms.from_json(_configured(transform))


def test_every_transform_exists_in_monai_with_these_arguments() -> None:
    import inspect

    import monai.transforms

    from worker.inference.transforms.allowed import _ARGUMENTS

    for name, arguments in _ARGUMENTS.items():
        assert f"monai.transforms.{name}" in TARGETS
        parameters = inspect.signature(getattr(monai.transforms, name)).parameters
        if name not in NOT_RUN:
            assert set(arguments) <= set(parameters), name


def test_deciding_loads_neither_monai_nor_numpy() -> None:
    script = "import sys, worker.inference.transforms.allowed; print(sorted({'monai', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
