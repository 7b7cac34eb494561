"""The slides in a folder; what else lies there is told by kind, and nothing is passed over in silence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from wsitool.base.paths import walked
from wsitool.base.progress import Reporter
from wsitool.errors import UsageError
from wsitool.slides.reader_registry import READERS
from wsitool.slides.readers.folders import image_attributes, is_dicom, zarr_metadata

__all__ = ["SLIDE_SUFFIXES", "slides_by_name", "slides_in"]

SLIDE_SUFFIXES = frozenset(suffix for reader in READERS.builtin for suffix in reader.suffixes)
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# What lies beside a slide <name> as <name>_<word>: made of it by scanners and by other programs.
_BESIDE = ("thumbnail", "thumb", "macro", "label", "overview", "preview", "mask", "whole", "viable")
_COMPANIONS = "thumbnails, labels or masks of slides"
_HIDDEN = "hidden files"
# Slides of scanners, which no reader here reads.
_UNREAD = (".vsi", ".ets", ".isyntax", ".i2syntax", ".kfb", ".sdpc", ".tmap", ".mds", ".lif", ".nd2", ".zvi")
_NAMES, _KINDS = 2, 6


def slides_in(folder: Path, reporter: Reporter) -> list[Path]:
    """The slides below a folder, sorted by path; what else is there is said once, by kind.

    Folders that are OME-Zarr images are slides, those with the tiles of a slide beside them are its own.
    Raises UsageError where there is none.
    """
    files, slides, skipped = _walked(folder)
    suffixes = SLIDE_SUFFIXES
    if any(path.suffix.lower() not in suffixes for path in files):
        readers, problems = READERS.installed()
        suffixes = suffixes.union(suffix for reader in readers for suffix in reader.suffixes)
        for problem in problems:
            reporter.warn(str(problem))
    named = [
        path
        for path in files
        if not path.name.startswith("._") and (path.suffix.lower() in suffixes or is_dicom(path))
    ]
    companions = _companions(named)
    slides += [path for path in named if path not in companions]
    for path in sorted({*files} - {*slides}):
        suffix = path.suffix.lower()
        hidden = path.name.startswith(".")
        kind = _COMPANIONS if path in companions else _HIDDEN if hidden else suffix or "without a suffix"
        skipped[kind].append(path)
    unread = {kind: skipped.pop(kind) for kind in _UNREAD if kind in skipped}
    told = f"; passed over: {_listed(skipped | unread)}" if skipped or unread else ""
    if not slides:
        raise UsageError(f"There is no slide in the folder '{folder}'{told}: name the slide files.")
    if unread:
        reporter.warn(
            f"'{folder}' holds slides that no reader here reads: {_listed(unread)}; convert them, "
            "for instance to OME-Zarr (bioformats2raw)."
        )
    if skipped:
        reporter.say(f"Passed over in '{folder}', as no slides: {_listed(skipped)}.")
    return sorted(slides)


def slides_by_name(paths: Iterable[Path]) -> list[Path]:
    """Those of `paths` that are slides of one file by their names alone, sorted; nothing is opened.

    No pictures, which may be of anything, and no DICOM, of which many files are one slide.
    """
    several = {*_PICTURES, ".dcm"}
    named = [
        path
        for path in paths
        if path.suffix.lower() in SLIDE_SUFFIXES - several and not path.name.startswith(".")
    ]
    return sorted({*named} - _companions(named))


def _walked(folder: Path) -> tuple[list[Path], list[Path], dict[str, list[Path]]]:
    """All files but those within slides, the folders that are slides, and other zarr groups by kind."""
    files: list[Path] = []
    slides: list[Path] = []
    skipped: dict[str, list[Path]] = defaultdict(list)
    for place, below, names in walked(folder):
        root, entered = Path(place), []
        stems = {Path(name.lower()) for name in names}
        for name in sorted(below):
            path = root / name
            if metadata := zarr_metadata(path):
                is_image = bool(image_attributes(metadata.read_bytes()))
                (slides if is_image else skipped["zarr groups, no images"]).append(path)
            elif not stems & _slides_of(name.lower()):
                entered.append(name)
        below[:] = entered
        files += [root / name for name in names]
    return files, slides, skipped


def _slides_of(folder: str) -> set[Path]:
    """The files beside a folder to which it would belong: the tiles of MRXS, Deep Zoom and VSI slides."""
    owners = {Path(f"{folder}.mrxs")}
    if folder.endswith("_files"):
        owners.add(Path(f"{folder.removesuffix('_files')}.dzi"))
    if folder.startswith("_") and folder.endswith("_"):
        owners.add(Path(f"{folder[1:-1]}.vsi"))
    return owners


def _companions(paths: Iterable[Path]) -> set[Path]:
    """Those of `paths` that show another of them: pictures of its name, or of its name and a word."""
    paths = list(paths)
    stems = {path.with_suffix("") for path in paths}
    slides = {path.with_suffix("") for path in paths if path.suffix.lower() not in _PICTURES}
    companions = set()
    for path in paths:
        stem = path.with_suffix("")
        if path.suffix.lower() in _PICTURES and (stem in slides or stem in paths):
            companions.add(path)
        for word in _BESIDE:
            name = stem.name.lower()
            if (
                name.endswith(("_" + word, "-" + word))
                and stem.with_name(stem.name[: -len(word) - 1]) in stems
            ):
                companions.add(path)
    return companions


def _listed(kinds: dict[str, list[Path]]) -> str:
    """How many of each kind, most first, with the first names: "12 .xml (a.xml, b.xml, ...)"."""
    parts = []
    for kind, paths in sorted(kinds.items(), key=lambda item: -len(item[1]))[:_KINDS]:
        names = ", ".join(path.name for path in paths[:_NAMES]) + (", ..." if len(paths) > _NAMES else "")
        parts.append(f"{len(paths):,} {kind} ({names})")
    if len(kinds) > _KINDS:
        parts.append(f"{len(kinds) - _KINDS} more kinds")
    return ", ".join(parts)
