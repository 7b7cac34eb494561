"""The page of `tile` and `import`: what was kept and what was not, from some slides, and a table of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wsitool.base.json_files import parse_json
from wsitool.base.paths import located
from wsitool.base.pictures import small_jpeg, smaller
from wsitool.base.tables import Row, read_table
from wsitool.curate.import_summary import IMAGES_CSV
from wsitool.errors import WsitoolError
from wsitool.pages.material import read_square, some
from wsitool.pages.registry import Folder
from wsitool.report.page import Card, Page
from wsitool.report.preview import draw_preview
from wsitool.slides.readers import open_slide
from wsitool.slides.slide import Slide
from wsitool.slides.tissue import area_mean, tissue_mask_of_image
from wsitool.store.opening import find_stores, open_store
from wsitool.store.reader import Reader
from wsitool.store.schema import Candidates, StoreMeta
from wsitool.tiling.reopening import known_slide
from wsitool.tiling.results import SLIDES_CSV, preview_of

__all__ = ["imported", "tiled"]

_OPENED = 3  # stores, and so slides
_OF_A_REASON = 6  # patches
_PREVIEWS, _PREVIEW_SIDE = 12, 460  # of slides, pixels
_IMAGES, _LARGEST_IMAGE = 6, 30_000_000  # images, pixels
_LISTED, _FAILURES = 200, 50
_COLUMNS = ("status", "reason", "group", "label", "mpp", "mpp_effective", "kept", "candidates", "counts")


def tiled(page: Page, folder: Folder) -> None:
    """Sections of a folder of `tile`: slides.csv is read, and at most three stores with their slides."""
    table = folder.path / SLIDES_CSV
    rows = _rows(table, ("name",), _COLUMNS)
    stored = [row for row in rows if row["status"] != "failed"]
    failed = [(row["name"], row["reason"] or row.problem) for row in rows if row["status"] == "failed"]
    stores = find_stores(folder.path)
    kept = sum(_count(row["kept"]) for row in stored)
    said = f"{len(stores):,} stores of {len(rows):,} slides, {kept:,} patches." if rows else ""
    page.text(said or f"{len(stores):,} stores, and no {SLIDES_CSV} that would tell of each slide.")
    _failures(page, failed)
    counted = {row["name"]: f"{row['name']}: {row['kept']} of {row['candidates']} kept" for row in stored}
    _previews(page, folder.path, counted or {store.stem: store.stem for store in stores})
    metas = _sheets(page, [stores[index] for index in some(len(stores), _OPENED)])
    reasons: Counter[str] = Counter()
    for row in stored:
        reasons.update(_counts(row["counts"]))
    _reasons(page, reasons)
    _resolutions(page, Counter((row["mpp"], row["mpp_effective"]) for row in stored))
    _slides(page, stored)
    _settings(page, metas)


def imported(page: Page, folder: Folder) -> None:
    """Sections of a folder of `import`: images.csv is read, at most three stores and some of their images."""
    names = ("file", "label", "group", "store", "width", "height", "candidates", "kept", "error")
    rows = _rows(folder.path / IMAGES_CSV, names, ())
    stores = find_stores(folder.path)
    kept = sum(_count(row["kept"]) for row in rows if row["store"])
    page.text(f"{kept:,} patches of {len(rows):,} images in {len(stores):,} stores.")
    _failures(page, [(row["file"], row["error"]) for row in rows if row["error"]])
    chosen = [stores[index] for index in some(len(stores), _OPENED)]
    _image_previews(page, chosen)
    metas = _sheets(page, chosen)
    offered = sum(_count(row["candidates"]) for row in rows)
    _reasons(page, Counter({"kept": kept, "low tissue": offered - kept}))
    labels: Counter[str] = Counter()
    for row in rows:
        labels[row["label"] or "unlabelled"] += _count(row["kept"])
    page.section("Labels").table(
        ("label", "patches"), [(name, f"{n:,}") for name, n in labels.most_common(_LISTED)]
    )
    page.section("Images").table(
        ("image", "label", "group", "pixels", "kept", "of"),
        [
            (
                r["file"],
                r["label"] or "-",
                r["group"],
                f"{r['width']} x {r['height']}",
                r["kept"],
                r["candidates"],
            )
            for r in rows[:_LISTED]
        ],
        _rest(len(rows), "images"),
    )
    _settings(page, metas)


def _rows(path: Path, needs: Sequence[str], knows: Sequence[str]) -> tuple[Row, ...]:
    try:
        return read_table(path, needs=needs, knows=knows, exact=True).rows if path.is_file() else ()
    except WsitoolError:
        return ()


def _failures(page: Page, failed: Sequence[tuple[str, str]]) -> None:
    if failed:
        page.section("What failed", f"{len(failed):,} could not be used.")
        page.table(("name", "why"), failed[:_FAILURES], _rest(len(failed), "failures", most=_FAILURES))


def _previews(page: Page, folder: Path, captions: Mapping[str, str]) -> None:
    """The previews that `tile` drew, smaller; `captions` by the slide's name."""
    names = list(captions)
    chosen = [names[index] for index in some(len(names), _PREVIEWS)]
    drawn = [(name, smaller(preview_of(folder, name), side=_PREVIEW_SIDE)) for name in chosen]
    pictures = [(name, data) for name, data in drawn if data is not None]
    if pictures:
        page.section(
            "Where the patches are",
            f"{len(pictures)} of {len(names):,} slides; larger in the folder previews. Patches that were "
            "kept are framed, rejected ones shaded in the color of their reason; a line is round the tissue.",
        )
        for name, data in pictures:
            page.image(data, captions[name], small=True)


