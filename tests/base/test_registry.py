"""Tables of parts, and what packages add to them: lazily, in one sentence where broken, never in the way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from plugin_zoo import write_distribution

from wsitool.base.registry import Registry
from wsitool.cli import main
from wsitool.curate.export.formats import EXPORTS
from wsitool.curate.export.run import export_stores
from wsitool.curate.verifying import verify_store
from wsitool.errors import PluginError, UnsupportedSlideError, UsageError
from wsitool.slides.reader_registry import READERS
from wsitool.slides.readers import open_slide
from wsitool.slides.slide_list import find_slides
from wsitool.slides.spec import TileSpec
from wsitool.slides.tissue import tissue_mask
from wsitool.slides.tissue_registry import TISSUE
from wsitool.testing import synthetic_slide
from wsitool.testing.stores import write_example
from wsitool.tiling.run import tile_slide, tile_slides

Install = Callable[..., str]
REGISTRIES = (READERS, TISSUE, EXPORTS)
_GOOD = {
    "wsitool.readers": (
        "from wsitool import SlideReader as R\nPART = R(name='zoo', open='{m}:f', reason='', magic=(b'ZOO',))"
    ),
    "wsitool.tissue": (
        "from wsitool import TissueDetector as D\nPART = D(name='zoo', detect='{m}:f', about='a')"
    ),
    "wsitool.exports": "from wsitool import Export\nPART = Export(name='zoo', plan='{m}:f', about='a')",
}


@pytest.fixture
def install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Install]:
    """Write a distribution of one module that registers `PART` in a group; returns the module's name."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    made: list[str] = []

    def install(group: str, code: str | None = None, *, more: str = "", name: str = "zoo") -> str:
        module = f"zoo_{abs(hash((request.node.nodeid, len(made)))) % 10**8}"
        text = (_GOOD[group].format(m=module) if code is None else code) + "\n" + more + "\n"
        entry = f"{name} = {module}:PART"
        write_distribution(site, f"p{len(made)}", "2.0", module=module, code=text, entry=entry, group=group)
        made.append(module)
        return module

    yield install
    for module in made:
        sys.modules.pop(module, None)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.noun)
def test_what_is_installed_comes_after_the_table_and_is_imported_by_name(
    registry: Registry, install: Install
) -> None:
    own = registry.names()
    module = install(registry.group)
    assert registry.names() == (*own, "zoo") and tuple(registry) == own
    for name in (entry.name for entry in registry.builtin):
        assert registry.get(name).name == name
    assert module not in sys.modules
    assert registry.get("zoo").name == "zoo" and module in sys.modules
    assert registry.who(registry.get("zoo")) == f"The {registry.noun} 'zoo' of package p0 2.0"


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.noun)
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", r"of package p0 2\.0 cannot be imported \(ZeroDivisionError"),
        ("import sys; sys.exit(3)", r"of package p0 2\.0 cannot be imported \(SystemExit"),
        ("X = 1", r"of package p0 2\.0 cannot be imported \(AttributeError"),
        ("PART = dict", r"of package p0 2\.0 must be a wsitool\.\w+, got <class 'dict'>"),
    ],
)
def test_a_broken_one_is_a_sentence_and_stops_no_other(
    registry: Registry, install: Install, code: str, message: str
) -> None:
    install(registry.group, code)
    with pytest.raises(PluginError, match=message):
        registry.get("zoo")
    install(registry.group, more="", name="zoo2", code=None)
    entries, problems = registry.installed()
    assert entries == [] and len(problems) == 2
    assert "calls itself 'zoo': give both the same name" in str(problems[1])
    assert registry.get(registry.builtin[0].name) is registry.builtin[0]


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.noun)
def test_two_packages_of_one_name_are_named_and_a_name_of_the_table_is_not_taken(
    registry: Registry, install: Install
) -> None:
    for _ in range(2):
        install(registry.group)
    with pytest.raises(PluginError, match=r"registered by package p0 2\.0 and by package p1 2\.0"):
        registry.get("zoo")
    first = registry.builtin[0]
    install(registry.group, "raise OSError('no')", name=first.name)
    assert registry.get(first.name) is first
    with pytest.raises(
        UsageError, match=f"There is no {registry.noun} 'zo': choose one of .*{first.name}.*zoo"
    ):
        registry.get("zo")


_SUFFIX = """
from wsitool import SlideReader
PART = SlideReader(name="zoo", open="nothing:here", reason="r", magic=(b"ZOO",), suffixes=("{suffix}",))
"""


class _Told:
    """A reporter that keeps warnings."""

    def __init__(self, warnings: list[str]) -> None:
        self.warn = warnings.append
        self.say = list[str]().append


def _plugin(*words: str) -> Result:
    return CliRunner().invoke(main, ["plugin", *words])


