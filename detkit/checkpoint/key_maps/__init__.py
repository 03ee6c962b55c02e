"""How published weights call what our models call differently: data only. A new source is one table and its line in ``KEY_MAPS``."""

from .adelaidet import ADELAIDET_FCOS
from .base import KeyMap
from .detectron2 import DETECTRON2_BACKBONE, DETECTRON2_FCOS, DETECTRON2_RETINANET
from .fcos_core import FCOS_CORE, FCOS_CORE_MOBILENET
from .lsnet import LSNET
from .mmdetection import MMDETECTION
from .self_supervised import MOCO, SCRL
from .sparsercnn import MMDETECTION_SPARSE_RCNN, SPARSE_RCNN
from .torchvision import TORCHVISION_NETWORK, TORCHVISION_RESNET
from .torchvision_detectors import TORCHVISION_FCOS, TORCHVISION_RETINANET, TORCHVISION_RETINANET_V2

__all__ = ["KEY_MAPS", "OURS", "KeyMap"]

#: the names of our own models
OURS = KeyMap(name="detkit", rules={"{...}": "{...}"}, ignore=("pixel_mean", "pixel_std"))

#: all sources; the one that fits most keys of a model is taken, the first of equals
KEY_MAPS = (
    OURS,
    FCOS_CORE,
    FCOS_CORE_MOBILENET,
    ADELAIDET_FCOS,
    DETECTRON2_FCOS,
    DETECTRON2_RETINANET,
    MMDETECTION,
    LSNET,
    SPARSE_RCNN,
    MMDETECTION_SPARSE_RCNN,
    TORCHVISION_FCOS,
    TORCHVISION_RETINANET,
    TORCHVISION_RETINANET_V2,
    DETECTRON2_BACKBONE,
    TORCHVISION_RESNET,
    MOCO,
    SCRL,
    TORCHVISION_NETWORK,
)
