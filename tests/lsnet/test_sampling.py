"""Convolutions at landmarks: one level, several levels, and where the kernel's points lie."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from detkit.analysis import count_cost
from lsnet.convolution import convolve_at
from lsnet.cross_iou import cross_coordinates
from lsnet.landmarks import ExtremePoints
from lsnet.reading import SourceScale
from lsnet.sampling import (
    LandmarkSampler,
    LearnedSampler,
    PyramidSampler,
    kernel_offsets,
    level_scales,
    source_levels,
)

from .test_whole import model_of

STRIDES = (8, 16, 32, 64, 128)


def random_inputs(batch: int = 2, channels: int = 5, height: int = 6, width: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, channels, height, width, generator=generator)
    offset = 3 * torch.randn(batch, 18, height, width, generator=generator)
    weight = torch.randn(4, channels, 3, 3, generator=generator)
    return [value.requires_grad_() for value in (x, offset, weight)]


def test_on_one_level_it_is_a_deformable_convolution() -> None:
    ours, theirs = random_inputs(), random_inputs()
    y, expected = convolve_at(*ours), deform_conv2d(*theirs, padding=1)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-3)


def test_gradients_across_levels() -> None:
    x, _, weight = (value.detach().double().requires_grad_() for value in random_inputs(1, 2, 5, 4))
    offset = (torch.rand(1, 18, 3, 2, generator=torch.Generator().manual_seed(1)).double() * 0.8 + 0.1).requires_grad_()
    scale = SourceScale((2.0, 2.0), (1.5, 1.25))
    assert torch.autograd.gradcheck(lambda *values: convolve_at(*values, scale), (x, offset, weight))


def test_ideal_scales_read_every_level_at_the_landmark() -> None:
    """Maps that hold their own pixel positions give the same position on all sources."""
    sizes = [(256 // stride, 256 // stride) for stride in STRIDES[:4]]
    level, middle = 1, 8
    maps = [
        torch.stack(torch.meshgrid(*(torch.arange(float(side)) * stride for side in size), indexing="ij"))[None]
        for size, stride in zip(sizes, STRIDES[:4], strict=True)
    ]
    weight = torch.zeros(2, 2, 3, 3)
    weight[0, 0, 0, 2] = weight[1, 1, 0, 2] = 1.0  # only the upper right point of the kernel
    offset = torch.zeros(1, 18, *sizes[level])
    offset[:, 4], offset[:, 5] = 1.5, -2.25  # y, x of that point
    expected = torch.tensor([(middle - 1 + 1.5) * 16, (middle + 1 - 2.25) * 16])
    for source, scale in level_scales(level, sizes, STRIDES, "ideal"):
        y = convolve_at(maps[source], offset, weight, scale)
        torch.testing.assert_close(y[0, :, middle, middle], expected)


def test_levels_and_official_factors() -> None:
    assert [source_levels(level, 5) for level in range(5)] == [(0, 1, 2), (1, 0, 2), (2, 1, 3), (3, 2, 4), (4, 3, 2)]
    sizes = [(128 // stride * 8, 128 // stride * 8) for stride in STRIDES]
    factors = {level: [scale.offset[0] for _, scale in level_scales(level, sizes, STRIDES, "official")] for level in (0, 2, 4)}
    assert factors == {0: [1.0, 0.5, 0.125], 2: [1.0, 2.0, 1.0], 4: [1.0, 2.0, 8.0]}


def test_not_a_number_in_an_offset_reaches_the_output_and_nothing_breaks() -> None:
    x, offset, weight = (value.detach() for value in random_inputs())
    offset[0, 0, 2, 2], offset[0, 1, 3, 3] = torch.nan, torch.inf
    assert convolve_at(x, offset, weight)[0, :, 2, 2].isnan().all()


def test_kernel_points_lie_on_the_landmarks_and_give_a_tenth_of_their_gradient() -> None:
    ends = torch.tensor([[1.0, -4.0], [-3.0, 0.5], [2.0, 5.0], [4.0, -1.0], [0.5, 0.5]])  # x, y
    vectors = cross_coordinates(ends).reshape(1, 20, 1, 1).requires_grad_()
    free = torch.zeros(1, 8, 1, 1, requires_grad=True)
    offset = kernel_offsets(vectors, free, ExtremePoints(), 0.1)
    steps = torch.tensor([-1.0, 0.0, 1.0])
    positions = (offset[0, :, 0, 0].reshape(9, 2) + torch.cartesian_prod(steps, steps)).flip(-1)
    torch.testing.assert_close(positions[:5], ends)
    offset[:, :10].sum().backward()
    torch.testing.assert_close(vectors.grad.abs().amax(), torch.tensor(0.1))


def test_all_levels_at_once_are_single_levels() -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 5, side, side + 1, generator=generator).requires_grad_() for side in (8, 4, 3)]
    offsets = [(2 * torch.randn(2, 18, *x.shape[-2:], generator=generator)).requires_grad_() for x in features]
    sampler = PyramidSampler(5, 8, strides=STRIDES[:3], scales="official")
    leaves = [*features, *offsets, *sampler.parameters()]
    together = sampler(features, offsets)
    apart = [sampler._on_level(features, level, offset) for level, offset in enumerate(offsets)]
    gradients = [torch.autograd.grad(sum(y.square().sum() for y in ys), leaves) for ys in (together, apart)]
    torch.testing.assert_close(together, apart)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [LandmarkSampler, LearnedSampler, PyramidSampler])
def test_samplers(kind: type[LandmarkSampler]) -> None:
    options = {"strides": STRIDES[:3], "scales": "ideal"} if kind is PyramidSampler else {}
    sampler = kind(5, 8, **options)
    features = [torch.randn(2, 5, side, side + 1) for side in (8, 4, 2)]
    offsets = [torch.zeros(2, 18, *feature.shape[-2:]) for feature in features]
    assert [y.shape for y in sampler(features, offsets)] == [(2, 8, side, side + 1) for side in (8, 4, 2)]


def test_too_few_levels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"strides has 2 levels.*at least 3"):
        PyramidSampler(5, 8, strides=STRIDES[:2], scales="ideal")
    with pytest.raises(ValueError, match=r"scales is 'perfect'"):
        PyramidSampler(5, 8, strides=STRIDES, scales="perfect")  # type: ignore[arg-type]


def test_a_trace_counts_every_cell_once_however_many_levels_read_it() -> None:
    counts = {kind: count_cost(model_of("bbox", "MODEL.LSNET.HEAD.FEATURES", kind), (96, 128)) for kind in ("point", "landmark", "pyramid")}
    cells, width = 12 * 16 + 6 * 8 + 3 * 4, 32
    for kind, sources in (("landmark", 1), ("pyramid", 3)):
        more = counts[kind].by_part["head.cls"] - counts["point"].by_part["head.cls"]
        assert more == cells * width * (9 * width + sources * 36 + sources * width)  # products, sums, merging
