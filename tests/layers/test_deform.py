"""Deformable convolutions against plain sampling written out, and against themselves in other precisions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from detkit.layers import DeformConv2dPack, deform_conv2d


def sample(plane: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear value of a (H, W) plane at one point, zero outside."""
    height, width = plane.shape
    total = plane.new_zeros(())
    for row in (math.floor(y.detach()), math.floor(y.detach()) + 1):
        for column in (math.floor(x.detach()), math.floor(x.detach()) + 1):
            if 0 <= row < height and 0 <= column < width:
                total = total + plane[row, column] * (1 - (y - row).abs()) * (1 - (x - column).abs())
    return total


def slow_deform_conv2d(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, stride: int, padding: int, dilation: int, groups: int
) -> Tensor:
    """The definition, one product at a time."""
    out_channels, per_group, kh, kw = weight.shape
    channels, (height, width) = x.shape[1], offset.shape[-2:]
    offset_groups = offset.shape[1] // (2 * kh * kw)
    rows = []
    for b in range(len(x)):
        for o in range(out_channels):
            for i in range(height):
                for j in range(width):
                    total = bias[o]
                    for c in range(per_group):
                        source = o // (out_channels // groups) * per_group + c
                        group = source // (channels // offset_groups)
                        for k in range(kh * kw):
                            point = group * kh * kw + k
                            y = i * stride - padding + k // kw * dilation + offset[b, 2 * point, i, j]
                            z = j * stride - padding + k % kw * dilation + offset[b, 2 * point + 1, i, j]
                            value = sample(x[b, source], y, z) * weight[o, c, k // kw, k % kw]
                            total = total + (value if mask is None else value * mask[b, point, i, j])
                    rows.append(total)
    return torch.stack(rows).reshape(len(x), out_channels, height, width)


PLAIN = {"kernel": (3, 3), "stride": 1, "padding": 1, "dilation": 1, "groups": 1, "offset_groups": 1, "modulated": False}
SETTINGS = {
    "plain": PLAIN,
    "modulated": PLAIN | {"modulated": True},
    "strided": PLAIN | {"modulated": True, "stride": 2, "groups": 2},
    "grouped": PLAIN | {"modulated": True, "kernel": (1, 2), "padding": 0, "dilation": 2, "groups": 2, "offset_groups": 4},
}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def arguments(kernel: tuple[int, int], stride: int, padding: int, dilation: int, groups: int, offset_groups: int, modulated: bool) -> dict:
    """Random float64 inputs; some samples lie outside the map."""
    rng = torch.Generator().manual_seed(0)
    points = offset_groups * kernel[0] * kernel[1]
    x = torch.randn(2, 4, 3, 4, generator=rng, dtype=torch.float64)
    weight = torch.randn(2, 4 // groups, *kernel, generator=rng, dtype=torch.float64)
    out = nn.functional.conv2d(x, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return {
        "x": x,
        "offset": 1.5 * torch.randn(2, 2 * points, *out.shape[-2:], generator=rng, dtype=torch.float64),
        "weight": weight,
        "bias": torch.randn(2, generator=rng, dtype=torch.float64),
        "mask": torch.rand(2, points, *out.shape[-2:], generator=rng, dtype=torch.float64) if modulated else None,
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_values_and_gradients_are_those_of_the_definition(name: str) -> None:
    setting = SETTINGS[name]
    given = {key: value for key, value in arguments(**setting).items() if value is not None}
    geometry = {key: setting[key] for key in ("stride", "padding", "dilation")}
    results = []
    for function, extra in ((deform_conv2d, {}), (slow_deform_conv2d, {"groups": setting["groups"]})):
        inputs = {key: value.clone().requires_grad_() for key, value in given.items()}
        y = function(**({"mask": None} | inputs), **geometry, **extra)
        y.square().sum().backward()
        results.append([y.detach(), *(value.grad for value in inputs.values())])
    for fast, slow in zip(*results, strict=True):
        assert_close(fast, slow)


@pytest.mark.parametrize("modulated", [False, True])
def test_starts_as_a_plain_convolution(modulated: bool) -> None:
    layer = DeformConv2dPack(4, 6, 3, stride=2, padding=1, groups=2, offset_groups=2, modulated=modulated)
    x = torch.randn(2, 4, 9, 8)
    plain = nn.functional.conv2d(x, layer.weight, stride=2, padding=1, groups=2)
    bias = layer.bias[:, None, None]
    assert_close(layer(x), plain * (0.5 if modulated else 1) + bias)


@pytest.mark.parametrize("modulated", [False, True])
def test_predicts_its_offsets_before_its_masks(modulated: bool) -> None:
    torch.manual_seed(0)
    layer = DeformConv2dPack(4, 4, 3, padding=1, modulated=modulated, norm="BN", activation=nn.ReLU())
    nn.init.normal_(layer.conv_offset.weight, std=0.3)
    x = torch.randn(2, 4, 6, 6)
    predicted = layer.conv_offset(x)
    mask = predicted[:, 18:].sigmoid() if modulated else None
    given = deform_conv2d(x, predicted[:, :18], layer.weight, layer.bias, mask=mask, padding=1)
    assert_close(layer(x), layer.norm(given).relu())
    assert predicted.shape[1] == (27 if modulated else 18)


def test_keys_are_those_of_mmcv() -> None:
    layer = DeformConv2dPack(4, 4, 3, padding=1)
    assert set(layer.state_dict()) == {"weight", "bias", "conv_offset.weight", "conv_offset.bias"}


def test_offsets_of_another_kernel_are_refused() -> None:
    with pytest.raises(RuntimeError):
        deform_conv2d(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), torch.zeros(2, 2, 3, 3), padding=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains(dtype: torch.dtype) -> None:
    check_autocast("cpu", dtype)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_on_a_gpu(dtype: torch.dtype) -> None:
    check_autocast("cuda", dtype)


def check_autocast(device: str, dtype: torch.dtype) -> None:
    """Half precision gives nearly the values of single precision, and float32 gradients for float32 weights."""
    torch.manual_seed(0)
    layer = DeformConv2dPack(8, 8, 3, padding=1).to(device)
    nn.init.normal_(layer.conv_offset.weight, std=0.05)
    x = torch.randn(2, 8, 12, 12, device=device)
    with torch.autocast(device, dtype=dtype):
        half = layer(nn.functional.conv2d(x, torch.eye(8, device=device)[..., None, None]))
    assert half.dtype == dtype
    assert_close(half.float(), layer(x), atol=0.05, rtol=0.05)
    half.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() and p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_takes_half_precision_weights(dtype: torch.dtype) -> None:
    layer = DeformConv2dPack(4, 4, 3, padding=1).to(dtype)
    assert layer(torch.randn(1, 4, 6, 6, dtype=dtype)).dtype == dtype


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", SETTINGS)
def test_a_gpu_gives_what_a_cpu_gives(name: str) -> None:
    setting = SETTINGS[name]
    geometry = {key: setting[key] for key in ("stride", "padding", "dilation")}
    results = []
    for device in ("cpu", "cuda"):
        inputs = {key: None if v is None else v.float().to(device).requires_grad_() for key, v in arguments(**setting).items()}
        y = deform_conv2d(**inputs, **geometry)
        y.square().sum().backward()
        results.append([y.detach().cpu(), *(value.grad.cpu() for value in inputs.values() if value is not None)])
    for cpu, gpu in zip(*results, strict=True):
        assert_close(cpu, gpu, atol=1e-4, rtol=1e-4)
