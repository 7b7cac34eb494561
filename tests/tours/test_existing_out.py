"""One rule for what is there: the same stays and is said, anything else needs --overwrite."""

from __future__ import annotations

from pathlib import Path

import pytest
from tour_guide import step

_QUICK = "--backbone timm:test_resnet --init random --epochs 1 --batch-size 16 --device cpu"
_HEAD = "--encoder 'lab encoder.safetensors' --head knn --device cpu"
# Command, what makes another of it, how it says that it is there, and the exit code where it is another.
COMMANDS = {
    "tile": ("tile links --workers 1 --patch-size 32", "--codec raw", "skipped", 1),
    "import": ("import pictures --min-tissue 0", "--codec raw", "there already", 1),
    "split": ("split stores --test 50", "--seed 1 --test 40", "is this split already", 1),
    "refilter": ("refilter stores --min-tissue 0.5", "--min-tissue 0.6", "is this already", 1),
    "export": ("export stores --to clam", "--to trident", "there already", 2),
    "pretrain": (
        f"pretrain stores --method rotation {_QUICK}",
        "--seed 1",
        "is finished, and is left as it is",
        2,
    ),
    "embed": (
        "embed stores --encoder 'lab encoder.safetensors' --device cpu",
        "--image-size 48",
        "patches",
        2,
    ),
    "export-encoder": (
        "export-encoder 'lab encoder.safetensors' --to hf",
        "--image-size 64",
        "is this encoder already",
        None,
    ),
    "classify": (f"classify stores --folds 2 {_HEAD} --neighbours 3", "--neighbours 4", "is finished", 2),
    "predict": ("predict run links --device cpu", "--least-lead 0.9", "1 slides are kept", 2),
}


def _files(folder: Path) -> dict[str, tuple[bytes, int]]:
    # Pages state when they were made; locks are nobody's result.
    kept = (
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.name not in ("report.html", "slides.csv", "map.png")
        and path.name[0] != "."
    )
    # Tables are written again, with the same rows.
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns * (path.suffix not in (".csv", ".jsonl")))
        for path in kept
    }


# Each skips what is finished in tests of its own too; all of them together take a minute.
_SLOW = ("tile", "import", "split", "export", "embed")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else []) for name in COMMANDS]
)
def test_what_is_there(disk: Path, name: str) -> None:
    command, other, says, code = COMMANDS[name]
    if "stores" in command or "run" in command.split():
        step("tile '표/slide list.csv' --out stores --patch-size 32 --workers 1 --no-report")
    if "run" in command.split():
        step(f"classify stores --folds 2 {_HEAD} --neighbours 3 --out run --no-report")
    if name == "import":
        from PIL import Image

        from wsitool.testing import draw_tissue

        Path("pictures/a").mkdir(parents=True)
        for number in range(2):
            Image.fromarray(draw_tissue(32, 32, kind="benign", seed=number)).save(f"pictures/a/{number}.png")
    step(f"{command} --out out")
    before = _files(disk / "out")
    assert before
    step(f"{command} --out out", 0, *([says] if name != "predict" else []))
    assert _files(disk / "out") == before
    if code is None:
        return
    step(f"{command} {other} --out out", code, "--overwrite")
    assert _files(disk / "out") == before
    # Import and split take one way only to be made anew; all say how.
    step(f"{command} {other} --out out --overwrite", 0)
    assert _files(disk / "out") != before
