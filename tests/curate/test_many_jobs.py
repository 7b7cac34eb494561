"""`export`, `verify` and `audit` by the jobs of an array and by a cluster: what one process gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from classify_stores import labelled_store
from click.testing import CliRunner
from many_jobs import cluster_of_threads, content, kill_when, run_jobs, start
from patch_stores import patch_folder

from wsitool.cli import main
from wsitool.curate.audit import audit_slides
from wsitool.curate.export.run import export_stores
from wsitool.curate.status import standing
from wsitool.curate.verifying import verify_stores
from wsitool.errors import UsageError
from wsitool.slides.spec import TileSpec
from wsitool.testing.synthetic import synthetic_slide


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    for number in range(5):
        labelled_store(folder / f"s{number}.h5", per_class=20, seed=number)
    return folder


@pytest.fixture
def cluster() -> Iterator[str]:
    pytest.importorskip("distributed", reason="the dask extra is not installed")
    with cluster_of_threads() as address:
        yield address


@pytest.mark.parametrize("to", ["imagefolder", "trident", "webdataset"])
def test_jobs_export_into_one_folder(stores: Path, tmp_path: Path, to: str) -> None:
    if to == "trident":  # which is for slides, not images
        stores = patch_folder(tmp_path / "in", stores=5)
    export_stores(stores, tmp_path / "alone", to)
    words = f"export {stores} --to {to} --out o"
    jobs = run_jobs(tmp_path, *(f"{words} --shard {part}/3" for part in (1, 2, 3)))
    assert [code for code, _ in jobs] == [0, 0, 0], jobs
    assert content(tmp_path / "o") == content(tmp_path / "alone")
    again = export_stores(stores, tmp_path / "o", to, shard="2/3")
    assert again.skipped and again.patches > 0 and standing(tmp_path / "o") == []
    assert content(tmp_path / "o") == content(tmp_path / "alone")


def test_a_job_of_an_export_that_is_killed(stores: Path, tmp_path: Path) -> None:
    words, out = f"export {stores} --to imagefolder --out o", tmp_path / "o"
    victim = start(tmp_path, f"{words} --shard 1/2")
    kill_when(victim, lambda: list(out.rglob("*.png")))
    ((code, said),) = run_jobs(tmp_path, f"{words} --shard 2/2")
    lacks = standing(out)
    assert code == 0 and ("not there yet, of other jobs" in said) == bool(lacks)
    ((code, said),) = run_jobs(tmp_path, f"{words} --shard 1/2")
    assert code == 0, said
    export_stores(stores, tmp_path / "alone", "imagefolder")
    assert content(out) == content(tmp_path / "alone") and standing(out) == []


def test_overwriting_in_parts_spares_what_others_have_just_made(stores: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    export_stores(stores, out, "imagefolder")
    few = Path(shutil.copytree(stores, tmp_path / "few"))
    for number in (0, 4):
        (few / f"s{number}.h5").unlink()
    labelled_store(few / "s0.h5", per_class=5, seed=9)
    with pytest.raises(UsageError, match="pass --overwrite"):
        export_stores(few, out, "imagefolder", shard="1/2")
    for part in ("1/2", "2/2"):
        export_stores(few, out, "imagefolder", shard=part, overwrite=True)
    export_stores(few, tmp_path / "alone", "imagefolder")
    assert content(out) == content(tmp_path / "alone")


@pytest.mark.filterwarnings("default")  # distributed's own
@pytest.mark.parametrize("to", ["imagefolder", "webdataset"])
def test_a_cluster_exports(stores: Path, tmp_path: Path, cluster: str, to: str) -> None:
    export_stores(stores, tmp_path / "alone", to)
    done = export_stores(stores, tmp_path / "o", to, dask=cluster)
    assert not done.failed and content(tmp_path / "o") == content(tmp_path / "alone")
    assert export_stores(stores, tmp_path / "o", to, dask=cluster).skipped


@pytest.mark.filterwarnings("default")
def test_each_job_verifies_its_part(stores: Path, tmp_path: Path, cluster: str) -> None:
    folder = Path(shutil.copytree(stores, tmp_path / "in"))
    (folder / "s3.h5").write_bytes((folder / "s3.h5").read_bytes()[:3000])
    (folder / "other.h5").write_bytes(b"no store")
    whole = verify_stores(folder)
    parts = [verify_stores(folder, shard=f"{part}/3") for part in (1, 2, 3)]
    assert [report for row in zip(*parts, strict=True) for report in row] == whole
    assert verify_stores(folder, dask=cluster) == whole
    codes = [
        CliRunner().invoke(main, ["verify", str(folder), "--shard", f"{part}/6"]).exit_code
        for part in range(1, 7)
    ]
    assert codes == [int(not report.sound) for report in whole]
    assert verify_stores(stores, shard="7/7") == []


@pytest.mark.filterwarnings("default")
def test_each_job_audits_its_part(tmp_path: Path, cluster: str) -> None:
    slides = [synthetic_slide(tmp_path / f"s{n}.svs", size=(300, 260), seed=n) for n in range(3)]
    slides += [tmp_path / "s3.svs"]
    slides[3].write_bytes(b"no slide")
    spec = TileSpec(patch_size=64, level=0)

    def timeless(audits: list[Any]) -> list[Any]:
        return [replace(audit, seconds=None) for audit in audits]

    whole = timeless(audit_slides(slides, spec))
    parts = [timeless(audit_slides(slides, spec, shard=f"{part}/2")) for part in (1, 2)]
    assert [audit for row in zip(*parts, strict=True) for audit in row] == whole and whole[3].error
    assert timeless(audit_slides(slides, spec, dask=cluster)) == whole
    run = CliRunner().invoke(main, ["audit", *map(str, slides), "--level", "0", "--shard", "2/2", "--json"])
    assert [audit["name"] for audit in json.loads(run.stdout)] == ["s1", "s3"] and run.exit_code == 1
    run = CliRunner().invoke(main, ["audit", str(slides[0]), "--level", "0", "--shard", "3/2"])
    assert run.exit_code == 2 and "--shard must be i/N" in run.stderr
