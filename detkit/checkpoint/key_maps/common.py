"""Rules that several sources share: torchvision's names of a ResNet, towers of numbered convolutions."""

from __future__ import annotations

__all__ = ["DETECTRON2_OFFSETS", "resnet_rules", "tower_rules"]

#: what predicts the offsets of Detectron2's deformable blocks
DETECTRON2_OFFSETS = {"backbone.bottom_up.res{s}.{b}.conv{n}_offset.{param}": "backbone.bottom_up.res{s}.{b}.conv{n}.conv_offset.{param}"}


def resnet_rules(prefix: str = "", *, stem: tuple[str, str] = ("conv1", "bn1"), stage: str = "layer{s}") -> dict[str, str]:
    """From torchvision's names of a ResNet, which most codes have taken over, to Detectron2's.

    Args:
        prefix: of all keys of the source.
        stem: names of the first convolution and its norm.
        stage: name of stage s, from 1 to 4.
    """
    theirs, ours = f"{prefix}{stage}.{{b}}.", "backbone.bottom_up.res{s+1}.{b}."
    return {
        f"{prefix}{stem[0]}.{{param}}": "backbone.bottom_up.stem.conv1.{param}",
        f"{prefix}{stem[1]}.{{param}}": "backbone.bottom_up.stem.conv1.norm.{param}",
        theirs + "conv{n}.{param}": ours + "conv{n}.{param}",
        theirs + "conv{n}.conv_offset.{param}": ours + "conv{n}.conv_offset.{param}",
        theirs + "bn{n}.{param}": ours + "conv{n}.norm.{param}",
        theirs + "downsample.0.{param}": ours + "shortcut.{param}",
        theirs + "downsample.1.{param}": ours + "shortcut.norm.{param}",
    }


def tower_rules(theirs: str, ours: str, *, norm: bool = True) -> dict[str, str]:
    """A tower as a sequence of convolution, norm and ReLU (without ``norm``: convolution and ReLU).

    A deformable convolution holds the convolution and the one that predicts offsets, ``conv`` and ``offset``.
    """
    if not norm:
        return {theirs + ".{2i}.{param}": ours + ".{i}.{param}"}
    return {
        theirs + ".{3i}.{param}": ours + ".{i}.{param}",
        theirs + ".{3i}.conv.{param}": ours + ".{i}.{param}",
        theirs + ".{3i}.offset.{param}": ours + ".{i}.conv_offset.{param}",
        theirs + ".{3i+1}.{param}": ours + ".{i}.norm.{param}",
    }
