"""Stains against torchstain 1.4.1 and scikit-image, what cannot be fitted, and files beside stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from patch_stores import patch_meta
from skimage.color import lab2rgb, rgb2lab

from wsitool.augment.stain_norm import normalize_lab, normalize_stains
from wsitool.base.progress import SILENT
from wsitool.errors import StoreError, UsageError
from wsitool.loading import PatchLoader
from wsitool.loading.stain import StainNormalizer
from wsitool.stain import slides
from wsitool.stain.fit import Unfit, fit_stain, lab_of, transform
from wsitool.stain.slides import stain_file, stain_of_store, table_of, with_stain
from wsitool.stain.target import PUBLISHED, check_stain, choose_norm
from wsitool.store.collection import open_collection
from wsitool.store.opening import create_store
from wsitool.store.schema import Candidates, Rows
from wsitool.store.stain_table import StainMethod, StainNorm

MACENKO = PUBLISHED["macenko"]
_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])


def _picture(seed: int = 7, *, stains: NDArray[np.float64] = _HED, side: int = 64) -> NDArray[np.uint8]:
    """(side, side, 3): two stains by Beer and Lambert with a scanner's noise."""
    rng = np.random.default_rng(seed)
    unit = stains / np.linalg.norm(stains, axis=1, keepdims=True)
    amount = rng.gamma(2.0, 0.45, (side * side, 2)) * (rng.random((side * side, 2)) < [0.7, 0.8])
    rgb = 240 * np.exp(-(amount @ unit)) + rng.normal(0, 1.5, (side * side, 3))
    return rgb.clip(0, 255).astype(np.uint8).reshape(side, side, 3)


