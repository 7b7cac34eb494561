"""The same tissue is found turned, mirrored, moved, at half magnification; other patients' is not."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from classify_stores import labelled_store
from PIL import Image
from skimage.transform import resize

from wsitool.evaluation.duplicates import _frequencies, _orientations, near_duplicates, signatures
from wsitool.store.collection import open_collection


class Pictures:
    """Pictures (N, P, P, 3) as the search reads a collection."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures = pictures
        self.store_index = self.row = np.zeros(len(pictures), int)
        self.stores = (labelled,)

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.pictures[rows]


class labelled:
    class meta:
        name = "store"


def _tissue(seed: int, size: int = 160) -> np.ndarray:
    """Blobs of all sizes, as tissue has them."""
    rng = np.random.default_rng(seed)
    image = np.zeros((size, size))
    for cells, weight in ((4, 60), (8, 40), (16, 30), (32, 25)):
        image += weight * resize(rng.normal(size=(cells, cells)), (size, size), order=3)
    return (np.stack([170 + image, 120 + image, 160 + image], axis=2)).clip(0, 255).astype(np.uint8)


def _saved(picture: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=80)
    return np.array(Image.open(buffer))


WIDE = np.stack([_tissue(seed) for seed in range(12)])
OTHERS = np.stack([_tissue(seed)[:112, :112] for seed in range(100, 140)])


def _moved(down: int, right: int) -> np.ndarray:
    return WIDE[:, 24 + down : 136 + down, 24 + right : 136 + right]


def _half() -> np.ndarray:
    """Pictures of 112 px at half the magnification, whose upper right quarters are `_moved(0, 0)`."""
    larger = np.stack([_tissue(seed, 224) for seed in range(200, 212)])
    larger[:, :112, 112:] = _moved(0, 0)
    halved = [255 * resize(picture, (112, 112), anti_aliasing=True) for picture in larger]
    return np.stack(halved).astype(np.uint8)


COPIES = {
    "the same": _moved(0, 0),
    "mirrored": _moved(0, 0)[:, :, ::-1],
    "turned": np.rot90(_moved(0, 0), 1, (1, 2)),
    "turned and mirrored": np.rot90(_moved(0, 0), 3, (1, 2))[:, ::-1],
    "moved by 8 of 224": _moved(4, -4),
    "moved by 4 of 224, and turned": np.rot90(_moved(2, 0), 2, (1, 2)),
    "half magnification": _half(),
}


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("turned", [False, True])
def test_copies_are_found_and_counted(copy: str, turned: bool) -> None:
    saved = np.stack([_saved(np.ascontiguousarray(picture)) for picture in COPIES[copy]])
    first = Pictures(np.concatenate([OTHERS, _moved(0, 0)]))
    second = Pictures(np.concatenate([saved, np.stack([_tissue(9000)[:112, :112]])]))
    a, b = (second, first) if turned else (first, second)
    found = near_duplicates(a, b)  # type: ignore[arg-type]
    assert found.count == 12
    pairs = {(row_b, row_a) if turned else (row_a, row_b) for row_a, row_b, _ in found.pairs}
    assert pairs == {(40 + number, number) for number in range(12)}
    assert found.sentence().startswith("12 test patches look like training patches")


def test_frequencies_of_turned_pictures_need_no_picture() -> None:
    small = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    expected = [
        _frequencies(np.ascontiguousarray(np.rot90(each, turns, (1, 2))), 8)
        for turns in range(4)
        for each in (small, small[:, :, ::-1])
    ]
    made = _orientations(_frequencies(small, 8))
    for one in expected:
        assert min(np.abs(one - other).max() for other in made) < 1e-5
    for one in made:
        assert min(np.abs(one - other).max() for other in expected) < 1e-5


def test_the_count_is_exact_where_everything_is_alike() -> None:
    # Ten thousand pairs and more: no early end.
    same = Pictures(np.repeat(_moved(0, 0)[:1], 120, axis=0))
    assert near_duplicates(same, same).count == 120  # type: ignore[arg-type]


def test_blank_patches_do_not_count() -> None:
    blank = np.full((3, 64, 64, 3), 240, np.uint8)
    blank[1] += np.random.default_rng(0).integers(0, 3, (64, 64, 3), dtype=np.uint8)
    assert not signatures(Pictures(blank)).clear.any()  # type: ignore[arg-type]
    assert near_duplicates(Pictures(blank), Pictures(blank)).count == 0  # type: ignore[arg-type]


def test_pairs_across_stores_are_named(tmp_path: Path) -> None:
    first = open_collection(labelled_store(tmp_path / "a.h5", seed=0, classes=("dotted", "striped")))
    again = open_collection(labelled_store(tmp_path / "b.h5", seed=0, classes=("dotted", "striped")))
    found = near_duplicates(first, again)
    assert {(a, b) for a, b, _ in found.pairs} >= {(row, row) for row in range(8)}
    assert "b row 0 and a row 0" in found.sentence()


@pytest.mark.slow
def test_no_false_alarm_in_millions_of_pairs_of_different_patients() -> None:
    folder = Path(os.environ.get("WSITOOL_TEST_DATA", "../shared/data")) / "breast_idc"
    if not folder.is_dir():
        pytest.skip(f"no breast patches in {folder}")
    sides = []
    with zipfile.ZipFile(folder / "images.zip") as images:
        for side, count in (("train", 1250), ("test", 2000)):
            names = [line.split(",")[0] for line in (folder / f"{side}.csv").read_text().splitlines()[1:]]
            names = [names[row] for row in np.random.default_rng(0).choice(len(names), count, replace=False)]
            pictures = [np.array(Image.open(io.BytesIO(images.read(name)))) for name in names]
            sides.append(Pictures(np.stack(pictures)))
    assert len(sides[0]) * len(sides[1]) == 2_500_000
    assert near_duplicates(*sides).count == 0  # type: ignore[arg-type]
