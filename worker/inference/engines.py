"""Tensor → logits, features and activation maps. OpenVINO serves; torch is the reference for its tests."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from safetensors import SafetensorError

from worker.errors import StartError
from worker.inference.bundle import Bundle
from worker.pixels.arrays import FloatArray

Precision = Literal["int8", "fp32"]
BATCH = 16
_EXACT_INT8 = frozenset({"avx512_vnni", "avx_vnni"})  # of an x86 processor


@dataclass(frozen=True)
class EngineOutputs:
    """`logits` [slices, outputs] before temperature, `features` [slices, F], `maps` [slices, outputs, h, w].

    The outputs are the classes, and of a bundle of format 2 the sequences and regions after them. `maps` are 0 x 0
    where the network has none; of a network that reads volumes there is one row for the series.
    """

    logits: FloatArray
    features: FloatArray
    maps: FloatArray


class Engine(Protocol):
    """Runs the network of a bundle."""

    @property
    def precision(self) -> Precision: ...

    def run(self, tensor: FloatArray) -> EngineOutputs:
        """Run the network on a tensor float32 [slices, 1, size, size], at least one slice."""
        ...


@cache
def has_exact_int8() -> bool:
    """Whether the processor adds products of bytes without overflow.

    An x86 processor without VNNI adds pairs of them in 16 bits, which end at 32,767: probabilities of the shipped
    network were off by up to 0.3.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    try:
        described = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return not _EXACT_INT8.isdisjoint(described.split())


class OpenVinoEngine:
    """The bundle's OpenVINO network on `threads` CPU threads, 16 slices at a time.

    An int8 network keeps its quantised values on every processor. Where their sums would overflow (`has_exact_int8`),
    they are computed as float32, which takes 1.8 times as long. Raises StartError when OpenVINO cannot compile it.
    """

    def __init__(self, bundle: Bundle, precision: Precision = "int8", threads: int = 1) -> None:
        import openvino

        self.precision: Precision = precision
        core = openvino.Core()
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # several inference processes would all be pinned to the first cores
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the CPU has it: other results on another host
        }
        if precision == "int8" and not has_exact_int8():
            options["LP_TRANSFORMS_MODE"] = "NO"
        try:
            compiled = core.compile_model(core.read_model(bundle.openvino_model(precision)), "CPU", options)
            names = ("logits", "features", "maps") if _has_maps(compiled, bundle) else ("logits", "features")
            self._outputs = [compiled.output(name) for name in names]
        except RuntimeError:
            raise StartError("bundle-corrupt", f"OpenVINO cannot load the {precision} network of the bundle") from None
        for output, name, rank in zip(self._outputs, names, (2, 2, 4), strict=False):
            _check_shape(output.partial_shape, name, rank, bundle, precision)
        batch = compiled.input("image").partial_shape[0]
        self._batch = BATCH if batch.is_dynamic else batch.get_length()
        self._request = compiled.create_infer_request()
        self._mirror = bundle.mirror

    def run(self, tensor: FloatArray) -> EngineOutputs:
        """Run the network on a tensor float32 [slices, 1, size, size], at least one slice."""
        return _mirrored(self._run, tensor) if self._mirror else self._run(tensor)

    def _run(self, tensor: FloatArray) -> EngineOutputs:
        batches = []
        for start in range(0, len(tensor), self._batch):
            results = self._request.infer({"image": tensor[start : start + self._batch]})
            batches.append([results[output] for output in self._outputs])
        return _joined(batches)


