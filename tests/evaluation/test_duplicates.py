from pathlib import Path

import numpy as np
from classify_stores import labelled_store
from skimage.transform import rotate

from wsitool.evaluation.duplicates import near_duplicates, perceptual_hashes
from wsitool.store.collection import open_collection


def _tissue(seed: int, size: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(80, 240, (8, 8, 3))
    return np.kron(coarse, np.ones((size // 8, size // 8, 1))).astype(np.uint8)


def test_a_picture_saved_again_is_near_and_others_are_far() -> None:
    pictures = np.stack([_tissue(seed) for seed in range(30)])
    noisy = (pictures + np.random.default_rng(0).normal(0, 3, pictures.shape)).clip(0, 255).astype(np.uint8)
    a, clear = perceptual_hashes(pictures)
    b, _ = perceptual_hashes(noisy)
    distance = np.bitwise_count(a[:, None] ^ b[None, :])
    assert clear.all()
    assert distance.diagonal().max() <= 3
    assert distance[~np.eye(30, dtype=bool)].min() > 8
    turned = np.stack([rotate(picture, 90, preserve_range=True).astype(np.uint8) for picture in pictures])
    assert np.bitwise_count(a ^ perceptual_hashes(turned)[0]).min() > 3  # turned copies are not found


def test_blank_patches_do_not_count() -> None:
    blank = np.full((1, 64, 64, 3), 240, np.uint8)
    assert not perceptual_hashes(blank)[1].any()


def test_pairs_across_stores_are_named(tmp_path: Path) -> None:
    first = open_collection(labelled_store(tmp_path / "a.h5", seed=0, classes=("dotted", "striped")))
    again = open_collection(labelled_store(tmp_path / "b.h5", seed=0, classes=("dotted", "striped")))
    found = near_duplicates(first, again)
    assert {(a, b) for a, b, bits in found.pairs if bits == 0} >= {(row, row) for row in range(8)}
    assert "b row 0 and a row 0" in found.sentence()


def test_bands_find_what_brute_force_finds(tmp_path: Path) -> None:
    first = open_collection(labelled_store(tmp_path / "a.h5", seed=1, size=64))
    other = open_collection(labelled_store(tmp_path / "b.h5", seed=2, size=64))
    (a, clear_a), (b, clear_b) = (
        perceptual_hashes(side.read(np.arange(len(side)))) for side in (first, other)
    )
    distance = np.bitwise_count(a[:, None] ^ b[None, :])
    expected = {(int(i), int(j)) for i, j in np.argwhere(distance <= 3) if clear_a[i] and clear_b[j]}
    assert {pair[:2] for pair in near_duplicates(first, other).pairs} == expected
