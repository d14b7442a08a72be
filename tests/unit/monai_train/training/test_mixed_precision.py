from __future__ import annotations

import pytest
import torch

from monai_train.training import mixed_precision as module
from monai_train.training.mixed_precision import has_fast_bfloat16, mixed_precision


@pytest.mark.parametrize(
    ("fast", "wanted", "expected"),
    [(True, True, torch.bfloat16), (True, False, torch.float32), (False, True, torch.float32)],
)
def test_bfloat16_is_used_where_it_is_wanted_and_fast(
    monkeypatch: pytest.MonkeyPatch, fast: bool, wanted: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(module, "has_fast_bfloat16", lambda _device: fast)
    with mixed_precision("cpu", wanted=wanted):
        assert torch.nn.Linear(4, 2)(torch.ones(1, 4)).dtype == expected


def test_torch_still_tells_whether_the_processor_is_fast_at_bfloat16() -> None:
    assert has_fast_bfloat16("cpu") in (True, False)
