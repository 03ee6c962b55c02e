"""Layers and operators that several heads and detectors are made of."""

from .batch_norm import ConstantBatchNorm, FixedStatisticsBatchNorm, keep_constants, train_affine
from .deform import DeformConv2dPack, deform_conv2d
from .export_forms import EXPORT_FORMS, ExportForm, export_as
from .folding import fold_norms, foldable_norms
from .max_filtering import MaxFiltering3d
from .nms import nms_mask, nms_mask_by_offsets
from .one_thread import use_onednn
from .parts import CompiledParts, InParts
from .pooling import PyramidPooler, pool_pyramid, pool_pyramid_densely
from .ranking import ABSENT, best_indices, gather_rows
from .sampling import sample_channels
from .scale import Scale
from .towers import ConvTower, Tower, init_conv
from .tracing import refuse_tracing
from .voting import voted_boxes

__all__ = [
    "ABSENT",
    "CompiledParts",
    "ConstantBatchNorm",
    "EXPORT_FORMS",
    "ConvTower",
    "DeformConv2dPack",
    "ExportForm",
    "FixedStatisticsBatchNorm",
    "InParts",
    "MaxFiltering3d",
    "PyramidPooler",
    "Scale",
    "Tower",
    "best_indices",
    "deform_conv2d",
    "export_as",
    "fold_norms",
    "foldable_norms",
    "gather_rows",
    "init_conv",
    "keep_constants",
    "nms_mask",
    "nms_mask_by_offsets",
    "pool_pyramid",
    "pool_pyramid_densely",
    "refuse_tracing",
    "sample_channels",
    "train_affine",
    "use_onednn",
    "voted_boxes",
]
