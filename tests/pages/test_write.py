"""report.html of every kind of folder: small, self-contained, no markup from outside, commands kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import wsitool.pages.material as material
import wsitool.pages.patches as patches
from wsitool.cli import main
from wsitool.errors import UsageError
from wsitool.pages.write import write_page
from wsitool.report.page import read_commands
from wsitool.slides.readers import open_slide
from wsitool.slides.spec import QualityThresholds, TileSpec
from wsitool.store.opening import open_store
from wsitool.testing import synthetic_slide
from wsitool.tiling.run import tile_slides

EVIL = "<script>alert(1)</script>"
_MOST_BYTES = 5_000_000


def _check(page: Path) -> str:
    """What holds for every page."""
    text = page.read_text()
    assert page.stat().st_size < _MOST_BYTES
    assert "<script" not in text and "<link" not in text and "@import" not in text
    addresses = re.findall(r"""\s(?:src|href|action|xlink:href)\s*=\s*(["']?)(.{12})""", text)
    assert all(quote and start.startswith(("data:image/", "#")) for quote, start in addresses), addresses
    assert "url(" not in text
    return text


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn slides, cut, one of them with a name that is markup."""
    root = tmp_path_factory.mktemp("tiled")
    (root / "slides").mkdir()
    synthetic_slide(root / "slides" / "a.svs", size=(600, 500), glass=0.2)
    os.link(root / "slides" / "a.svs", root / "slides" / "<b>&c.svs")
    (root / "slides" / "broken.svs").write_bytes(b"no slide")
    limits = QualityThresholds().limits
    tile_slides(str(root / "slides"), root / "out", TileSpec(level=0, patch_size=64, limits=limits))
    return root / "out"


def test_tile_shows_kept_and_rejected_patches_reasons_resolutions_and_failures(tiled: Path) -> None:
    text = _check(write_page(tiled))
    for heading in ("What failed", "Where the patches are", "What became of all positions", "Resolution"):
        assert heading in text
    assert "&lt;b&gt;&amp;c" in text and "<b>&c" not in text
    assert "Kept:" in text and "Low tissue:" in text and "broken" in text
    # The sum over both slides, which are the same.
    with open_store(tiled / "a.h5") as store:
        kept, low = store.counts["kept"], store.counts["low tissue"]
    cells = re.findall(r"<td>(kept|low tissue)</td><td class=\"number\">(\d+)</td>", text)
    assert dict(cells) == {"kept": str(2 * kept), "low tissue": str(2 * low)}
    assert "The command line was not kept" in text


def test_rejected_patches_are_the_slide_s_own_and_their_absence_is_said(tiled: Path, tmp_path: Path) -> None:
    with open_store(tiled / "a.h5") as store, open_slide(store.meta.source) as slide:
        x, y = store.coords[3].tolist()
        read = material.read_square(slide, x, y, 64.0, side=64)
        assert (read == slide.read_region(x, y, 0, 64, 64)).all()
    slides = tiled.parent / "slides"
    slides.rename(tmp_path / "away")
    try:
        text = _check(write_page(tiled))
        assert "Low tissue:" not in text and "Rejected patches of" in text and "Kept:" in text
    finally:
        (tmp_path / "away").rename(slides)


def _many(folder: Path, store: Path, preview: bytes, count: int) -> Path:
    """A collection of `count` slides that are all one store, drawn by links."""
    (folder / "previews").mkdir(parents=True)
    (folder / "one.jpg").write_bytes(preview)
    lines = ["name,path,status,reason,group,label,mpp,mpp_effective,kept,candidates,counts"]
    counts = json.dumps({"kept": 5, "low tissue": 7}).replace('"', '""')
    for number in range(count):
        name = f"slide{number}"
        os.link(store, folder / f"{name}.h5")
        os.link(folder / "one.jpg", folder / "previews" / f"{name}.jpg")
        reason = "x" * 250
        lines.append(f'{name},/away/{name}.svs,done,{reason},{name},,0.25,0.5,5,12,"{counts}"')
    (folder / "slides.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_thousand_slides_cost_no_more_than_some(
    tiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg", quality=95)
    calls: dict[str, int] = {}

    def counted(name: str, call: object) -> object:
        def count(*args: object, **more: object) -> object:
            calls[name] = calls.get(name, 0) + 1
            return call(*args, **more)  # type: ignore[operator]

        return count

    for name in ("open_store", "known_slide", "read_square", "smaller"):
        monkeypatch.setattr(patches, name, counted(name, getattr(patches, name)))
    few, many = (
        _many(tmp_path / str(count), tiled / "a.h5", (tmp_path / "noise.jpg").read_bytes(), count)
        for count in (20, 1000)
    )
    write_page(few)
    of_few, calls = calls, {}
    text = _check(write_page(many))
    assert (
        calls == of_few and calls["open_store"] <= 3 and calls["read_square"] <= 30 and calls["smaller"] <= 12
    )
    assert "The first 200 of 1,000 slides" in text and "12 of 1,000 slides" in text
    assert "5,000" in text  # kept, of all of them


def test_a_page_that_would_be_too_large_leaves_pictures_out_and_says_so(
    tiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsitool.pages.write._ROOM", 20_000)
    text = _check(write_page(tiled))
    assert re.search(r"\d+ more pictures are left out", text)


def test_import_shows_images_and_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(60, 200, (96, 160, 3), np.uint8)
        pixels[:, 100:] = 255
        Image.fromarray(pixels).save(tmp_path / "images" / f"p{number}_<i>.png")
    words = ["import", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--patch-size", "32"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0
    text = _check(tmp_path / "out" / "report.html")
    assert "Where the patches are" in text and "Low tissue:" in text and "Kept:" in text
    assert "p0_&lt;i&gt;.png" in text
    # The command stands there as it was typed, and stays when the page is made again.
    assert read_commands(tmp_path / "out" / "report.html") == [["wsitool", *words]]
    write_page(tmp_path / "out")
    assert read_commands(tmp_path / "out" / "report.html") == [["wsitool", *words]]
    assert "--patch-size 32" in (tmp_path / "out" / "report.html").read_text()


def test_commands_are_kept_once_each_latest_last_and_never_as_markup(tiled: Path) -> None:
    first, second = ["wsitool", "tile", EVIL, '"quoted\'"'], ["wsitool", "tile", "b"]
    for command in (first, second, first):
        page = write_page(tiled, command=command)
    written = page.stat().st_mtime_ns, page.stat().st_ino
    # The same again: nothing is written.
    assert write_page(tiled, command=first) == page
    assert (page.stat().st_mtime_ns, page.stat().st_ino) == written
    assert read_commands(tiled / "report.html") == [second, first]
    text = _check(tiled / "report.html")
    assert "&lt;script&gt;alert(1)" in text
    long = write_page(tiled, command=["wsitool", "tile", *(f"slides/{n:06}.svs" for n in range(2000))])
    assert len(json.dumps(read_commands(long)[-1])) < 8000 and "more)" in read_commands(long)[-1][-1]


@pytest.mark.parametrize(
    "content", ["", "<html>", '<meta name="wsitool-commands" content="[1, {}, [2">', "\0" * 50]
)
def test_a_page_of_somebody_else_has_no_commands(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.html").write_text(content)
    assert read_commands(tmp_path / "report.html") == []
    assert read_commands(tmp_path / "none.html") == []


def _pretrained(folder: Path, warning: str) -> Path:
    folder.mkdir()
    run = {
        "command": "pretrain",
        "status": "complete",
        "method": "simclr",
        "lineage": "random -> kidney",
        "stores": ["a.h5"],
        "groups": [EVIL],
        "patches": 12,
        "steps": 3,
        "lr": 0.0003,
        "warnings": [warning],
        "card": {"lineage": [{"kind": "pretrain", "name": "kidney", "method": "simclr"}]},
    }
    (folder / "run.json").write_text(json.dumps(run))
    head = "step,epoch,loss,lr,chance_loss,feature_std"
    rows = (head, "1,1,4.2,.1,4.1,", "2,1,4.0,.05,4.1,.5", "3,2,3.9,0,4.1,.4")
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_pretrain_shows_curves_collapse_and_what_it_has_seen(tmp_path: Path) -> None:
    text = _check(write_page(_pretrained(tmp_path / "run", f"It may have collapsed {EVIL}.")))
    for title in ("loss", "feature std", "learning rate"):
        assert f">{title}</text>" in text
    assert "Did the features collapse?" in text and "random -&gt; kidney" in text
    assert "It may have collapsed &lt;script&gt;" in text
    card = text.split("Model card</a></h2>")[1].split("</table>")[0]
    assert "12 patches without labels, 1 stores, 1 groups" in card and "None on a task" in card


def test_embed_shows_its_map_and_files(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with h5py.File(tmp_path / "f" / "<s>.h5", "w") as file:
        data = file.create_dataset("features", data=np.ones((5, 3)))
        data.attrs["made_from"], data.attrs["lineage"], data.attrs["encoder"] = "x", EVIL, "resnet18"
    (tmp_path / "f" / "other.h5").write_bytes(b"damaged")
    Image.new("RGB", (20, 20)).save(tmp_path / "f" / "map.png")
    text = _check(write_page(tmp_path / "f"))
    assert "data:image/png" in text and "&lt;s&gt;.h5" in text and "cannot be read" in text


def test_what_no_command_wrote_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder that tile"):
        write_page(tmp_path)
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2 and "Error: '" in result.output
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_s_page_is_its_own(tmp_path: Path) -> None:
    for name in ("plan.json", "manifest.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match="run it again"):
        write_page(tmp_path)
    (tmp_path / "report.html").write_text("its own")
    assert write_page(tmp_path).read_text() == "its own"


def test_no_page_where_none_is_wanted_and_a_warning_where_none_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (64, 64), (150, 80, 120)).save(tmp_path / "one.png")
    words = ["import", str(tmp_path), "--out"]
    runner = CliRunner()
    assert runner.invoke(main, [*words, str(tmp_path / "a"), "--no-report"]).exit_code == 0
    assert not (tmp_path / "a" / "report.html").exists()

    def broken(page: object, folder: object) -> None:
        raise ValueError(f"no colors for {EVIL}")

    monkeypatch.setattr(patches, "imported", broken)
    result = runner.invoke(main, [*words, str(tmp_path / "b"), "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["patch_size"] == 64
    assert result.stderr.count("Warning: The page") == 1
    assert (tmp_path / "b" / "images.csv").is_file() and not (tmp_path / "b" / "report.html").exists()


def test_a_dry_run_leaves_no_page(tiled: Path, tmp_path: Path) -> None:
    before = (tiled / "report.html").read_bytes() if (tiled / "report.html").exists() else None
    words = ["tile", str(tiled.parent / "slides" / "a.svs"), "--out", str(tiled), "--level", "0", "--dry-run"]
    CliRunner().invoke(main, words)
    assert ((tiled / "report.html").read_bytes() if (tiled / "report.html").exists() else None) == before


def test_where_some_failed_the_page_says_which_and_the_exit_code_stays(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (150, 80, 120)).save(tmp_path / "one.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    words = ["import", str(tmp_path), "--out", str(tmp_path / "out"), "--patch-size", "32"]
    assert CliRunner().invoke(main, words).exit_code == 1
    text = _check(tmp_path / "out" / "report.html")
    assert "What failed" in text and "bad.png" in text


def test_help_imports_nothing_that_only_pages_need() -> None:
    code = (
        "import sys; from wsitool.cli import main; main(['tile', '--help'], standalone_mode=False); "
        "bad = [m for m in ('jinja2', 'PIL.Image', 'wsitool.pages', 'matplotlib') if m in sys.modules]; "
        "sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
