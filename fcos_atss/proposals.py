"""FCOS as a region proposal network (FCOS, section 5): the same head, targets and decoding for the one class "object"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY, RPN_HEAD_REGISTRY
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from detkit.assigners import Assigner
from detkit.backbones import levels_named
from detkit.config import Section
from detkit.dense.criteria import LabelCriterion, WeightedCriterion
from detkit.dense.heads import aligned_logits
from detkit.dense.parts import head_parts_from_config
from detkit.dense.pipeline import DensePipeline, decode_outputs
from detkit.dense.priors import PriorGenerator
from detkit.geometry import BoxCoder, Priors
from detkit.structures import GroundTruth, Predictions

from .config import CONFIG_LIMITS

__all__ = ["FCOSRPN", "GNRPNHead"]


@PROPOSAL_GENERATOR_REGISTRY.register()
class FCOSRPN(nn.Module):
    """Proposes boxes to any Detectron2 R-CNN: ``MODEL.PROPOSAL_GENERATOR.NAME: "FCOSRPN"``, in place of anchors that compete by IoU.

    ``MODEL.FCOS_RPN`` has the keys of head, coder, assigner and losses. From ``MODEL.RPN`` come IN_FEATURES, PRE_NMS_TOPK_*,
    POST_NMS_TOPK_*, NMS_THRESH, LOSS_WEIGHT (on all losses) and BBOX_REG_LOSS_WEIGHT (on the boxes' as well), from
    ``MODEL.PROPOSAL_GENERATOR`` MIN_SIZE, with Detectron2's meaning.

    Args:
        head: maps the pyramid to :class:`detkit.structures.DenseOutputs` of one class, with or without a quality branch.
        in_features: names of the levels used, from fine to coarse.
        prior_generator: where the head predicts.
        box_coder: what the raw regression means.
        assigner: which location learns which object.
        criterion: the losses, of one class.
        pre_nms_topk: candidates of each level, in training and at test.
        post_nms_topk: proposals of an image, in training and at test.
        nms_thresh: IoU above which the lower-scored of two boxes of a level goes.
        min_box_size: proposals with a shorter side, in pixels of the network's input, are left out.
        loss_weight: factor of all losses.
        box_loss_weight: further factor of ``loss_box``.
    """

    @configurable
    def __init__(
        self,
        *,
        head: nn.Module,
        in_features: Sequence[str],
        prior_generator: PriorGenerator,
        box_coder: BoxCoder,
        assigner: Assigner,
        criterion: LabelCriterion | WeightedCriterion,
        pre_nms_topk: tuple[int, int] = (2000, 1000),
        post_nms_topk: tuple[int, int] = (1000, 1000),
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        loss_weight: float = 1.0,
        box_loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.head = head
        self.in_features = tuple(in_features)
        self.prior_generator = prior_generator
        self.box_coder = box_coder
        self.assigner = assigner
        self.criterion = criterion
        self.pre_nms_topk = {True: pre_nms_topk[0], False: pre_nms_topk[1]}
        self.post_nms_topk = {True: post_nms_topk[0], False: post_nms_topk[1]}
        self.nms_thresh = nms_thresh
        self.min_box_size = float(min_box_size)
        self.loss_weight = loss_weight
        self.box_loss_weight = box_loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        rpn = cfg.MODEL.RPN
        levels = levels_named(rpn.IN_FEATURES, input_shape, "MODEL.RPN.IN_FEATURES")
        node = Section(cfg, "MODEL.FCOS_RPN")
        node.check({"SIZE_OF_INTEREST": CONFIG_LIMITS[node.path]["SIZE_OF_INTEREST"]})
        sizes_of_interest = [node.SIZE_OF_INTEREST * level.stride for level in levels[:-1]]
        return {
            **head_parts_from_config(cfg, node, levels, num_classes=1, sizes_of_interest=sizes_of_interest),
            "in_features": rpn.IN_FEATURES,
            "pre_nms_topk": (rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST),
            "nms_thresh": rpn.NMS_THRESH,
            "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            "loss_weight": rpn.LOSS_WEIGHT,
            "box_loss_weight": rpn.BBOX_REG_LOSS_WEIGHT,
        }

    def forward(
        self, images: ImageList, features: Mapping[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Proposals of a batch, and its losses in training.

        Args:
            images: padded.
            features: level name to (B, C, H, W).
            gt_instances: per image, with ``gt_boxes``; the classes do not count. Needed in training.

        Returns:
            per image ``Instances`` with ``proposal_boxes`` and ``objectness_logits``, best first; and ``loss_fcos_rpn_cls``,
            ``loss_fcos_rpn_box`` and, with a quality branch, ``loss_fcos_rpn_quality``, empty outside training.
        """
        outputs = self.head([features[name] for name in self.in_features])
        predictions, priors = self.pipeline.decode(outputs)
        losses = {}
        if self.training:
            if gt_instances is None:
                raise ValueError("Training needs the objects of the images, but they have no 'instances'.")
            losses = self.losses(predictions, priors, gt_instances, images.image_sizes)
        return self.proposals(predictions, priors, images.image_sizes), losses

    @property
    def pipeline(self) -> DensePipeline:
        """How priors, predictions and labels are made of the generator's parts."""
        return DensePipeline(self.prior_generator, self.assigner, partial(decode_outputs, box_coder=self.box_coder, num_classes=1))

    def losses(
        self, predictions: Predictions, priors: Priors, gt_instances: list[Instances], image_sizes: Sequence[tuple[int, int]]
    ) -> dict[str, Tensor]:
        """The weighted losses, named as in :meth:`forward`; ``image_sizes`` (height, width) without padding."""
        given = GroundTruth.from_instances(gt_instances)
        gt = replace(given, classes=torch.zeros_like(given.classes))
        assignment = self.pipeline.assign(priors, gt, predictions, image_sizes)
        losses = self.criterion(predictions, assignment, gt, priors)
        if "loss_box" in losses:
            losses["loss_box"] = self.box_loss_weight * losses["loss_box"]
        return {name.replace("loss_", "loss_fcos_rpn_"): self.loss_weight * loss for name, loss in losses.items()}

    @torch.no_grad()
    def proposals(self, predictions: Predictions, priors: Priors, image_sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """The best boxes of each image by Detectron2's rule, as given in :meth:`forward`.

        They are ranked by FCOS's score, the root of class probability times quality, whose logit ``objectness_logits`` is.
        """
        logits = predictions.logits.squeeze(-1)
        if predictions.quality is not None:
            logits = aligned_logits(logits, predictions.quality)
        return find_top_rpn_proposals(
            list(predictions.boxes.split(priors.per_level, dim=1)),
            list(logits.split(priors.per_level, dim=1)),
            list(image_sizes),
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )


@RPN_HEAD_REGISTRY.register()
class GNRPNHead(StandardRPNHead):
    """Detectron2's head for anchors with GroupNorm after its hidden layers: "RPN w/ FPN & GN" of FCOS, table 6."""

    def _get_rpn_conv(self, in_channels: int, out_channels: int) -> Conv2d:
        return Conv2d(in_channels, out_channels, 3, padding=1, norm=nn.GroupNorm(32, out_channels), activation=nn.ReLU())
