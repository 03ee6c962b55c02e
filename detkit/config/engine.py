"""The keys of the training engine that Detectron2 does not have."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from .limits import Form, Limit, allowed_values

__all__ = ["RUN_LIMITS", "SOLVER_LIMITS", "TEST_LIMITS", "add_engine_config"]

_RATES = ("BASE_LR", "BASE_LR_END", "GAMMA", "BIAS_LR_FACTOR", "WEIGHT_DECAY", "WEIGHT_DECAY_BIAS", "WEIGHT_DECAY_NORM")
_COUNTS = ("WARMUP_ITERS", "REFERENCE_BATCH_SIZE", "CHECKPOINT_KEEP", "CHECKPOINT_PERIOD")
#: what the keys below ``SOLVER`` may be; WEIGHT_DECAY_BIAS and WEIGHT_DECAY_NORM may also be None: as of all other weights
SOLVER_LIMITS: dict[str, Limit] = {
    "OPTIMIZER": ("SGD", "AdamW"),
    "LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"),
    "WARMUP_METHOD": ("linear", "constant"),
    "AMP.DTYPE": ("float16", "bfloat16"),
    "CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm", "full_model"),
    **dict.fromkeys((*_RATES, *_COUNTS), "[0, inf)"),
    **dict.fromkeys(("MAX_ITER", "IMS_PER_BATCH", "ACCUMULATE", "NUM_DECAYS"), "[1, inf)"),
    **dict.fromkeys(("MOMENTUM", "WARMUP_FACTOR"), "[0, 1]"),
    "EMA.DECAY": "[0, 1)",
    "CLIP_GRADIENTS.CLIP_VALUE": "(0, inf)",
    "CLIP_GRADIENTS.NORM_TYPE": "(0, inf]",
    "STEPS": Form(
        "ascending numbers in [0, inf)",
        lambda value: allowed_values(value, "[0, inf)") is None and list(value) == sorted(set(value)),
    ),
    "PARAMETER_FACTORS": Form(
        "a list of [prefix of parameter names, factor on the learning rate, factor on the weight decay], factors in [0, inf)",
        lambda value: all(_is_row(row, texts=1, numbers=(1, 2)) for row in value),
    ),
}
#: what the keys of a run may be that stand in no section of their own
RUN_LIMITS: dict[str, Limit] = {
    "PATIENCE": "(0, inf)",
    "FLOAT32_PRECISION": ("", "ieee", "tf32"),
    "MODEL.COMPILE_BACKEND": ("inductor", "aot_eager", "eager"),
    "MODEL.MEMORY_FORMAT": ("auto", "channels_last", "contiguous"),
}
#: what the keys below ``TEST`` may be, those of ``TEST.AUG`` left out
TEST_LIMITS: dict[str, Limit] = {
    "DETECTIONS_PER_IMAGE": "[1, inf)",
    "EVAL_PERIOD": "[0, inf)",
    "KEYPOINT_OKS_SIGMAS": "(0, inf)",
    "PRECISION": ("float32", "bfloat16", "float16"),
    "PRECISE_BN.NUM_ITER": "[1, inf)",
    "EXPECTED_RESULTS": Form(
        "a list of [task, metric, value, tolerance], such as [['bbox', 'AP', 38.5, 0.2]], the numbers in [0, inf)",
        lambda value: all(_is_row(row, texts=2, numbers=(2,)) for row in value),
    ),
}


def _is_row(row: object, *, texts: int, numbers: tuple[int, ...]) -> bool:
    """Whether something is a list of so many texts, and then numbers of 0 or more."""
    if not isinstance(row, (list, tuple)) or len(row) - texts not in numbers:
        return False
    return all(isinstance(text, str) for text in row[:texts]) and allowed_values(list(row[texts:]), "[0, inf)") is None


def add_engine_config(cfg: CN) -> None:
    """Adds them below ``SOLVER`` and ``TEST``."""
    solver = cfg.SOLVER
    solver.OPTIMIZER = "SGD"  # or "AdamW"
    # One kernel for the step of all parameters, where torch has one: on CPUs and CUDA. On a GPU it is also what lets a step end without
    # waiting for the device: a step whose losses or gradients are not finite is left out there, and named one iteration later.
    solver.FUSED = True
    # [[prefix of parameter names, factor on the learning rate, factor on the weight decay], ...]; the longest matching prefix counts.
    # BIAS_LR_FACTOR, WEIGHT_DECAY_BIAS and WEIGHT_DECAY_NORM are Detectron2's.
    solver.PARAMETER_FACTORS = []
    # whether BIAS_LR_FACTOR holds for the biases of normalization layers too (Detectron2 and the official FCOS and ATSS), or for those of
    # convolutions and linear layers alone (mmdetection's bias_lr_mult)
    solver.BIAS_LR_FACTOR_OF_NORMS = True

    # The batch that BASE_LR and the schedule are meant for; 0: they are meant for IMS_PER_BATCH as it stands. Where IMS_PER_BATCH
    # differs, BASE_LR is scaled with it, and MAX_ITER, STEPS, WARMUP_ITERS, CHECKPOINT_PERIOD and TEST.EVAL_PERIOD inversely, so
    # that the same number of images is seen. Keys given on the command line are taken as they are given.
    solver.REFERENCE_BATCH_SIZE = 0
    # Each batch of IMS_PER_BATCH images is computed in this many parts, one after the other, to save memory. One iteration stays
    # one optimizer step; a loss is normalized within its part.
    solver.ACCUMULATE = 1

    # CLIP_GRADIENTS.CLIP_TYPE also takes "full_model": the norm of all gradients together, as in DETR and Sparse R-CNN.
    solver.AMP.DTYPE = "float16"  # with loss scaling; or "bfloat16", which needs none

    # An exponential moving average of the weights, evaluated and saved as the model; the weights being trained are saved beside it.
    solver.EMA = CN()
    solver.EMA.ENABLED = False
    solver.EMA.DECAY = 0.9998  # after t iterations at most (1 + t) / (10 + t), so that the average is useful in short trainings too

    # Seconds without a sign of life after which a worker (a process of --num-gpus or torchrun) or a data worker is lost: the others save
    # what they have and end. One that was killed is noticed at once.
    cfg.PATIENCE = 90.0

    solver.CHECKPOINT_KEEP = 0  # newest periodic checkpoints to keep; 0: all

    # How the numbers of the network lie in memory: "channels_last", "contiguous", or "auto": the former on a CPU, where it is faster.
    # Checkpoints are contiguous whatever it is.
    cfg.MODEL.MEMORY_FORMAT = "auto"
    # torch.compile makes programs of the network, the assignment and the losses (SOLVER.COMPILE), and of the network with post-processing
    # where it detects (MODEL.COMPILE). It takes minutes at the start.
    solver.COMPILE = False
    cfg.MODEL.COMPILE = False
    cfg.MODEL.COMPILE_BACKEND = "inductor"  # machine code, for which a CPU needs a C++ compiler; the others need none, and gain nothing
    # One program for all sizes of images and numbers of objects; False: one for each, which pays where there are very few.
    cfg.MODEL.COMPILE_DYNAMIC = True
    # How GPUs multiply float32: "tf32" (faster, 10 bits of the mantissa), "ieee" (all of them), or "": as torch does by itself, which is
    # tf32 in convolutions alone.
    cfg.FLOAT32_PRECISION = ""

    # What the network computes in when it detects; scores, boxes and NMS are float32 in any case. Weights stay float32 in checkpoints.
    cfg.TEST.PRECISION = "float32"
    cfg.TEST.FOLD_NORMS = True  # batch norms with fixed statistics become part of the convolutions before them while detecting
    cfg.TEST.PROPOSALS = True  # evaluate the proposals of an R-CNN too: their average recall, AR@100 and AR@1000
