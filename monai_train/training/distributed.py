"""Training on several devices: `torchrun --nproc-per-node 2 -m monai_train train ...`, one process a device.

Every rank draws batches of its own and gradients are averaged, so N ranks do with batches of B what one does with
batches of N x B, but for batch norm: each rank normalises its own batch, and the running statistics are rank 0's.
Rank 0 alone judges and writes.
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

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process and how many there are; a process that torchrun did not start is the only one."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this is the process that judges and writes."""
        return self.rank == 0

    def share(self, model: nn.Module) -> nn.Module:
        """The same model; its gradients become the mean over the ranks in every backward pass."""
        return model if self.size == 1 else DistributedDataParallel(model)

    def tell(self, value: float) -> float:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        told = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.broadcast(told, src=0)
        return float(told)

    def first(self, work: Callable[[], T]) -> T:
        """Do the work on rank 0 and then on the others, which find the files that it left."""
        if not self.leads:
            self.tell(0.0)
        done = work()
        if self.leads:
            self.tell(0.0)
        return done


def leads() -> bool:
    """Whether this process is the only one, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Meet the other processes that torchrun started: by NCCL for `cuda`, a GPU each, else by Gloo."""
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
