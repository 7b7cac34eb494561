"""Slides as collections without stores: the same patches as `tile` stores, and few tiles decoded twice."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsitool.base.progress import SILENT
from wsitool.errors import CorruptStoreError, SlideError, UsageError
from wsitool.loading import PatchLoader
from wsitool.loading.near import Near
from wsitool.slides.readers import open_slide
from wsitool.store import regions
from wsitool.store.collection import open_collection
from wsitool.store.reader import Tally
from wsitool.testing.synthetic import synthetic_slide
from wsitool.tiling import streamed, streaming
from wsitool.tiling.decoded_ahead import DecodedAhead
from wsitool.tiling.run import tile_slides
from wsitool.tiling.stream_options import StreamOptions, stream_options
from wsitool.tiling.streaming import Streaming, stream_slides


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number in range(3):
        compression: Any = "jpeg2000" if number == 2 else "jpeg"
        path, size = folder / f"p{number}-a.svs", (700, 600 + number)
        synthetic_slide(path, size=size, tile=128, seed=number, levels=(1, 4), compression=compression)
    return folder


def _equal_to_tiled(inputs: Path | list[Path], options: StreamOptions, folder: Path) -> str:
    tiled = tile_slides(inputs, folder, options.spec, group_regex=options.group_regex, workers=1)
    stores = open_collection(folder)
    with closing(stream_slides(inputs, options)) as slides:
        own = slides.collection
        assert (own.groups, own.classes, own.mpp) == (stores.groups, stores.classes, stores.mpp)
        assert np.array_equal(own.labels, stores.labels) and len(own) == len(stores) > 20
        for one, other in zip(own.stores, stores.stores, strict=True):
            assert np.array_equal(one.coords, other.coords) and np.array_equal(one.tissue, other.tissue)
            assert one.counts | {"unreadable": 0} == other.counts
            assert np.array_equal(one.candidates.reason, other.candidates.reason)
            # All a store says of its patches but how they were compressed.
            assert one.meta == other.meta
        everything = stores.read(range(len(stores)))
        assert np.array_equal(own.read(range(len(own))), everything)
        some = np.random.default_rng(0).integers(0, len(own), 30)  # in any order, and twice
        assert np.array_equal(own.read(some), everything[some])
        near = Near(own)
        for one, other in zip(
            PatchLoader(own, batch_size=8, near=near),
            PatchLoader(stores, batch_size=8, near=Near(stores)),
            strict=True,
        ):
            assert np.array_equal(one.indices, other.indices)
            assert np.array_equal(one.patches, other.patches)
    return tiled.slides[0].resampling


@pytest.mark.parametrize(
    ("mpp", "resampling"), [(0.5, "none"), (1.0, "decoder's 1/2"), (0.7, "area mean"), (2.0, "none")]
)
def test_patches_are_those_of_a_raw_store_to_the_byte(
    slides: Path, tmp_path: Path, mpp: float, resampling: str
) -> None:
    options = StreamOptions(
        mpp=mpp, patch_size=max(16, round(32 / mpp)), min_tissue=0.3, group_regex="p[0-9]"
    )
    assert _equal_to_tiled(slides, options, tmp_path / "t").startswith(resampling)


def test_labels_of_a_table_and_limits_of_quality_as_in_tile(slides: Path, tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    rows = [f"{slides}/p{number}-a.svs,{label},g{number // 2}" for number, label in enumerate(("b", "", "a"))]
    table.write_text("\n".join(["path,label,group", *rows]) + "\n")
    options = StreamOptions(
        mpp=0.5, patch_size=32, stride=24, min_tissue=0.2, min_sharpness=30, max_white=0.6
    )
    _equal_to_tiled(table, options, tmp_path / "t")


def test_a_real_slide_to_the_byte(real_data: Path, tmp_path: Path) -> None:
    options = StreamOptions(level=0, patch_size=112, stride=224)
    _equal_to_tiled([real_data / "slides" / "CMU-1-Small-Region.svs"], options, tmp_path / "t")


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares of 16 patches of 28 px over tiles of 32 px: an eighth of 224 px over 256."""
    monkeypatch.setattr(regions, "_SIDE_PX", 448)