def _images(picture: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()


def test_macenko_is_torchstains() -> None:
    """The figures are those of torchstain 1.4.1 (numpy) for this very picture; it cuts where we round."""
    picture = _picture()
    assert picture.sum() == 1861439
    fitted = fit_stain(picture.reshape(-1, 3), "macenko")
    assert fitted[:3] == pytest.approx((0.6637124396614649, 0.6875637144289469, 0.29451983980590524))
    assert fitted[3:6] == pytest.approx((0.07226090966113934, 0.9912468625487961, 0.11048990190109324))
    assert fitted[6:] == pytest.approx((2.781051140104792, 2.8742846512020304))
    values = torch.from_numpy(transform("macenko", fitted, MACENKO.target))[None]
    made = normalize_stains(_images(picture), values)[0].permute(1, 2, 0).numpy()
    cut = np.floor(made)
    assert cut[0, :4].tolist() == [[172, 139, 172], [185, 148, 177], [222, 177, 194], [165, 129, 164]]
    means = (184.236083984375, 153.44189453125, 179.037109375)
    assert cut.reshape(-1, 3).mean(axis=0) == pytest.approx(means, abs=1e-3)


def test_the_arithmetic_is_the_papers() -> None:
    """Pixel by pixel, as the paper has it: densities, concentrations by least squares, the target's."""
    picture = _picture(3)
    fitted = np.array(fit_stain(picture.reshape(-1, 3), "macenko"))
    target = np.array(MACENKO.target)
    densities = -np.log((picture.reshape(-1, 3).astype(float) + 1) / 240)
    amounts = np.linalg.lstsq(fitted[:6].reshape(2, 3).T, densities.T, rcond=None)[0]
    scaled = amounts * (target[6:] / fitted[6:])[:, None]
    expected = np.clip(240 * np.exp(-(target[:6].reshape(2, 3).T @ scaled)), 0, 255).T
    values = torch.from_numpy(transform("macenko", fitted.tolist(), MACENKO.target))[None]
    made = normalize_stains(_images(picture), values)[0].permute(1, 2, 0).reshape(-1, 3).numpy()
    np.testing.assert_allclose(made, expected, atol=0.02)


def test_reinhard_is_torchstains_and_scikit_images() -> None:
    picture = _picture()
    pixels = picture.reshape(-1, 3)
    lab = lab_of(pixels)
    np.testing.assert_allclose(lab, rgb2lab(picture / 255).reshape(-1, 3), atol=1e-9)
    source = (*lab.mean(axis=0), *lab.std(axis=0))
    # Moments that torchstain 1.4.1 found of another picture, and what it made of this one.
    target = (53.97383, 32.15361, -34.355377, 17.711456, 18.806332, 11.103093)
    values = torch.from_numpy(transform("reinhard", source, target))[None]
    made = normalize_lab(_images(picture), values)[0].permute(1, 2, 0).numpy()
    theirs = [[135, 89, 180], [151, 89, 187], [206, 96, 208], [127, 79, 176]]
    np.testing.assert_allclose(made[0, :4], theirs, atol=1.01)
    means = (152.403076171875, 109.715576171875, 188.37890625)
    assert made.reshape(-1, 3).mean(axis=0) == pytest.approx(means, abs=0.6)  # half a level is cut on average
    expected = (rgb2lab(picture / 255) - source[:3]) / source[3:] * target[3:] + target[:3]
    np.testing.assert_allclose(made, lab2rgb(expected).clip(0, 1) * 255, atol=1e-2)


def _unfit(name: str) -> NDArray[np.uint8]:
    rng = np.random.default_rng(1)
    gray = np.ones((5000, 3), np.uint8) * rng.integers(40, 200, (5000, 1), dtype=np.uint8)
    if name == "gray":
        return gray
    if name == "one stain":
        shown = 240 * np.exp(-rng.gamma(2, 0.45, (5000, 1)) * _HED[:1]) + rng.normal(0, 2, (5000, 3))
        return shown.clip(0, 255).astype(np.uint8)
    return np.full((5000, 3), 240 if name == "glass" else (150, 90, 160), np.uint8)


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("gray", "macenko", "one stain only"),
        ("gray", "reinhard", "no colors"),
        ("one stain", "macenko", "one stain only"),
        ("glass", "macenko", "only 0 of 5000 pixels"),
        ("glass", "reinhard", "only 0 of 5000 pixels"),
        ("even", "macenko", "one stain only"),
        ("even", "reinhard", "no colors"),
    ],
)
def test_what_cannot_be_fitted(name: str, method: StainMethod, message: str) -> None:
    with pytest.raises(Unfit, match=message):
        fit_stain(_unfit(name), method)


