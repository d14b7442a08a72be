"""Read a checkpoint that was not written here, without running any code in it.

A `state_dict` is read by torch's restricted unpickler, which builds tensors and containers alone. TorchScript and ONNX
are graphs; OpenVINO converts them.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from worker.errors import StartError

Kind = Literal["state_dict", "torchscript", "onnx"]

# Under which key programs put the state_dict in a checkpoint that has more, and what wrappers put before its keys.
_NESTED = ("state_dict", "model_state_dict", "model", "network", "net")
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
_NAMED = 4  # keys in a message


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: `state` of a state_dict, `script` of TorchScript, neither of ONNX."""

    path: Path
    kind: Kind
    sha256: str
    state: Mapping[str, torch.Tensor] | None = None
    script: Any = None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file and say what it is. Raises StartError: unreadable, pickled objects, values that are not finite."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StartError("checkpoint-unreadable", f"cannot read {path}: {error.strerror}") from None
    if path.suffix.lower() == ".onnx":
        return Checkpoint(path, "onnx", sha256)
    if _is_torchscript(path):
        return Checkpoint(path, "torchscript", sha256, script=_read_script(path))
    state = _read_state(path)
    _check_finite(state, path)
    return Checkpoint(path, "state_dict", sha256, state=state)


def _is_torchscript(path: Path) -> bool:
    """Whether it is an archive with code, as torch.jit.save writes it; torch.save of tensors writes none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.partition("/")[2].startswith("code/") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _read_script(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # torch deprecates TorchScript, which people have
            script = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise StartError("checkpoint-unreadable", f"{path} is no TorchScript that this torch reads: {first}") from None
    _check_finite({**dict(script.named_parameters()), **dict(script.named_buffers())}, path)
    return script


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise StartError(
            "checkpoint-unsafe",
            f"{path} holds Python objects, or is no checkpoint. Objects are not loaded, because that may run any code: "
            "save model.state_dict() instead, TorchScript or ONNX",
        ) from None
    except OSError as error:
        raise StartError("checkpoint-unreadable", f"cannot read {path}: {error.strerror}") from None
    except Exception as error:  # bytes that are no checkpoint may raise anything in the unpickler
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise StartError("checkpoint-unreadable", f"{path} is no checkpoint of torch: {first}") from None
    state: Any = loaded
    for key in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise StartError("checkpoint-invalid", f"{path} holds no state_dict")
    tensors = {str(key): value for key, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise StartError("checkpoint-invalid", f"{path} holds no state_dict: it has no tensors")
    return _unwrapped(tensors)


def _unwrapped(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the prefix that DataParallel, torch.compile or a module around the network puts before every key."""
    for prefix in _WRAPPERS:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _check_finite(state: Mapping[str, Any], path: Path) -> None:
    broken = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        named = ", ".join(broken[:_NAMED]) + (" …" if len(broken) > _NAMED else "")
        raise StartError("weights-not-finite", f"{path} has weights that are infinite or no numbers: {named}")
