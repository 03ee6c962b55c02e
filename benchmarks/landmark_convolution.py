"""How long do LSNet's convolutions at landmarks take, and what do they keep for the backward pass, beside torchvision's operator?

    python benchmarks/landmark_convolution.py [--device cuda] [--channels 256] [--size 50 84]

One image, one level, forward and backward; processor time on a CPU, of one thread. "Features kept" is ours without reading the features
again in the backward pass. Equal values are asserted first.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.profiler import profile

from detkit.layers import deform_conv2d
from lsnet import sampling
from lsnet.convolution import convolve_at

Convolution = Callable[[Tensor, Tensor, Tensor], Tensor]


def features_kept(*args: Tensor) -> Tensor:
    """Ours, with everything kept that the backward pass needs."""

    def at_once(function: Callable[..., Tensor], *args: Any, **_: Any) -> Tensor:
        return function(*args)

    with patch.object(sampling, "checkpoint", at_once):
        return convolve_at(*args)


def torchvisions(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    return deform_conv2d(x, offset, weight, padding=1)


def seconds(convolution: Convolution, leaves: list[Tensor]) -> float:
    """Of one forward and backward pass."""
    on_gpu = leaves[0].is_cuda
    clock = time.perf_counter if on_gpu else time.process_time
    start = clock()
    torch.autograd.grad(convolution(*leaves).sum(), leaves)
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


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
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--size", type=int, nargs=2, default=(50, 84), metavar=("HEIGHT", "WIDTH"), help="in cells")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shapes = (1, args.channels, *args.size), (1, 18, *args.size), (args.channels, args.channels, 3, 3)
    leaves = [torch.randn(shape, device=args.device).requires_grad_() for shape in shapes]
    ways: dict[str, Convolution] = {"LSNet's": convolve_at, "LSNet's, features kept": features_kept, "torchvision's": torchvisions}
    values = [way(*leaves).detach() for way in ways.values()]
    assert all(torch.allclose(values[0], value, rtol=1e-3, atol=1e-2) for value in values[1:])
    times = {name: sorted(rounds) for name, rounds in zip(ways, _rounds(list(ways.values()), leaves, args.repeats), strict=True)}

    machine = f"{platform.machine()}, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {args.device}"
    print(f"{machine}, {args.channels} channels, {args.size[0]} x {args.size[1]} cells\n")
    print("| convolution | milliseconds | least to greatest | MB kept |\n|---|---|---|---|")
    for name, way in ways.items():
        least, middle, most = (1000 * value for value in (times[name][0], statistics.median(times[name]), times[name][-1]))
        print(f"| {name} | {middle:.0f} | {least:.0f} to {most:.0f} | {megabytes_kept(way, leaves):.1f} |")


def _rounds(ways: list[Convolution], leaves: list[Tensor], repeats: int) -> list[tuple[float, ...]]:
    """The times of each way. All take their turn in every round; the first one warms up."""
    return list(zip(*[[seconds(way, leaves) for way in ways] for _ in range(repeats + 1)][1:], strict=True))


if __name__ == "__main__":
    main()
