"""The law: whatever a store calls itself, every file a command writes lies under --out."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import hostile_names
import pytest
import torch
from click.testing import CliRunner
from patch_stores import small_store
from PIL import Image

from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import save_encoder
from wsitool.classify.model import Classifier, ClassifierCard, save_classifier
from wsitool.cli import main
from wsitool.testing import draw_tissue, synthetic_slide

NAMES = (*hostile_names.NAMES, "$\\frac$", "EVIL", "evil")

NETWORK = "timm:test_resnet"
# A command by its words; {stores} is a folder of hostile stores, {store} one of them.
COMMANDS = {
    **{f"export {to}": f"export {{stores}} --to {to}" for to in ("clam", "trident", "geojson")},
    "export imagefolder": "export {images} --to imagefolder",
    "export webdataset": "export {images} --to webdataset --shard-size 5",
    "embed": "embed {named} --encoder {encoder} --device cpu",
    "predict": "predict {classifier} {few} --device cpu",
    "predict images": "predict {classifier} {images} --device cpu",
    "split": "split {labelled} --test 50",
    "refilter": "refilter {store} --min-tissue 0.6",
    "import": "import {pictures} --labels {labels} --min-tissue 0",
    "tile": "tile {slides} --patch-size 16 --level 0 --min-tissue 0",
    "label": "label {few} --classes a,b --import {outlines} --export out/labels.csv --geojson out/outlines",
    "pretrain": f"pretrain {{labelled}} --method rotation --backbone {NETWORK} --init random --epochs 1 "
    "--batch-size 4",
    "pretrain stream": f"pretrain {{slides}} --stream --patch-size 16 --level 0 --min-tissue 0 "
    f"--method rotation --backbone {NETWORK} --init random --epochs 1 --batch-size 4",
    "classify": f"classify {{labelled}} --encoder random --backbone {NETWORK} --epochs 1 --batch-size 4",
    "classify folds": "classify {labelled} --encoder {encoder} --head linear --c 0.1 --folds 2 --device cpu",
    "experiment": f"experiment --train {{labelled}} --methods supervised,rotation --fractions 100 --seeds 1 "
    f"--folds 2 --head linear --c 0.1 --backbone {NETWORK} --init random --pretrain-epochs 1 "
    "--pretrain-batch-size 4",
}


def _hostile(folder: Path, names: tuple[str, ...] = NAMES, *, sources: tuple[str, ...] = ()) -> Path:
    """Zarr stores, as their JSON holds any name: NUL and half characters, which HDF5 has no text for."""
    for number, name in enumerate(names):
        path = small_store(
            folder / f"{number}.zarr", ("c", None), sources=sources, params={"min_tissue": 0.0}
        )
        file = path / "zarr.json"
        values = json.loads(file.read_text())
        values["attributes"] |= {"name": name, "group": name, "source": name}
        values["attributes"]["classes"] = json.dumps([name or "c"])
        file.write_text(json.dumps(values))
    return folder


def _labelled(folder: Path) -> Path:
    for number, name in enumerate(("../../evil", "/abs/evil", "..", "x" * 200)):
        path = small_store(folder / f"{number}.zarr", ("a", "b") * 4, params={"min_tissue": 0.0})
        file = path / "zarr.json"
        values = json.loads(file.read_text())
        values["attributes"] |= {"name": name, "group": name, "source": name}
        values["attributes"]["classes"] = json.dumps(["../../evil", "/abs/evil"])
        file.write_text(json.dumps(values))
    return folder


def _slides(folder: Path) -> Path:
    folder.mkdir()
    lines = ["path,label,group"]
    for number, name in enumerate(NAMES[:6]):
        synthetic_slide(folder / f"{number}.svs", size=(64, 64), seed=number)
        lines.append(f'{number}.svs,"{name}","{name}"')
    (folder / "slides.csv").write_text("\n".join(lines))
    return folder / "slides.csv"


def _some(stores: Path, folder: Path, names: list[str]) -> Path:
    for number in map(NAMES.index, names):
        shutil.copytree(stores / f"{number}.zarr", folder / f"{number}.zarr")
    return folder


def _outlines(folder: Path) -> Path:
    """Of the slides in "few", each where its name leads; all of the class "a"."""
    folder.mkdir(parents=True)
    ring = [[-99, -99], [999, -99], [999, 999], [-99, 999], [-99, -99]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "a"}},
    }
    for name in ("../../evil", "..", "$\\frac$"):
        (folder / f"{name}.geojson").write_text(json.dumps([feature]))
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    encoder = build_backbone("resnet18", init="random")
    save_encoder(encoder, folder / "encoder.safetensors", encoder.card)
    card = ClassifierCard(
        classes=("../../evil", "a b", "a_b", "x" * 300),
        head="finetune",
        image_size=32,
        patch_size=16,
        mpp=0.5,
        temperature=1.0,
        groups=(),
        encoder=encoder.card,
    )
    save_classifier(Classifier(encoder, torch.nn.Linear(512, 4), card), folder / "classifier.safetensors")
    pictures = folder / "pictures"
    pictures.mkdir()
    Image.fromarray(draw_tissue(32, 32, kind="benign", mpp=0.5, glass=0.0)).save(pictures / "0.png")
    lines = ["file,label,group"]
    for number, name in enumerate(NAMES):
        (pictures / f"{number}.png").write_bytes((pictures / "0.png").read_bytes())
        cell = name.encode("utf-8", "replace").decode().replace("\0", "")
        lines.append(f'{number}.png,"{cell}","{cell}"')
    (folder / "labels.csv").write_text("\n".join(lines))
    stores = _hostile(folder / "stores", sources=False)
    return {
        "stores": stores,
        "store": stores / "0.zarr",
        "images": _hostile(folder / "images", ("../../evil", "s"), sources=("../../evil.png", "..")),
        # embed takes all stores or none, so those that no program can open stay out
        "named": _some(stores, folder / "named", [name for name in NAMES if _is_text(name)]),
        # a picture for every class and slide takes its time
        "labelled": _labelled(folder / "labelled"),
        "slides": _slides(folder / "slides"),
        "few": _some(stores, folder / "few", ["../../evil", "..", "$\\frac$"]),
        "outlines": _outlines(folder / "outlines" / "of" / "slides"),
        "encoder": folder / "encoder.safetensors",
        "classifier": folder / "classifier.safetensors",
        "pictures": pictures,
        "labels": folder / "labels.csv",
    }


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if not path.is_dir()
    }


@pytest.mark.filterwarnings("ignore:Glyph")  # of letters that no font at hand has
@pytest.mark.parametrize("command", COMMANDS)
def test_every_file_lies_under_out(
    inputs: dict[str, Path], tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "one" / "two" / ("s.zarr" if command == "refilter" else "out")
    out.parent.mkdir(parents=True)
    (tmp_path / "evil").write_text("mine")
    monkeypatch.chdir(out.parent)
    root = inputs["encoder"].parent
    before, inside = _state(root), set(Path("/").iterdir())
    words = [word.format(**inputs) for word in COMMANDS[command].split()]
    words += ["--out", str(out / "labels.db" if command == "label" else out)]
    run = CliRunner().invoke(main, words)
    assert run.exit_code in (0, 1) and (run.exception is None or isinstance(run.exception, SystemExit)), (
        run.output,
        run.exception,
    )
    if command.startswith(("pretrain", "classify", "experiment")):
        assert run.exit_code == 0, run.output
    assert _state(root) == before and set(Path("/").iterdir()) == inside
    written = {path for path in tmp_path.rglob("*") if not path.is_dir()} - {tmp_path / "evil"}
    assert written and all(out == path or out in path.parents for path in written)
    assert (tmp_path / "evil").read_text() == "mine"
    for path in written:
        path.name.encode()
        assert len(os.fsencode(path.name)) <= 255
    # nobody overwrote anybody: as many files as there are stores that can be opened
    usable = sum(_opens(path) for path in inputs["stores"].iterdir())
    suffix = {"export clam": "h5", "export trident": "h5", "embed": "h5", "export geojson": "geojson"}
    if command in suffix:
        assert sum(path.suffix == f".{suffix[command]}" for path in written) == usable >= 10
    if command == "predict":
        assert sum(path.suffix == ".jpg" for path in written) == 3 * (4 + 1)
    if command == "label":
        assert sum(path.suffix == ".geojson" for path in written) == 3
    elif not command.startswith(("export", "refilter", "split")):
        assert out / "report.html" in written
    if command == "import":
        assert sum(path.suffix == ".h5" for path in written) >= 10


def _is_text(name: str) -> bool:
    return "\0" not in name and name.encode("utf-8", "ignore") == name.encode("utf-8", "surrogatepass")


def _opens(path: Path) -> bool:
    from wsitool.errors import WsitoolError
    from wsitool.store.opening import open_store

    try:
        open_store(path).close()
    except WsitoolError:
        return False
    return True
