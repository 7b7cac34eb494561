"""Batched augmentation: every sample has its own parameters, a whole batch is one call.

Images are (B, 3, H, W), uint8 in [0, 255] or float in [0, 1], on any device. `random_*`, `color_jitter`,
`gaussian_blur` and `hed_jitter` draw their parameters from the generator they are given and from nothing
else; the operations they call take the parameters explicitly and equal torchvision's functional ones. Inputs
are never modified. A generator on the CPU serves images on any device: the parameters are then known to the
host without waiting for the device, and the same seed gives the same parameters everywhere.
"""

from wsitool.augment.blur import blur, gaussian_blur
from wsitool.augment.color import adjust_color, color_jitter, grayscale, normalize, random_grayscale, solarize
from wsitool.augment.draw import in_pieces, to_device
from wsitool.augment.geometry import (
    crop_boxes,
    flip_rotate,
    random_d4,
    random_hflip,
    random_resized_crop,
    random_vflip,
    resize,
    resized_crop,
    to_float,
)
from wsitool.augment.stain import hed_jitter, shift_hed
from wsitool.augment.two_views import Crop, ViewParams, crops, two_views

__all__ = [
    "Crop",
    "ViewParams",
    "adjust_color",
    "blur",
    "color_jitter",
    "crop_boxes",
    "crops",
    "flip_rotate",
    "gaussian_blur",
    "grayscale",
    "hed_jitter",
    "in_pieces",
    "normalize",
    "random_d4",
    "random_grayscale",
    "random_hflip",
    "random_resized_crop",
    "random_vflip",
    "resize",
    "resized_crop",
    "shift_hed",
    "solarize",
    "to_device",
    "to_float",
    "two_views",
]
