"""The one overlay of an anomaly map on its photograph: arrays in, an array out."""

import numpy as np
from matplotlib import colormaps
from PIL import Image


def as_uint8(image: np.ndarray) -> np.ndarray:
    """A picture of any shape, uint8 or float in 0..1, as uint8."""
    image = np.asarray(image)
    return image if image.dtype == np.uint8 else (image * 255).round().astype(np.uint8)


def overlay(
    image: np.ndarray, anomaly_map: np.ndarray, top: float, low: float = 0.0, opacity: float = 0.5,
    colour_map: str = "magma",
) -> np.ndarray:  # fmt: skip
    """Photograph (H, W, 3) or (H, W), uint8 or float in 0..1, under its anomaly map (H, W): a picture (H, W, 3) uint8.

    Scores from `low` to `top` take the colours of `colour_map`; what lies outside takes the colour of that end. The
    photograph is drawn in grey, so that all colour is score: magma on a red object cannot be told from the object.
    """
    grey = Image.fromarray(as_uint8(image)).convert("L").convert("RGB")
    level = (anomaly_map - low) * (256 / max(top - low, 1e-12))  # (H, W)
    heat = Image.fromarray(level.clip(0, 255).astype(np.uint8))
    heat.putpalette(colormaps[colour_map](np.arange(256), bytes=True)[:, :3].tobytes())
    return np.array(Image.blend(grey, heat.convert("RGB"), opacity))