def test_the_list_shows_broken_ones_and_says_why(install: Install) -> None:
    install("wsitool.readers", "1 / 0")
    install("wsitool.tissue", name="otsu")
    assert _plugin("list").exit_code == 0
    shown = _plugin("list", "--check-imports")
    lines = [line for line in shown.stdout.splitlines() if not line.endswith("  ok")]
    assert shown.exit_code == 1 and len(lines) == 2
    assert lines[0].split()[:2] == ["reader", "zoo"] and "ZeroDivisionError" in lines[0]
    assert lines[1].split()[:2] == ["tissue", "otsu"] and "has the name of one of wsitool's own" in lines[1]


def test_the_nearest_of_all_kinds_is_named() -> None:
    for name, message in (
        ("otzu", "There is no tissue detector 'otzu'"),
        ("clan", "no export format 'clan'"),
    ):
        failed = _plugin("check", name)
        assert failed.exit_code == 2 and message in failed.stderr and "choose one of" in failed.stderr


_OPEN = """
from wsitool import Level, SlideInfo, TiledSlide
class L:
    width = height = tile_width = tile_height = 400
    shrinks, passthrough = (), False
    def decode(self, column, row, *, shrink=1):
        return {pixels}
    def prefetch(self, places):
        pass
def f(source, *, default_mpp=None):
    level = Level(width=400, height=400, downsample=1.0)
    info = SlideInfo(path=source.path, name="z", reader={name!r}, format="zoo", levels=(level,), mpp=1.0,
                     mpp_source="file", objective_power=None, fingerprint="0")
    return TiledSlide(info, (L(),), source)
"""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("def f(source):\n    pass", r"failed in f \(TypeError: .*\): run 'wsitool plugin check zoo'"),
        ("def f(source, default_mpp):\n    return 7", r"must open a slide as a wsitool\.TiledSlide, got 7"),
        (
            _OPEN.format(pixels="1 / 0", name="tiff"),
            "must state its own name in SlideInfo.reader, got 'tiff'",
        ),
        (
            _OPEN.format(pixels="1 / 0", name="zoo"),
            r"failed in decode \(ZeroDivisionError: .*zoo_\d+\.py:9\)",
        ),
        (_OPEN.format(pixels="[[1]]", name="zoo"), r"must decode tiles as uint8 \(h, w, 3\), got \[\[1\]\]"),
        (
            "import numpy as np" + _OPEN.format(pixels="np.zeros((400, 400, 3))", name="zoo"),
            r"must decode tiles as uint8 \(h, w, 3\), got float64 of shape \(400, 400, 3\)",
        ),
    ],
)
def test_a_reader_that_breaks_its_contract_is_named(
    install: Install, tmp_path: Path, more: str, message: str
) -> None:
    install("wsitool.readers", more=more)
    path = tmp_path / "s.zoo"
    path.write_bytes(b"ZOO")
    done = tile_slides([path], tmp_path / "o", TileSpec(level=0), reader="zoo").slides[0]
    assert done.failed and done.reason.startswith("The reader 'zoo' of package p0 2.0"), done.reason
    with pytest.raises(PluginError, match=message), open_slide(path, reader="zoo") as slide:
        slide.read_region(0, 0, 0, 10, 10)


def test_auto_asks_the_installed_readers_last_and_goes_on_past_broken_ones(
    install: Install, tmp_path: Path
) -> None:
    install("wsitool.readers", "1 / 0", name="broken")
    pixels = "__import__('numpy').full((400, 400, 3), 7, 'uint8')"
    module = install("wsitool.readers", more=_OPEN.format(pixels=pixels, name="zoo"))
    synthetic_slide(tmp_path / "s.svs", size=(300, 300))
    with open_slide(tmp_path / "s.svs") as slide:
        assert slide.info.reader == "tiff" and module not in sys.modules
    (tmp_path / "s.zoo").write_bytes(b"ZOO")
    with open_slide(tmp_path / "s.zoo") as slide:
        assert slide.info.reader == "zoo" and (slide.read_region(0, 0, 0, 9, 9) == 7).all()
    (tmp_path / "s.other").write_bytes(b"another kind")
    with pytest.raises(
        UnsupportedSlideError, match=r"image: .*The reader 'broken' of package p0 2\.0 cannot"
    ):
        open_slide(tmp_path / "s.other")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("def f(thumbnail, *, mpp, unread):\n    return 1 / 0", r"failed in f \(ZeroDivisionError"),
        (
            "def f(thumbnail, *, mpp, unread):\n    return thumbnail",
            "must return a bool mask of shape .* got uint8",
        ),
        (
            "def f(thumbnail, *, mpp, unread):\n    return unread[1:]",
            r"must return a bool mask of shape .* got bool",
        ),
        ("", r"cannot be imported \(AttributeError"),
    ],
)
def test_a_detector_that_breaks_its_contract_is_named(
    install: Install, tmp_path: Path, more: str, message: str
) -> None:
    install("wsitool.tissue", more=more)
    path = synthetic_slide(tmp_path / "s.svs", size=(300, 300))
    with (
        open_slide(path) as slide,
        pytest.raises(PluginError, match=rf"^The tissue detector 'zoo' of package p0 2\.0 {message}"),
    ):
        tissue_mask(slide, detector="zoo")