@pytest.mark.usefixtures("squares")
def test_an_epoch_decodes_few_tiles_twice(tmp_path: Path) -> None:
    for number in range(2):
        synthetic_slide(tmp_path / f"s{number}.svs", size=(1400, 1300), tile=32, seed=number)
    options = StreamOptions(level=0, patch_size=27)  # squares that end within tiles
    with closing(stream_slides(tmp_path, options, threads=2)) as slides:
        needed = sum(s.needed_tiles for s in tile_slides(tmp_path, tmp_path / "t", options.spec).slides)
        loader = PatchLoader(slides.collection, batch_size=64, near=Near(slides.collection), threads=2)
        assert sum(len(batch) for batch in loader) == len(slides.collection) > 1500
        counts = slides.shared.counts
        assert needed <= counts.decoded <= 1.3 * needed and counts.failed == 0
        # Row by row, as encoders read.
        before = counts.decoded
        for _ in PatchLoader(slides.collection, batch_size=64, shuffle=False):
            pass
        assert counts.decoded - before <= 1.3 * needed
        # And as good as needed for those that come when they come.
        before = counts.decoded
        slides.close()
        slides.collection.read([5, 6, 7])
        assert counts.decoded - before <= 3 * 4


@pytest.mark.usefixtures("squares")
def test_a_damaged_tile_costs_its_patches_only(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = synthetic_slide(folder / "s.svs", size=(1200, 1000), tile=64)
    synthetic_slide(folder / "t.svs", size=(1200, 1000), tile=64, seed=1)
    with open_slide(path) as slide:
        data, stream = bytearray(path.read_bytes()), slide.tiles(0).jpeg(9, 8)
    scan = stream[stream.rindex(b"\xff\xda") + 40 :][:200]
    begin = data.index(scan)
    data[begin : begin + len(scan)] = b"\xff\xd9" * (len(scan) // 2)
    path.write_bytes(data)
    options = StreamOptions(level=0, patch_size=28, min_tissue=0)
    tiled = tile_slides(folder, tmp_path / "o", options.spec, workers=1).slides[0]
    stores = open_collection(tmp_path / "o")
    assert 4 <= tiled.unreadable <= 16
    lost = {(failure.x0, failure.y0) for failure in stores.stores[0].failures}
    with closing(stream_slides(folder, options)) as slides:
        own = slides.collection
        coords = own.stores[0].coords
        assert len(own) == len(stores) + len(lost)
        loader = PatchLoader(own, batch_size=64, near=Near(own), max_bad_share=0.1)
        read = {
            index: patch
            for batch in loader
            for index, patch in zip(batch.indices.tolist(), batch.patches, strict=True)
        }
        skipped = set(range(len(own))) - set(read)
        assert {tuple(coords[index].tolist()) for index in skipped} == lost
        assert set(loader.stats.bad) == skipped and "cannot be read" in loader.skipped()[0]
        kept = [index for index in range(len(own)) if index not in skipped]
        pixels = np.stack([read[index].permute(1, 2, 0).numpy() for index in kept])
        assert np.array_equal(pixels, stores.read(range(len(stores))))
        bad, tally = sorted(skipped)[0], Tally()
        own.read_into([bad, kept[0]], np.empty((2, 28, 28, 3), np.uint8), tally=tally)
        assert [row for row, _ in tally.bad] == [0]
        with pytest.raises(
            CorruptStoreError, match=r"patch .* cannot be read .* 'wsitool tile' leaves it out"
        ):
            own.read([bad])


def test_a_slide_that_cannot_be_read_stops_no_other(slides: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.svs").write_bytes(b"II*\0broken")
    inputs = [tmp_path / "broken.svs", slides / "p0-a.svs", tmp_path / "none.svs"]
    with closing(stream_slides(inputs, StreamOptions(patch_size=32))) as found:
        assert len(found.collection.stores) == 1
        assert [name for name, _ in found.failed] == ["broken", "none"]
        assert all(reason.endswith(".") and "\n" not in reason for _, reason in found.failed)
    with pytest.raises(SlideError, match=r"No slide can be read: 'broken.svs' is damaged"):
        stream_slides(inputs[:1])


def test_stores_and_options_that_cannot_be_are_refused(slides: Path, tmp_path: Path) -> None:
    tile_slides(slides, tmp_path, StreamOptions(patch_size=64).spec, workers=1)
    with pytest.raises(UsageError, match=r"p0-a.h5' is a patch store, and what is streamed are slides"):
        stream_slides([slides, tmp_path])
    with pytest.raises(UsageError, match="Give one of mpp, magnification and level, not mpp and level"):
        stream_options(True, {"mpp": 1.0, "level": 1})
    with pytest.raises(UsageError, match=r"--patch-size, --max-pen: .* pass --stream"):
        stream_options(False, {"patch_size": 224, "max_pen": 1.0})
    assert stream_options(False, {}) is None


def test_a_slide_that_changed_is_another(slides: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.svs"
    shutil.copy(slides / "p0-a.svs", path)
    options = StreamOptions(patch_size=32)
    with closing(stream_slides(path, options)) as found:
        before = found.collection.fingerprint
        found.collection.read([0])
        shutil.copy(slides / "p1-a.svs", path)
        with pytest.raises(SlideError, match="deleted or changed while it was in use"):
            found.collection.check()
        with pytest.raises(SlideError, match="changed while it was read"):
            found.collection.read([1])
        found.close()  # it is opened again
        with pytest.raises(SlideError, match="deleted or changed while it was in use"):
            found.collection.read([1])
    fingerprints = []
    for source in ("p1-a.svs", "p0-a.svs"):
        shutil.copy(slides / source, path)
        os.utime(path, (0, 0))
        with closing(stream_slides(path, options)) as found:
            fingerprints.append(found.collection.fingerprint)
    # By content: neither its time nor where it lies makes a slide another one.
    assert fingerprints[0] != before == fingerprints[1]
    with closing(stream_slides(path, StreamOptions(patch_size=32, min_tissue=0.7))) as found:
        assert found.collection.fingerprint != before


@pytest.mark.usefixtures("squares")
def test_few_slides_are_open_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        synthetic_slide(tmp_path / f"s{number}.svs", size=(300, 200), tile=64, seed=number, levels=(1,))
    monkeypatch.setattr(streaming, "_MOST_OPEN", 2)
    opened: list[Any] = []
    lock = threading.Lock()

    def counting(*args: Any, **options: Any) -> Any:
        slide = open_slide(*args, **options)
        with lock:
            opened.append(slide)
        return slide

    monkeypatch.setattr(streamed, "open_slide", counting)

    def still_open() -> int:
        with lock:
            return sum(slide._source._fd >= 0 for slide in opened)

    with closing(
        stream_slides(tmp_path, StreamOptions(level=0, patch_size=28, min_tissue=0), threads=2)
    ) as s:
        assert still_open() == 0  # after they were looked through
        most = 0
        for _ in PatchLoader(s.collection, batch_size=16, near=Near(s.collection), threads=2):
            most = max(most, still_open())
        assert 0 < most <= 2 + 4  # beside those in use by decoding and reading threads
    assert still_open() == 0


def test_what_is_decoded_ahead_is_bounded_and_shared() -> None:
    calls: list[int] = []

    def decode(number: int) -> int:
        calls.append(number)
        return number

    ahead: DecodedAhead[int] = DecodedAhead(threads=2, limit=30)
    with closing(ahead):
        for number in (1, 2, 3, 1, 4):
            ahead.begin(number, 10, lambda number=number: decode(number))  # type: ignore[misc]
        parts = {number: ahead.get(number) for number in (1, 2, 3, 4)}
        # The longest unused is forgotten: 2, as 1 was asked for again.
        assert {number: part and part.result() for number, part in parts.items()} == {
            1: 1,
            2: None,
            3: 3,
            4: 4,
        }
        assert sorted(calls) == [1, 2, 3, 4]
        ahead.begin(9, 1000, lambda: 9)  # larger than the limit: it alone
        part = ahead.get(9)
        assert part is not None and part.result() == 9 and ahead.get(4) is None
    assert ahead.get(9) is None


def test_it_belongs_to_one_process_and_writes_nothing(slides: Path) -> None:
    names = sorted(path.name for path in slides.iterdir())
    with Streaming(slides, StreamOptions(patch_size=32), None, SILENT) as made:
        assert made.failed == ()
        store = made.collection().stores[0]
        assert made.collection().stores[0] is store
        assert store.failures == () and store.sources is None and len(store.encoded([0])[0]) == 32 * 32 * 3
        assert repr(store) == f"<slide p0-a: {len(store)} patches of 32 px, streamed>"
        with pytest.raises(TypeError, match="belong to one process"):
            pickle.dumps(store)
    assert sorted(path.name for path in slides.iterdir()) == names
