"""The functions of `import wsitool`: options of the command line in, a result out that shows itself."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from torch import Generator, Tensor

import wsitool
from wsitool.api import Method, Params, Step
from wsitool.base.console import reporter_of
from wsitool.cli import COMMANDS, main
from wsitool.cli.declared import DeclaredOption
from wsitool.errors import UsageError

FUNCTIONS = {"import": "import_images"} | {
    name: name for name in ("tile", "pretrain", "embed", "classify", "predict", "experiment")
}


@dataclass(frozen=True, kw_only=True)
class _Nothing(Params):
    pass


class Bright(Method[_Nothing]):
    """Written in a notebook: no package has it."""

    params_type = _Nothing
    images_per_patch = 1

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        return {"a": patches.float() / 255}

    def loss(self, views: dict[str, Tensor]) -> Step:
        return Step(loss=self.backbone(views["a"]).square().mean())


@pytest.mark.parametrize("command", FUNCTIONS)
def test_options_are_those_of_the_command_line(command: str) -> None:
    parsed = main.get_command(click.Context(main), command)
    assert parsed is not None and command in COMMANDS
    declared = {each.spec.name: each.spec for each in parsed.params if isinstance(each, DeclaredOption)}
    function = getattr(wsitool, FUNCTIONS[command])
    keywords = inspect.signature(function).parameters
    assert set(declared) - {"train"} <= set(keywords)
    own = {"method", "test", "train"}  # said by a parameter that takes objects, too
    assert all(keywords[name].default == spec.default for name, spec in declared.items() if name not in own)
    assert all(f"{name}=" in function.__doc__ for name in set(declared) - own)


@pytest.mark.usefixtures("material")
def test_an_option_there_is_not_is_asked_back() -> None:
    with pytest.raises(UsageError, match="tile has no option patchsize: did you mean patch_size"):
        wsitool.tile("slide.svs", "o", patchsize=3)
    with pytest.raises(UsageError, match="--patch-size must be from 1 to 16384, got 0"):
        wsitool.tile("slide.svs", "o", patch_size=0)
    with pytest.raises(UsageError, match="has no option temprature: did you mean temperature"):
        wsitool.pretrain("stores", "o", method="simclr", temprature=1)
    assert not Path("o").exists()


def _made(name: str) -> Any:
    start = "encoder.safetensors"
    calls: dict[str, Callable[[], Any]] = {
        "tile": lambda: wsitool.tile("slide.svs", "o", patch_size=128, level=0),
        "import": lambda: wsitool.import_images("images", "o", min_tissue=0),
        "pretrain": lambda: wsitool.pretrain(
            "stores", "o", method=Bright, init=start, epochs=1, batch_size=6
        ),
        "embed": lambda: wsitool.embed(wsitool.open_collection("stores"), "o", encoder=start),
        "classify": lambda: wsitool.classify("stores", "o", encoder=start, head="knn", folds=2),
        "predict": lambda: wsitool.predict("run", wsitool.open_store("stores/a.h5"), "o"),
        "experiment": lambda: wsitool.experiment(
            "stores", "o", folds=2, methods="supervised", fractions=100, seeds=1, head="knn", init=start
        ),
    }
    return calls[name]()


@pytest.mark.usefixtures("material")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_result_shows_itself(name: str) -> None:
    result = _made(name)
    assert re.fullmatch(rf"<{type(result).__name__}: [^\n]{{10,150}}: o>", repr(result))
    html = result._repr_html_()
    assert html.count("data:image/jpeg;base64,") == 1 + (name == "experiment") * 3 and len(html) < 500_000
    assert result.rows and all(
        result.rows[0].keys() == row.keys() for row in result.rows if name != "pretrain"
    )
    # The page says how to do the same on the command line.
    page = result.report()
    assert page == Path("o/report.html") and Path(result) == Path("o")
    assert name == "experiment" or f"wsitool {name}" in page.read_text()
    assert result.command[:2] == ("wsitool", name)


@pytest.mark.usefixtures("material")
def test_what_is_shown_is_escaped() -> None:
    result = _made("predict")
    evil = replace(result, failed=(("<script>", "a & b"),), out=Path("<o>"))
    assert "<script>" not in evil._repr_html_() and "&lt;script&gt;" in evil._repr_html_()
    assert "a &amp; b" in evil._repr_html_() and "&lt;o&gt;" in evil._repr_html_()


@pytest.mark.usefixtures("material")
def test_results_are_taken_where_paths_are() -> None:
    train, test = wsitool.open_collection("stores").split(test=0.5)
    # Of the training patients alone: `classify` refuses an encoder that has seen those of the test.
    encoder = wsitool.pretrain(
        train, "enc", method=Bright, init="encoder.safetensors", epochs=1, batch_size=6, progress=False
    )
    images = wsitool.import_images("images", "imported", min_tissue=0)
    assert wsitool.embed(images, "features", encoder=encoder).patches == 4
    run = wsitool.classify(train, "result", test=test, encoder=encoder, head="knn")
    assert run.scores["patches"] == 6 and {row["part"] for row in run.rows} >= {"test"}
    assert len(wsitool.predict(run, ["stores/a.h5"], "predictions").slides) == 1
    with pytest.raises(UsageError, match="whole stores"):
        wsitool.embed(train, "more", encoder=encoder)


@pytest.mark.usefixtures("material")
def test_a_run_is_repeated_by_the_words_it_says() -> None:
    result = wsitool.tile("slide.svs", "o", patch_size=128, level=0, channels=(), max_pen=None, codec="raw")
    words = ["tile", "slide.svs", "--out", "o", "--patch-size", "128", "--level", "0", "--codec", "raw"]
    assert result.command == ("wsitool", *words)
    assert wsitool.tile("slide.svs", "o", patch_size=128, level=0, codec="raw").slides[0].status in (
        "skipped",
        "failed",
    )


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, material: Path) -> None:
    result = _made("predict")
    for name, extra in (("pandas", "notebook"), ("anndata", "anndata")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UsageError, match=rf"needs {name}: install wsitool\[{extra}\]"):
            result.to_dataframe() if name == "pandas" else result.to_anndata()


@pytest.mark.usefixtures("material")
def test_tables() -> None:
    pytest.importorskip("pandas")
    for name in FUNCTIONS:
        if name not in ("pretrain", "classify", "experiment"):
            result = _made(name)
            table = result.to_dataframe()
            assert len(table) == len(result.rows) and list(table.columns) == list(result.rows[0])
            Path("o").rename(f"{name}-o")


@pytest.mark.usefixtures("material")
def test_anndata() -> None:
    pytest.importorskip("anndata")
    embedded = wsitool.embed("stores", "f", encoder="encoder.safetensors")
    features = embedded.to_anndata()
    assert features.shape == (12, 512) and np.array_equal(features.X, embedded.features())
    assert features.obs["label"].tolist()[:2] == ["benign", "adh"]
    assert features.obsm["spatial"][1].tolist() == [16, 0]
    judged = wsitool.predict("run", "stores", "p").to_anndata()
    assert judged.shape == (12, 2) and list(judged.var_names) == ["adh", "benign"]
    assert np.allclose(np.asarray(judged.X).sum(axis=1), 1, atol=1e-5)


@pytest.mark.usefixtures("material")
def test_progress_is_heard_by_a_function_and_by_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[tuple[str, float, float]] = []
    wsitool.import_images("images", "o", min_tissue=0, progress=lambda *step: heard.append(step))
    assert [done for _, done, _ in heard] == [1, 2, 3, 4] and {total for _, _, total in heard} == {4}
    wsitool.import_images("images", "p", min_tissue=0, progress=False)
    assert capsys.readouterr().err == ""
    for progress in (None, False, True):
        reporter_of(progress).warn("look")
    assert capsys.readouterr().err == "Warning: look\n" * 3


def test_a_bar_is_drawn_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the stream for a terminal
    for progress, drawn in ((None, True), (False, False)):
        with reporter_of(progress).task("cutting", total=2) as task:
            task.advance(2)
        assert ("cutting" in capsys.readouterr().err) is drawn


@pytest.mark.usefixtures("material")
def test_rooms_do_not_hide_functions() -> None:
    import wsitool.classify.run
    import wsitool.experiment.run
    import wsitool.predict.run

    assert all(inspect.isfunction(getattr(wsitool, name)) for name in ("classify", "predict", "experiment"))