def _store(path: Path, patches: NDArray[np.uint8]) -> Path:
    count = len(patches)
    coords = np.stack([np.arange(count) * 32, np.zeros(count, int)], axis=1).astype(np.int64)
    tissue = np.ones(count, np.float32)
    with create_store(path, patch_meta(path.stem, 32, count)) as writer:
        writer.append(Rows(patches=patches, coords=coords, tissue=tissue))
        writer.finish(
            Candidates(coords=coords, tissue=tissue, reason=np.zeros(count, np.uint8)), counts={"kept": count}
        )
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two slides of unlike stains and one of glass."""
    other = np.array([[0.55, 0.75, 0.35], [0.15, 0.9, 0.35]])
    (tmp_path / "stores").mkdir()
    for name, stains in (("a", _HED), ("b", other)):
        patches = np.stack([_picture(seed, stains=stains, side=32) for seed in range(6)])
        _store(tmp_path / "stores" / f"{name}.h5", patches)
    _store(tmp_path / "stores" / "glass.h5", np.full((6, 32, 32, 3), 238, np.uint8))
    return tmp_path / "stores"


class _Said(type(SILENT)):  # type: ignore[misc]
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_slides_come_to_look_alike_and_the_unfit_is_left_and_named(folder: Path, method: StainMethod) -> None:
    said = _Said()
    plain = open_collection(folder)
    norm = choose_norm(method, str(folder / "b.h5"))
    collection = with_stain(plain, norm, said)
    assert said.warnings == [
        "Left as they are, not normalised by stain: glass (only 0 of 6144 pixels looked at are of tissue)."
    ]
    assert collection.fingerprint != plain.fingerprint and len(collection.subset([0, 1])) == 2
    np.testing.assert_array_equal(collection.read([0]), plain.read([0]))  # pixels of stores stay
    batch = next(iter(PatchLoader(collection, batch_size=18, shuffle=False)))
    made = batch.patches.permute(0, 2, 3, 1).numpy()
    raw = plain.read(range(18))
    np.testing.assert_array_equal(made[12:], raw[12:])
    # Brought to b's stains a looks like b, which stays; before, they were far apart.
    before, after = (abs(x[:6].mean((0, 1, 2)) - raw[6:12].mean((0, 1, 2))).max() for x in (raw, made))
    assert after < 0.6 * before and abs(made[6:12].astype(int) - raw[6:12]).mean() < 3
    again = next(iter(PatchLoader(collection.subset([3, 8, 14]), batch_size=3, shuffle=False)))
    np.testing.assert_array_equal(again.patches.permute(0, 2, 3, 1).numpy(), made[[3, 8, 14]])


def test_fits_are_kept_beside_the_store_and_belong_to_its_patches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_collection(folder / "a.h5").stores[0]
    first = stain_of_store(store)
    assert stain_file(store.path).name == "a.stain.json"
    with monkeypatch.context() as patch:
        patch.setattr(slides, "stain_of_pixels", None)
        assert stain_of_store(store) == first
    assert choose_norm("macenko", str(stain_file(store.path))).target == first["macenko"]  # type: ignore[union-attr]
    (folder / "b.stain.json").write_text(stain_file(store.path).read_text())  # of another store
    assert stain_of_store(open_collection(folder / "b.h5").stores[0]) != first
    stain_file(store.path).write_text("{")
    assert stain_of_store(store) == first


def test_nothing_is_read_back_from_the_device() -> None:
    """On the device `meta` there are no values: whoever asks for one fails."""
    for method in ("macenko", "reinhard"):
        target = MACENKO.target if method == "macenko" else (50.0, 20.0, -20.0, 15.0, 10.0, 8.0)
        norm = StainNorm(method=method, target=target, source="")  # type: ignore[arg-type]
        table = table_of(norm, [fit_stain(_picture().reshape(-1, 3), norm.method), "unfit"])
        made = StainNormalizer(table, torch.device("meta"))(
            torch.empty((2, 3, 8, 8), dtype=torch.uint8, device="meta"), np.array([0, 1])
        )
        assert made.dtype == torch.uint8 and made.shape == (2, 3, 8, 8)


def test_norms_that_contradict_each_other_are_refused(folder: Path) -> None:
    other = StainNorm(method="macenko", target=(*MACENKO.target[:7], 2.0), source="x")
    assert choose_norm(None, None) is None and choose_norm("none", None) is None
    assert choose_norm("macenko", None) == MACENKO
    assert choose_norm(None, None, other) == other == choose_norm("macenko", None, other)
    assert choose_norm("none", None, other, may_differ=True) is None
    for asked, target, trained, message in (
        ("none", None, other, "trained under the stain norm macenko to x, and no stain norm"),
        ("macenko", str(folder / "a.h5"), other, "trained under"),
        (None, "x", None, "give --stain-norm too"),
        ("reinhard", None, None, "no published target of reinhard"),
        ("macenko", str(folder / "glass.h5"), None, "only 0 of"),
        ("macenko", str(folder), other, "trained under"),
        ("macenko", str(folder / "none.json"), None, "holds no figures"),
        ("macenko", str(folder / "none"), None, "--stain-target cannot be used"),
    ):
        with pytest.raises(UsageError, match=message):
            choose_norm(asked, target, trained)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="its features would mean nothing"):
        check_stain(other, None)
    with pytest.raises(StoreError, match="stains of no slide can be normalised"):
        with_stain(open_collection(folder / "glass.h5"), MACENKO)
