"""Gradients that torch steps are scaled by two factors where one would lose its digits."""

import pytest
import torch

from fused_rmsprop.torch.stepping import _scaled


@pytest.mark.parametrize(
    ("dtype", "grad", "scale"),
    [(torch.float32, 1e38, 1e-44), (torch.bfloat16, 1e38, 1e-44), (torch.float64, 1e300, 1e-320)],
)
def test_a_subnormal_scale_keeps_its_digits(dtype: torch.dtype, grad: float, scale: float) -> None:
    exact = torch.tensor([grad], dtype=dtype).double() * 2.0**-60 * (scale * 2.0**60)
    scaled = _scaled(torch.tensor([grad], dtype=dtype), scale)
    assert scaled.dtype == dtype
    torch.testing.assert_close(scaled.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_other_scales_keep_their_bits() -> None:
    grad = torch.tensor([0.1, -3e7, 1e-30])
    assert torch.equal(_scaled(grad, 0.3), grad * 0.3)
