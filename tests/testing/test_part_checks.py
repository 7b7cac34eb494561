"""The kits of readers, tissue detectors and exports: good parts pass, each broken one is told what for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bad_parts
import numpy as np
import pytest
import pyvips
from PIL import Image
from pylibCZIrw.czi import create_czi

from wsitool.backbones.source import SOURCES, BackboneSource
from wsitool.curate.export.formats import EXPORTS, Export
from wsitool.errors import PluginError, UsageError
from wsitool.mil.head_registry import SlideHead
from wsitool.slides.reader_registry import READERS, SlideReader
from wsitool.slides.tissue_registry import TissueDetector
from wsitool.testing import (
    check_backbone,
    check_export,
    check_head,
    check_reader,
    check_tissue,
    draw_tissue,
    synthetic_slide,
)
from wsitool.testing.results import CheckResult


def _failed(results: list[CheckResult]) -> dict[str, str]:
    return {result.name: result.message for result in results if not result.passed}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    slide = synthetic_slide(folder / "s.svs", size=(700, 600))
    picture = folder / "p.png"
    Image.fromarray(draw_tissue(400, 300, kind="adh", mpp=0.5, seed=1)).save(picture)
    flat = bad_parts.write_flat(folder / "f.flat", draw_tissue(150, 130, kind="adh", mpp=0.5, seed=1))
    pixels = np.asarray(Image.open(picture))
    pyvips.Image.new_from_array(pixels).dzsave(str(folder / "z"), suffix=".jpeg[Q=95]", tile_size=128)
    with create_czi(str(folder / "c.czi")) as writer:
        writer.write(np.ascontiguousarray(pixels[:, :, ::-1]), compression_options="zstd1:")
        writer.write_metadata("slide", scale_x=0.5e-6, scale_y=0.5e-6)
    others = {"deepzoom": folder / "z.dzi", "czi": folder / "c.czi"}
    return (
        {"image": picture, "flat": flat} | others | dict.fromkeys(("tiff", "openslide", "tiffslide"), slide)
    )


# OME-Zarr is a folder, and the kit checks readers of files: `tests/slides/readers/test_ome_zarr.py`.
@pytest.mark.parametrize("name", [reader.name for reader in READERS.builtin if reader.name != "ome-zarr"])
def test_built_in_readers_keep_every_rule(files: dict[str, Path], name: str) -> None:
    assert _failed(check_reader(name, [files[name]])) == {}


@pytest.mark.parametrize("name", tuple(EXPORTS))
def test_built_in_exports_keep_every_rule(name: str) -> None:
    assert _failed(check_export(name)) == {}


def _reader(opens: str, **changes: object) -> SlideReader:
    values: dict[str, object] = {"name": "flat", "reason": "r", "magic": (b"FLAT",)} | changes
    return SlideReader(open=f"bad_parts:{opens}", **values)  # type: ignore[arg-type]


def test_a_small_good_reader_keeps_every_rule(files: dict[str, Path]) -> None:
    assert _failed(check_reader(_reader("open_flat"), [files["flat"]])) == {}


@pytest.mark.parametrize(
    ("opens", "check", "message"),
    [
        ("open_absent", "contract", "cannot be imported"),
        ("open_wide", "geometry", "The tiles of level 0"),
        ("open_unordered", "geometry", "The downsample of level 1"),
        ("open_named", "identity", "SlideInfo.name must be 'f', got 'F'"),
        ("open_unmeasured", "identity", "With default_mpp=0.3125 the mpp of 'f.flat' must be"),
        ("open_floats", "tiles", "must decode tiles as uint8"),
        ("open_short", "tiles", "must cover"),
        ("open_random", "repeatable", "must be the same whenever it is read"),
        ("open_shared", "threads", "differs when threads decode at once"),
        ("open_unwatched", "closing", "check_unchanged must notice"),
        ("open_anything", "other-files", "must raise UnsupportedSlideError"),
        ("open_painting", "cut-off", "was read without an error"),
        ("open_raising", "damage", "ValueError"),
    ],
)
def test_each_broken_reader_is_told_what_for(
    files: dict[str, Path], opens: str, check: str, message: str
) -> None:
    failed = _failed(check_reader(_reader(opens), [files["flat"]]))
    assert message in failed[check], failed


def test_a_reader_that_would_never_be_tried_is_told(files: dict[str, Path]) -> None:
    for changes, message in (
        ({"magic": (b"OTHER",)}, "never tried"),
        ({"suffixes": ("FLAT",)}, "lower case, with a dot"),
        ({"name": "tiff"}, "'tiff' is taken"),
    ):
        failed = _failed(check_reader(_reader("open_flat", **changes), [files["flat"]]))
        assert list(failed) == ["contract"] and message in failed["contract"]


def test_a_reader_needs_files() -> None:
    with pytest.raises(UsageError, match="is checked on files that it reads: give small ones with --file"):
        check_reader("tiff", [])
    with pytest.raises(UsageError, match="is no file: give undamaged slides"):
        check_reader("tiff", ["/dev/null"])


@pytest.mark.parametrize(
    ("detect", "check", "message"),
    [
        ("detect_absent", "contract", "cannot be imported"),
        ("detect_floats", "mask", "must return a bool mask of shape (200, 300), got float64"),
        (
            "detect_turned",
            "mask",
            "must return a bool mask of shape (200, 300), got bool of shape (300, 200)",
        ),
        ("detect_at_random", "deterministic", "must have the same tissue each time"),
        ("detect_by_memory", "deterministic", "must have the same tissue each time"),
        ("detect_in_place", "input-unmodified", "must not change what it is given"),
        ("detect_left_half", "blank", "must be tissue everywhere or nowhere, and 50% of it is"),
        ("detect_large_only", "tiny", "failed in detect_large_only (ValueError"),
        ("detect_seen_mean", "unread", "failed in detect_seen_mean (ValueError"),
    ],
)
def test_each_broken_detector_is_told_what_for(detect: str, check: str, message: str) -> None:
    failed = _failed(check_tissue(TissueDetector(name="bad", detect=f"bad_parts:{detect}", about="bad")))
    assert message in failed[check], failed


@pytest.mark.parametrize(
    ("plan", "check", "message"),
    [
        ("plan_absent", "contract", "cannot be imported"),
        ("plan_unlisted", "complete", "not listed ['more.txt']"),
        ("plan_missing", "complete", "missing are ['gone.txt']"),
        ("plan_counting", "complete", "patches must be exported or counted in left_out"),
        ("plan_dated", "repeatable", "must give the same bytes"),
        ("plan_forgetful", "restart", "must be left alone"),
        ("plan_in_pieces", "interrupted", "A file is complete or not there"),
        ("plan_by_name", "inside", "files must lie in the export"),
        ("plan_beside", "inside", "written beside it"),
        ("plan_touching", "inside", "The stores must stay as they are"),
    ],
)
def test_each_broken_export_is_told_what_for(plan: str, check: str, message: str) -> None:
    failed = _failed(check_export(Export(name="bad", plan=f"bad_parts:{plan}", about="bad")))
    assert message in failed[check], failed


def test_a_small_good_export_keeps_every_rule() -> None:
    assert _failed(check_export(Export(name="good", plan="bad_parts:plan_good", about="good"))) == {}


@pytest.mark.parametrize("name", [source.name for source in SOURCES.builtin])
def test_built_in_sources_of_backbones_keep_every_rule(name: str) -> None:
    pytest.importorskip({"hf": "transformers"}.get(name, name), reason="an extra that is not installed")
    assert _failed(check_backbone(name)) == {}


@pytest.mark.parametrize(
    ("make", "check", "message"),
    [
        ("make_absent", "contract", "cannot be imported"),
        (
            "make_whole",
            "network",
            "must give features (2, 4) of two images, got (2, 9): remove the classifier",
        ),
        ("make_module", "network", "It must make a wsitool.Network, got Linear"),
        ("make_half_normal", "normalisation", "mean and std must be three numbers each, std above 0"),
        ("make_by_clock", "seeded", "draw them from torch's global generator"),
        ("make_forgetful", "rebuilt", "must have the same tensors as the one that stated them"),
        ("make_anything", "unknown", "make('no-such-network') must raise UsageError, and gave a network"),
    ],
)
def test_each_broken_source_of_backbones_is_told_what_for(make: str, check: str, message: str) -> None:
    source = BackboneSource(name="bad", make=f"bad_backbones:{make}", about="bad", example="net")
    failed = _failed(check_backbone(source))
    assert message in failed[check], failed


@pytest.mark.parametrize(
    ("fit", "check", "message"),
    [
        ("fit_absent", "contract", "cannot be imported"),
        ("fit_nothing", "output", "must give a wsitool.FittedSlideHead, got None"),
        ("fit_batched", "output", "Logits must be (2,), got (1, 2)"),
        ("fit_scores", "output", "Attention must not be negative and sum to 1"),
        ("fit_first", "order", "must not depend on the order"),
        ("fit_other_each", "each", "those of bags of one patch"),
        ("fit_at_random", "deterministic", "must be equal to the bit"),
        ("fit_unsized", "file", "raised RuntimeError"),
        ("fit_everything", "reads-only-its-share", "must not be read"),
        ("fit_in_place", "reads-only-its-share", "must not be changed"),
        ("fit_untrained", "learns", "90 % must be right after training"),
    ],
)
def test_each_broken_head_is_told_what_for(fit: str, check: str, message: str) -> None:
    head = SlideHead(name="bad", about="bad", fit=f"bad_heads:{fit}", build="bad_heads:build")
    failed = _failed(check_head(head))
    assert message in failed[check], failed


@pytest.mark.parametrize(
    "check",
    [check_backbone, check_head, check_tissue, check_export, lambda part: check_reader(part, [__file__])],
)
def test_what_is_no_description_fails_the_contract_only(check: Callable[[object], list[CheckResult]]) -> None:
    assert list(_failed(check(object()))) == ["contract"]
    with pytest.raises((UsageError, PluginError), match="choose one of"):
        check("nobody")
