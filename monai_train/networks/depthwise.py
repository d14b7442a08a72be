"""Depthwise convolutions with gradients in float32, where oneDNN has no fast bfloat16 kernel.

Measured on two cores with AVX-512 BF16 and no AMX: with a stride of 2 or a kernel of 5 the bfloat16 gradient takes
1.2 to 10 times as long.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class _Float32Gradient(torch.autograd.Function):
    """A convolution in the type of its inputs, with gradients in float32."""

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, weight: torch.Tensor, geometry: tuple[Any, ...]) -> torch.Tensor:
        ctx.save_for_backward(image, weight)
        ctx.geometry = geometry
        return nn.functional.conv2d(image, weight, None, *geometry)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        image, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        of_image, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient.float(), image.float(), weight.float(), None, stride, padding, dilation, False, [0, 0], groups,
            [True, True, False],
        )  # fmt: skip
        return of_image.to(image.dtype), of_weight.to(weight.dtype), None


class DepthwiseConv2d(nn.Conv2d):
    """nn.Conv2d with fast gradients under bfloat16 autocast on a CPU; otherwise identical to nn.Conv2d."""

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if not (self.training and input.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            plain: torch.Tensor = super()._conv_forward(input, weight, bias)
            return plain
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        output: torch.Tensor = _Float32Gradient.apply(input.bfloat16(), weight.bfloat16(), geometry)  # type: ignore[no-untyped-call]
        return output


def use_fast_depthwise(model: nn.Module) -> None:
    """Replace, in place, every depthwise convolution that trains faster with gradients in float32."""
    for module in model.modules():
        if not isinstance(module, nn.Conv2d) or module.bias is not None:
            continue
        depthwise = module.groups == module.in_channels > 1
        if depthwise and (max(module.stride) > 1 or max(module.kernel_size) > 3):
            module.__class__ = DepthwiseConv2d
