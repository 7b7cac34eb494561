"""The numbers of the color baseline by hand, and the figure that was measured with such numbers elsewhere."""

import csv
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsitool.evaluation.color import COLOR_NUMBERS, color_numbers


def test_numbers_by_hand() -> None:
    patch = np.zeros((1, 4, 4, 3), np.uint8)
    patch[0, :, :2] = (255, 255, 255)
    patch[0, :, 2:] = (204, 51, 51)
    numbers = dict(zip(COLOR_NUMBERS, color_numbers(patch)[0].tolist(), strict=True))
    assert len(COLOR_NUMBERS) == 24
    assert [numbers[f"{c}_mean"] for c in "rgb"] == pytest.approx([0.9, 0.6, 0.6])
    assert [numbers[f"{c}_sd"] for c in "rgb"] == pytest.approx([0.1, 0.4, 0.4])
    assert (numbers["g_p10"], numbers["g_p90"]) == pytest.approx((0.2, 1.0))
    assert (numbers["saturation_mean"], numbers["tissue"]) == pytest.approx((0.375, 0.5))
    # One step of the luminance in three, 1 -> 0.3794, and no step downwards.
    step = 1 - (0.299 * 0.8 + 0.701 * 0.2)
    assert numbers["edge_mean"] == pytest.approx(step / 3, rel=1e-5)
    assert numbers["fine_edge_mean"] == pytest.approx(step, rel=1e-5)
    assert numbers["dark"] == 0


def test_large_patches_have_the_numbers_of_their_grid_of_pixels() -> None:
    small = np.random.default_rng(0).integers(0, 256, (2, 70, 70, 3), dtype=np.uint8)
    large = small.repeat(3, axis=1).repeat(3, axis=2)
    assert np.array_equal(color_numbers(large), color_numbers(small))


@pytest.mark.slow
def test_figure_on_real_patients_is_that_measured_elsewhere() -> None:
    folder = Path(os.environ.get("WSITOOL_TEST_DATA", "../shared/data")) / "breast_idc"
    if not folder.is_dir():
        pytest.skip(f"no breast patches in {folder}")
    numbers, labels = {}, {}
    with zipfile.ZipFile(folder / "images.zip") as images:
        for side in ("train", "test"):
            with (folder / f"{side}.csv").open() as file:
                rows = list(csv.DictReader(file))
            patches = [np.array(Image.open(io.BytesIO(images.read(row["file"])))) for row in rows]
            numbers[side] = color_numbers(np.stack(patches))
            labels[side] = np.array([row["label"] == "IDC" for row in rows])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
    p = model.fit(numbers["train"], labels["train"]).predict_proba(numbers["test"])[:, 1]
    # The data's README: AUC .875 and balanced accuracy .811 of 24 such numbers.
    assert roc_auc_score(labels["test"], p) == pytest.approx(0.875, abs=0.005)
    assert balanced_accuracy_score(labels["test"], p > 0.5) == pytest.approx(0.811, abs=0.005)
