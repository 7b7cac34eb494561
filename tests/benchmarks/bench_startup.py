"""What the commands that train or predict take until they say something, beside `python -c "import torch"`.

The first line says that PyTorch is being started; the next one is of the command itself, which has looked at
the stores and built the network by then (torchvision brings torch._dynamo, as costly as torch itself). Both
are told in seconds of the processor from the start of the interpreter, the least of some interleaved rounds:
`python tests/benchmarks/bench_startup.py`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from patch_stores import small_store

from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import save_encoder
from wsitool.classify.model import CLASSIFIER_FILE, Classifier, ClassifierCard, save_classifier

__all__ = ["BAR", "measure", "prepared"]

BAR = 1.3  # times importing torch
_TORCH = "import torch"
# Tells when each line was whole, and ends the process with the second one.
_CLOCKED = """
import os, sys, time
class Clocked:
    lines = 0
    def __init__(self, stream): self.stream = stream
    def __getattr__(self, name): return getattr(self.stream, name)
    def write(self, text):
        for _ in range(text.count("\\n")):
            Clocked.lines += 1
            os.write(1, f"{time.process_time()}\\n".encode())
            if Clocked.lines == 2: os._exit(0)
        return len(text)
sys.stderr, sys.stdout = Clocked(sys.stderr), Clocked(sys.stdout)
from wsitool.cli import main
main(sys.argv[1:])
"""
_ALONE = f"{_TORCH}; import time; print(time.process_time())"


@contextmanager
def prepared() -> Iterator[dict[str, list[str]]]:
    """The words of each command but --out, on two tiny stores, an encoder and a classifier."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for patient in ("p", "q"):
            small_store(folder / "stores" / f"{patient}.h5", ("a", "b") * 4, name=patient)
        encoder = build_backbone("resnet18", init="random")
        save_encoder(encoder, folder / "encoder.safetensors", encoder.card)
        card = ClassifierCard(
            classes=("a", "b"),
            head="finetune",
            image_size=16,
            patch_size=16,
            mpp=0.5,
            temperature=1.0,
            groups=(),
            encoder=encoder.card,
        )
        head = torch.nn.Linear(encoder.feature_dim, 2)
        save_classifier(Classifier(encoder, head, card), folder / "run" / CLASSIFIER_FILE)
        stores, start = str(folder / "stores"), str(folder / "encoder.safetensors")
        short = ["--epochs", "1", "--batch-size", "4"]
        yield {
            "pretrain": ["pretrain", stores, "--method", "simclr", "--init", start, *short],
            "classify": ["classify", stores, "--encoder", start, *short],
            "embed": ["embed", stores, "--encoder", start],
            "predict": ["predict", str(folder / "run"), stores],
        }


def measure(commands: Mapping[str, Sequence[str]], *, rounds: int) -> dict[str, tuple[float, float]]:
    """Seconds of the processor until each command's first and second line; of importing torch, twice."""
    least: dict[str, tuple[float, float]] = {}
    for _ in range(rounds):
        for name, words in {_TORCH: (), **commands}.items():
            code = _ALONE if name == _TORCH else _CLOCKED
            with tempfile.TemporaryDirectory() as out:  # of its own, as each command refuses what is there
                call = [sys.executable, "-c", code, *words, "--out", f"{out}/out"]
                done = subprocess.run(call, capture_output=True, text=True)
            times = [float(line) for line in done.stdout.splitlines()]
            assert times, (name, done.stderr)
            before = least.get(name, (float("inf"), float("inf")))
            least[name] = min(before[0], times[0]), min(before[1], times[-1])
    return least


@pytest.mark.benchmark
@pytest.mark.slow
def test_smoke() -> None:
    with prepared() as commands:
        measured = measure({"embed": commands["embed"]}, rounds=1)
    assert set(measured) == {_TORCH, "embed"}
    assert 0 < measured["embed"][0] < measured["embed"][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    with prepared() as commands:
        measured = measure(commands, rounds=parser.parse_args().rounds)
    alone = measured.pop(_TORCH)[0]
    print(f"torch {torch.__version__}; {_TORCH}: {alone:.2f} CPU-seconds; the bar: {BAR} times that")
    print("command    first line   ratio   next line   ratio")
    for name, (first, second) in measured.items():
        verdict = "met" if first <= BAR * alone else "NOT MET"
        ratios = first / alone, second / alone
        print(f"{name:<10} {first:>8.2f} s {ratios[0]:>7.2f} {second:>9.2f} s {ratios[1]:>7.2f}   {verdict}")


if __name__ == "__main__":
    main()
