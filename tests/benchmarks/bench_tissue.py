"""Tissue and ink on drawn stains and artefacts over known masks, beside rules that other pipelines use.

python tests/benchmarks/bench_tissue.py [NAME...]

Each row is a thumbnail of 8 um/px; patches are its cells of 16 px. Recall is the share of patches with at
least half tissue that are kept, "false" the patches kept with hardly any tissue, as a share of the true ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, median_filter
from skimage.color import rgb2gray, rgb2hsv
from skimage.filters import threshold_otsu
from skimage.morphology import closing, disk

from wsitool.slides.limits import decide
from wsitool.slides.quality import score_candidates
from wsitool.slides.spec import QualityThresholds
from wsitool.slides.tissue import TissueMask, apply_detector
from wsitool.slides.tissue_registry import TISSUE

__all__ = ["OPTIONS", "ROWS", "RULES", "measure", "table"]

Rgb = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
_H, _W, _CELL = 480, 720, 16
_MPP = 8.0
# Optical densities of red, green and blue at full stain.
_STAINS = {
    "haematoxylin": (0.65, 0.70, 0.29),
    "eosin": (0.07, 0.99, 0.11),
    "DAB": (0.27, 0.57, 0.78),
    "PAS magenta": (0.18, 0.83, 0.35),
    "Sirius red": (0.06, 0.80, 0.75),
    "Congo red": (0.08, 0.60, 0.55),
    "AEC red": (0.15, 0.75, 0.65),
    "aniline blue": (0.80, 0.50, 0.10),
    "alcian blue": (0.75, 0.30, 0.20),
    "light green": (0.70, 0.20, 0.45),
    "silver": (0.75, 0.76, 0.78),
    "trichrome red": (0.10, 0.90, 0.60),
    "saffron": (0.02, 0.25, 0.90),
}
_PENS = {
    "black": (25, 25, 28),
    "blue": (35, 55, 160),
    "green": (25, 105, 65),
    "red": (190, 30, 40),
    "purple": (95, 40, 130),
    "orange": (235, 130, 30),
}


def _shape(scale: float = 1.0) -> Mask:
    y, x = np.mgrid[:_H, :_W]
    blobs = ((210, 170, 95), (180, 330, 110), (280, 280, 100), (200, 520, 70), (250, 590, 75))
    wobble = gaussian_filter(np.random.default_rng(5).normal(size=(_H, _W)), 9) * 60
    return np.any([np.hypot(y - a, x - b) + wobble < r * scale for a, b, r in blobs], axis=0)


def _texture(seed: int, grain: float) -> Floats:
    """Unevenness of a stain with mean 1: cells of `grain` pixels on slow waves."""
    rng = np.random.default_rng(seed)
    fine, slow = (gaussian_filter(rng.normal(size=(_H, _W)), sigma) for sigma in (grain, 12))
    return np.clip(1 + 0.35 * fine / fine.std() + 0.15 * slow / slow.std(), 0.15, 2.2)


def _draw(
    *stains: tuple[str, float], mask: Mask | None = None, glass: tuple[int, ...] = (243, 243, 243)
) -> Rgb:
    """Tissue in stains of these mean densities on glass of that color, by Beer and Lambert, with noise."""
    density = np.zeros((_H, _W, 3))
    for index, (name, amount) in enumerate(stains):
        density += amount * _texture(index, 0.7 + index)[..., None] * np.array(_STAINS[name])
    density *= (_shape() if mask is None else mask)[..., None]
    noise = np.random.default_rng(9).normal(0, 1.2, (_H, _W, 3))
    return np.clip(np.array(glass) * 10**-density + noise, 0, 255).astype(np.uint8)


def _he(**options: object) -> Rgb:
    return _draw(("haematoxylin", 0.35), ("eosin", 0.3), **options)  # type: ignore[arg-type]


def _lit(picture: Rgb, light: Floats) -> Rgb:
    return np.clip(picture * light, 0, 255).astype(np.uint8)


def _fat() -> Rgb:
    """Membranes of empty cells: 6 um of eosin around cells of 80 um."""
    rng = np.random.default_rng(3)
    seeds = rng.uniform((0, 0), (_H, _W), (_H * _W // 90, 2))
    from scipy.spatial import cKDTree

    near, _ = cKDTree(seeds).query(np.argwhere(np.ones((_H, _W))), k=2)
    wall = (near[:, 1] - near[:, 0] < 0.9).reshape(_H, _W)
    return _draw(("eosin", 0.35), mask=_shape() & wall)


def _pen_row(colors: tuple[str, ...], width: int) -> tuple[Rgb, Mask]:
    """Strokes over tissue and glass; what they hide is no tissue."""
    out, ink = _he(), np.zeros((_H, _W), bool)
    y, x = np.mgrid[:_H, :_W]
    for number, name in enumerate(colors):
        middle = _H * (number + 0.5) / len(colors) + 14 * np.sin(x / 60 + number)
        stroke = (np.abs(y - middle) < width / 2) & (x > 10) & (x < _W - 10)
        out[stroke] = _PENS[name]
        ink |= stroke
    return out, _shape() & ~ink


def _smear(level: int) -> Rgb:
    """Glue: smooth gray patches beside the tissue."""
    rng = np.random.default_rng(8)
    blobs = gaussian_filter(rng.normal(size=(_H, _W)), 25)
    return np.where((blobs > 1.2 * blobs.std())[..., None] & ~_shape()[..., None], np.uint8(level), _he())


_Y, _X = np.mgrid[:_H, :_W] / np.array([_H, _W])[:, None, None]
_SMALL = _shape(0.25)
# Pictures and what of them is tissue.
ROWS: dict[str, Callable[[], tuple[Rgb, Mask]]] = {
    "H&E": lambda: (_he(), _shape()),
    "H&E, pale": lambda: (_draw(("haematoxylin", 0.12), ("eosin", 0.12)), _shape()),
    "H&E, dark": lambda: (_draw(("haematoxylin", 0.8), ("eosin", 0.6)), _shape()),
    "haematoxylin alone": lambda: (_draw(("haematoxylin", 0.3)), _shape()),
    "eosin alone": lambda: (_draw(("eosin", 0.25)), _shape()),
    "DAB and haematoxylin": lambda: (_draw(("DAB", 0.4), ("haematoxylin", 0.15)), _shape()),
    "haematoxylin of IHC, pale": lambda: (_draw(("haematoxylin", 0.1)), _shape()),
    "PAS": lambda: (_draw(("PAS magenta", 0.4), ("haematoxylin", 0.1)), _shape()),
    "Masson": lambda: (_draw(("aniline blue", 0.4), ("trichrome red", 0.2)), _shape()),
    "Masson, mostly blue": lambda: (_draw(("aniline blue", 0.6)), _shape()),
    "Sirius red": lambda: (_draw(("Sirius red", 0.7)), _shape()),
    "Congo red": lambda: (_draw(("Congo red", 0.4), ("haematoxylin", 0.1)), _shape()),
    "AEC": lambda: (_draw(("AEC red", 0.5), ("haematoxylin", 0.15)), _shape()),
    "alcian blue": lambda: (_draw(("alcian blue", 0.6)), _shape()),
    "GMS": lambda: (_draw(("light green", 0.4), ("silver", 0.25)), _shape()),
    "Jones silver": lambda: (_draw(("silver", 0.6)), _shape()),
    "reticulin, pale": lambda: (_draw(("silver", 0.3)), _shape()),
    "saffron": lambda: (_draw(("saffron", 0.3), ("haematoxylin", 0.2)), _shape()),
    "gray scan": lambda: (np.repeat(_he().mean(2, keepdims=True).astype(np.uint8), 3, 2), _shape()),
    "dark scan": lambda: (_lit(_he(), np.array(0.75)), _shape()),
    "yellowed glass": lambda: (_he(glass=(246, 235, 205)), _shape()),
    "brown glass": lambda: (_he(glass=(235, 215, 190)), _shape()),
    "blue glass": lambda: (_he(glass=(215, 228, 245)), _shape()),
    "gray gradient": lambda: (_lit(_he(), (0.8 + 0.2 * _X)[..., None]), _shape()),
    "warm gradient": lambda: (
        _lit(_he(), 1 - _X[..., None] * np.array([0.0, 0.05, 0.16])),
        _shape(),
    ),
    "vignette": lambda: (_lit(_he(), 1 - 0.35 * ((_X - 0.5) ** 2 + (_Y - 0.5) ** 2)[..., None]), _shape()),
    "black surround": lambda: (np.where((_X < 0.06)[..., None] | (_Y > 0.93)[..., None], 3, _he()), _shape()),
    "fat": lambda: (_fat(), _shape()),
    "tiny biopsies": lambda: (_he(mask=_SMALL), _SMALL),
    "tissue everywhere": lambda: (_he(mask=np.ones((_H, _W), bool)), np.ones((_H, _W), bool)),
    "blank glass": lambda: (_he(mask=np.zeros((_H, _W), bool)), np.zeros((_H, _W), bool)),
    "glue": lambda: (_smear(205), _shape()),
    "dirt": lambda: (
        np.where((np.random.default_rng(2).random((_H, _W)) > 0.9993)[..., None], 90, _he()),
        _shape(),
    ),
    "pens of 50 um": lambda: _pen_row(tuple(_PENS), 6),
    "pens of 250 um": lambda: _pen_row(("blue", "green", "black"), 30),
    "pens of 250 um, red and purple": lambda: _pen_row(("red", "purple"), 30),
}


# Fat is stained in its walls only: as `tile` then says, it is for this detector.
OPTIONS = {"fat": "filled"}


def _ours(picture: Rgb, detector: str = "chroma") -> NDArray[np.bool_]:
    unread = np.zeros(picture.shape[:2], bool)
    mask = TissueMask(
        mask=apply_detector(TISSUE.get(detector), picture, mpp=_MPP, unread=unread),
        thumbnail=picture,
        downsample=(1.0, 1.0),
    )
    y, x = np.mgrid[: _H // _CELL, : _W // _CELL] * _CELL
    coords = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int64)
    scores = {"tissue": mask.fraction(coords, float(_CELL)), **score_candidates(mask, coords, float(_CELL))}
    from wsitool.slides.spec import TileSpec

    reason, _ = decide(scores, TileSpec(limits=QualityThresholds().limits).all_limits)
    return (reason == 0).reshape(_H // _CELL, _W // _CELL)


def _cells(mask: Mask) -> Floats:
    return mask.reshape(_H // _CELL, _CELL, _W // _CELL, _CELL).mean(axis=(1, 3))


def _otsu_saturation(picture: Rgb) -> Mask:
    saturation = rgb2hsv(picture)[..., 1]
    return np.asarray(saturation > threshold_otsu(saturation))


def _like_clam(picture: Rgb) -> Mask:
    """Median-blurred saturation above 8 of 255, closed: the rule of CLAM's defaults."""
    saturation = median_filter((rgb2hsv(picture)[..., 1] * 255).astype(np.uint8), 7)
    return np.asarray(closing(saturation > 8, disk(2)))


