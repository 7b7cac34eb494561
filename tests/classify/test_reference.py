"""The frozen probe on real tissue meets numbers computed outside this project (see the data's README)."""

from pathlib import Path

import numpy as np
import pytest

from wsitool.classify.run import classify
from wsitool.classify.settings import Settings
from wsitool.curate.importing import import_images

# fraction -> patch accuracy, AUROC: ImageNet EfficientNet-Lite0, C = 0.01, 5 folds by slide, 5 seeds
REFERENCE = {0.05: (0.670, 0.700), 0.25: (0.768, 0.833), 0.5: (0.798, 0.878), 1.0: (0.811, 0.900)}


@pytest.mark.slow
def test_frozen_probe_meets_the_reference(real_data: Path, tmp_path: Path) -> None:
    images = real_data / "breast_ucsb"
    found = import_images(
        images, tmp_path / "b", labels=images / "labels.csv", patch_size=224, min_tissue=0.3
    )
    assert found.patches == 603
    settings = Settings(head="linear", c=0.01, validation=0, balance="subset")
    for fraction, expected in REFERENCE.items():
        scores = []
        for seed in range(5):
            result = classify(
                tmp_path / "b",
                out=tmp_path / f"{fraction}-{seed}",
                encoder=real_data / "weights" / "efficientnet_lite0_imagenet.safetensors",
                backbone="timm:efficientnet_lite0",
                folds=5,
                fraction=fraction,
                select="random",
                seed=seed,
                settings=settings,
                cache=tmp_path / "cache",
            )
            scores.append((result.scores["accuracy"], result.scores["auroc"]))
        accuracy, auroc = np.mean(scores, axis=0)
        print(f"{fraction:.0%}: {accuracy:.3f} / {auroc:.3f}, reference {expected}")  # seen with pytest -s
        assert np.mean(scores, axis=0) == pytest.approx(expected, abs=0.02), fraction
