"""Draws H&E-like tissue: stain concentrations first, colours last, by the law of light absorption.

Lengths are um, so that the same tissue can be drawn at any resolution. The kinds differ in what a pathologist
looks at: nuclear size and density, and the structure of the glands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom
from skimage.draw import disk, ellipse

__all__ = ["KINDS", "LevelView", "draw_tissue"]

Floats = NDArray[np.float32]

# Optical density per unit of stain in R, G, B (Macenko et al. 2009, doi:10.1109/ISBI.2009.5193250).
_HAEMATOXYLIN = np.array([0.5626, 0.7201, 0.4062], dtype=np.float32)
_EOSIN = np.array([0.2159, 0.8012, 0.5581], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class LevelView:
    """Stain maps of one piece of tissue, (height, width) float32, and what is needed to draw on them."""

    haematoxylin: Floats
    eosin: Floats
    mpp: float
    rng: np.random.Generator

    @property
    def shape(self) -> tuple[int, int]:
        return self.eosin.shape[0], self.eosin.shape[1]

    def px(self, um: float) -> float:
        return um / self.mpp

    def fill(self, y: float, x: float, radius_um: float, *, eosin: float, haematoxylin: float = 0.03) -> None:
        """A round area of cytoplasm, lumen or necrosis."""
        rows, columns = disk((y, x), self.px(radius_um), shape=self.shape)
        self.eosin[rows, columns] = eosin
        self.haematoxylin[rows, columns] = haematoxylin

    def nucleus(self, y: float, x: float, length_um: float, *, roundness: float, stain: float) -> None:
        """An ellipse in any direction; `roundness` is its short axis over its long one."""
        # At least a pixel, at coarse resolutions too.
        long = max(self.px(length_um) / 2, 1.0)
        angle = self.rng.uniform(0, math.pi)
        # Clipped by `shape`: structures at the edge are cut, not moved.
        rows, columns = ellipse(y, x, max(long * roundness, 0.8), long, shape=self.shape, rotation=angle)
        self.haematoxylin[rows, columns] = stain * self.rng.uniform(0.8, 1.2)

    def ring(self, y: float, x: float, radius_um: float, *, spacing_um: float, **nucleus: float) -> None:
        """Nuclei side by side on a circle, as in a single-layered gland."""
        # Radii vary a little, as no gland is a perfect circle.
        count = max(int(2 * math.pi * radius_um / spacing_um), 3)
        for angle in self.rng.uniform(0, 0.3) + np.arange(count) * (2 * math.pi / count):
            radius = self.px(radius_um) * self.rng.uniform(0.94, 1.06)
            self.nucleus(y + radius * math.sin(angle), x + radius * math.cos(angle), **nucleus)

    def pack(
        self, y: float, x: float, inner_um: float, outer_um: float, *, per_1000um2: float, **nucleus: float
    ) -> None:
        """Nuclei at random between two radii, as in a solid gland."""
        count = int(math.pi * (outer_um**2 - inner_um**2) * per_1000um2 / 1000)
        # Uniform in the squared radius, so that the density is the same everywhere.
        radii = np.sqrt(self.rng.uniform(inner_um**2, outer_um**2, count)) / self.mpp
        for radius, angle in zip(radii, self.rng.uniform(0, 2 * math.pi, count), strict=True):
            self.nucleus(y + radius * math.sin(angle), x + radius * math.cos(angle), **nucleus)


def _tubule(canvas: LevelView, y: float, x: float) -> None:
    radius = canvas.rng.uniform(18, 28)
    canvas.fill(y, x, radius, eosin=canvas.rng.uniform(0.75, 1.0))
    canvas.fill(y, x, radius * 0.3, eosin=0.05)
    canvas.ring(y, x, radius * 0.68, spacing_um=11, length_um=6.5, roundness=0.9, stain=1.1)


def _glomerulus(canvas: LevelView, y: float, x: float) -> None:
    canvas.fill(y, x, 72, eosin=0.04, haematoxylin=0.0)
    canvas.fill(y, x, 60, eosin=0.55)
    canvas.pack(y, x, 0, 58, per_1000um2=9, length_um=6, roundness=0.8, stain=1.1)


def _benign_duct(canvas: LevelView, y: float, x: float) -> None:
    radius = canvas.rng.uniform(20, 38)
    canvas.fill(y, x, radius, eosin=0.6)
    canvas.fill(y, x, radius - 11, eosin=0.02, haematoxylin=0.0)
    canvas.ring(y, x, radius - 6, spacing_um=7, length_um=6, roundness=0.75, stain=1.0)
    canvas.ring(y, x, radius, spacing_um=12, length_um=7, roundness=0.35, stain=0.9)


def _adh_duct(canvas: LevelView, y: float, x: float) -> None:
    """Partly filled, with round holes punched out of a cellular sheet."""
    radius = canvas.rng.uniform(48, 66)
    canvas.fill(y, x, radius, eosin=0.5, haematoxylin=0.1)
    canvas.pack(y, x, 0, radius - 3, per_1000um2=9, length_um=7.5, roundness=0.85, stain=1.1)
    for angle in canvas.rng.uniform(0, 1) + np.arange(4) * (math.pi / 2):
        away = canvas.px(radius * 0.52)
        hole = (y + away * math.sin(angle), x + away * math.cos(angle))
        canvas.fill(*hole, radius * 0.24, eosin=0.03, haematoxylin=0.0)
        canvas.ring(*hole, radius * 0.28, spacing_um=9, length_um=7.5, roundness=0.85, stain=1.1)


def _dcis_duct(canvas: LevelView, y: float, x: float) -> None:
    """Large and solid, with big dark irregular nuclei around a necrotic centre."""
    radius = canvas.rng.uniform(75, 100)
    canvas.fill(y, x, radius, eosin=0.55, haematoxylin=0.22)
    canvas.fill(y, x, radius * 0.36, eosin=1.5, haematoxylin=0.1)
    canvas.pack(y, x, 0, radius * 0.34, per_1000um2=6, length_um=3, roundness=0.6, stain=1.4)
    canvas.pack(y, x, radius * 0.4, radius - 4, per_1000um2=8, length_um=12, roundness=0.75, stain=1.55)


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """One sort of tissue: its structures, how far apart they lie, and the nuclei between them."""

    structures: tuple[tuple[Callable[[LevelView, float, float], None], float], ...]  # (draw, share)
    apart_um: float
    stromal_nuclei_per_mm2: float


_KINDS = {
    "kidney": _Kind(
        structures=((_tubule, 0.98), (_glomerulus, 0.02)), apart_um=50, stromal_nuclei_per_mm2=500
    ),
    "benign": _Kind(structures=((_benign_duct, 1.0),), apart_um=112, stromal_nuclei_per_mm2=700),
    "adh": _Kind(structures=((_adh_duct, 1.0),), apart_um=150, stromal_nuclei_per_mm2=900),
    "dcis": _Kind(structures=((_dcis_duct, 1.0),), apart_um=215, stromal_nuclei_per_mm2=1100),
}
KINDS = tuple(_KINDS)


def draw_tissue(
    width: int, height: int, *, kind: str, mpp: float = 0.5, seed: int = 0, glass: float = 0.35
) -> NDArray[np.uint8]:
    """Draw a piece of tissue on glass: (height, width, 3) uint8 RGB.

    `kind` is one of KINDS, `glass` the share of the picture that is empty. The same arguments give the same
    pixels. KeyError for an unknown kind.
    """
    recipe = _KINDS[kind]
    # The kind in the seed: two kinds of one seed are not the same drawing in other colours.
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    # 14 um long and 3 um wide: fibres of collagen.
    fibres = _noise(rng, (height, width), (14 / mpp, 3 / mpp))
    stroma = np.clip(0.42 + 0.09 * fibres, 0.15, None).astype(np.float32)
    haematoxylin = np.full((height, width), 0.05, np.float32)
    canvas = LevelView(haematoxylin=haematoxylin, eosin=stroma, mpp=mpp, rng=rng)
    _scatter_stroma(canvas, recipe)
    for y, x in _places(canvas, recipe.apart_um):
        # Unzipped for `choice`, which wants shares apart.
        draws, shares = zip(*recipe.structures, strict=True)
        draws[rng.choice(len(draws), p=shares)](canvas, y, x)
    return _stain_to_rgb(canvas, _outline(rng, (height, width), glass))


def _scatter_stroma(canvas: LevelView, recipe: _Kind) -> None:
    height, width = canvas.shape
    area_mm2 = height * width * (canvas.mpp / 1000) ** 2
    for _ in range(int(recipe.stromal_nuclei_per_mm2 * area_mm2)):
        y, x = canvas.rng.uniform(0, height), canvas.rng.uniform(0, width)
        canvas.nucleus(y, x, 10, roundness=0.3, stain=0.85)


def _places(canvas: LevelView, apart_um: float) -> list[tuple[float, float]]:
    """A jittered grid: never on a line, never overlapping much."""
    step, jitter = canvas.px(apart_um), canvas.px(apart_um * 0.12)
    rows, columns = (int(side / step) + 2 for side in canvas.shape)
    return [
        (
            row * step + canvas.rng.uniform(-jitter, jitter),
            # Every second row moved by half a step, as in a honeycomb.
            (column + row % 2 / 2) * step + canvas.rng.uniform(-jitter, jitter),
        )
        for row in range(rows)
        for column in range(columns)
    ]


def _noise(rng: np.random.Generator, shape: tuple[int, int], grain: tuple[float, float]) -> Floats:
    """Smooth noise of unit variance; `grain` is its size in pixels along y and x."""
    small = [max(int(side / size), 2) + 3 for side, size in zip(shape, grain, strict=True)]
    coarse = gaussian_filter(rng.standard_normal(small), 0.6)
    # Of unit variance before growing; interpolation takes a little of it.
    grown = zoom(coarse / coarse.std(), [side / n for side, n in zip(shape, small, strict=True)], order=1)
    return np.asarray(grown[: shape[0], : shape[1]], dtype=np.float32)


def _outline(rng: np.random.Generator, shape: tuple[int, int], glass: float) -> Floats:
    """1 in the tissue, 0 on glass, soft in between: a blob with a wavy edge."""
    # -1 to 1 along both axes, so that the blob follows the slide's shape.
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
    distance = np.hypot(y, x) + 0.12 * _noise(rng, shape, (shape[0] / 6, shape[1] / 6))
    # A quantile, here of every 64th pixel, meets the share of glass at once.
    edge = np.quantile(distance[::8, ::8], 1 - glass)
    soft: Floats = np.clip((edge - distance) * 60 + 0.5, 0, 1).astype(np.float32)
    return soft


def _stain_to_rgb(canvas: LevelView, tissue: Floats) -> NDArray[np.uint8]:
    # A blur of 0.35 um, as optics have it; in pixels it depends on the resolution.
    haematoxylin = gaussian_filter(canvas.haematoxylin, 0.7 * 0.5 / canvas.mpp) * tissue
    eosin = gaussian_filter(canvas.eosin, 0.7 * 0.5 / canvas.mpp) * tissue
    rgb = np.empty((*canvas.shape, 3), np.uint8)
    for channel in range(3):
        # Beer and Lambert: densities add up, light falls off exponentially.
        density = haematoxylin * _HAEMATOXYLIN[channel] + eosin * _EOSIN[channel] * 0.7
        # Glass at 244, with a little sensor noise.
        light = 244 * np.exp(-density) + canvas.rng.normal(0, 1.5, canvas.shape).astype(np.float32)
        rgb[..., channel] = np.clip(light, 0, 255)
    return rgb
