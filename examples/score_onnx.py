"""Score photographs with an exported network: no torch, nothing of this repository.

python predict.py --weights runs/x --export model.onnx
python examples/score_onnx.py model.onnx photo.jpg ...
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, *photos = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
targets = json.loads(session.get_modelmeta().custom_metadata_map["targets"])
for photo in photos:
    pixels = np.array(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"))  # H x W x 3
    scores = session.run(["scores"], {"photos": pixels[None]})[0][0]
    print(photo, *(f"{name} {score:.4f}" for name, score in zip(targets, scores, strict=True)))
