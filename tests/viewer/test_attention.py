"""What is shown of slides that were judged as a whole: attention as a layer, and its first patches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from viewer.conftest import TOKEN, Lab, _served
from viewer.test_server import _columns

from wsitool.errors import UsageError, WsitoolError
from wsitool.experiment.plan import ExperimentPlan
from wsitool.store.opening import open_store
from wsitool.viewer.cells import prediction_cells
from wsitool.viewer.library import Library
from wsitool.viewer.mistakes import experiment_choices, experiment_mistakes


def test_attention_is_a_layer_of_its_own_and_its_first_patches_are_listed(tmp_path: Path) -> None:
    table = tmp_path / "one.csv"
    head = "x,y,size,predicted,p_a,p_attention,attention,relative_attention"
    table.write_text(f"{head}\n0,0,64,a,0.75,0.25,0.2,0.4\n64,0,64,attention,0.1,0.9,0.8,1.6\n")
    about, columns = _columns(prediction_cells(table))
    assert about["classes"] == ["a", "attention"]
    assert columns["probability"].tolist() == pytest.approx([0.75, 0.25, 0.1, 0.9])
    assert columns["attention"].tolist() == pytest.approx([0.4, 1.6])
    assert [(one["x"], one["called"], one["relative"]) for one in about["attended"]] == [
        (64, "attention", 1.6),
        (0, "a", 0.4),
    ]
    table.write_text("row,predicted,p_a,p_b,attention,relative_attention\n0,a,.6,.4,1,1\n")
    with pytest.raises(WsitoolError, match="do not say where their patches lie"):
        prediction_cells(table)


def test_an_experiment_of_slides_has_no_patches_to_show(lab: Lab, tmp_path: Path) -> None:
    plan = ExperimentPlan(train=("x",), level="slide", seeds=1)
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
    assert experiment_choices(tmp_path)["rows"] == ["supervised"]
    with pytest.raises(UsageError, match="judges slides as a whole"):
        experiment_mistakes(tmp_path, 0, 0, 0, Library([lab.folder]))


def test_the_page_shows_attention_and_leads_to_its_patches(browser: Any, lab: Lab, tmp_path: Path) -> None:
    for name in ("slides", "patches"):
        shutil.copytree(getattr(lab, {"slides": "slides", "patches": "stores"}[name]), tmp_path / name)
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "summary.csv").write_text("slide,status,files\none,done,one\n")
    with open_store(tmp_path / "patches" / "one.h5") as store:
        coords, side = store.coords.tolist(), store.meta.patch_size_level0
    lines = ["x,y,size,predicted,p_a,p_c,attention,relative_attention"]
    for number, (x, y) in enumerate(coords):
        share = 0.5 if number == 3 else 0.5 / (len(coords) - 1)
        lines.append(f"{x},{y},{side:g},a,0.6,0.4,{share:.6g},{share * len(coords):.6g}")
    (tmp_path / "predictions" / "one.csv").write_text("\n".join(lines) + "\n")
    here = Lab(folder=tmp_path, stores=tmp_path / "patches", slides=tmp_path / "slides")
    with _served(here) as server:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.port}/?token={TOKEN}")
        page.click("tbody a:text-is('one')")
        page.wait_for_selector("canvas[aria-busy=false]")
        page.keyboard.press("p")
        page.wait_for_selector("h2:text-is('Most attention')")
        assert page.locator("aside ol li").count() == 10
        assert (
            page.locator("select[aria-label=Class]").evaluate("at => at.selectedOptions[0].text")
            == "attention"
        )
        assert page.locator("aside .ends").inner_text().endswith("x the mean")
        place = f"{coords[3][0]:,}, {coords[3][1]:,}"
        first = page.locator("aside ol li button").first
        assert first.inner_text().replace("\u202f", ",") == place
        first.click()
        page.locator("img.patch").wait_for()
        assert page.locator(".bar").last.inner_text().startswith("attention")
        page.screenshot(path=str(tmp_path / "page.png"))
        page.close()
        assert not faults
