"""Depthwise convolutions that take their gradient in float32 learn as the plain ones do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from monai_train.networks.depthwise import DepthwiseConv2d, use_fast_depthwise
from monai_train.networks.registry import make_classifier
from worker.inference.efficientnet_lite import EfficientNetLite0


def gradients(conv: nn.Conv2d, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the image and of the weight, under autocast, for a loss that weighs every place differently."""
    image = image.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = conv(image)
    assert found.dtype == torch.bfloat16
    (found.float() * torch.linspace(-1, 1, found.numel()).reshape(found.shape)).sum().backward()
    assert image.grad is not None
    assert conv.weight.grad is not None
    return image.grad, conv.weight.grad


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 1), (5, 2)])
def test_gradient_is_that_of_the_plain_convolution(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, kernel, stride, groups=8, bias=False)
    image = torch.rand(2, 8, 17, 17)
    quick = copy.deepcopy(plain)
    use_fast_depthwise(quick)
    assert type(quick) is DepthwiseConv2d
    exact = copy.deepcopy(plain)
    image_exact = image.clone().requires_grad_()
    found = exact(image_exact)
    (found * torch.linspace(-1, 1, found.numel()).reshape(found.shape)).sum().backward()
    assert exact.weight.grad is not None
    assert image_exact.grad is not None
    for got, wanted in zip(gradients(quick, image), (image_exact.grad, exact.weight.grad), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, wanted, rtol=0.02, atol=0.02 * float(wanted.abs().max()))


def test_only_what_gains_is_changed_and_the_weights_keep_their_names() -> None:
    model = make_classifier("efficientnet-lite0", 4).net
    quick = [module for module in model.modules() if type(module) is DepthwiseConv2d]
    assert len(quick) == 11
    assert all(max(one.stride) > 1 or one.kernel_size[0] > 3 for one in quick)
    assert list(model.state_dict()) == list(EfficientNetLite0(2, 1, 4).state_dict())


def test_inference_is_that_of_the_plain_convolution() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 4, 5, groups=4, bias=False)
    quick = copy.deepcopy(plain)
    use_fast_depthwise(quick)
    image = torch.rand(1, 4, 9, 9)
    assert torch.equal(quick.eval()(image), plain(image))
