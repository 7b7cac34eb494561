"""Looking slides over before tiling them: what they are, what is wrong with them, what tiling would give."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from wsitool.base.cluster import for_workers, on_cluster
from wsitool.base.paths import AnyPath
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.shards import part_of
from wsitool.errors import RegionReadError, WsitoolError
from wsitool.slides.grid import ReadPlan, plan_grid
from wsitool.slides.masks import check_tissue
from wsitool.slides.read_options import ReadOptions
from wsitool.slides.reader_registry import READERS
from wsitool.slides.readers import TiledSlide, open_slide
from wsitool.slides.readers.channels import check_channels
from wsitool.slides.readers.openslide import stated_mpp
from wsitool.slides.slide import BLANK_TILES, ICC_STATE, Icc, SlideInfo
from wsitool.slides.slide_list import SlideInput, find_slides
from wsitool.slides.spec import TileSpec
from wsitool.store import jpeg
from wsitool.tiling.cutter import tiles_touched
from wsitool.tiling.fidelity import stored_sampling
from wsitool.tiling.resample import area_resample
from wsitool.tiling.source import patch_source

__all__ = ["SlideAudit", "audit_slides"]

# Tiles probed a level; a truncated file is found by the last one already.
_PROBES = 24
_TIMED = 8
_NAMED = 5  # slides of the same content
_MPP_AT_1X = 10.0
# Relative: true scanners differ from the rule by up to a tenth, a wrong unit by far more.
_MPP_DISAGREEMENT = 0.35
_MPP_OF_OPENSLIDE = 0.02


@dataclass(frozen=True, kw_only=True)
class SlideAudit:
    """What is known of one slide.

    `error` says why it cannot be tiled ("" if it can); `warnings` what the user should know. `patches`,
    `bytes` and `seconds` are estimates for the asked resolution on one thread, None where there is none.
    `read_level` and `shrink` say which pixels would be read: level, and level pixels per patch pixel.
    """

    name: str
    path: str
    error: str = ""
    warnings: tuple[str, ...] = ()
    reader: str = ""
    reader_reason: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    downsamples: tuple[float, ...] = ()
    mpp: float | None = None
    mpp_source: str | None = None
    objective_power: float | None = None
    read_level: int | None = None
    shrink: float | None = None
    mpp_effective: float | None = None
    candidates: int | None = None
    patches: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    counts: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The audit as JSON can hold it."""
        return asdict(self)


def audit_slides(
    slides: AnyPath | Iterable[AnyPath],
    spec: TileSpec | None = None,
    *,
    reader: str = "auto",
    default_mpp: float | None = None,
    channels: tuple[int, ...] = (),
    icc: Icc = "keep",
    shard: str | None = None,
    dask: str | None = None,
    reporter: Reporter = SILENT,
) -> list[SlideAudit]:
    """Audit files, folders, URLs or CSVs of slides for being tiled with `spec`; nothing is written.

    A slide that cannot be opened or tiled is in the result with its error. Slides of equal fingerprint get
    a warning that names the others. `shard` "i/N" takes the i-th of N parts of the slides, and compares
    those alone; `dask` is the address of a cluster, of which each slide is a task.

    >>> (slide,) = wsitool.audit_slides("slide.svs", wsitool.TileSpec(patch_size=128, level=0))
    >>> slide.error, slide.width, slide.mpp
    ('', 600, 0.5)
    """
    READERS.check(reader)
    check_channels(channels)
    reading = ReadOptions(reader=reader, default_mpp=default_mpp, channels=channels, icc=icc)
    check_tissue((spec or TileSpec()).tissue)
    inputs = part_of(find_slides(slides, reporter=reporter), shard)
    found: dict[int, SlideAudit] = {}
    with reporter.task("Auditing", total=len(inputs), unit="slides") as task:
        # One after the other: decoding times are measured, which other threads would spoil.
        here = ((number, _audit(slide, spec or TileSpec(), reading)) for number, slide in enumerate(inputs))
        audits = here if dask is None else _on_cluster(inputs, spec or TileSpec(), reading, dask)
        for number, audit in audits:
            found[number] = audit
            task.advance(note=inputs[number].name)
    if shard is not None:
        reporter.say("Slides of the same content were looked for in this part only.")
    return _with_duplicates([found[number] for number in range(len(inputs))])


def _on_cluster(
    slides: Sequence[SlideInput], spec: TileSpec, reading: ReadOptions, address: str
) -> Iterator[tuple[int, SlideAudit]]:
    common = {"spec": asdict(spec), "reading": reading.to_dict()}
    here = [asdict(replace(slide, path=for_workers(slide.path))) for slide in slides]
    tasks = [json.dumps({**common, "slide": slide}) for slide in here]
    for index, answer in on_cluster(_remote, tasks, [slide.name for slide in slides], address=address):
        slide = slides[index]
        if isinstance(answer, str):
            yield index, SlideAudit(name=slide.name, path=slide.path, error=answer)
        else:
            lists = {name: tuple(answer[name]) for name in ("warnings", "downsamples")}
            yield index, SlideAudit(**{**answer, **lists, "path": slide.path})


