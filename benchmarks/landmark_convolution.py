"""How long do LSNet's convolutions at landmarks take, and what do they keep for the backward pass?

    python benchmarks/landmark_convolution.py [--size 800 1344] [--channels 256]

Three ways to the same values and gradients, which is asserted first: ours, which multiplies every cell with the kernel once and then adds
up what the landmarks read; "landmarks first", which gathers what they read on three levels and then multiplies, as the official code does;
and ours with the products kept for the backward pass. One image, all levels of a pyramid, three sources each; forward with backward, and
forward alone. torchvision's operator is there for one level and one source.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timing import Report, Sample, arguments, clocked, same_conditions
from torch import Tensor
from torch.profiler import profile
from torch.utils.checkpoint import checkpoint

from detkit.layers import deform_conv2d
from lsnet.convolution import _multiply_and_sum, convolve, convolve_at
from lsnet.reading import Reading, reading_of
from lsnet.sampling import level_scales

STRIDES = (8, 16, 32, 64, 128)
Leaves = list[Tensor]


def pyramid_of(size: tuple[int, int], channels: int, device: str) -> tuple[Leaves, Leaves, Tensor]:
    """Features and offsets of every level, and a weight, all with gradient."""
    sizes = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in STRIDES]
    features, offsets = ([torch.randn(1, c, *s, device=device).requires_grad_() for s in sizes] for c in (channels, 18))
    weight = (torch.randn(channels, channels, 3, 3, device=device) / 10).requires_grad_()
    return features, offsets, weight


def reading(features: Leaves, offsets: Leaves) -> Reading:
    sizes = tuple((x.shape[-2], x.shape[-1]) for x in features)
    sources = tuple(tuple(level_scales(level, sizes, STRIDES, "ideal")) for level in range(len(sizes)))
    return reading_of(offsets, sources, sizes)


def ours(features: Leaves, offsets: Leaves, weight: Tensor) -> Tensor:
    return convolve(features, reading(features, offsets), weight)


def products_kept(features: Leaves, offsets: Leaves, weight: Tensor) -> Tensor:
    return _multiply_and_sum(reading(features, offsets), weight, *features)


def landmarks_first(features: Leaves, offsets: Leaves, weight: Tensor) -> Tensor:
    return checkpoint(_gather_and_multiply, reading(features, offsets), weight, *features, use_reentrant=False, preserve_rng_state=False)


def _gather_and_multiply(read: Reading, weight: Tensor, *features: Tensor) -> Tensor:
    cells = torch.cat([x.flatten(2).transpose(1, 2) for x in features], dim=1).flatten(0, 1)
    points = weight[0, 0].numel()
    bags = torch.div(read.rows, points, rounding_mode="floor").view(-1, 4)
    sampled = F.embedding_bag(bags, cells, per_sample_weights=read.shares.view(-1, 4), mode="sum").view(len(read.rows), -1)
    y = F.linear(sampled, weight.flatten(2).transpose(1, 2).flatten(1))
    return y.view(read.batch, -1, read.num_sources * len(weight))


def one_level(convolution: Callable[..., Tensor], features: Leaves, offsets: Leaves, weight: Tensor) -> Tensor:
    """On the second level."""
    return convolution(features[1], offsets[1], weight)


def torchvisions(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    return deform_conv2d(x, offset, weight, padding=1)


def forward(way: Callable[..., Tensor], *given: object) -> Sample:
    with torch.no_grad():
        return clocked(lambda: way(*given))


def with_backward(way: Callable[..., Tensor], features: Leaves, offsets: Leaves, weight: Tensor) -> Sample:
    leaves = [*features, *offsets, weight]
    return clocked(lambda: torch.autograd.grad(way(features, offsets, weight).sum(), leaves, allow_unused=True))


def megabytes(way: Callable[..., Tensor], features: Leaves, offsets: Leaves, weight: Tensor) -> dict[str, float]:
    """What is kept between forward and backward pass without the output, and the peak of both, by PyTorch's allocations on a CPU."""
    with profile(profile_memory=True) as kept:
        y = way(features, offsets, weight)
    used = sum(event.self_cpu_memory_usage for event in kept.key_averages()) - y.nbytes
    del y
    with profile(profile_memory=True) as both:
        with_backward(way, features, offsets, weight)
    now = most = 0
    for event in sorted((e for e in both.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return {"kept_mb": round(used / 1e6, 1), "peak_mb": round(most / 1e6)}


def main() -> None:
    """Compares the ways."""
    parser = arguments(__doc__, json_name="landmark_convolution")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("HEIGHT", "WIDTH"), help="of the image, in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    same_conditions(args.threads)
    torch.manual_seed(0)
    size, channels = ((128, 160), 16) if args.quick else (tuple(args.size), args.channels)
    given = pyramid_of(size, channels, args.device)
    ways = {"ours": ours, "ours, products kept": products_kept, "landmarks first": landmarks_first}
    single = {"ours": partial(one_level, convolve_at), "torchvision": partial(one_level, torchvisions)}
    for group in (ways, single):
        first, *others = (way(*given).detach() for way in group.values())
        assert all(torch.allclose(first, other, rtol=1e-3, atol=1e-2) for other in others)

    with Report("Convolutions at landmarks", __doc__.split("\n")[0], args.json, quick=args.quick) as report:
        for what, group in (("pyramid", ways), ("one level", single)):
            for passes, measure in (("forward", forward), ("forward and backward", with_backward)):
                sides = {name: partial(measure, way, *given) for name, way in group.items()}
                report.compare({"what": what, "passes": passes}, sides, rounds=2 if args.quick else args.rounds)
            if args.device == "cpu":
                for name, way in group.items():
                    report.add(what=what, passes="memory", side=name, **megabytes(way, *given))


if __name__ == "__main__":
    main()
