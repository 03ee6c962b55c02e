"""Comparing with golden numbers, remembering the deviations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .cases import GoldenCase, tolerance

__all__ = ["Recorder", "Remember"]


#: takes set, quantity, worst absolute deviation, and the share of the tolerance that was used
Remember = Callable[[str, str, float, float], None]


class Recorder:
    """Compares the numbers of one case within the tolerances that it states.

    Arrays of a case may be empty, an image without objects has such; ``compared`` counts the numbers of all, so that a test can refuse to
    have compared nothing.
    """

    def __init__(self, case: GoldenCase, remember: Remember) -> None:
        self.case = case
        self.remember = remember
        self.arrays, self.compared = 0, 0

    def close(
        self,
        quantity: str,
        name: str,
        actual: Tensor,
        expected: Tensor,
        *,
        scale: Tensor | float = 1.0,
        largest: Tensor | None = None,
        floor: Tensor | float = 1e-9,
    ) -> None:
        """Asserts that all numbers agree.

        Args:
            quantity: see :func:`tests.parity.cases.tolerance`.
            name: of the array, for the message.
            scale: size of the numbers where an absolute tolerance is meant relative to it.
            largest: what a relative tolerance is relative to; None: every number itself.
            floor: difference that counts as none: of numbers near 0, a relative tolerance asks for more bits than they have.
        """
        self.arrays, self.compared = self.arrays + 1, self.compared + expected.numel()
        absolute, relative = tolerance(self.case, quantity)
        actual, expected = actual.detach().double(), expected.double()
        assert actual.shape == expected.shape, f"{self.case.id}: {name} has shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
        if expected.numel() == 0:
            return
        assert torch.equal(actual.isfinite(), expected.isfinite()), (
            f"{self.case.id}: {name} is not finite where it should be, or the reverse"
        )
        finite = expected.isfinite()
        difference = (actual[finite] - expected[finite]).abs()
        allowed = absolute * scale + relative * (expected if largest is None else largest.expand_as(expected))[finite].abs() + floor
        used = float((difference / allowed).max())
        figure = difference / expected[finite].abs().clamp(min=1e-6) if absolute == 0 else difference
        self.remember(self.case.set_name, quantity, float(figure[difference > floor].max()) if (difference > floor).any() else 0.0, used)
        assert used <= 1, f"{self.case.id}: {name} is off by {float(difference.max()):.3g}, {used:.3g} times the tolerance"

    def equal(self, name: str, actual: Tensor, expected: Tensor) -> None:
        """Asserts that integers are the same."""
        self.arrays, self.compared = self.arrays + 1, self.compared + expected.numel()
        assert actual.shape == expected.shape, f"{self.case.id}: {name} has shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
        different = (actual != expected).flatten()
        wrong = int(different.sum())
        self.remember(self.case.set_name, "wrong integers", wrong, wrong)
        assert wrong == 0, f"{self.case.id}: {wrong} of {len(different)} entries of {name} differ, first at {int(different.int().argmax())}"

    def same_detections(self, name: str, actual: tuple[Tensor, Tensor, Tensor], expected: tuple[Tensor, Tensor, Tensor]) -> None:
        """Asserts that two sets of (boxes, scores, classes) are the same in any order. How many there are is a number to compare, too."""
        self.arrays, self.compared = self.arrays + 1, self.compared + 1
        count, expected_count = len(actual[1]), len(expected[1])
        assert count == expected_count, f"{self.case.id}: {count} detections in {name}, not {expected_count}"
        if not count:
            return
        box_gap = (actual[0].double()[:, None] - expected[0].double()[None]).abs().amax(-1)
        score_gap = (actual[1].double()[:, None] - expected[1].double()[None]).abs()
        other_class = actual[2][:, None] != expected[2][None]
        cost = box_gap.clamp(max=100.0) + 1e3 * score_gap + 1e6 * other_class
        rows, columns = linear_sum_assignment(np.asarray(cost))
        assert not other_class[rows, columns].any(), f"{self.case.id}: other classes in {name}"
        self.close("boxes", f"boxes of {name}", actual[0][rows], expected[0][columns])
        self.close("scores", f"scores of {name}", actual[1][rows], expected[1][columns])
