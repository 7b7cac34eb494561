"""A folder with two slides, their stores, predictions of one and a run's mistakes; and a running server."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

from wsitool.slides.spec import TileSpec
from wsitool.testing import synthetic_slide
from wsitool.tiling.run import tile_slides

TOKEN = "0123456789abcdef"


@dataclass(frozen=True)
class Lab:
    folder: Path
    stores: Path
    slides: Path


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    slides, stores = folder / "slides", folder / "patches"
    slides.mkdir()
    for seed, name in enumerate(("one", "two <b>")):
        synthetic_slide(slides / f"{name}.svs", size=(1024, 768), seed=seed, levels=(1, 4))
    (slides / "broken.svs").write_bytes(b"no slide")
    tile_slides(slides, stores, TileSpec(patch_size=64, level=0, codec="raw"), workers=1)
    _write_tables(folder)
    return Lab(folder=folder, stores=stores, slides=slides)


def _write_tables(folder: Path) -> None:
    predictions, run = folder / "predictions", folder / "run"
    predictions.mkdir()
    (predictions / "summary.csv").write_text("slide,status,files\none,done,one\n")
    (predictions / "one.csv").write_text(
        'x,y,size,predicted,"p_a, b",p_c\n0,0,64,"a, b",0.75,0.25\n64,0,64,c,0.1,0.9\n'
    )
    run.mkdir()
    (run / "run.json").write_text("{}")
    head = "part,slide,group,image,row,x,y,label,predicted,p_a,p_c\n"
    rows = (
        "validation,one,p1,,0,0,0,a,c,0.01,0.99\n"
        "test,one,p1,,1,0,0,a,c,0.2,0.8\ntest,one,p1,,2,0,0,a,a,0.6,0.4\ntest,away,p2,,3,0,0,c,a,0.9,0.1\n"
    )
    (run / "predictions.csv").write_text(head + rows)


@dataclass(frozen=True)
class Server:
    port: int

    def get(self, path: str, *, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, headers={"Cookie": f"wsitool-view={TOKEN}", **headers})
            with connection.getresponse() as answer:
                told = {name.lower(): value for name, value in answer.getheaders()}
                return answer.status, told, answer.read()


@pytest.fixture(scope="session")
def server(lab: Lab) -> Iterator[Server]:
    command = [sys.executable, "-m", "wsitool", "view", str(lab.folder), "--no-browser", "--token", TOKEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        assert match, said
        yield Server(port=int(match[1]))
        process.terminate()
        assert process.wait(timeout=20) == 128 + 15
