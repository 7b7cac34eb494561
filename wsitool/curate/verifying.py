"""Re-reading stores: is everything there, does it decode, is it what the slide shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from wsitool.base.cluster import for_workers, on_cluster
from wsitool.base.paths import AnyPath, as_list, path_of
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.shards import part_of
from wsitool.errors import NotAStoreError, StoreError, UsageError, WsitoolError
from wsitool.slides.grid import TileGrid, listed_grid, plan_grid
from wsitool.slides.readers import TiledSlide
from wsitool.slides.readers.folders import entry_file
from wsitool.slides.spec import TileSpec
from wsitool.store import jpeg
from wsitool.store.hashing import covers_attributes
from wsitool.store.layout import Tally
from wsitool.store.opening import find_stores, open_store
from wsitool.store.reader import Reader, content_hash
from wsitool.store.schema import Sampling, StoreMeta
from wsitool.tiling.reopening import reopen
from wsitool.tiling.resample import area_resample, psnr

__all__ = ["Check", "StoreReport", "spec_of", "verify_store", "verify_stores"]

Verdict = Literal["ok", "CHANGED", "DAMAGED", "not a store", "not checked"]

_BATCH = 256
# Of decoded patches at once: 64 MB.
_BATCH_BYTES = 1 << 26
_HEADERS = 8  # that are looked at for their color resolution
_HASH, _SLIDE = "content hash", "same as the slide"
_NOT_CHECKED = "was not checked"  # as the worker that was at it died
# A patch brought to another resolution by the decoder, and compressed after, is this near to the exact mean.
_RESAMPLED_MIN_DB = 28.0
# OpenSlide interpolates at levels whose downsample is not whole: a pixel then lies between its neighbors,
# but for rounding, and for what compressing them changed.
_ROUNDING, _COMPRESSED_MIN_DB = 1, 40.0
_OLD_HASH = "written before the hash covered group, resolution and classes: a change of those is not noticed"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was checked; `problem` is "" where it is right, `note` what else is worth knowing."""

    name: str
    problem: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class StoreReport:
    """All checks of one store; for another program's file none but that, in words, in `foreign`."""

    path: str
    patches: int
    checks: tuple[Check, ...]
    foreign: str = ""

    @property
    def sound(self) -> bool:
        """Whether every check passed."""
        return not any(check.problem for check in self.checks)

    @property
    def verdict(self) -> Verdict:
        """In a word: a store that reads well but is not what was written, or cut, was changed."""
        if self.foreign:
            return "not a store"
        wrong = {check.name for check in self.checks if check.problem}
        if wrong == {_NOT_CHECKED}:
            return "not checked"
        # Both can read perfectly: somebody changed it, or cut it otherwise.
        if wrong and wrong <= {_HASH, _SLIDE}:
            return "CHANGED"
        return "DAMAGED" if wrong else "ok"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return asdict(self) | {"sound": self.sound, "verdict": self.verdict}


def verify_stores(
    path: AnyPath | Iterable[AnyPath],
    *,
    slide: str | Path | None = None,
    reader: str = "",
    samples: int = 64,
    seed: int = 0,
    shard: str | None = None,
    dask: str | None = None,
    reporter: Reporter = SILENT,
) -> list[StoreReport]:
    """Verify the store at `path`, or all stores in that folder (or several); StoreError if there is none.

    UsageError where all there is are files of other programs; beside stores they are listed as such.
    `slide` is the slide the one store was cut from; a folder's stores look for theirs in `slide` as a folder.
    It is read by `reader`, without one by that of the store. `shard` "i/N" takes the i-th of N parts of the
    stores, and reports on that alone; `dask` is the address of a cluster, of which each store is a task.
    """
    places = as_list(path)
    stores = find_stores(places)
    where = ", ".join(f"'{folder}'" for folder in places) or "nowhere"
    if not stores:
        raise StoreError(f"There is no patch store at {where}: expected a .h5 or .zarr, or a folder of them.")
    if slide is not None and len(stores) > 1 and not Path(slide).is_dir():
        raise UsageError(f"{where} holds {len(stores)} stores: give --slide the folder of their slides.")
    part = part_of(stores, shard)
    common: dict[str, Any] = {"slide": slide, "reader": reader, "samples": samples, "seed": seed}
    found: dict[int, StoreReport] = {}
    with reporter.task("Verifying", total=len(part), unit="stores") as task:
        here = ((number, verify_store(store, **common)) for number, store in enumerate(part))
        for number, report in here if dask is None else _on_cluster(part, common, dask):
            found[number] = report
            task.advance(note=part[number].name)
    reports = [found[number] for number in range(len(part))]
    # Of a part others may be stores.
    if shard is None and all(report.foreign for report in reports):
        more = f" The other {len(reports) - 1} there are no stores either." if len(reports) > 1 else ""
        raise UsageError(f"{reports[0].foreign}{more}")
    return reports