def _like_histoqc(picture: Rgb) -> Mask:
    """Neither bright nor black: HistoQC's limits on lightness, without its later steps."""
    gray = rgb2gray(picture)
    return np.asarray((gray < 0.85) & (gray > 0.1))


RULES: dict[str, Callable[[Rgb], NDArray[np.bool_]]] = {
    "wsitool": _ours,
    "density": lambda picture: _ours(picture, "density"),
    "filled": lambda picture: _ours(picture, "filled"),
    "Otsu on saturation": lambda picture: _cells(_otsu_saturation(picture)) >= 0.5,
    "CLAM-like": lambda picture: _cells(_like_clam(picture)) >= 0.5,
    "HistoQC-like": lambda picture: _cells(_like_histoqc(picture)) >= 0.5,
}


def measure(row: str) -> dict[str, tuple[float, float]]:
    """Recall and false patches of each rule on a row; both are shares of the true patches (at least one)."""
    picture, mask = ROWS[row]()
    share = _cells(mask)
    true = share >= 0.5
    count = max(1, int(true.sum()))
    figures = {}
    for name, rule in RULES.items():
        kept = _ours(picture, OPTIONS[row]) if name == "wsitool" and row in OPTIONS else rule(picture)
        recall = (kept & true).sum() / count if true.any() else 1.0
        figures[name] = (float(recall), float((kept & (share < 0.1)).sum() / count))
    return figures


def table(rows: list[str]) -> str:
    """The figures as lines of text, rows of ours below recall .95 or above 3 % false marked."""
    lines = [f"{'recall / false':<32}" + "".join(f"{name:>20}" for name in RULES)]
    for row in rows:
        figures = measure(row)
        recall, false = figures["wsitool"]
        cells = "".join(f"{f'{a:.2f} / {b:.2f}':>20}" for a, b in figures.values())
        option = f" (--tissue {OPTIONS[row]})" if row in OPTIONS else ""
        lines.append(f"{row + option:<32}{cells}{'' if recall >= 0.95 and false <= 0.03 else '  *'}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(sys.argv[1:] or list(ROWS)))
