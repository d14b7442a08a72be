"""Which transforms of MONAI a bundle may name, and with which arguments; decides without importing MONAI.

A name that is not in `_ARGUMENTS` is refused, and so is an argument that is not listed for it, or of another kind. So
no transform reads a file, calls a function or draws random numbers.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.errors import StartError

PREFIX = "monai.transforms."
COMPOSE = f"{PREFIX}Compose"
LARGEST_SIDE, LARGEST_TENSOR = 1024, 1 << 25  # of a tensor: values along an axis, and values of a channel
FINEST_SPACING_MM = 0.25
_MOST_STEPS = 32

Check = Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_number_or_null(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _numbers(least: float, most: float, null: bool = False) -> Check:
    """A check for a number, or up to three, within limits."""

    def fits(value: Any) -> bool:
        if value is None:
            return null
        items = value if isinstance(value, list) else [value]
        return 1 <= len(items) <= 3 and all(_is_number(item) and least <= item <= most for item in items)

    return fits


def _integers(least: int, most: int, null: bool = False) -> Check:
    """A check for an integer, or up to three, within limits."""
    fits = _numbers(least, most, null)

    def are_whole(value: Any) -> bool:
        items = value if isinstance(value, list) else [value]
        return fits(value) and all(item is None or isinstance(item, int) for item in items)

    return are_whole


def _sizes(value: Any) -> bool:
    """The sides of a tensor; MONAI takes -1 for "as it is"."""
    sides = value if isinstance(value, list) else [value]
    return _integers(-1, LARGEST_SIDE)(value) and 0 not in sides and math.prod(map(abs, sides)) <= LARGEST_TENSOR


def _among(*words: str) -> Check:
    return lambda value: isinstance(value, str) and value in words


def _axis_codes(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 3 and all(set(value) & set(pair) for pair in ("LR", "PA", "IS"))


_CHANNEL_WISE = {"channel_wise": _is_flag}
_RANGE = {"b_min": _is_number_or_null, "b_max": _is_number_or_null, "clip": _is_flag}
_PERCENTILES = {"lower": _numbers(0, 100), "upper": _numbers(0, 100)}
_METHOD = {"method": _among("symmetric", "end")}
_IGNORED: dict[str, Check] = {
    "image_only": _is_flag,
    "ensure_channel_first": _is_flag,
    "channel_dim": _among("no_channel"),
    "data_type": _among("tensor"),
    "track_meta": _is_flag,
}

# By transform, its arguments. The first four say how an array gets into a tensor, which the worker does.
_ARGUMENTS: dict[str, dict[str, Check]] = {
    "LoadImage": {key: _IGNORED[key] for key in ("image_only", "ensure_channel_first")},
    "EnsureChannelFirst": {key: _IGNORED[key] for key in ("channel_dim",)},
    "EnsureType": {key: _IGNORED[key] for key in ("data_type", "track_meta")},
    "ToTensor": {key: _IGNORED[key] for key in ("track_meta",)},
    "ScaleIntensity": {
        "minv": _is_number_or_null,
        "maxv": _is_number_or_null,
        "factor": _is_number_or_null,
        **_CHANNEL_WISE,
    },
    "ScaleIntensityRange": {"a_min": _is_number, "a_max": _is_number, **_RANGE},
    "ScaleIntensityRangePercentiles": {**_PERCENTILES, **_RANGE, "relative": _is_flag, **_CHANNEL_WISE},
    "NormalizeIntensity": {
        "subtrahend": _is_number_or_null,
        "divisor": _is_number_or_null,
        "nonzero": _is_flag,
        **_CHANNEL_WISE,
    },
    "ClipIntensityPercentiles": {**_PERCENTILES, **_CHANNEL_WISE},
    "ThresholdIntensity": {"threshold": _is_number, "above": _is_flag, "cval": _is_number},
    "AdjustContrast": {"gamma": _numbers(0.01, 100), "invert_image": _is_flag, "retain_stats": _is_flag},
    "HistogramNormalize": {"num_bins": _integers(2, 65536), "min": _is_number, "max": _is_number},
    "Orientation": {"axcodes": _axis_codes},
    "Spacing": {"pixdim": _numbers(FINEST_SPACING_MM, 100), "mode": _among("bilinear", "nearest")},
    "Resize": {
        "spatial_size": _sizes,
        "size_mode": _among("all", "longest"),
        "mode": _among("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area"),
        "align_corners": lambda value: value is None or _is_flag(value),
        "anti_aliasing": _is_flag,
    },
    "CenterSpatialCrop": {"roi_size": _sizes},
    "SpatialPad": {"spatial_size": _sizes, **_METHOD},
    "ResizeWithPadOrCrop": {"spatial_size": _sizes, **_METHOD},
    "DivisiblePad": {"k": _integers(1, 256), **_METHOD},
    "CropForeground": {"margin": _integers(0, 256), "k_divisible": _integers(1, 256), "allow_smaller": _is_flag},
    "Flip": {"spatial_axis": _integers(-3, 2, null=True)},
    "Rotate90": {"k": _integers(0, 3), "spatial_axes": _integers(-3, 2)},
    "RepeatChannel": {"repeats": _integers(1, 4)},
}
_REQUIRED = {
    "ScaleIntensityRange": ("a_min", "a_max"),
    "ScaleIntensityRangePercentiles": ("lower", "upper", "b_min", "b_max"),
    "ClipIntensityPercentiles": ("lower", "upper"),
    "ThresholdIntensity": ("threshold",),
    "AdjustContrast": ("gamma",),
    "Orientation": ("axcodes",),
    "Spacing": ("pixdim",),
    "Resize": ("spatial_size",),
    "CenterSpatialCrop": ("roi_size",),
    "SpatialPad": ("spatial_size",),
    "ResizeWithPadOrCrop": ("spatial_size",),
    "DivisiblePad": ("k",),
    "RepeatChannel": ("repeats",),
}
NOT_RUN = frozenset({"LoadImage", "EnsureChannelFirst", "EnsureType", "ToTensor"})
OF_VOLUMES = frozenset({"Orientation", "Spacing"})  # they need the geometry of a volume
TARGETS = frozenset({COMPOSE, *(f"{PREFIX}{name}" for name in _ARGUMENTS)})


@dataclass(frozen=True)
class Step:
    """A transform of MONAI, by its name in `monai.transforms`, with its arguments."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class MonaiTransforms:
    """The preprocessing of a bundle of format 3: a `Compose` of allowed transforms, the first of which is LoadImage."""

    steps: tuple[Step, ...]

    @property
    def needs_geometry(self) -> bool:
        """A transform needs the geometry of a volume."""
        return any(step.name in OF_VOLUMES for step in self.steps)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MonaiTransforms:
        """From the object of a MONAI configuration. Raises StartError preprocessing-invalid, which names the fault."""
        transforms = values.get("transforms")
        if values.get("_target_") != COMPOSE or values.keys() != {"_target_", "transforms"}:
            raise _fault(f'is no object of "_target_": "{COMPOSE}" and "transforms"')
        if not isinstance(transforms, list) or not 1 <= len(transforms) <= _MOST_STEPS:
            raise _fault(f"is no list of 1 to {_MOST_STEPS} transforms")
        steps = []
        for entry in transforms:
            if not isinstance(entry, dict) or not isinstance(entry.get("_target_"), str):
                raise _fault('has an entry that is no object with a "_target_"')
            steps.append(_step(entry["_target_"], {key: value for key, value in entry.items() if key != "_target_"}))
        return cls.of(steps)

    @classmethod
    def of(cls, steps: Sequence[Step]) -> MonaiTransforms:
        """Check transforms and their arguments. Raises StartError preprocessing-invalid, which names the fault."""
        if not steps or steps[0].name != "LoadImage" or any(step.name == "LoadImage" for step in steps[1:]):
            raise _fault("does not begin with LoadImage, or has it twice: it says that axes are MONAI's, x before y")
        return cls(tuple(_step(PREFIX + step.name, step.arguments) for step in steps))

    def to_json(self) -> dict[str, Any]:
        """The object of configs/inference.json."""
        entries = [{"_target_": PREFIX + step.name, **step.arguments} for step in self.steps]
        return {"_target_": COMPOSE, "transforms": entries}