def _on_cluster(
    stores: Sequence[Path], options: Mapping[str, Any], address: str
) -> Iterator[tuple[int, StoreReport]]:
    slide = options["slide"]
    common = {**options, "slide": None if slide is None else for_workers(str(slide))}
    tasks = [json.dumps({**common, "path": for_workers(str(store))}) for store in stores]
    for index, answer in on_cluster(_remote, tasks, [store.name for store in stores], address=address):
        path = str(stores[index])
        if isinstance(answer, str):
            yield index, StoreReport(path=path, patches=0, checks=(Check(name=_NOT_CHECKED, problem=answer),))
        else:
            checks = tuple(Check(**check) for check in answer["checks"])
            yield index, StoreReport(**{**answer, "path": path, "checks": checks})


def _remote(task: str) -> dict[str, Any]:
    return asdict(verify_store(**json.loads(task)))


def verify_store(
    path: str | Path,
    *,
    slide: str | Path | None = None,
    reader: str = "",
    samples: int = 64,
    seed: int = 0,
) -> StoreReport:
    """Check counts, order, labels, that every patch decodes, and the content hash of one store.

    With `slide` (or the folder it is in) also its fingerprint, and `samples` random patches against pixels
    read from it, by `reader` where one is named: exactly, or within 28 dB where they were resampled. Where
    another reader may interpolate within a level, pixels must lie between the neighbors of the stored ones.
    Damage is reported, not raised.

    >>> report = wsitool.verify_store("stores/a.h5")
    >>> report.patches, [check.problem for check in report.checks if check.problem]
    (6, [])
    """
    checks: list[Check] = []
    try:
        store = open_store(path)
    except NotAStoreError as error:
        return StoreReport(path=str(path), patches=0, checks=(), foreign=str(error))
    except WsitoolError as error:
        return StoreReport(path=str(path), patches=0, checks=(Check(name="opens", problem=str(error)),))
    with store:
        # Called one after the other below, so that one that fails does not keep the others from being looked
        # at.
        parts: list[tuple[str, Callable[[], str]]] = [
            ("counts", lambda: _counts(store)),
            ("order", lambda: _order(store)),
            ("labels", lambda: _labels(store)),
            ("patches decode", lambda: _decodes(store) or _sampled(store)),
            (_HASH, lambda: _hash(store)),
        ]
        if slide is not None:
            parts.append((_SLIDE, lambda: _same(store, Path(slide), reader, samples, seed)))
        for name, check in parts:
            try:
                problem = check()
            except (WsitoolError, OSError, ValueError, KeyError) as error:
                # What damage makes of reading a column or a patch.
                problem = str(error) or type(error).__name__
            note = "" if name != _HASH or covers_attributes(store.content_hash) else _OLD_HASH
            checks.append(Check(name=name, problem=problem, note=note))
        return StoreReport(path=str(path), patches=len(store), checks=(Check(name="opens"), *checks))


def spec_of(meta: StoreMeta) -> TileSpec:
    """The options a store was tiled with; StoreError if it was not cut from a slide."""
    try:
        return TileSpec.from_params(meta.params)
    except KeyError:
        raise StoreError(f"The store '{meta.name}' was not cut from a slide by 'wsitool tile'.") from None
    except (ValueError, UsageError) as error:
        raise StoreError(f"The options that the store '{meta.name}' states cannot be: {error}.") from None


