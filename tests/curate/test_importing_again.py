"""An import that was ended, disturbed or repeated ends like an undisturbed one."""

from __future__ import annotations

import csv
import signal
from pathlib import Path

import numpy as np
import pytest
from drawn_images import draw_image
from PIL import Image

from wsitool.base.interrupt import Interrupted, stoppable
from wsitool.base.lock import locked
from wsitool.curate import import_groups, importing
from wsitool.curate.import_groups import ImportPlan
from wsitool.curate.importing import ImageResult, import_images
from wsitool.errors import StoreError
from wsitool.store.opening import open_store


def _tree(folder: Path) -> dict[str, bytes | str]:
    """All files of an import; of a store its content hash, as its bytes may differ from run to run."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".h5":
            with open_store(path) as store:
                found[path.name] = store.content_hash
        else:
            found[path.name] = path.read_bytes()
    return found


def _several(folder: Path) -> Path:
    for name in ("a/p1-1.png", "b/p1-2.png", "a/p2-1.png", "b/p3-1.png"):
        draw_image(folder / name, 64, 64, seed=len(name) + ord(name[0]))
    (folder / "a" / "p3-broken.png").write_bytes(b"")
    Image.fromarray(np.full((64, 64, 3), 250, np.uint8)).save(folder / "b" / "p4-blank.png")
    return folder


_OPTIONS = {"patch_size": 32, "group_regex": r"p\d"}


@pytest.mark.parametrize("lost", ["nothing", "table", "store", "both", "half a table"])
def test_an_import_goes_on_where_it_was_ended(tmp_path: Path, lost: str) -> None:
    """Whatever a kill leaves out, the re-run ends like an undisturbed run and rewrites no finished store."""
    source, out = _several(tmp_path / "in"), tmp_path / "out"
    whole = import_images(source, out, **_OPTIONS)  # type: ignore[arg-type]
    expected, inode = _tree(out), (out / "p1.h5").stat().st_ino
    assert len(whole.stores) == 3 and len(whole.failed) == 2 and whole.skipped == 0
    if lost in ("store", "both"):
        (out / "p2.h5").unlink()
        (out / ".p2.h5.0123abcd.partial").write_bytes(b"half")
    if lost in ("table", "both"):
        (out / "images.csv").unlink()
    if lost == "half a table":
        lines = (out / "images.csv").read_text().splitlines(keepends=True)
        (out / "images.csv").write_text("".join(lines[:2]))
    again = import_images(source, out, **_OPTIONS)  # type: ignore[arg-type]
    assert again.skipped == (2 if lost in ("store", "both") else 3)
    assert again.images == whole.images and again.stores == whole.stores
    assert _tree(out) == expected and (out / "p1.h5").stat().st_ino == inode


def test_what_differs_is_refused_and_the_rest_is_done(tmp_path: Path) -> None:
    source, out = _several(tmp_path / "in"), tmp_path / "out"
    import_images(source, out, **_OPTIONS)  # type: ignore[arg-type]
    before = {path.name: path.read_bytes() for path in out.glob("p*.h5")}
    draw_image(source / "a" / "p1-9.png", 64, 64)
    draw_image(source / "a" / "p5-1.png", 64, 64)
    (source / "a" / "p2-1.png").rename(source / "b" / "p2-1.png")
    found = import_images(source, out, **_OPTIONS)  # type: ignore[arg-type]
    reasons = {image.group: image.error for image in found.failed}
    assert "its images are others now: pass --overwrite" in reasons["p1"] and "p2" in reasons
    assert (out / "p5.h5").is_file() and found.skipped == 1
    assert all((out / name).read_bytes() == data for name, data in before.items())
    rows = {row["file"]: row for row in csv.DictReader((out / "images.csv").read_text().splitlines())}
    assert rows["a/p1-1.png"]["store"] == "p1.h5" and rows["a/p2-1.png"]["store"] == "p2.h5"
    assert rows["a/p5-1.png"]["kept"] == "4"


def test_other_labels_are_another_import(tmp_path: Path) -> None:
    for name in ("p1.png", "p2.png"):
        draw_image(tmp_path / "in" / name, 64, 64)
    table = tmp_path / "labels.csv"
    table.write_text("file,label\np1.png,x\np2.png,y\n")
    import_images(tmp_path / "in", tmp_path / "out", labels=table, min_tissue=0.0)
    table.write_text("file,label\np1.png,y\np2.png,x\n")
    found = import_images(tmp_path / "in", tmp_path / "out", labels=table, min_tissue=0.0)
    assert all("other labels now" in image.error for image in found.images)


def test_a_second_import_into_a_folder_keeps_the_rows_of_the_first(tmp_path: Path) -> None:
    for folder, name in (("x", "a"), ("y", "b")):
        draw_image(tmp_path / folder / f"{name}.png", 64, 64)
        import_images(tmp_path / folder, tmp_path / "out", min_tissue=0.0)
    rows = list(csv.DictReader((tmp_path / "out" / "images.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == ["a.png", "b.png"]


def test_two_imports_into_one_folder_are_kept_apart(tmp_path: Path) -> None:
    draw_image(tmp_path / "in" / "a.png", 64, 64)
    (tmp_path / "out").mkdir()
    with (
        locked(tmp_path / "out" / "images.csv", what="x"),
        pytest.raises(StoreError, match=r"An import into .* is being written by process"),
    ):
        import_images(tmp_path / "in", tmp_path / "out", min_tissue=0.0)


def test_one_group_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _several(tmp_path / "in")
    write = importing.write_group

    def failing(plan: ImportPlan, store: str, *rest: object) -> list[ImageResult]:
        if store == "p1.h5":
            raise OSError(28, "No space left on device", store)
        return write(plan, store, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(importing, "write_group", failing)
    found = import_images(source, tmp_path / "out", **_OPTIONS)  # type: ignore[arg-type]
    assert [path.stem for path in found.stores] == ["p2", "p3"]
    assert "disk is full" in next(image.error for image in found.failed if image.group == "p1")
    monkeypatch.undo()
    again = import_images(source, tmp_path / "out", **_OPTIONS)  # type: ignore[arg-type]
    assert [path.stem for path in again.stores] == ["p1", "p2", "p3"] and again.skipped == 2


def test_a_signal_leaves_the_table_of_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = _several(tmp_path / "in"), tmp_path / "out"
    whole = import_images(source, tmp_path / "whole", **_OPTIONS)  # type: ignore[arg-type]
    write, stores = importing.write_group, []

    def stopping(plan: ImportPlan, store: str, *rest: object) -> list[ImageResult]:
        stores.append(store)
        if len(stores) == 2:
            signal.raise_signal(signal.SIGTERM)
        return write(plan, store, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(importing, "write_group", stopping)
    with pytest.raises(Interrupted) as stop, stoppable():
        import_images(source, out, **_OPTIONS)  # type: ignore[arg-type]
    assert stop.value.progress == "2 of 6 images done; run again to go on"
    assert sorted(path.name for path in out.iterdir()) == ["images.csv", "p1.h5"]
    assert [row["file"] for row in csv.DictReader((out / "images.csv").read_text().splitlines())] == [
        "a/p1-1.png",
        "b/p1-2.png",
    ]
    monkeypatch.undo()
    assert import_images(source, out, **_OPTIONS).images == whole.images  # type: ignore[arg-type]
    assert _tree(out) == _tree(tmp_path / "whole")


def test_an_image_that_changes_while_it_is_read_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("p1-1.png", "p1-2.png"):
        draw_image(tmp_path / "in" / name, 64, 64)
    mask = import_groups.tissue_mask_of_image
    changed = iter((tmp_path / "in" / "p1-1.png",))

    def changing(pixels: object) -> object:
        for path in changed:
            draw_image(path, 64, 64, seed=9)
        return mask(pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(import_groups, "tissue_mask_of_image", changing)
    found = import_images(tmp_path / "in", tmp_path / "out", group_regex="p1", min_tissue=0.0)
    assert "p1-1.png changed while it was read" in found.images[0].error and found.images[1].kept == 1