def _step(target: str, arguments: Mapping[str, Any]) -> Step:
    name = target.removeprefix(PREFIX)
    if name not in _ARGUMENTS:
        raise _fault(_unknown(name))
    allowed = _ARGUMENTS[name]
    for key, value in arguments.items():
        if key not in allowed:
            known = ", ".join(allowed) or "none"
            raise _fault(f"has {name} with the argument {_shown(key)}, which is not supported; supported are: {known}")
        if not allowed[key](value):
            raise _fault(f"has {name} with a value of {key} that is not supported: {_shown(value)}")
    for key in _REQUIRED.get(name, ()):
        if key not in arguments:
            raise _fault(f"has {name} without {key}")
    return Step(name, dict(arguments))


def _unknown(name: str) -> str:
    if name.startswith("Rand"):
        return f"has {_shown(name)}, which is for training: leave random transforms out"
    near = difflib.get_close_matches(name, _ARGUMENTS, 1)
    hint = f"did you mean {near[0]}?" if near else f"supported are: {', '.join(_ARGUMENTS)}"
    return f"has the transform {_shown(name)}, which is not supported; {hint}"


def _shown(value: Any) -> str:
    return ascii(value)[:200]


def _fault(text: str) -> StartError:
    return StartError("preprocessing-invalid", f"The preprocessing {text}.")
