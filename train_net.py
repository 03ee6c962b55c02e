#!/usr/bin/env python
"""Trains and evaluates any detector of this project, with Detectron2's command line.

python train_net.py --config-file configs/quick/fcos_shapes.yaml
python train_net.py --config-file ... --num-gpus 8 --resume
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
torchrun --nproc-per-node 8 train_net.py --config-file ...
"""

from detkit.engine import run

if __name__ == "__main__":
    run()
