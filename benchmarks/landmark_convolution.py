"""How long do LSNet's convolutions at landmarks take, and what do they keep for the backward pass, beside torchvision's operator?

    python benchmarks/landmark_convolution.py [--device cuda] [--channels 256] [--size 50 84]

One image, one level of 50 x 84 cells, forward and backward, and the MB that are kept between the two. "Products kept" is ours without
multiplying with the kernel again in the backward pass. Equal values are asserted first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from timing import Report, alternate, arguments, clocked, figures, same_conditions
from torch import Tensor
from torch.profiler import profile

from detkit.layers import deform_conv2d
from lsnet import convolution
from lsnet.convolution import convolve_at

Convolution = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    return convolve_at(x, offset, weight)


def products_kept(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """Ours, with everything kept that the backward pass needs."""

    def at_once(function: Callable[..., Tensor], *args: Any, **_: Any) -> Tensor:
        return function(*args)

    with patch.object(convolution, "checkpoint", at_once):
        return convolve_at(x, offset, weight)


def torchvisions(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    return deform_conv2d(x, offset, weight, padding=1)


def run(way: Convolution, leaves: list[Tensor]) -> None:
    """One forward and backward pass."""
    torch.autograd.grad(way(*leaves).sum(), leaves)


def megabytes_kept(convolution: Convolution, leaves: list[Tensor]) -> float:
    """Memory in use after the forward pass, without inputs and output."""
    if leaves[0].is_cuda:
        before = torch.cuda.memory_allocated()
        y = convolution(*leaves)
        used = torch.cuda.memory_allocated() - before
    else:
        with profile(profile_memory=True) as recorded:
            y = convolution(*leaves)
        used = sum(event.self_cpu_memory_usage for event in recorded.key_averages())
    return (used - y.nbytes) / 1e6


def main() -> None:
    parser = arguments(__doc__, json_name="landmark_convolution")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--size", type=int, nargs=2, default=(50, 84), metavar=("HEIGHT", "WIDTH"), help="in cells")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    same_conditions(args.threads)
    channels, rounds = ([16], 1) if args.quick else (args.channels, args.rounds)
    title, question = "LSNet's convolutions at landmarks", str(__doc__).split("\n\n")[2]
    value = "cpu_ms" if args.device == "cpu" else "wall_ms"
    with Report(title, question, args.json, quick=args.quick, index=["channels"], value=value) as report:
        for count in channels:
            if not report.has(channels=count):
                measure(report, count, args, rounds)


def measure(report: Report, channels: int, args: Any, rounds: int) -> None:
    """A row for each way."""
    torch.manual_seed(0)
    shapes = (1, channels, *args.size), (1, 18, *args.size), (channels, channels, 3, 3)
    leaves = [torch.randn(shape, device=args.device).requires_grad_() for shape in shapes]
    ways: dict[str, Convolution] = {"ours": ours, "ours, products kept": products_kept, "torchvision": torchvisions}
    values = [way(*leaves).detach() for way in ways.values()]
    assert all(torch.allclose(values[0], value, rtol=1e-3, atol=1e-2) for value in values[1:])
    samples = alternate({name: partial(clocked, partial(run, way, leaves)) for name, way in ways.items()}, rounds=rounds)
    for name, way in ways.items():
        report.add(channels=channels, side=name, **figures(samples[name]), kept_mb=round(megabytes_kept(way, leaves), 1))


if __name__ == "__main__":
    main()
