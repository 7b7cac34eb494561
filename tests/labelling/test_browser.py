"""The page in a real browser, headless; skipped with a reason where none is installed."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from click.testing import CliRunner
from labelling.conftest import Bench

from wsitool.cli import main
from wsitool.evaluation.labels import read_label_table
from wsitool.labelling.database import Database

TOKEN = "0123456789abcdef"
_SHOWN = "main[data-shown]:not([data-shown=''])"  # only what was seen can be answered
_NETWORK = ["--encoder", "random", "--backbone", "timm:test_resnet"]


class Server:
    """`wsitool label` over the stores, at one port however often it is started."""

    def __init__(self, stores: Path, out: Path) -> None:
        self.out, self._stores = out, stores
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[str] | None = None

    def start(self, *more: str) -> None:
        words = [str(self._stores), "--classes", "tumour,stroma", "--out", str(self.out), "--every", "5"]
        access = ["--port", str(self.port), "--token", TOKEN, "--no-browser"]
        command = [sys.executable, "-m", "wsitool", "label", *words, *access, *more]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if re.search(rf"http://127\.0\.0\.1:{self.port}/", line):
                return
        raise AssertionError("".join(said))

    def end(self, how: str) -> int:
        assert self.process is not None and self.process.stdout is not None
        getattr(self.process, how)()
        code = self.process.wait(timeout=20)
        self.process.stdout.close()
        return code


def _features(bench: Bench, folder: Path) -> Path:
    """Feature files as `embed` writes them, of features that tell the classes apart."""
    folder.mkdir()
    features = bench.features()
    for index, store in enumerate(bench.patches.collection.stores):
        with h5py.File(folder / f"{store.meta.name}.h5", "w") as file:
            file["features"] = features[bench.patches.collection.store_index == index]
            file["coords"] = store.coords
    return folder


def _predictions(bench: Bench, folder: Path) -> Path:
    """What `predict` writes, of a model that calls everything tumour."""
    folder.mkdir()
    stores = bench.patches.collection.stores
    names = [store.meta.name for store in stores]
    (folder / "summary.csv").write_text("\n".join(["slide,status,files", *(f"{n},done,{n}" for n in names)]))
    for store in stores:
        rows = [f"{x},{y},16,tumour,0.75,0.25" for x, y in store.coords.tolist()]
        (folder / f"{store.meta.name}.csv").write_text(
            "\n".join(["x,y,size,predicted,p_tumour,p_stroma", *rows])
        )
    return folder


@pytest.fixture
def server(bench: Bench, tmp_path: Path) -> Iterator[Server]:
    server = Server(bench.folder, tmp_path / "labels.db")
    predictions = str(_predictions(bench, tmp_path / "predictions"))
    server.start(
        "--features", str(_features(bench, tmp_path / "features")), "--from-predictions", predictions
    )
    yield server
    if server.process is not None and server.process.poll() is None:
        server.end("kill")


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"http://127.0.0.1:{server.port}/?token={TOKEN}")
    page.fill("input[name=annotator]", "Ann <b>")
    page.keyboard.press("Enter")
    yield page
    page.close()
    assert not faults


def _label(page: Any, count: int) -> None:
    """Answer what is shown by its key, truly, and wait until the next is."""
    for _ in range(count):
        page.wait_for_selector(_SHOWN)
        shown = page.locator("main").get_attribute("data-shown")
        page.keyboard.press("ts"[int(shown.split(":")[1]) % 2])
        page.wait_for_function("shown => document.querySelector('main').dataset.shown !== shown", arg=shown)


def test_forty_labels_by_keyboard_a_reload_a_kill_and_a_classifier(
    page: Any, server: Server, bench: Bench, tmp_path: Path
) -> None:
    _label(page, 20)
    page.wait_for_selector(_SHOWN)
    shown = page.locator("main").get_attribute("data-shown")
    assert page.locator("main").get_attribute("data-mine") == "20" and "token" not in page.url
    page.reload()
    page.wait_for_selector(f"main[data-shown='{shown}'][data-mine='20']")
    # The probe learns beside the answers, and the page asks for its figures.
    page.wait_for_selector("svg.curve")
    assert server.end("kill") == -9
    page.keyboard.press("t")
    page.wait_for_selector("text=The server is gone")
    server.start()
    _label(page, 20)  # the first key again: it was not kept
    # Undo brings the last one back with what was said; a note, unsure, skip; and the figures are there.
    page.wait_for_selector("main[data-mine='40']")
    page.keyboard.press("Backspace")
    page.wait_for_selector("main[data-mine='39'] .answer.meant")
    page.keyboard.press("/")
    page.keyboard.type("torn t s")
    page.keyboard.press("Enter")
    _label(page, 1)
    for key, said in (("?", "1 unsure"), (" ", "1 skipped")):
        page.wait_for_selector(_SHOWN)
        page.keyboard.press(key)
        page.wait_for_selector(f"text={said}")
    _label(page, 5)
    assert page.locator("header b").count() == 0 and page.locator("text=Ann <b>").count() >= 1
    with page.expect_download() as download:
        page.click("text=labels.csv")
    download.value.save_as(tmp_path / "labels.csv")
    assert server.end("terminate") == 128 + 15
    _check(server.out, tmp_path, bench)


def _check(out: Path, tmp_path: Path, bench: Bench) -> None:
    """What was downloaded, exported and kept is the truth, and trains a classifier."""
    answers = Database(out).answers()
    labels = [answer for answer in answers if answer.kind == "label"]
    assert len(labels) == 45 and all(answer.label == answer.row % 2 for answer in labels)
    assert [answer.note for answer in labels if answer.note] == ["torn t s"]
    run = CliRunner().invoke
    exported = tmp_path / "exported.csv"
    assert (
        run(main, ["label", str(bench.folder), "--out", str(out), "--export", str(exported)]).exit_code == 0
    )
    assert exported.read_bytes() == (tmp_path / "labels.csv").read_bytes()
    assert len(read_label_table(exported).patches) == 45
    words = ["classify", str(bench.folder), "--labels", str(exported), "--head", "linear", "--c", "0.1"]
    result = run(main, [*words, *_NETWORK, "--folds", "2", "--device", "cpu", "--out", str(tmp_path / "run")])
    assert result.exit_code == 0 and "judged on 45 patches" in result.output, result.output


def test_enter_accepts_what_the_model_says(page: Any, server: Server) -> None:
    for mine in ("1", "2"):
        page.wait_for_selector(_SHOWN)
        assert "The model calls it tumour (75 %)" in page.locator(".accept").text_content()
        page.keyboard.press("Enter")
        page.wait_for_selector(f"main[data-mine='{mine}']")
    answers = Database(server.out).answers()
    assert [(answer.label, answer.suggested) for answer in answers] == [(0, 0), (0, 0)]


def test_it_fits_narrow_windows_and_the_dark(page: Any, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 800, "height": 700})
    page.emulate_media(color_scheme="dark")
    _label(page, 12)
    assert page.evaluate("document.documentElement.scrollWidth") <= 800
    picture, aside = (page.locator(one).bounding_box() for one in (".asked img", "aside"))
    assert picture["width"] > 300 and picture["height"] > 300 and aside["x"] + aside["width"] <= 800
    colors = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    light, dark = (sum(map(int, re.findall(r"\d+", color)[:3])) for color in colors)
    assert light > 500 and dark < 150
