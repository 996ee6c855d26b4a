"""Drawing detections on images: boxes, masks with contours, and labels that can be read.

Here belong pictures of results and their colours; reading data, models and windows lie elsewhere. May import
the structures and errors, and no model.
"""

from detector.visualize.colors import COLORS, PALETTES, Color, named_palette, palette_for
from detector.visualize.drawing import Look, draw_detections, side_by_side, write_image
from detector.visualize.labels import Image

__all__ = [
    "COLORS",
    "PALETTES",
    "Color",
    "Image",
    "Look",
    "draw_detections",
    "named_palette",
    "palette_for",
    "side_by_side",
    "write_image",
]
