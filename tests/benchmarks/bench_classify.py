"""Prediction of a whole slide against the bare model and in memory; the linear probe against scikit-learn.

python tests/benchmarks/bench_classify.py [--side PX] [--features N] [--memory]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from side_by_side import Claim, measure, own_process, peer_version, print_table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tissue_slide import write_tissue_slide

from wsitool.backbones.build import build_backbone
from wsitool.backbones.device import place
from wsitool.classify.heads import fit_linear
from wsitool.classify.model import CLASSIFIER_FILE, Classifier, ClassifierCard, save_classifier
from wsitool.predict.stream import open_stream
from wsitool.slides.readers import open_slide
from wsitool.slides.spec import TileSpec
from wsitool.testing import synthetic_slide

__all__ = ["predict_memory", "run_predict", "run_probe"]

_BATCH = 32
_PLAIN = "plain PyTorch loop"
_TILES = 176  # of 256 px each way: 2.03 gigapixels, 6 GB decoded
_MOST_MB = 400  # more than for a slide of a sixty-fourth of the pixels; 6 GB if it were held


def _classifier(patch_size: int, image_size: int) -> Classifier:
    encoder = build_backbone("resnet18", init="random")
    card = ClassifierCard(
        classes=("a", "b"),
        head="finetune",
        image_size=image_size,
        patch_size=patch_size,
        mpp=0.5,
        temperature=1.0,
        groups=(),
        encoder=encoder.card,
    )
    return Classifier(encoder, torch.nn.Linear(encoder.feature_dim, 2), card).eval()


def run_predict(folder: Path, *, side: int, patch_size: int, rounds: int) -> dict[str, float]:
    """Patches per second: slide to probabilities, and models alone on the same patches in memory.

    The bare model is ours as `predict` uses it, the plain loop the same network as torchvision gives it, in a
    process of its own since `place` changes how memory is handled.
    """
    path = synthetic_slide(folder / "s.svs", organ="breast", kind="dcis", size=(side, side), mpp=0.5)
    spec, classifier = TileSpec(patch_size=patch_size, mpp=0.5), _classifier(patch_size, patch_size)
    place(classifier, torch.device("cpu"))
    with open_slide(path) as slide:
        batches = [batch.patches for batch in open_stream(slide, spec).batches(_BATCH)]

    @torch.inference_mode()
    def evaluate(patches: np.ndarray) -> int:
        classifier.logits(torch.from_numpy(patches).permute(0, 3, 1, 2))
        return len(patches)

    def streamed() -> int:
        with open_slide(path) as slide:
            return sum(evaluate(batch.patches) for batch in open_stream(slide, spec).batches(_BATCH))

    def bare() -> int:
        return sum(evaluate(patches) for patches in batches)

    count, shape = sum(map(len, batches)), batches[0].shape
    with own_process(_plain_loop, -(-count // _BATCH), shape) as plain:
        return measure({"predict": streamed, "bare model": bare, **plain}, rounds=rounds)


def _plain_loop(batches: int, shape: tuple[int, int, int, int]) -> dict[str, Callable[[], int]]:
    network = torchvision.models.resnet18(num_classes=2).eval()
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    patches = torch.randint(0, 256, shape, dtype=torch.uint8).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def judge() -> int:
        for _ in range(batches):
            network(normalise(patches / 255))
        return batches * len(patches)

    return {_PLAIN: judge}


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


def predict_memory(folder: Path, *, tiles: int) -> tuple[float, int]:
    """Peak MB of a process that runs `wsitool predict` on a slide of `tiles` x `tiles` tiles; the patches.

    Every level-0 tile is decoded, to half its size. The model sees the 256-px patches at 64 px, as its own
    time is not what matters here.
    """
    drawn = synthetic_slide(folder / "drawn.svs", organ="breast", size=(1536, 1536), glass=0.0)
    slide = write_tissue_slide(folder / f"{tiles}.svs", drawn, columns=tiles, rows=tiles, mpp=0.25)
    save_classifier(_classifier(256, 64), folder / "run" / CLASSIFIER_FILE)
    code = (
        "import sys; from wsitool.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        # Not ru_maxrss: Linux lets a child inherit the peak of the process that started it.
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    words = ["predict", str(folder / "run"), str(slide), "--out", str(folder / "o"), "--min-tissue", "0"]
    words += ["--device", "cpu"]
    run = subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, text=True)
    slide.unlink()
    patches = len((folder / "o" / f"{tiles}.csv").read_text().splitlines()) - 1
    pictures = len(list((folder / "o").glob("*.png")))
    shutil.rmtree(folder / "o")
    if pictures != 2:
        raise AssertionError(f"Two heatmaps are expected, one for each class, and there are {pictures}.")
    return int(run.stdout.split()[-1]) / 1024, patches


def test_predict_reads_every_patch(tmp_path: Path) -> None:
    assert set(run_predict(tmp_path, side=512, patch_size=64, rounds=1)) == {"predict", "bare model", _PLAIN}


def test_probe_runs() -> None:
    assert min(run_probe(count=200, width=16, rounds=1).values()) > 0


@pytest.mark.slow
def test_memory_is_measured(tmp_path: Path) -> None:
    peak, patches = predict_memory(tmp_path, tiles=8)
    assert peak > 100 and patches == 16


@pytest.mark.slow
def test_two_gigapixels_take_little_more_memory_than_a_small_slide(tmp_path: Path) -> None:
    small, _ = predict_memory(tmp_path, tiles=_TILES // 8)
    large, patches = predict_memory(tmp_path, tiles=_TILES)
    print(f"peak memory {small:.0f} MB, and {large:.0f} MB for 2 gigapixels")  # seen with pytest -s
    assert patches == (_TILES // 2) ** 2
    assert large - small < _MOST_MB, (small, large)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=3584)
    parser.add_argument("--features", type=int, default=10_000)
    parser.add_argument("--memory", action="store_true", help="also predict on 2 gigapixels (some minutes)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rates = run_predict(Path(folder), side=options.side, patch_size=224, rounds=3)
    claims = [
        Claim(ours="predict", peer="bare model", factor=0.9),
        Claim(ours="predict", peer=_PLAIN, factor=1),
    ]
    print_table(f"slide of {options.side} px, resnet18, {peer_version('torch')}", rates, claims)
    rates = run_probe(count=options.features, width=1280, rounds=3)
    claim = Claim(ours="linear probe", peer="scikit-learn pipeline", factor=0.8)
    print_table(f"{options.features} x 1280 features, {peer_version('scikit-learn')}", rates, [claim])
    if not options.memory:
        return
    with tempfile.TemporaryDirectory() as folder:
        peaks = [predict_memory(Path(folder), tiles=tiles) for tiles in (_TILES // 8, _TILES)]
    for tiles, (peak, patches) in zip((_TILES // 8, _TILES), peaks, strict=True):
        print(f"{(tiles * 256) ** 2 / 1e9:.2f} gigapixels, {patches:,} patches: peak memory {peak:.0f} MB")


if __name__ == "__main__":
    main()