def _sheets(page: Page, paths: Sequence[Path]) -> list[StoreMeta]:
    """Patches of the stores at `paths` by what became of them; the stores' attributes."""
    shown: dict[str, list[Card]] = {}
    away, metas = [], []
    for path in paths:
        with suppress(WsitoolError, OSError), open_store(path) as store:
            metas.append(store.meta)
            _kept(store, shown.setdefault("kept", []), -(-_OF_A_REASON // len(paths)))
            if not _rejected(store, shown, -(-_OF_A_REASON // len(paths))):
                away.append(store.meta.name)
    if shown:
        page.section("Patches, by what became of them", f"Some of each, from {len(paths)} of the stores.")
    for reason, cards in shown.items():
        if cards:
            page.text(f"{reason[:1].upper()}{reason[1:]}:").cards(cards)
    if away:
        page.text(f"Rejected patches of {', '.join(away)} cannot be shown: the slide is not there any more.")
    return metas


def _kept(store: Reader, cards: list[Card], most: int) -> None:
    rows = some(len(store), most)
    # Each is read from the file whenever it is asked for.
    coords, labels, sources = store.coords, store.labels, store.sources
    for row, patch in zip(rows.tolist(), store.read(rows), strict=True):
        name = store.meta.name if sources is None else str(sources[row])
        label = [] if labels is None or labels[row] < 0 else [store.meta.classes[labels[row]]]
        x, y = coords[row].tolist()
        cards.append(Card(image=small_jpeg(patch), lines=(name, f"{x}, {y}", *label)))


def _rejected(store: Reader, shown: dict[str, list[Card]], most: int) -> bool:
    """Add patches of each reason, read again; False where there are some and their pixels are not there."""
    candidates, size = store.candidates, store.meta.patch_size_level0
    if not (candidates.reason > 0).any():
        return True
    with _pixels_of(store, candidates) as read:
        if read is None:
            return False
        for number, reason in enumerate(candidates.reasons[1:], start=1):
            rows = np.flatnonzero(candidates.reason == number)
            for row in rows[some(len(rows), most)].tolist():
                x, y = candidates.coords[row].tolist()
                with suppress(WsitoolError, IndexError, OSError):
                    name, slide = read(row)
                    pixels = read_square(slide, x, y, size)
                    lines = (name, f"{x}, {y}", *_scores(candidates, row))
                    shown.setdefault(reason, []).append(Card(image=small_jpeg(pixels), lines=lines))
    return True


def _scores(candidates: Candidates, row: int) -> list[str]:
    return [f"tissue {candidates.tissue[row]:.0%}"]


@contextmanager
def _pixels_of(store: Reader, candidates: Candidates) -> Iterator[Any]:
    """What gives (name, open slide) of a candidate's row; None where a slide is not there."""
    images = store.meta.params.get("images")
    if not isinstance(images, list):
        slide = known_slide(store.meta)
        try:
            yield None if slide is None else lambda row: (store.meta.name, slide)
        finally:
            if slide is not None:
                slide.close()
        return
    numbers, opened = candidates.scores.get("image"), {}

    def image(row: int) -> tuple[str, Slide]:
        name = str(images[int(numbers[row])])  # type: ignore[index]
        if name not in opened:
            opened[name] = open_slide(located(Path(store.meta.source), name), reader="image")
        return name, opened[name]

    try:
        yield image if numbers is not None and Path(store.meta.source).is_dir() else None
    finally:
        for one in opened.values():
            one.close()


def _image_previews(page: Page, paths: Sequence[Path]) -> None:
    """What import made of some images that are larger than a patch, drawn from the images themselves."""
    drawn: list[tuple[str, bytes]] = []
    for path in paths:
        with suppress(WsitoolError, OSError), open_store(path) as store:
            drawn += _of_images(store, -(-_IMAGES // len(paths)))
    if drawn:
        page.section(
            "Where the patches are",
            "Some images that are larger than a patch. Patches that were kept are framed, rejected ones are "
            "shaded.",
        )
        for name, data in drawn:
            page.image(data, name, small=True)


def _of_images(store: Reader, most: int) -> Iterator[tuple[str, bytes]]:
    meta, candidates = store.meta, store.candidates
    numbers, images = candidates.scores.get("image"), meta.params.get("images")
    if numbers is None or not isinstance(images, list):
        return
    all_labels, sources = store.labels, store.sources
    several = np.flatnonzero(np.bincount(numbers.astype(np.int64)) > 1)
    for number in several[some(len(several), most)].tolist():
        with suppress(WsitoolError, OSError, IndexError):
            name = str(images[number])
            with open_slide(located(Path(meta.source), name), reader="image") as image:
                if image.info.width * image.info.height > _LARGEST_IMAGE:
                    continue
                pixels = image.read_region(0, 0, 0, image.info.width, image.info.height)
            step = max(1, max(pixels.shape) // _PREVIEW_SIDE)
            mask = replace(tissue_mask_of_image(area_mean(pixels, step)), downsample=(step, step))
            mine = numbers == number
            part = Candidates(
                coords=candidates.coords[mine],
                tissue=candidates.tissue[mine],
                reason=candidates.reason[mine],
                reasons=candidates.reasons,
            )
            labels = None if all_labels is None or sources is None else all_labels[sources == name]
            picture = draw_preview(
                mask,
                part,
                meta.patch_size_level0,
                labels=labels,
                classes=meta.classes,
                longest_side=(_PREVIEW_SIDE, _PREVIEW_SIDE),
            )
            yield name, small_jpeg(np.asarray(picture), side=2 * _PREVIEW_SIDE)


def _reasons(page: Page, counts: Counter[str]) -> None:
    total = sum(counts.values())
    if total:
        page.section("What became of all positions")
        occurring = [(name, number) for name, number in counts.most_common() if number]
        page.table(
            ("reason", "positions", "share"),
            [(name, f"{number:,}", f"{number / total:.1%}") for name, number in occurring],
        )


def _resolutions(page: Page, counts: Counter[tuple[str, str]]) -> None:
    if counts:
        page.section("Resolution", "In um per pixel, of level 0 and of the patches.")
        rows = [
            (mpp or "not stated", patches or "not known", f"{n:,}")
            for (mpp, patches), n in counts.most_common(20)
        ]
        page.table(("slide", "patches", "slides"), rows, _rest(len(counts), "resolutions", most=20))


def _slides(page: Page, rows: Sequence[Row]) -> None:
    if not rows:
        return
    counts = [_counts(row["counts"]) for row in rows[:_LISTED]]
    reasons = [
        name
        for name in dict.fromkeys(name for one in counts for name in one)
        if any(c.get(name) for c in counts)
    ]
    page.section("Slides").table(
        ("slide", "group", "label", "um/px", *reasons, "note"),
        [
            (
                row["name"],
                row["group"],
                row["label"] or "-",
                row["mpp_effective"][:6] or "-",
                *(f"{one.get(name, 0):,}" for name in reasons),
                row["reason"] or "-",
            )
            for row, one in zip(rows, counts, strict=False)
        ],
        _rest(len(rows), "slides"),
    )


def _settings(page: Page, metas: Sequence[StoreMeta]) -> None:
    """How the stores were cut, where all that were opened say the same."""
    if not metas:
        return
    page.section("Settings and versions")
    rows = [
        ("wsitool", ", ".join(sorted({meta.wsitool_version for meta in metas}))),
        ("codec", metas[0].codec),
    ]
    for name, value in metas[0].params.items():
        if name != "images" and all(meta.params.get(name) == value for meta in metas):
            rows.append((name.replace("_", " "), _plain(value)))
    page.table(("setting", "value"), [row for row in rows if row[1]])


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items() if one is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return "" if value is None else str(value)[:300]


def _rest(number: int, noun: str, *, most: int = _LISTED) -> str:
    return f"The first {most} of {number:,} {noun}." if number > most else ""


def _count(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _counts(text: str) -> dict[str, int]:
    try:
        value = parse_json(text or "{}")
    except ValueError:
        return {}
    return {str(k): v for k, v in value.items() if isinstance(v, int)} if isinstance(value, dict) else {}
