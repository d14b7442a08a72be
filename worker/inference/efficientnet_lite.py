"""EfficientNet-Lite0, which MONAI lacks, built on MONAI's EfficientNet; docs/bundle.md lists it among the networks.

Source: github.com/tensorflow/tpu, models/official/efficientnet/lite.
"""

from __future__ import annotations

import torch
from monai.networks.nets import EfficientNet
from torch import nn

BLOCKS = (
    "r1_k3_s11_e1_i32_o16", "r2_k3_s22_e6_i16_o24", "r2_k5_s22_e6_i24_o40", "r3_k3_s22_e6_i40_o80",
    "r3_k5_s11_e6_i80_o112", "r4_k5_s22_e6_i112_o192", "r1_k3_s11_e6_i192_o320",
)  # fmt: skip

# The features are `channel_statistics` of these stages' output, which tell whether a slice resembles the training data;
# what is pooled before the last layer tells the class and little else.
FEATURE_STAGES = 5


class EfficientNetLite0(EfficientNet):  # type: ignore[misc]  # MONAI has no types
    """B0 without squeeze-and-excitation and with ReLU6 for swish, designed for integer arithmetic."""

    def __init__(self, spatial_dims: int, in_channels: int, num_classes: int) -> None:
        super().__init__(list(BLOCKS), spatial_dims=spatial_dims, in_channels=in_channels, num_classes=num_classes)
        self.set_swish()

    def set_swish(self, memory_efficient: bool = True) -> None:
        """Use ReLU6 everywhere, whichever swish is requested."""
        for module in self.modules():
            if hasattr(module, "_swish"):
                module._swish = nn.ReLU6()


def channel_statistics(maps: torch.Tensor) -> torch.Tensor:
    """The mean and the standard deviation of each channel over the image: [n, C, h, w] → [n, 2 C]."""
    mean = maps.mean(dim=(2, 3))
    deviation = (maps - mean[:, :, None, None]).square().mean(dim=(2, 3)).sqrt()
    return torch.cat([mean, deviation], dim=1)
