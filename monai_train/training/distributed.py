"""Training on several devices: `torchrun --nproc-per-node 2 -m monai_train train ...`, a process per device.

Every rank draws its own batches and gradients are averaged, so N ranks with batches of B train like a single process
with batches of N x B, except for batch norm: each rank normalises its own batch, and the running statistics are those
of rank 0. Only rank 0 validates and writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from worker.errors import StartError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that torchrun started; without torchrun, the only process."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """Whether this process validates and writes."""
        return self.rank == 0

    def synchronised(self, model: nn.Module) -> nn.Module:
        """The model, with its gradients averaged over the ranks in every backward pass."""
        return model if self.size == 1 else DistributedDataParallel(model)

    def broadcast(self, value: float) -> float:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.broadcast(tensor, src=0)
        return float(tensor)

    def main_first(self, work: Callable[[], T]) -> T:
        """Do the work on rank 0, then on the others, which find the files that rank 0 wrote."""
        if not self.is_main:
            self.broadcast(0.0)
        done = work()
        if self.is_main:
            self.broadcast(0.0)
        return done


def is_main_process() -> bool:
    """Whether this process is rank 0, or the only process."""
    return os.environ.get("RANK", "0") == "0"


def require_device(device: str) -> None:
    """Raises StartError for a device that PyTorch does not have on this machine, and says what it has."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if available.get(device):
        return
    has = ", ".join(name for name, is_here in available.items() if is_here)
    if device != "cuda":
        raise StartError("device-unavailable", f"there is no device '{device}' here: use one of {has}")
    if torch.version.cuda is None:
        why = f"PyTorch {torch.__version__} is built without CUDA; install a build with it"
    else:
        why = (
            f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}, but finds no GPU or no driver for it"
        )
    raise StartError("device-unavailable", f"CUDA was asked for, but {why}, or use --device {has.split(', ')[-1]}")


@contextmanager
def process_group(device: str) -> Iterator[Ranks]:
    """Join the other processes that torchrun started: by NCCL for `cuda`, with a GPU per process, otherwise by Gloo."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Ranks()
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()
