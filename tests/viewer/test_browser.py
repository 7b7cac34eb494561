"""The page in a real browser, headless; skipped with a reason where none is installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from PIL import Image
from viewer.conftest import TOKEN, Lab, Server

from wsitool.labelling.exchange import selection_of
from wsitool.labelling.patches import open_patches

_STILL = "canvas[aria-busy=false]"


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    with _opened(browser, server) as page:
        yield page


@contextmanager
def _opened(browser: Any, server: Server) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))

    def hear(message: Any) -> None:
        # What the server has not, or cannot keep, is an answer, which the page shows.
        if message.type == "error" and not {"404", "507"} & set(message.text.split()):
            faults.append(message.text)

    page.on("console", hear)
    page.goto(f"http://127.0.0.1:{server.port}/?token={TOKEN}")
    page.wait_for_selector("tbody a")
    yield page
    page.close()
    assert not faults


def test_the_list_filters_sorts_and_takes_names_as_text(page: Any) -> None:
    assert page.locator("tbody tr").count() == 3
    assert page.locator("tbody a:text-is('two <b>')").count() == 1 and page.locator("tbody b").count() == 0
    page.keyboard.press("/")
    page.keyboard.type("failed")
    assert page.locator("tbody tr").count() == 1
    assert "token" not in page.url


def test_deep_zoom_shows_openslides_pixels(page: Any, lab: Lab, tmp_path: Path) -> None:
    page.click("tbody a:text-is('one')")
    page.wait_for_selector(_STILL)
    page.keyboard.press("n")  # the first patch, in the middle, larger than life
    page.keyboard.press("Escape")
    for _ in range(3):
        page.keyboard.press("-")
    page.wait_for_selector(_STILL)
    page.wait_for_timeout(300)
    page.locator("canvas").screenshot(path=tmp_path / "shot.png")
    with Image.open(tmp_path / "shot.png") as shot, openslide.OpenSlide(lab.slides / "one.svs") as slide:
        shown = np.asarray(shot.convert("RGB"), np.float32)
        whole = slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")
        # The page says where it is: the level-0 point at the corner, and pixels of the screen for each.
        x, y, scale = (
            float(page.locator("canvas").get_attribute(f"data-{name}")) for name in ("x", "y", "scale")
        )
        size = (round(whole.width * scale), round(whole.height * scale))
        expected = np.asarray(whole.resize(size, Image.Resampling.BILINEAR), np.float32)
    left, top = round(-x * scale), round(-y * scale)
    ys, xs = np.mgrid[100:500:7, 100:800:7]
    inside = (ys - top >= 0) & (xs - left >= 0) & (ys - top < size[1]) & (xs - left < size[0])
    assert inside.sum() > 500
    difference = np.abs(shown[ys[inside], xs[inside]] - expected[(ys - top)[inside], (xs - left)[inside]])
    assert difference.mean() < 6


def test_overlays_patches_and_predictions_by_keyboard(page: Any) -> None:
    page.click("tbody a:text-is('one')")
    page.wait_for_selector(_STILL)
    for key in "krln":
        page.keyboard.press(key)
    picture = page.locator("img.patch")
    picture.wait_for()
    page.wait_for_timeout(200)
    assert picture.evaluate("image => image.naturalWidth") == 64
    assert page.locator("aside input:checked").count() >= 2
    page.keyboard.press("p")
    page.wait_for_selector("option:text-is('probability of a, b')", state="attached")
    page.keyboard.press("u")


def test_mistakes_lead_to_the_place_in_the_slide(page: Any) -> None:
    page.click("text=run: mistakes")
    page.wait_for_selector("text=2 of 3 test patches wrong")
    page.click("a.card >> nth=0")
    page.wait_for_selector("img.patch")
    assert "/1" in page.url


def test_an_experiments_mistakes_by_arm_labels_and_seed(page: Any) -> None:
    page.click("text=trial: mistakes")
    page.wait_for_selector("text=2 of 3 test patches wrong")
    page.click("button:text-is('p1')")
    assert page.locator("h2:text-is('Most confidently wrong') + div .card").count() == 1
    page.select_option("label:has-text('seed') select", "1")
    page.wait_for_selector("text=0 of 3 test patches wrong")
    page.select_option("label:has-text('labels') select", "50 %")
    page.wait_for_selector("[role=alert]:has-text('not computed yet')")
    page.go_back()
    page.wait_for_selector("text=0 of 3 test patches wrong")
    page.click("a.card >> nth=0")
    page.wait_for_selector("img.patch")


def test_a_slide_that_cannot_be_read_says_so(page: Any, browser: Any, server: Server) -> None:
    page.goto(f"http://127.0.0.1:{server.port}/#/slide/0000")
    page.wait_for_selector("text=There is no such slide")


def test_it_fits_narrow_windows(page: Any) -> None:
    page.set_viewport_size({"width": 800, "height": 700})
    page.click("tbody a:text-is('one')")
    page.wait_for_selector(_STILL)
    assert page.evaluate("document.documentElement.scrollWidth") <= 800


def test_the_map_and_its_lasso(page: Any) -> None:
    page.click("text=features: map")
    page.wait_for_selector("text=patches")
    page.wait_for_timeout(300)
    page.keyboard.down("Shift")
    page.mouse.move(5, 60)
    page.mouse.down()
    for x, y in ((950, 60), (950, 790), (5, 790)):
        page.mouse.move(x, y)
    page.mouse.up()
    page.wait_for_selector("a.card")
    told = page.locator("aside p").first.text_content()
    assert int(told.split()[0].replace(",", "")) > 100  # all points lie in it
    assert page.locator(".card").count() == 60


def test_what_is_chosen_goes_to_labelling(page: Any, lab: Lab, tmp_path: Path) -> None:
    page.click("text=trial: mistakes")
    page.wait_for_selector("text=These are test patches")
    patches = open_patches(lab.stores)
    saved = []
    for ticked in (False, True):
        if ticked:
            page.check("[aria-label='choose patch 1 of one']")
        with page.expect_download() as download:
            page.click("button:has-text('for labelling') >> nth=0")
        download.value.save_as(tmp_path / "selection.csv")
        saved.append(selection_of(patches, tmp_path / "selection.csv"))
    [mine] = [store for store in patches.collection.stores if store.meta.name == "one"]
    first = patches.number(patches.ids[patches.collection.stores.index(mine)], 1)
    assert saved == [[first, None], [first]]  # the other patch is of a store that is not here
    page.wait_for_selector("text=selection.csv: 1 patch")
    patches.collection.close()


def test_a_region_is_drawn_by_keyboard_and_by_hand(browser: Any, drawing: Server, tmp_path: Path) -> None:
    path = tmp_path / "outlines" / "one.geojson"
    with _opened(browser, drawing) as page:
        page.click("tbody a:text-is('one')")
        page.wait_for_selector("text=Draw with d")
        page.keyboard.press("d")
        for key in (" ", "ArrowRight", " ", "ArrowDown", " ", "ArrowRight", " ", "Backspace"):
            page.keyboard.press(key)
            page.wait_for_timeout(50)
        page.wait_for_selector("text=(say of which class), 3 points")
        page.keyboard.press("Enter")  # it has no class yet
        page.keyboard.type("tumour")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=1 regions")
        [feature] = json.loads(path.read_text())["features"]
        [[a, b, c, last]] = feature["geometry"]["coordinates"]
        assert a == last == [512, 384]  # the middle of the slide
        assert b[1] == a[1] and b[0] > a[0] and c[0] == b[0] and c[1] > b[1]
        # By hand: clicks, a line, and one that is given up.
        page.keyboard.press("d")
        for place in ((300, 300), (500, 300)):
            page.mouse.click(*place)
        page.keyboard.down("Shift")
        page.mouse.move(500, 320)
        page.mouse.down()
        page.mouse.move(480, 500, steps=8)
        page.mouse.up()
        page.keyboard.up("Shift")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=2 regions")
        page.keyboard.press("d")
        page.mouse.click(300, 300)
        page.keyboard.press("Escape")
        path.write_text("{")  # what cannot be kept stays in hand
        page.keyboard.press("d")
        for place in ((400, 400), (450, 400), (400, 450)):
            page.mouse.click(*place)
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=alert]:has-text('damaged')")
        path.unlink()
        page.keyboard.press("Enter")
        page.wait_for_selector("text=1 regions")
        page.click("[aria-label='remove the region tumour']")
        page.wait_for_selector("text=0 regions")