def _counts(store: Reader) -> str:
    # Failures are read to see that they can be.
    number, candidates, _ = len(store), store.candidates, store.failures
    tally = np.bincount(candidates.reason, minlength=len(candidates.reasons))
    counted = {reason: int(count) for reason, count in zip(candidates.reasons, tally, strict=True)}
    # Reasons nobody met may be missing in the store's counts.
    if counted != {**dict.fromkeys(counted, 0), **store.counts} or counted["kept"] != number:
        return f"the counts {store.counts} and {number} patches contradict the candidates: {counted}"
    if not np.array_equal(candidates.tissue[candidates.reason == 0], store.tissue):
        return "the tissue of the patches is not that of the candidates kept"
    if not np.array_equal(candidates.coords[candidates.reason == 0], store.coords):
        return "the coordinates of the patches are not those of the candidates kept"
    return ""


def _order(store: Reader) -> str:
    coords, sources = store.coords, store.sources
    same_image = np.ones(max(0, len(coords) - 1), bool) if sources is None else sources[1:] == sources[:-1]
    # Differences of neighbours (N - 1,); an image's rows are in order by themselves.
    dx, dy = np.diff(coords, axis=0).T if len(coords) > 1 else (np.zeros(0), np.zeros(0))
    falling = same_image & ((dy < 0) | ((dy == 0) & (dx <= 0)))
    if falling.any():
        return f"rows {int(falling.argmax())} and the next are not in (y, x) order"
    return ""


def _labels(store: Reader) -> str:
    return "" if store.labels is None or store.meta.classes else "there are labels and no classes"


