"""Comparing what an exported file gives with what its model gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_iou

from .formats import first_line, quiet
from .program import DetectorProgram
from .settings import LEAST_SIDE, ExportError, ExportSettings

__all__ = ["Agreement", "compare_outputs", "example_inputs", "found_on", "open_exported", "verify"]

#: maps images and image sizes to outputs by name
Runner = Callable[[Tensor, Tensor], dict[str, Tensor]]
#: what is still the same detection: pixels, and difference of scores
BOX_TOLERANCE, SCORE_TOLERANCE = 0.5, 1e-3
#: overlap from which NMS may suppress a box
_SUPPRESSED = 0.5


@dataclass
class Agreement:
    """How far two programs agree.

    Attributes:
        detections: compared.
        unmatched: of these, how many the other program does not have.
        ties: of the unmatched, how many lose a tie: the other program has another one of the same class and score there, which suppresses
            them, or ends at the same score, because an image has no more than a number of detections.
        box: worst difference of matched boxes in pixels.
        score: worst difference of matched scores.
        landmark: worst difference of matched landmarks in pixels.
        raw: worst difference of raw outputs, relative to the largest value of its map.
    """

    detections: int = 0
    unmatched: int = 0
    ties: int = 0
    box: float = 0.0
    score: float = 0.0
    landmark: float = 0.0
    raw: float = 0.0

    def __str__(self) -> str:
        if not self.detections:
            return f"raw outputs within {self.raw:.1e} of their largest value"
        text = f"{self.detections - self.unmatched} of {self.detections} detections the same, "
        text += f"{self.ties} others lose a tie, " if self.ties else ""
        text += f"boxes within {self.box:.1g} px, scores within {self.score:.1g}"
        return text + (f", landmarks within {self.landmark:.1g} px" if self.landmark else "")


def open_exported(path: Path, file_format: str, output_names: Sequence[str]) -> Runner:
    """A function that runs an exported file.

    Raises:
        ExportError: onnxruntime is missing.
    """
    if file_format == "onnx":
        try:
            import onnxruntime
        except ImportError as error:
            raise ExportError("onnxruntime, with which the file is checked, is not installed: pip install onnxruntime.") from error
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def run(images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
            outputs = session.run(None, {"images": images.numpy(), "image_sizes": sizes.numpy()})
            return {name: torch.from_numpy(np.asarray(value)) for name, value in zip(names, outputs, strict=True)}

        return run
    with quiet():
        loaded = torch.export.load(path).module() if file_format == "torch_export" else torch.jit.load(str(path))

    def run_loaded(images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return dict(zip(output_names, loaded(images, sizes), strict=True))

    return run_loaded


def example_inputs(settings: ExportSettings, photos: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
    """Batches to compare on: photos (3, H, W) as they are, padded to a common size, or generated ones of several sizes."""
    if photos:
        batch = settings.batch or 1
        groups = [list(photos[i : i + batch]) for i in range(0, len(photos) - batch + 1, batch)]
        if not groups:
            raise ExportError(f"the file takes {batch} images at a time, but only {len(photos)} are given to check it with.")
        if settings.batch is None and len(photos) > 1:
            groups.append(list(photos[:2]))
        return [_padded(group, settings.size) for group in groups]
    generator = torch.Generator().manual_seed(1)
    sizes = [settings.size] * 2 if settings.size else [(LEAST_SIDE, 200), (320, 224), (256, 416)]
    batches = []
    for number, (height, width) in enumerate(sizes):
        batch = settings.batch or 1 + number % 2
        coarse = 255 * torch.rand(batch, 3, 9, 12, generator=generator)
        images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        # the images of a batch differ in size, as those of a dataset do
        batches.append((images, torch.tensor([[height * (32 - i % 4) // 32, width * (16 - i % 4) // 16] for i in range(batch)])))
    return batches


def _padded(photos: Sequence[Tensor], size: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
    sizes = torch.tensor([list(photo.shape[1:]) for photo in photos])
    sides = size or [max(int(side), LEAST_SIDE) for side in sizes.amax(0)]
    images = torch.zeros(len(photos), 3, *sides)
    for place, photo in zip(images, photos, strict=True):
        if photo.shape[1] > sides[0] or photo.shape[2] > sides[1]:
            raise ExportError(f"an image of {photo.shape[1]}x{photo.shape[2]} does not fit the exported size {sides[0]}x{sides[1]}.")
        place[:, : photo.shape[1], : photo.shape[2]] = photo
    return images, sizes


def found_on(program: DetectorProgram, inputs: Sequence[tuple[Tensor, Tensor]]) -> list[dict[str, Tensor]]:
    """What the model gives for each of the inputs.

    Raises:
        ExportError: it detects nothing, so that there is nothing to compare.
    """
    with torch.no_grad():
        found = [dict(zip(program.output_names, program(images, sizes), strict=True)) for images, sizes in inputs]
    if not program.raw and not any(outputs["counts"].any() for outputs in found):
        raise ExportError(
            "no detection passes the score threshold on the images to compare on: give some with objects, by --images, or --raw."
        )
    return found


def verify(program: DetectorProgram, run: Runner, inputs: Sequence[tuple[Tensor, Tensor]]) -> Agreement:
    """Runs the model and its file on the same inputs.

    Raises:
        ExportError: no detection to compare; the file does not run; more than 1 of 100 differs, or 1 of 10 with those that lose a tie; or
            raw outputs by more than 1e-3 of their largest value.
    """
    agreement = Agreement()
    for (images, sizes), expected in zip(inputs, found_on(program, inputs), strict=True):
        try:
            actual = run(images, sizes)
        except Exception as error:
            shape = "x".join(map(str, images.shape))
            raise ExportError(f"the file does not run on images of the shape {shape}: {first_line(error)}") from error
        compare_outputs(actual, expected, agreement)
    unexplained = agreement.unmatched - agreement.ties
    if unexplained > 0.01 * agreement.detections or agreement.unmatched > 0.1 * agreement.detections or agreement.raw > 1e-3:
        raise ExportError(f"the file does not give what the model gives: {agreement}.")
    return agreement


def compare_outputs(actual: dict[str, Tensor], expected: dict[str, Tensor], agreement: Agreement) -> None:
    """Adds a comparison of the outputs of two programs."""
    if "counts" not in expected:
        for name, value in expected.items():
            difference = (actual[name].double() - value.double()).abs().max() / value.double().abs().max().clamp(min=1e-6)
            agreement.raw = max(agreement.raw, float(difference))
        return
    for image in range(len(expected["counts"])):
        _compare_image(_of_image(actual, image), _of_image(expected, image), agreement, limit=expected["scores"].shape[1])


def _of_image(outputs: dict[str, Tensor], image: int) -> dict[str, Tensor]:
    count = int(outputs["counts"][image])
    return {name: value[image, :count] for name, value in outputs.items() if name != "counts"}


def _compare_image(actual: dict[str, Tensor], expected: dict[str, Tensor], agreement: Agreement, *, limit: int) -> None:
    agreement.detections += len(expected["scores"])
    if not len(expected["scores"]) or not len(actual["scores"]):
        agreement.unmatched += max(len(expected["scores"]), len(actual["scores"]))
        return
    box = (actual["boxes"][:, None].double() - expected["boxes"][None].double()).abs().amax(-1)
    score = (actual["scores"][:, None].double() - expected["scores"][None].double()).abs()
    fits = (actual["classes"][:, None] == expected["classes"][None]) & (box <= BOX_TOLERANCE) & (score <= SCORE_TOLERANCE)
    rows, columns = linear_sum_assignment((box + 1e3 * score + 1e6 * ~fits).clamp(max=1e7).numpy())
    matched = fits[rows, columns].numpy()
    rows, columns = rows[matched], columns[matched]
    unmatched = max(len(expected["scores"]), len(actual["scores"])) - len(rows)
    agreement.unmatched += unmatched
    if unmatched:
        missing, surplus = _without(expected, columns), _without(actual, rows)
        # of different numbers on both sides, the larger one counts, as it does in the unmatched
        unexplained = max(_without_tie(missing, actual, limit), _without_tie(surplus, expected, limit))
        agreement.ties += unmatched - unexplained
    if len(rows):
        agreement.box = max(agreement.box, float(box[rows, columns].max()))
        agreement.score = max(agreement.score, float(score[rows, columns].max()))
        for name in (name for name in expected if name.startswith("landmarks")):
            difference = (actual[name][rows] - expected[name][columns]).abs().max()
            agreement.landmark = max(agreement.landmark, float(difference))


def _without(found: dict[str, Tensor], rows: np.ndarray) -> dict[str, Tensor]:
    kept = torch.ones(len(found["scores"]), dtype=torch.bool)
    kept[torch.from_numpy(rows)] = False
    return {name: value[kept] for name, value in found.items()}


def _without_tie(missing: dict[str, Tensor], found: dict[str, Tensor], limit: int) -> int:
    """How many of the missing detections are so without having lost a tie: none of the same score and class took their place, and the
    found ones do not end at their score because there are no more than a number."""
    score = (missing["scores"][:, None].double() - found["scores"][None].double()).abs()
    equal = score <= SCORE_TOLERANCE
    rivals = equal & (missing["classes"][:, None] == found["classes"][None]) & (box_iou(missing["boxes"], found["boxes"]) >= _SUPPRESSED)
    ties = rivals.any(1)
    if len(found["scores"]) == limit:
        ties |= equal[:, -1]
    return int((~ties).sum())
