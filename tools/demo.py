#!/usr/bin/env python
"""Detections on pictures, a video or a camera, with the arguments of Detectron2's demo.

python tools/demo.py --config-file quick_fcos_shapes --input photos/ --output out/
python tools/demo.py --config-file output/raccoon --video-input clip.mp4 --output clip_detections.mp4
python tools/demo.py --weights fcos.onnx --input photo.jpg --output out/ out/detections.json
"""

from detkit.demo import run

if __name__ == "__main__":
    run()
