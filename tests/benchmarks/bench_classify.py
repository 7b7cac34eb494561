"""Prediction of a whole slide against the bare model, and the linear probe against scikit-learn's pipeline.

python tests/benchmarks/bench_classify.py [--side PX] [--features N]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from side_by_side import Claim, measure, peer_version, print_table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsitool.backbones import build_backbone
from wsitool.classify.heads import fit_linear
from wsitool.classify.model import Classifier, ClassifierCard
from wsitool.classify.stream import open_stream
from wsitool.grid import TileSpec
from wsitool.readers import open_with
from wsitool.testing import synthetic_slide

__all__ = ["run_predict", "run_probe"]

_BATCH = 32


def _classifier(patch_size: int) -> Classifier:
    encoder = build_backbone("resnet18", init="random")
    card = ClassifierCard(
        classes=("a", "b"),
        head="finetune",
        image_size=patch_size,
        patch_size=patch_size,
        mpp=0.5,
        temperature=1.0,
        groups=(),
        encoder=encoder.card,
    )
    return Classifier(encoder, torch.nn.Linear(encoder.feature_dim, 2), card).eval()


def run_predict(folder: Path, *, side: int, patch_size: int, rounds: int) -> dict[str, float]:
    """Patches per second: slide to probabilities, and the model alone on the same patches in memory."""
    path = synthetic_slide(folder / "s.svs", organ="breast", kind="dcis", size=(side, side), mpp=0.5)
    spec, classifier = TileSpec(patch_size=patch_size, mpp=0.5), _classifier(patch_size)
    with open_with(path) as slide:
        batches = [batch.patches for batch in open_stream(slide, spec).batches(_BATCH)]

    @torch.inference_mode()
    def judge(patches: np.ndarray) -> int:
        classifier.logits(torch.from_numpy(patches).permute(0, 3, 1, 2))
        return len(patches)

    def streamed() -> int:
        with open_with(path) as slide:
            return sum(judge(batch.patches) for batch in open_stream(slide, spec).batches(_BATCH))

    def bare() -> int:
        return sum(judge(patches) for patches in batches)

    return measure({"predict": streamed, "bare model": bare}, rounds=rounds)


def run_probe(*, count: int, width: int, rounds: int) -> dict[str, float]:
    """Patches per second of fitting a logistic regression on (count, width) features."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    features = (rng.normal(size=(count, width)) + 0.3 * np.eye(3, width)[labels]).astype(np.float32)

    def ours() -> int:
        fit_linear(features, labels, 3, penalties=[0.01])
        return count

    def peer() -> int:
        make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(features, labels)
        return count

    return measure({"linear probe": ours, "scikit-learn pipeline": peer}, rounds=rounds)


def test_predict_reads_every_patch(tmp_path: Path) -> None:
    assert set(run_predict(tmp_path, side=512, patch_size=64, rounds=1)) == {"predict", "bare model"}


def test_probe_runs() -> None:
    assert min(run_probe(count=200, width=16, rounds=1).values()) > 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=3584)
    parser.add_argument("--features", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rates = run_predict(Path(folder), side=options.side, patch_size=224, rounds=3)
    claim = Claim(ours="predict", peer="bare model", factor=0.9)
    print_table(f"slide of {options.side} px, resnet18, {peer_version('torch')}", rates, [claim])
    rates = run_probe(count=options.features, width=1280, rounds=3)
    claim = Claim(ours="linear probe", peer="scikit-learn pipeline", factor=0.8)
    print_table(f"{options.features} x 1280 features, {peer_version('scikit-learn')}", rates, [claim])


if __name__ == "__main__":
    main()