def _remote(task: str) -> dict[str, Any]:
    told = json.loads(task)
    spec, reading = TileSpec.from_params(told["spec"]), ReadOptions.from_dict(told["reading"])
    return asdict(_audit(SlideInput(**told["slide"]), spec, reading))


def _audit(slide: SlideInput, spec: TileSpec, reading: ReadOptions) -> SlideAudit:
    audit = SlideAudit(name=slide.name, path=slide.path)
    if slide.problem:
        return replace(audit, error=slide.problem)
    try:
        with open_slide(slide.path, **reading.how(slide.mpp)) as opened:
            audit = _known(audit, opened.info, spec)
            unreadable, none_readable = _unreadable(opened)
            if none_readable:
                return replace(audit, error=f"no tile of it can be decoded: {unreadable[0]}")
            audit = replace(audit, warnings=(*audit.warnings, *unreadable))
            return _estimated(audit, opened, spec)
    except (WsitoolError, OSError, MemoryError) as error:
        # Whatever one slide's file does: the others are audited.
        return replace(audit, error=str(error) or type(error).__name__)


def _known(audit: SlideAudit, info: SlideInfo, spec: TileSpec) -> SlideAudit:
    warnings = []
    if info.mpp is None:
        if spec.level is not None:  # otherwise it cannot be tiled, and the error says why
            warnings.append("states no resolution, nor will its patches: give --default-mpp if it is known")
    elif info.mpp_source == "objective":
        warnings.append(f"states no mpp: {info.mpp:.3g} is only assumed from its {info.objective_power:g}x")
    elif info.objective_power:
        # 10x is taken as 1 um/px.
        expected = _MPP_AT_1X / info.objective_power
        if abs(info.mpp / expected - 1) > _MPP_DISAGREEMENT:
            warnings.append(
                f"mpp {info.mpp:.3g} contradicts its {info.objective_power:g}x objective "
                f"(about {expected:.3g}): check which is true"
            )
    if (other := _other_mpp(info)) is not None:
        warnings.append(other)
    if ICC_STATE in info.properties:
        warnings.append(f"colors: {info.properties[ICC_STATE]}")
    if blank := info.properties.get(BLANK_TILES):
        warnings.append(f"leaves {blank} of its own tiles out: they count as blank")
    # Plain numbers, as `diff` below compares neighbours.
    steps = np.array([level.downsample for level in info.levels])
    if len(steps) == 1 and max(info.width, info.height) > 20_000:
        warnings.append("has no pyramid: finding tissue reads all of it")
    if (np.diff(steps) <= 0).any():
        warnings.append("its levels are not in order of size")
    return replace(
        audit,
        reader=info.reader,
        reader_reason=READERS.get(info.reader).reason,
        format=info.format,
        width=info.width,
        height=info.height,
        downsamples=tuple(round(float(step), 4) for step in steps),
        mpp=info.mpp,
        mpp_source=info.mpp_source,
        objective_power=info.objective_power,
        fingerprint=info.fingerprint,
        warnings=tuple(warnings),
    )


def _other_mpp(info: SlideInfo) -> str | None:
    """What OpenSlide says of the resolution, where it knows the file and says another one."""
    if info.reader == "openslide" or info.mpp_source == "given":
        return None
    theirs = stated_mpp(info.path)
    if theirs is None or (info.mpp is not None and abs(theirs / info.mpp - 1) <= _MPP_OF_OPENSLIDE):
        return None
    ours = f"is read as {info.mpp:.4g}" if info.mpp else "is read as none"
    return f"its mpp {ours} here and as {theirs:.4g} by OpenSlide: check which is true (--default-mpp)"