class TorchEngine:
    """The bundle's network in torch with its safetensors weights, float32: the reference of the parity test.

    Raises StartError when the bundle has no weights, or they do not fit the network.
    """

    precision: Precision = "fp32"

    def __init__(self, bundle: Bundle) -> None:
        import torch
        from safetensors.torch import load_file

        self._torch = torch
        if bundle.network is None:
            detail = "the model was imported as a graph: set [worker] engine to an OpenVINO engine"
            raise StartError("engine-unsupported", detail)
        arguments = {key: value for key, value in bundle.network.items() if key != "_target_"}
        module, _, name = bundle.network["_target_"].rpartition(".")  # one of NETWORK_TARGETS
        try:
            self._net: Any = getattr(import_module(module), name)(**arguments)
            self._net.load_state_dict(load_file(bundle.weights))
        except (TypeError, ValueError, RuntimeError, SafetensorError):
            raise StartError("bundle-corrupt", "the bundle's weights do not fit its network_def") from None
        self._net.eval()
        self._mirror = bundle.mirror
        modules = list(self._net.modules())
        self._linear = [module for module in modules if isinstance(module, torch.nn.Linear)][-1]
        if self._linear.out_features != bundle.outputs:
            detail = f"the network has {self._linear.out_features} outputs; worker.json describes {bundle.outputs}"
            raise StartError("bundle-corrupt", detail)
        pools = (torch.nn.AdaptiveAvgPool2d, torch.nn.AdaptiveAvgPool3d)
        self._pool = [module for module in modules if isinstance(module, pools)][-1]

    def run(self, tensor: FloatArray) -> EngineOutputs:
        """Run the network on a tensor float32 [slices, 1, size, size], at least one slice."""
        return _mirrored(self._run, tensor) if self._mirror else self._run(tensor)

    def _run(self, tensor: FloatArray) -> EngineOutputs:
        from worker.inference.efficientnet_lite import FEATURE_STAGES, EfficientNetLite0, channel_statistics

        captured: dict[str, Any] = {}
        hooks = [
            self._pool.register_forward_pre_hook(lambda module, args: captured.update(spatial=args[0])),
            self._linear.register_forward_pre_hook(lambda module, args: captured.update(features=args[0])),
        ]
        lite = isinstance(self._net, EfficientNetLite0)
        if lite:
            stage = self._net._blocks[FEATURE_STAGES - 1]
            hooks.append(stage.register_forward_hook(lambda module, args, output: captured.update(stage=output)))
        batches = []
        try:
            with self._torch.inference_mode():
                for start in range(0, len(tensor), BATCH):
                    logits = self._net(self._torch.from_numpy(tensor[start : start + BATCH]))
                    weight, bias = self._linear.weight[:, :, None, None], self._linear.bias
                    if captured["spatial"].ndim == 4:
                        maps = self._torch.nn.functional.conv2d(captured["spatial"], weight, bias)
                    else:
                        maps = logits.new_empty((*logits.shape, 0, 0))
                    features = channel_statistics(captured["stage"]) if lite else captured["features"]
                    batches.append([output.numpy() for output in (logits, features, maps)])
        finally:
            for hook in hooks:
                hook.remove()
        return _joined(batches)


def _has_maps(compiled: Any, bundle: Bundle) -> bool:
    """Every network has maps but those of bundles of format 3, which may."""
    return bundle.input is None or any("maps" in output.names for output in compiled.outputs)


def _check_shape(shape: Any, name: str, rank: int, bundle: Bundle, precision: Precision) -> None:
    """Raise StartError for an output of the network that is not [slices, as many as worker.json describes, …]."""
    expected = len(bundle.statistics.mean) if name == "features" else bundle.outputs
    fits = shape.rank.is_static and len(shape) == rank and (shape[1].is_dynamic or shape[1].get_length() == expected)
    if not fits:
        detail = f"output {name} of the {precision} network is {shape}; expected are {expected} values a slice"
        raise StartError("bundle-corrupt", detail)


def _mirrored(run: Callable[[FloatArray], EngineOutputs], tensor: FloatArray) -> EngineOutputs:
    """The mean of the outputs for the slices as they are and mirrored left to right, whose maps are mirrored back."""
    plain, mirrored = run(tensor), run(np.ascontiguousarray(tensor[..., ::-1]))
    half = np.float32(0.5)
    return EngineOutputs(
        half * (plain.logits + mirrored.logits),
        half * (plain.features + mirrored.features),
        half * (plain.maps + mirrored.maps[..., ::-1]),
    )


def _joined(batches: list[list[Any]]) -> EngineOutputs:
    logits, features, *maps = (np.concatenate(parts).astype(np.float32) for parts in zip(*batches, strict=True))
    return EngineOutputs(logits, features, maps[0] if maps else np.empty((*logits.shape, 0, 0), np.float32))
