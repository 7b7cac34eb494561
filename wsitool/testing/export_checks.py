"""What every export format must do: one plain function per rule of `PlanExport`, run on stores made for it.

Each takes the format's description and raises AssertionError saying what was expected and what came.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from wsitool.base.progress import SILENT, Reporter
from wsitool.curate.export.formats import EXPORTS, Export
from wsitool.curate.export.parts import RECORD
from wsitool.curate.export.run import CLASSES_FILE, ExportResult, export_stores
from wsitool.errors import WsitoolError
from wsitool.store.reader import Reader
from wsitool.testing.results import CheckResult, check_description, run_checks
from wsitool.testing.stores import write_example

__all__ = ["EXPORT_CHECKS", "check_export"]

_OURS = {RECORD, CLASSES_FILE}
_PATCHES = 23


def check_export(export: Export | str, *, reporter: Reporter = SILENT) -> list[CheckResult]:
    """Run every check of `export`, a description or an installed format's name.

    A description that is none gets that one result. Raises UsageError for a name that is not there,
    PluginError for one that cannot be loaded.
    """
    kind = EXPORTS.get(export) if isinstance(export, str) else export
    return run_checks(EXPORT_CHECKS, kind, title=getattr(kind, "name", repr(kind)), reporter=reporter)


def check_contract(export: Export) -> None:
    """The description is an Export, and its function can be imported."""
    check_description(export, EXPORTS, function="plan")
    assert export.about.strip(), "`about` must say in words what is written."


def check_complete(export: Export) -> None:
    """Every store is exported, every file that is listed is there, and no other."""
    with _stores() as (stores, out):
        done = _run(export, stores, out)
        assert done.stores == 2, f"Both stores must be exported, got {done.stores}: {done.failed}."
        listed, there = set(done.files), set(_tree(out)) - _OURS
        assert listed == there, (
            f"A part's files must be those it writes: missing are {sorted(listed - there)[:3]}, not listed "
            f"{sorted(there - listed)[:3]}."
        )
        assert done.patches + done.left_out == 2 * _PATCHES, (
            f"{2 * _PATCHES} patches must be exported or counted in left_out, got {done.patches} and "
            f"{done.left_out}."
        )


def check_inside(export: Export) -> None:
    """Nothing is written but in the folder given, whatever a slide is called, and no store is touched."""
    with _stores(names=("../../evil", "a/b:\u00e9\ud55c")) as (stores, out):
        before = _tree(stores)
        done = _run(export, stores, out)
        assert not done.failed, done.failed[0][1]
        others = sorted(path.name for path in stores.parent.iterdir() if path not in (stores, out))
        assert not others, f"Files must lie in the export, and {others} were written beside it."
        folder = out.resolve()
        outside = [name for name in done.files if not (out / name).resolve().is_relative_to(folder)]
        assert not outside, f"Files must lie in the export, got {outside[:3]}: use source.slide or key."
        assert _tree(stores) == before, "The stores must stay as they are."


def check_repeatable(export: Export) -> None:
    """Exported twice, the same stores become the same bytes."""
    with _stores() as (stores, out):
        _run(export, stores, out)
        _run(export, stores, out.with_name("again"))
        other = _tree(out.with_name("again"))
        differing = [name for name, data in _tree(out).items() if other.get(name) != data]
        assert not differing, (
            f"The same stores must give the same bytes, and {differing[:3]} differ: no dates."
        )


def check_restart(export: Export) -> None:
    """Run again, what is finished stays as it is, and what is missing is made as it was."""
    with _stores() as (stores, out):
        first = _run(export, stores, out)
        expected = _tree(out)
        rule = "An export that is finished must be left alone: `made_of` must be the same for the same stores"
        try:
            again = _run(export, stores, out)
        except AssertionError as error:
            raise AssertionError(f"{rule}. {error}") from None
        assert again.skipped > 0 and _tree(out) == expected, f"{rule}."
        for name in (first.files[0], first.files[-1]):
            (out / name).unlink()
            _run(export, stores, out)
            assert _tree(out) == expected, (
                f"'{name}' was removed, and must be there again after the same command."
            )


def check_interrupted(export: Export) -> None:
    """A store that fails while it is written leaves no half of a file, and the next run mends it."""
    with _stores() as (stores, out):
        _run(export, stores, out.with_name("whole"))
        expected = _tree(out.with_name("whole"))
        with patch.object(Reader, "coords", property(_failing_after(1))):
            _run(export, stores, out)
        half = [name for name, data in _tree(out).items() if name not in _OURS and expected.get(name) != data]
        assert not half, f"A file is complete or not there, and {half[:3]} are not: write with replace_file."
        _run(export, stores, out)
        assert _tree(out) == expected, "After a failure the same command must end like an undisturbed one."


def _failing_after(reads: int) -> Callable[[Reader], Any]:
    """The coordinates of a store, as long as the disk holds out."""
    real, count = Reader.coords.fget, 0  # type: ignore[attr-defined]

    def coords(store: Reader) -> Any:
        nonlocal count
        count += 1
        if count > reads:
            raise OSError("the disk failed")
        return real(store)

    return coords


def _run(export: Export, stores: Path, out: Path) -> ExportResult:
    try:
        done = export_stores(stores, out, export, shard_size=10)
    except WsitoolError as error:
        raise AssertionError(f"The export must run, got: {error}") from None
    told = next((reason for _, reason in done.failed if " failed in " in reason), "")
    assert not told, told
    return done


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@contextmanager
def _stores(names: tuple[str, str] = ("one", "two")) -> Iterator[tuple[Path, Path]]:
    """A folder with two stores, of slides so called, and where their export goes."""
    with tempfile.TemporaryDirectory(prefix="wsitool-check-") as base:
        folder = Path(base) / "stores"
        folder.mkdir()
        write_example(folder / "one.h5", "jpeg", _PATCHES, name=names[0], imported=False)
        write_example(folder / "two.h5", "raw", _PATCHES, name=names[1], labelled=False, seed=1)
        yield folder, Path(base) / "out"


EXPORT_CHECKS: tuple[Callable[[Export], None], ...] = (
    check_contract,
    check_complete,
    check_inside,
    check_repeatable,
    check_restart,
    check_interrupted,
)
