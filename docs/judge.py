"""Judge photographs by an exported detector, with numpy, Pillow and onnxruntime alone.

    dumenet export build/runs/.../checkpoint.pt --out model.onnx
    python judge.py model.onnx photo.png ...

Images are RGB, 0 to 255, resized straight to a square, or to the detector's own height and width, by Pillow with
BILINEAR; the graph does the rest. A detector for tiles needs `dumenet predict`, which cuts and joins them.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
features = about["config"]["features"]
height, width = np.broadcast_to(features["image_size"], 2)
if features.get("tiles", [1, 1]) != [1, 1]:
    sys.exit("This detector judges tiles: use `dumenet predict`.")
for name in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(name)).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    maps, scores, found = session.run(None, {"images": np.asarray(image)[None], "category": np.array([-1])})
    category = about["categories"][found[0]] if found[0] >= 0 else "all"
    threshold = about["thresholds"].get(category)  # none where there was one normal image
    verdict = "no threshold" if threshold is None else "anomalous" if scores[0] > threshold else "normal"
    print(f"{name},{scores[0]:.6g},{category},{verdict}")
