"""Where the tissue is: a mask over a small picture of the slide, and the tissue share of any rectangle.

A mask pixel (column j, row i) covers level-0 pixels [j*fx, (j+1)*fx) x [i*fy, (i+1)*fy).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label as connected_components
from skimage.filters import gaussian, threshold_otsu

from wsitool.errors import PluginError, RegionReadError
from wsitool.slides.readers.tiles import TiledSlide
from wsitool.slides.slide import Slide
from wsitool.slides.tissue_registry import DEFAULT_TISSUE, TISSUE, TissueDetector

__all__ = [
    "INK_LIMIT",
    "TissueMask",
    "apply_detector",
    "area_mean",
    "channel_range",
    "detect_tissue",
    "optical_density",
    "slide_thumbnail",
    "tissue_mask",
    "tissue_mask_of_image",
    "white_balance",
    "without_small",
]

INK_LIMIT = 215
"""A pixel of a ready-made image counts as tissue where min(R, G, B) is below this."""

_MAX_SIDE = 4096
_MAX_SIDE_WITHOUT_MPP = 2048
_BLOCK_WIDTH, _BLOCK_HEIGHT = 2048, 1024
_SMALLEST_BLOCK = 256
# Guards of the Otsu threshold on chroma (0-255): below the lower one JPEG noise on blank glass would become
# tissue, above the upper one a picture full of tissue would be split into dark and pale tissue.
_CHROMA_GUARD = (8.0, 20.0)
# Glass is bright and nearly neutral; its tint is measured only where it covers at least this share.
_GLASS_MIN, _GLASS_CHROMA, _GLASS_SHARE, _GLASS_PERCENTILE = 190, 30, 0.005, 80
# Yellowed glass is not neutral. It is known by being one colour: the most frequent one, over at least this
# share of the picture within so many levels, and among its brightest.
_TINTED_MIN, _TINTED_CHROMA, _TINTED_SHARE, _TINTED_REACH, _TINTED_BRIGHTER = 165, 75, 0.25, 8, 0.1
_BIN = 8  # levels
# Levels by which the glass's tint may differ over a picture before it is divided out place by place.
_DRIFT, _GRID, _FITTED = 8.0, 3, 20_000
_DARK, _BLACK = 0.15, 60  # optical density, largest channel


@dataclass(frozen=True, kw_only=True)
class TissueMask:
    """A tissue mask with the picture it was found on.

    `mask` (h, w) bool; `thumbnail` (h, w, 3) uint8 RGB; `downsample` (fx, fy) level-0 pixels per mask pixel;
    `unreadable` the number of mask pixels whose slide pixels could not be decoded: they count as tissue, so
    that their patches are tried and reported, not dropped.

    >>> mask = wsitool.tissue_mask(wsitool.open_slide("slide.svs"))
    >>> mask.mask.shape == mask.thumbnail.shape[:2]
    True
    """

    mask: NDArray[np.bool_]
    thumbnail: NDArray[np.uint8]
    downsample: tuple[float, float]
    unreadable: int = 0

    @cached_property
    def colorless(self) -> float:
        """The share of the picture that is dark, but for black, and no tissue of this mask."""
        dark = optical_density(self.thumbnail) > _DARK
        return float((dark & (channel_range(self.thumbnail)[1] >= _BLACK) & ~self.mask).mean())

    @cached_property
    def integral(self) -> NDArray[np.int32]:
        """(h + 1, w + 1) int32 sums of the mask over [0, i) x [0, j)."""
        integral = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), np.int32)
        np.cumsum(self.mask, axis=0, dtype=np.int32, out=integral[1:, 1:])
        np.cumsum(integral[1:, 1:], axis=1, out=integral[1:, 1:])
        return integral

    def fraction(
        self, coords: NDArray[np.int64], size_level0: float | tuple[float, float]
    ) -> NDArray[np.float32]:
        """Tissue share of rectangles with top-left level-0 corners `coords` (M, 2) x, y: (M,) float32.

        `size_level0` is the side, or (width, height), in level-0 pixels. Mask pixels cut by an edge count by
        their covered area; what lies outside the slide is not tissue.
        """
        width, height = size_level0 if isinstance(size_level0, tuple) else (size_level0, size_level0)
        fx, fy = self.downsample
        x, y = coords[:, 0].astype(np.float64), coords[:, 1].astype(np.float64)
        left, right, top, bottom = x / fx, (x + width) / fx, y / fy, (y + height) / fy
        area = (
            self._sum_to(right, bottom)
            - self._sum_to(left, bottom)
            - self._sum_to(right, top)
            + self._sum_to(left, top)
        )
        share = area / ((width / fx) * (height / fy))
        return np.clip(share, 0.0, 1.0).astype(np.float32)

    def _sum_to(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        # The integral of a piecewise constant picture is bilinear inside each pixel, so this is exact.
        height, width = self.mask.shape
        x, y = np.clip(x, 0, width), np.clip(y, 0, height)
        j, i = np.minimum(x.astype(np.intp), width - 1), np.minimum(y.astype(np.intp), height - 1)
        u, v = x - j, y - i
        table = self.integral
        upper = table[i, j] * (1 - u) + table[i, j + 1] * u
        lower = table[i + 1, j] * (1 - u) + table[i + 1, j + 1] * u
        return np.asarray(upper * (1 - v) + lower * v)


def tissue_mask(
    slide: Slide, *, mpp: float = 8.0, detector: str | TissueDetector = DEFAULT_TISSUE
) -> TissueMask:
    """Find the tissue of a slide on a thumbnail of about `mpp` um per pixel, by a detector of `TISSUE`.

    A slide that states no resolution gets a thumbnail of at most 2048 pixels a side; none is larger than
    4096. The thumbnail is area-averaged from the coarsest level that is fine enough, read block by block, so
    memory does not grow with the slide. Raises RegionReadError if no pixel of the slide can be read,
    UsageError for a name that no detector has, PluginError for one that does not keep its contract.

    >>> mask = wsitool.tissue_mask(wsitool.open_slide("slide.svs"), mpp=4)
    >>> 0.2 < float(mask.mask.mean()) < 1
    True
    """
    rule = detector if isinstance(detector, TissueDetector) else TISSUE.get(detector)
    thumbnail, unread, downsample = slide_thumbnail(slide, mpp)
    scale = None if slide.info.mpp is None else slide.info.mpp * downsample
    mask = apply_detector(rule, thumbnail, mpp=scale, unread=unread)
    return TissueMask(
        mask=mask | unread,
        thumbnail=thumbnail,
        downsample=(downsample, downsample),
        unreadable=int(unread.sum()),
    )


def apply_detector(
    rule: TissueDetector, thumbnail: NDArray[np.uint8], *, mpp: float | None, unread: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """What a detector makes of a thumbnail, as `DetectTissue` says; PluginError where it is no such mask."""
    mask = TISSUE.call(rule, rule.detect, thumbnail, mpp=mpp, unread=unread)
    if not (isinstance(mask, np.ndarray) and mask.dtype == bool and mask.shape == unread.shape):
        got = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else repr(mask)[:80]
        raise PluginError(f"{TISSUE.who(rule)} must return a bool mask of shape {unread.shape}, got {got}.")
    return np.asarray(mask)


def tissue_mask_of_image(rgb: NDArray[np.uint8], *, limit: int = INK_LIMIT) -> TissueMask:
    """Mark the pixels of a ready-made image (H, W, 3) uint8 that are not blank: min(R, G, B) < `limit`.

    Such images hold tissue nearly everywhere and are cut at full resolution, so the rule is a fixed one per
    pixel: no threshold that depends on the image, no smoothing.
    """
    return TissueMask(mask=channel_range(rgb)[0] < limit, thumbnail=rgb, downsample=(1.0, 1.0))


def detect_tissue(
    rgb: NDArray[np.uint8], *, speck_px: int, ignore: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.bool_], float]:
    """Mask (h, w) bool of coloured tissue on a thumbnail (h, w, 3) uint8, and the chroma threshold used.

    Chroma is max - min of the channels after the tint of the glass is divided out. Its Otsu threshold
    (doi:10.1109/TSMC.1979.4310076) is held between two absolute guards. Components smaller than `speck_px`
    pixels go; holes stay unless smaller than a quarter of that. `ignore` marks pixels without data.
    """
    chroma = _smooth_chroma(rgb)
    some_ignored = ignore is not None and bool(ignore.any())
    seen = chroma[~ignore] if some_ignored and ignore is not None else chroma
    low, high = _CHROMA_GUARD
    otsu = float(threshold_otsu(seen)) if seen.size and np.ptp(seen) > 0 else high
    threshold = min(max(otsu, low), high)
    mask = chroma > threshold
    if some_ignored and ignore is not None:
        mask &= ~ignore
    mask = ~without_small(~mask, speck_px // 4)
    return without_small(mask, speck_px), threshold


def area_mean(block: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Rounded mean of every `step` x `step` cell of (h, w, 3) uint8, over what a cell at the edge has."""
    height, width = block.shape[:2]
    padded_h, padded_w = -(-height // step) * step, -(-width // step) * step
    if step == 1:
        return block
    if (padded_h, padded_w) != (height, width):
        block = np.pad(block, ((0, padded_h - height), (0, padded_w - width), (0, 0)))
    # Rows first, over contiguous memory, and one by one: many times faster than summing over short axes.
    bands = block.reshape(padded_h // step, step, padded_w * 3)
    tall = bands[:, 0].astype(np.uint32)
    for row in range(1, step):
        tall += bands[:, row]
    cells = tall.reshape(padded_h // step, padded_w // step, step, 3)
    sums = cells[:, :, 0].copy()
    for column in range(1, step):
        sums += cells[:, :, column]
    rows = np.minimum(step, height - np.arange(0, height, step))
    columns = np.minimum(step, width - np.arange(0, width, step))
    counts = np.outer(rows, columns)[..., None]
    return np.asarray((sums + counts // 2) // counts, np.uint8)


def channel_range(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Smallest and largest channel of (h, w, 3) uint8, each (h, w)."""
    # Ten times faster than reducing the last axis.
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)


def white_balance(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Divide the tint of the glass out of (h, w, 3) uint8; a picture that shows no glass stays as it is.

    Glass is bright and nearly neutral; where nothing is, it may be yellowed, see `_tinted_glass`.
    """
    some = rgb[:: 1 + len(rgb) // 1024]  # a thousand rows show the glass as well as all
    low, high = channel_range(some)
    glass = (low >= _GLASS_MIN) & (high - low <= _GLASS_CHROMA)
    if glass.mean() < _GLASS_SHARE:
        glass = _tinted_glass(some)
        if not glass.any():
            return rgb
    white = np.percentile(some[glass], _GLASS_PERCENTILE, axis=0)  # (3,): pale tissue lies below it
    drift = _drift(some, glass)
    if np.ptp(drift - drift.mean(axis=2, keepdims=True), axis=(0, 1)).max() > _DRIFT:
        return _divided(rgb, drift)
    table = np.minimum(np.rint(np.arange(256)[:, None] * (255.0 / white)), 255).astype(np.uint8)  # (256, 3)
    return np.stack([table[rgb[..., c], c] for c in range(3)], axis=2)


def _drift(rgb: NDArray[np.uint8], glass: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The color of the glass over (h, w, 3), on a grid of `_GRID` places a side: planes fitted to `glass`.

    Planes: curved surfaces would follow pale tissue. Fitted again without what lies below, which is such.
    """
    y, x = np.nonzero(glass)
    step = 1 + len(y) // _FITTED
    y, x = y[::step], x[::step]
    sides = np.stack([np.ones(len(y)), y / len(rgb), x / rgb.shape[1]], axis=1)  # (n, 3)
    values = rgb[y, x].astype(np.float64)
    fitted = np.ones(len(y), bool)
    for _ in range(3):
        planes = np.linalg.lstsq(sides[fitted], values[fitted], rcond=None)[0]  # (3, channels)
        below = values - sides @ planes
        fitted = (np.abs(below) <= 2 * below[fitted].std(axis=0) + 1).all(axis=1)
        if not fitted.any():
            break
    places = np.linspace(0, 1, _GRID)
    down, along = np.meshgrid(places, places, indexing="ij")
    grid = np.stack([np.ones_like(down), down, along], axis=2) @ planes
    return np.asarray(grid)


def _divided(rgb: NDArray[np.uint8], drift: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(h, w, 3) divided by glass that drifts from corner to corner of `drift`, row by row."""
    out = np.empty_like(rgb)
    across = np.linspace(0, 1, rgb.shape[1])[:, None]  # (w, 1)
    for row, share in enumerate(np.linspace(0, 1, len(rgb))):
        ends = drift[0, [0, -1]] * (1 - share) + drift[-1, [0, -1]] * share  # (2, 3)
        glass = ends[0] * (1 - across) + ends[1] * across
        out[row] = np.minimum(np.rint(rgb[row] * (255.0 / glass)), 255)
    return out


def _tinted_glass(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels of (h, w, 3) are glass of a tint: one bright color over a quarter of it, or none at all.

    Tissue has no such color: it is stained unevenly, and paler parts of it are brighter.
    """
    binned = (rgb // _BIN).astype(np.int32)
    codes = (binned[..., 0] << 10) | (binned[..., 1] << 5) | binned[..., 2]
    counts = np.bincount(codes.ravel(), minlength=1 << 15)
    color = np.median(rgb[codes == counts.argmax()], axis=0)  # (3,)
    near = (np.abs(rgb - color.astype(np.int16)) <= _TINTED_REACH).all(axis=2)
    brighter = rgb.sum(axis=2, dtype=np.int32) > color.sum() + 3 * _TINTED_REACH
    is_glass = (
        color.min() >= _TINTED_MIN
        and np.ptp(color) <= _TINTED_CHROMA
        and near.mean() >= _TINTED_SHARE
        and brighter.mean() <= _TINTED_BRIGHTER
    )
    return np.asarray(near & is_glass)


def _smooth_chroma(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """max - min of the balanced channels, smoothed: (h, w) float32."""
    balanced = white_balance(rgb)
    low, high = channel_range(balanced)
    chroma = (high - low).astype(np.float32)
    return np.asarray(gaussian(chroma, sigma=1.0, mode="nearest", preserve_range=True))


def optical_density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Optical density of the mean of the channels of (h, w, 3) uint8, by Beer and Lambert: (h, w)."""
    # + 1 and / 256: black has a density of 2.4 instead of infinity.
    return np.asarray(-np.log10((rgb.mean(axis=2, dtype=np.float32) + 1) / 256), np.float32)


def without_small(mask: NDArray[np.bool_], size_px: int) -> NDArray[np.bool_]:
    """`mask` (h, w) without its connected components of fewer than `size_px` pixels."""
    labels = np.empty(mask.shape, np.int32)
    number = connected_components(mask, output=labels)
    # Row by row, as bincount makes an int64 copy of what it counts.
    sizes = np.zeros(number + 1, np.int64)
    for row in labels:
        counts = np.bincount(row)
        sizes[: len(counts)] += counts
    large = sizes >= size_px
    large[0] = False
    return np.asarray(large[labels])


def slide_thumbnail(slide: Slide, mpp: float = 8.0) -> tuple[NDArray[np.uint8], NDArray[np.bool_], float]:
    """The slide's thumbnail (h, w, 3), where it could not be read (h, w), level-0 pixels per pixel of it."""
    info = slide.info
    longest = max(info.width, info.height)
    if info.mpp is None:
        downsample = max(1.0, longest / _MAX_SIDE_WITHOUT_MPP)
    else:
        downsample = max(1.0, mpp / info.mpp, longest / _MAX_SIDE)
    fitting = [i for i, level in enumerate(info.levels) if level.downsample <= downsample * 1.01]
    index = max(fitting, key=lambda i: info.levels[i].downsample)
    level = info.levels[index]
    step = max(1, round(downsample / level.downsample))
    shape = (-(-level.height // step), -(-level.width // step))
    picture, unread = np.full((*shape, 3), 255, np.uint8), np.zeros(shape, bool)
    block_h, block_w = max(1, _BLOCK_HEIGHT // step) * step, max(1, _BLOCK_WIDTH // step) * step
    if isinstance(slide, TiledSlide) and (tile_width := slide.tiles(index).tile_width) > block_w:
        # Along strips: across them, each would be decoded once for every block.
        block_w = -(-tile_width // step) * step
        block_h = max(1, _BLOCK_WIDTH * _BLOCK_HEIGHT // block_w // step) * step
    first_error: RegionReadError | None = None
    for y in range(0, level.height, block_h):
        for x in range(0, level.width, block_w):
            size = (min(block_w, level.width - x), min(block_h, level.height - y))
            error = _read_into(picture, unread, slide, index, step, (x, y), size)
            first_error = first_error or error
    if first_error is not None and unread.all():
        raise first_error
    return picture, unread, step * level.downsample


def _read_into(
    picture: NDArray[np.uint8],
    unread: NDArray[np.bool_],
    slide: Slide,
    index: int,
    step: int,
    corner: tuple[int, int],
    size: tuple[int, int],
) -> RegionReadError | None:
    """Average one block of a level into the thumbnail; quarter a block that cannot be read and retry."""
    (x, y), (width, height) = corner, size
    scale = slide.info.levels[index].downsample
    cells = (
        slice(y // step, -(-(y + height) // step)),
        slice(x // step, -(-(x + width) // step)),
    )
    try:
        block = slide.read_region(round(x * scale), round(y * scale), index, width, height)
    except RegionReadError as error:
        if max(size) <= max(step, _SMALLEST_BLOCK):
            unread[cells] = True
            return error
        half_w, half_h = (max(1, side // 2 // step) * step for side in size)
        for part_y, part_h in ((y, min(half_h, height)), (y + half_h, height - half_h)):
            for part_x, part_w in ((x, min(half_w, width)), (x + half_w, width - half_w)):
                if part_w > 0 and part_h > 0:
                    part = (part_w, part_h)
                    _read_into(picture, unread, slide, index, step, (part_x, part_y), part)
        return error
    picture[cells] = area_mean(block, step)
    return None