_PLAN = """
from wsitool import ExportOutcome, ExportPart, part_per_store
def part(source):
    return ExportPart(name=source.name, made_of={{}}, files=lambda: [{file}], write=write, patches=1)
def write(out):
    {body}
    return ExportOutcome(patches=1)
def f(sources, *, classes, shard_size):
    return part_per_store(sources, part)
"""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (_PLAN.format(file="'../x'", body="pass"), r"would write '\.\./x': files must lie in the export"),
        (_PLAN.format(file="'/x'", body="pass"), "would write '/x': files must lie in the export"),
        (_PLAN.format(file="'export.jsonl'", body="pass"), "would write 'export.jsonl'"),
        (_PLAN.format(file="'x'", body="1 / 0"), r"failed in write \(ZeroDivisionError"),
    ],
)
def test_a_part_that_breaks_its_contract_is_one_failed_store(
    install: Install, tmp_path: Path, more: str, message: str
) -> None:
    install("wsitool.exports", more=more)
    write_example(tmp_path / "s.h5", "jpeg")
    done = export_stores(tmp_path / "s.h5", tmp_path / "out", "zoo")
    ((name, reason),) = done.failed
    assert name == "s.h5" and reason.startswith("The export format 'zoo' of package p0 2.0"), reason
    assert message.replace("\\", "") in reason
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "s.h5", "site"]


def test_a_plan_that_is_none_is_named(install: Install, tmp_path: Path) -> None:
    install("wsitool.exports", more="def f(sources, *, classes, shard_size):\n    return 7")
    write_example(tmp_path / "s.h5", "jpeg")
    with pytest.raises(PluginError, match=r"must plan a wsitool\.ExportPlan, got 7"):
        export_stores(tmp_path / "s.h5", tmp_path / "out", "zoo")
    assert not (tmp_path / "out").exists()


def test_names_are_checked_before_anything_is_begun(tmp_path: Path) -> None:
    path = synthetic_slide(tmp_path / "s.svs", size=(300, 300))
    for option in ("--reader", "--tissue"):
        words = ["tile", str(path), "--out", str(tmp_path / "o"), option, "nobody"]
        failed = CliRunner().invoke(main, words)
        assert failed.exit_code == 2 and "'nobody': choose one of" in failed.stderr, failed.output
        failed = CliRunner().invoke(main, ["audit", str(path), option, "nobody"])
        assert failed.exit_code == 2 and "'nobody': choose one of" in failed.stderr, failed.output
    assert not (tmp_path / "o").exists()


def test_a_folder_is_searched_for_what_installed_readers_read(install: Install, tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    synthetic_slide(folder / "a.svs", size=(300, 300))
    module = install("wsitool.readers", _SUFFIX.format(suffix=".zoo"))
    assert [slide.name for slide in find_slides(folder)] == ["a"]
    assert module not in sys.modules  # no file there is of another kind
    (folder / "b.ZOO").write_bytes(b"ZOO")
    (folder / "notes.txt").write_text("no slide")
    install("wsitool.readers", "1 / 0", name="broken")
    warnings: list[str] = []
    reporter = _Told(warnings)
    assert [slide.name for slide in find_slides(folder, reporter=reporter)] == ["a", "b"]
    assert len(warnings) == 1 and warnings[0].startswith("The reader 'broken' of package p1 2.0 cannot")


def test_what_a_table_names_is_there() -> None:
    for registry, field in ((READERS, "open"), (TISSUE, "detect"), (EXPORTS, "plan")):
        for entry in registry.builtin:
            module, _, name = getattr(entry, field).partition(":")
            assert callable(getattr(__import__(module, fromlist=[name]), name))


def test_a_detector_that_is_gone_leaves_the_store_readable(install: Install, tmp_path: Path) -> None:
    """Only what looks for tissue again needs it: verify reads pixels."""
    path = synthetic_slide(tmp_path / "s.svs", size=(400, 400), glass=0.1)
    detect = "def f(thumbnail, *, mpp, unread):\n    return ~unread"
    module = install("wsitool.tissue", more=detect)
    done = tile_slide(path, tmp_path / "o", TileSpec(patch_size=64, mpp=1.0, tissue="zoo"))
    for entry in (tmp_path / "site").glob("*.dist-info/entry_points.txt"):
        entry.unlink()
    sys.modules.pop(module)
    assert TISSUE.names() == ("chroma", "otsu", "filled", "density", "none")
    assert verify_store(done.store, slide=path).verdict == "ok"
