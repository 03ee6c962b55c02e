"""ResNets trained without labels, as their own code saves them. Converted ones (Detectron2's or torchvision's names) need no map."""

from .base import KeyMap
from .common import resnet_rules

__all__ = ["MOCO", "SCRL"]

#: MoCo and what is made from it (DetCo): torchvision's names below the query encoder
MOCO = KeyMap(
    name="MoCo or DetCo ResNet",
    rules=resnet_rules("encoder_q."),
    ignore=("encoder_q.fc.{...}", "encoder_k.{...}", "queue", "queue_ptr"),
    backbone_only=True,
)

#: kakaobrain/scrl (BYOL, SCRL): the children of torchvision's ResNet by number; 4 to 7 are its four layers
SCRL = KeyMap(
    name="BYOL or SCRL ResNet",
    rules=resnet_rules("encoder.", stem=("0", "1"), stage="{s+3}"),
    ignore=("projector.{...}",),
    backbone_only=True,
)
