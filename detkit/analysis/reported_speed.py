"""Images per second as papers and published codes report them, by config; nothing here was measured by us."""

from __future__ import annotations

from pathlib import PurePath
from typing import NamedTuple

__all__ = ["ReportedSpeed", "reported_speed"]

_SPARSERCNN = "Sparse R-CNN, tables 1, 7 and 8, one Tesla V100"
_LSNET = "LSNet, table 1, GPU not named"
_ADELAIDET = "AdelaiDet, configs/FCOS-Detection, one 1080Ti, batch 1"


class ReportedSpeed(NamedTuple):
    """Images per second, and who reports them for which hardware."""

    fps: float
    source: str


_FPS: dict[str, dict[str, float]] = {
    _SPARSERCNN: {
        "sparsercnn_R_50_FPN_100pro_3x": 23,
        "sparsercnn_R_101_FPN_100pro_3x": 19,
        "sparsercnn_R_50_FPN_300pro_crop_3x": 22,
        "sparsercnn_R_101_FPN_300pro_crop_3x": 18,
        "sparsercnn_R_50_FPN_300pro_3x": 22,
        "sparsercnn_R_50_FPN_500pro_3x": 20,
        "sparsercnn_R_50_FPN_100pro_3x_1stage": 35,
        "sparsercnn_R_50_FPN_100pro_3x_2stages": 33,
        "sparsercnn_R_50_FPN_100pro_3x_3stages": 29,
        "sparsercnn_R_50_FPN_100pro_3x_12stages": 17,
    },
    _LSNET: {
        "lsnet_R_50_FPN_2x_ms": 12.7,
        "lsnet_X_101_64x4d_FPN_2x_ms": 7.2,
        "lsnet_X_101_64x4d_DCN_FPN_2x_ms": 5.9,
        "lsnet_cpv_X_101_64x4d_DCN_FPN_2x_ms": 5.1,
        "lsnet_cpv_R2_101_DCN_FPN_2x_ms": 6.3,
    },
    _ADELAIDET: {
        "fcos_R_50_FPN_1x_adelaidet": 16,
        "fcos_R_50_FPN_2x_adelaidet": 16,
        "fcos_R_101_FPN_2x_adelaidet": 12,
        "fcos_X_101_32x8d_FPN_2x_adelaidet": 6.6,
        "fcos_X_101_64x4d_FPN_2x_adelaidet": 6.1,
        "fcos_X_101_32x8d_DCN_FPN_2x_adelaidet": 4.6,
        "fcos_rt_DLA_34_FPN_4x_adelaidet_shared": 52,
        "fcos_rt_DLA_34_FPN_4x_adelaidet": 46,
        "fcos_rt_R_50_FPN_4x_adelaidet": 38,
        "fcos_rt_DLA_34_FPN_4x_adelaidet_shared_bn_head": 52,
        "fcos_rt_DLA_34_FPN_4x_adelaidet_bn_head": 48,
        "fcos_rt_R_50_FPN_4x_adelaidet_bn_head": 40,
    },
}


def reported_speed(config: str) -> ReportedSpeed | None:
    """What is reported for a config of the project.

    Args:
        config: its file or name, for instance ``"sparsercnn/sparsercnn_R_50_FPN_100pro_3x.yaml"``.
    """
    name = PurePath(config).stem
    for source, speeds in _FPS.items():
        if name in speeds:
            return ReportedSpeed(speeds[name], source)
    return None
