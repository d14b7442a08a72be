"""What the last layer's outputs mean: the classes, then the sequence and the region that a slice shows.

One linear layer has them all, so every network of the registry can be trained so, and a bundle's `network_def` needs
only their number (docs/bundle.md, format 2). A run that learns neither sequence nor region has the classes alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from monai_train.config import TrainConfig
from monai_train.data.manifest import REGIONS, SEQUENCES


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """How many outputs are classes, sequences and regions, in this order."""

    classes: int
    sequences: int = 0
    regions: int = 0

    @classmethod
    def of(cls, config: TrainConfig, classes: int) -> OutputLayout:
        """The outputs that a run of this configuration learns."""
        both = config.sequence_loss > 0 or config.region_loss > 0  # a bundle has both or neither
        return cls(classes, len(SEQUENCES), len(REGIONS)) if both else cls(classes)

    @property
    def size(self) -> int:
        """The outputs of the last layer."""
        return self.classes + self.sequences + self.regions

    def split(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits or maps [n, size, ...] → those of classes, sequences and regions; the last two may be empty."""
        classes, sequences, regions = torch.split(logits, [self.classes, self.sequences, self.regions], dim=1)
        return classes, sequences, regions