def _decodes(store: Reader) -> str:
    size = store.meta.patch_size
    # At least one; large patches come fewer at a time.
    batch = max(1, min(_BATCH, len(store), _BATCH_BYTES // (size * size * 3)))
    out = np.empty((batch, size, size, 3), np.uint8)
    bad: list[tuple[int, str]] = []
    for first in range(0, len(store), len(out)):
        # A tally each: with one, a bad patch is noted instead of ending the check.
        tally = Tally()
        indices = np.arange(first, min(first + len(out), len(store)))
        store.read_into(indices, out, rows=np.arange(len(indices)), tally=tally)
        bad += [(first + row, reason) for row, reason in tally.bad]
    if bad:
        return f"{len(bad)} of {len(store)} patches cannot be read, the first is {bad[0][0]}: {bad[0][1]}"
    return ""


def _sampled(store: Reader) -> str:
    """Whether some patches have the color resolution that the store states; "" where it states none."""
    stated = store.meta.subsampling
    rows = np.unique(np.linspace(0, len(store) - 1, _HEADERS).astype(int)).tolist() if stated else []
    for row, stream in zip(rows, store.encoded(rows), strict=True):
        if (sampling := jpeg.sampling_of(stream)) != stated:
            return f"patch {row} is a JPEG of {sampling} colors, and the store says {stated}"
    return ""


def _hash(store: Reader) -> str:
    digest = content_hash(store)
    if digest == store.content_hash:
        return ""
    covered = " or what decides group and scale" if covers_attributes(digest) else ""
    return f"the patches{covered} were changed: expected {store.content_hash}, the content has {digest}"


def _same(store: Reader, location: Path, reader: str, samples: int, seed: int) -> str:
    # The name of the slide's file within the folder given.
    # A folder of slides, unless it is a slide itself: a DICOM series, an OME-Zarr image.
    inside = location.is_dir() and entry_file(location) is None
    path = location / Path(path_of(store.meta.source)).name if inside else location
    with reopen(store.meta, path, reader=reader) as slide:
        if slide.info.fingerprint != store.meta.fingerprint:
            return f"'{path}' is another file (or a changed one) than the store was cut from"
        spec = replace(spec_of(store.meta), subsampling=store.meta.subsampling or "420")
        # Positions that were chosen elsewhere are known from the store alone.
        listed = "coords" in store.meta.params
        grid = listed_grid(slide.info, spec, store.coords) if listed else plan_grid(slide.info, spec)
        # Grid index by level-0 corner: one dictionary for all samples.
        index_of = {corner: index for index, corner in enumerate(map(tuple, grid.coords.tolist()))}
        # Sorted after drawing, so that the slide is read from top to bottom.
        sample = np.random.default_rng(seed).permutation(len(store))[:samples]
        sample.sort()
        coords = store.coords  # read from the file each time it is asked for
        for row, patch in zip(sample.tolist(), store.read(sample), strict=True):
            corner = tuple(coords[row].tolist())
            if corner not in index_of:
                return f"patch {row} at x {corner[0]}, y {corner[1]} is not on the grid"
            problem = _differs(slide, grid, spec, index_of[corner], patch, by_another=bool(reader))
            if problem:
                return f"patch {row} at level-0 x {corner[0]}, y {corner[1]} {problem}"
    return ""


def _differs(
    slide: TiledSlide,
    grid: TileGrid,
    spec: TileSpec,
    index: int,
    patch: NDArray[np.uint8],
    *,
    by_another: bool,
) -> str:
    """How a stored patch differs from the slide, read `by_another` reader or its own; "" if it does not."""
    expected = _from_slide(slide, grid, index)
    # Resampled patches may come of the decoder's own shrinking, see `_RESAMPLED_MIN_DB`.
    if grid.plan.factor != (1.0, 1.0):
        decibels = psnr(expected, patch)
        return "" if decibels >= _RESAMPLED_MIN_DB else f"is {decibels:.1f} dB from the slide's area mean"
    downsample = slide.info.levels[grid.plan.level].downsample
    if by_another and downsample != int(downsample) and _is_between(expected, patch, spec):
        return ""
    # The same encoder gives the same bytes: compressing what was expected makes the comparison exact.
    if spec.codec == "jpeg":
        sampling: Sampling = "444" if spec.subsampling == "444" else "420"
        expected = jpeg.decode(jpeg.encode(expected, spec.quality, sampling))
    # int16, as uint8 differences wrap.
    difference = int(np.abs(expected.astype(np.int16) - patch).max())
    return f"differs from the slide by up to {difference} grey levels" if difference else ""


def _is_between(one: NDArray[np.uint8], other: NDArray[np.uint8], spec: TileSpec) -> bool:
    """Whether one of two patches may be the other, moved by less than a pixel with linear interpolation."""
    inner = slice(1, -1)  # neighbors of the outermost pixels are not known
    for pixels, moved in ((one, other), (other, one)):
        low, high = minimum_filter(pixels, (3, 3, 1)), maximum_filter(pixels, (3, 3, 1))
        nearest, moved = np.clip(moved, low, high)[inner, inner], moved[inner, inner]
        if spec.codec == "raw":
            agrees = (np.abs(nearest.astype(np.int16) - moved) <= _ROUNDING).all()
        else:
            agrees = psnr(nearest, moved) >= _COMPRESSED_MIN_DB
        if agrees:
            return True
    return False


def _from_slide(slide: TiledSlide, grid: TileGrid, index: int) -> NDArray[np.uint8]:
    """A patch read the plain way: one region of the level, averaged where its resolution differs."""
    plan, info, size = grid.plan, slide.info, grid.patch_size
    level = info.levels[plan.level]
    exact = grid.positions[index] * np.array(plan.factor)
    # Written apart from the cutter on purpose: a check by the same code would find nothing.
    left, top = np.floor(exact + 1e-9).astype(int).tolist()
    # One pixel more where a patch may begin inside of one.
    width, height = (
        min(int(np.ceil(size * f)) + (f != int(f)), side) for f, side in _sides(plan.factor, level)
    )
    x0, y0 = round(left * info.width / level.width), round(top * info.height / level.height)
    region = slide.read_region(x0, y0, plan.level, width, height)
    if plan.factor == (1.0, 1.0):
        return region
    return area_resample(region, size, (exact[0] - left, exact[1] - top), plan.factor)


def _sides(factor: tuple[float, float], level: Any) -> Iterator[tuple[float, int]]:
    yield factor[0], level.width
    yield factor[1], level.height