def _unreadable(slide: TiledSlide) -> tuple[list[str], bool]:
    """A warning for each level of which probed tiles cannot be decoded, and whether that is all of them.

    A truncated file shows here.
    """
    warnings, readable = [], 0
    for index in range(len(slide.info.levels)):
        tiles = slide.tiles(index)
        columns, rows = -(-tiles.width // tiles.tile_width), -(-tiles.height // tiles.tile_height)
        # The last tile is among them: it lies at the end of the level's data.
        # (24,) at even distances, each once where a level has fewer tiles.
        probes = np.unique(np.linspace(0, columns * rows - 1, _PROBES).astype(int)).tolist()
        reasons = []
        for probe in probes:
            try:
                tiles.decode(probe % columns, probe // columns)
            except RegionReadError as error:
                reasons.append(str(error))
        readable += len(probes) - len(reasons)
        if reasons:
            warnings.append(
                f"{len(reasons)} of {len(probes)} tiles probed at level {index} are unreadable ({reasons[0]})"
            )
    return warnings, readable == 0


def _estimated(audit: SlideAudit, slide: TiledSlide, spec: TileSpec) -> SlideAudit:
    # Before anything is timed, so that a resolution that cannot be met costs nothing.
    grid = plan_grid(slide.info, spec)
    plan = grid.plan
    audit = replace(
        audit, read_level=plan.level, shrink=round(plan.factor[0], 4), mpp_effective=plan.mpp_effective
    )
    began = time.perf_counter()
    source = patch_source(slide, spec)
    candidates, kept = source.candidates, source.kept
    looking = time.perf_counter() - began  # tiling looks for tissue just so
    tally = np.bincount(candidates.reason, minlength=len(candidates.reasons))
    audit = replace(
        audit,
        candidates=len(candidates.reason),
        patches=len(kept),
        counts={reason: int(n) for reason, n in zip(candidates.reasons, tally, strict=True)},
        warnings=(*audit.warnings, *source.doubts),
    )
    # The counts say which limit it was.
    if not len(kept):
        return replace(audit, error="no grid position would be kept: see the counts, and lower a threshold")
    tiles = slide.tiles(plan.level)
    # As the cutter places them, close enough to count tiles.
    corners = np.floor(grid.positions[kept] * np.array(plan.factor)).astype(np.int64)
    width, height = (int(np.ceil(spec.patch_size * factor)) for factor in plan.factor)
    needed = tiles_touched(corners, (width, height), (tiles.tile_width, tiles.tile_height))
    seconds_per_tile, patch_bytes, seconds_per_patch = _samples(slide, plan, needed, spec)
    return replace(
        audit,
        bytes=round(patch_bytes * len(kept)),
        seconds=round(looking + seconds_per_tile * len(needed) + seconds_per_patch * len(kept), 2),
    )


def _samples(
    slide: TiledSlide, plan: ReadPlan, needed: np.ndarray[Any, np.dtype[np.int64]], spec: TileSpec
) -> tuple[float, float, float]:
    """Seconds to decode a tile, bytes of a stored patch, seconds to make it, from a few needed tiles."""
    tiles, size = slide.tiles(plan.level), spec.patch_size
    sampling = stored_sampling(spec.subsampling, tiles)
    decoding: list[float] = []
    encoding: list[float] = []
    sizes: list[float] = []
    # Eight tiles over all that are needed, as tissue decodes slower than glass.
    for column, row in needed[np.linspace(0, len(needed) - 1, _TIMED).astype(int)].tolist():
        began = time.perf_counter()
        try:
            tile = tiles.decode(column, row)
        except RegionReadError:
            continue
        decoding.append(time.perf_counter() - began)
        if spec.codec != "raw":
            shape = [
                max(1, round(side / factor))
                for side, factor in zip(tile.shape[1::-1], plan.factor, strict=True)
            ]
            shrunk = Image.fromarray(np.ascontiguousarray(tile)).resize(
                (shape[0], shape[1]), Image.Resampling.BOX
            )
            began = time.perf_counter()
            encoded = jpeg.encode(np.asarray(shrunk), spec.quality, sampling)
            # A tile stands for its share of a patch.
            share = size * size / (shape[0] * shape[1])
            encoding.append((time.perf_counter() - began) * share)
            sizes.append(len(encoded) * share)
    per_patch = float(np.mean(sizes)) if sizes else float(size * size * 3)
    return (
        # Medians: the first tile finds caches cold, and one in a hundred the scheduler.
        float(np.median(decoding)) if decoding else 0.0,
        per_patch,
        (float(np.median(encoding)) if encoding else 0.0) + _resampling_seconds(plan, size),
    )


def _resampling_seconds(plan: ReadPlan, size: int) -> float:
    """What bringing one patch to its resolution takes where the factor is no whole number."""
    if plan.whole_factor is not None:
        return 0.0
    width, height = (int(np.ceil(size * factor)) + 1 for factor in plan.factor)
    # The content of the pixels does not change the time.
    source = np.zeros((height, width, 3), np.uint8)
    began = time.perf_counter()
    area_resample(source, size, (0.0, 0.0), plan.factor)
    return time.perf_counter() - began


def _with_duplicates(audits: Sequence[SlideAudit]) -> list[SlideAudit]:
    """Add a warning to slides of the same content."""
    alike: dict[str, list[int]] = defaultdict(list)
    for number, audit in enumerate(audits):
        alike[audit.fingerprint].append(number)
    done = []
    for number, audit in enumerate(audits):
        others = alike[audit.fingerprint] if audit.fingerprint else []
        twins = [audits[other].name for other in others[: _NAMED + 1] if other != number][:_NAMED]
        more = len(others) - 1 - len(twins)
        names = f"{', '.join(twins)}{f' and {more:,} more' if more > 0 else ''}"
        warning = (f"has the same content as {names}",) if twins else ()
        done.append(replace(audit, warnings=(*audit.warnings, *warning)))
    return done
