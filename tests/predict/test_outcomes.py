"""`predict` over many slides: none costs the others theirs, and a run that stopped goes on."""

import csv
import errno
import importlib
import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geojson
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from wsitool.backbones.build import build_backbone
from wsitool.base.files import replace_file
from wsitool.base.interrupt import Interrupted
from wsitool.classify.model import Classifier, ClassifierCard, save_classifier
from wsitool.cli import main
from wsitool.errors import UsageError
from wsitool.predict import judging, prediction
from wsitool.predict.options import PredictOptions
from wsitool.predict.run import predict
from wsitool.testing import draw_tissue

CLASSES = ("benign", "dcis")
Run = Callable[..., Any]


def save_run(folder: Path, *, seed: int = 0, temperature: float = 1.5) -> Path:
    """A tiny classifier of two classes at 0.5 um/px."""
    encoder = build_backbone("squeezenet1_1", init="random", seed=seed)
    card = ClassifierCard(
        classes=CLASSES,
        head="finetune",
        image_size=32,
        patch_size=64,
        mpp=0.5,
        temperature=temperature,
        groups=("p1",),
        encoder=encoder.card,
    )
    torch.manual_seed(seed)
    head = torch.nn.Linear(encoder.feature_dim, 2)
    save_classifier(Classifier(encoder, head, card), folder / "classifier.safetensors")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("slides")
    for seed, name in enumerate("abc"):
        pixels = draw_tissue(260, 200, kind="benign", mpp=0.5, seed=seed, glass=0.0)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heatmaps are their titles here."""

    def draw(path: Path, *_: Any, title: str) -> None:
        replace_file(path, title.encode())

    monkeypatch.setattr(prediction, "draw_heatmap", draw)


@pytest.fixture
def judge(run: Path, tmp_path: Path) -> Run:
    def judge(inputs: list[Path], name: str = "o", **options: Any) -> Any:
        return predict(run, inputs, tmp_path / name, options=PredictOptions(default_mpp=0.5, **options))

    return judge


def _rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "summary.csv").open(newline="") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


def _content(out: Path) -> dict[str, Any]:
    """Every file, hidden ones too; of the summary all but how long it took."""
    files = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "summary.csv"}
    rows = [{name: row[name] for name in row if name != "seconds"} for row in _rows(out).values()]
    return files | {"summary.csv": rows}


def _at(number: int, error: BaseException, patch: pytest.MonkeyPatch, where: Any, name: str) -> None:
    """The call of that number of a function fails."""
    calls, real = [0], getattr(where, name)

    def fails(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            raise error
        return real(*arguments, **options)

    patch.setattr(where, name, fails)


def test_verdict_stands_in_every_output(run: Path, slides: list[Path], tmp_path: Path) -> None:
    words = ["predict", str(run), str(slides[0]), "--default-mpp", "0.5", "--out", str(tmp_path / "o")]
    said = CliRunner().invoke(main, [*words, "--least-lead", "0.9"])
    assert said.exit_code == 0, said.output
    row = _rows(tmp_path / "o")["a"]
    assert (row["verdict"], row["uncertain"]) == ("uncertain", "yes") and "less than 0.9 above" in row[
        "reason"
    ]
    with (tmp_path / "o" / "a.csv").open() as file:
        p = np.array([[float(line[f"p_{name}"]) for name in CLASSES] for line in csv.DictReader(file)])
    best = CLASSES.index(row["most_probable"])
    assert best == p.mean(0).argmax() and float(row["mean_probability"]) == pytest.approx(
        p.mean(0)[best], abs=2e-6
    )
    assert float(row["share"]) == pytest.approx((p.argmax(1) == best).mean())
    line, count, rule = said.stdout.splitlines()
    assert line.startswith(f"a: uncertain (mean probability of {CLASSES[best]} 0.")
    assert f"{len(p)} patches called benign" in line and "1 of 1 done" in count
    assert rule.endswith("Whatever a slide shows is called one of benign and dcis.")
    picture = (tmp_path / "o" / "a-dcis.jpg").read_text()
    assert picture.startswith("a: uncertain\nmean probability of dcis 0.") and "patches called so" in picture
    about = geojson.loads((tmp_path / "o" / "a.geojson").read_text())["wsitool"]
    again = CliRunner().invoke(main, [*words, "--least-lead", "0.9", "--json"])
    found = json.loads(again.stdout)
    assert found["slides"] == [about] and about["verdict"] == "uncertain"
    assert about["shares_of_patches"].keys() == about["mean_probabilities"].keys() == set(CLASSES)
    assert "less than 0.9" in found["rule"]
    sure = CliRunner().invoke(main, [*words, "--least-lead", "0", "--json", "--overwrite"])
    assert json.loads(sure.stdout)["slides"][0]["verdict"] in CLASSES  # other options, judged anew


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), OSError(errno.EIO, "Input/output error"), MemoryError()], ids=repr
)
@pytest.mark.parametrize("where", ["_predict_one", "write_prediction"])
def test_one_failing_slide_costs_itself(
    judge: Run, slides: list[Path], tmp_path: Path, where: str, error: Exception
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _at(2, error, patch, judging, where)
        found = judge(slides)
    assert [row.name for row in found.slides] == ["a", "c"] and found.failed[0][0] == "b"
    rows = _rows(tmp_path / "o")
    assert [(name, row["status"]) for name, row in rows.items()] == [
        ("a", "done"),
        ("c", "done"),
        ("b", "failed"),
    ]
    assert rows["b"]["reason"] == found.failed[0][1] != "" and rows["b"]["verdict"] == ""
    again = judge(slides)
    assert again.kept == 2 and not again.failed
    judge(slides, "whole")
    assert _content(tmp_path / "o") == _content(tmp_path / "whole")


def test_a_disk_that_is_full_ends_the_run_with_what_is_done(
    judge: Run, slides: list[Path], tmp_path: Path
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.MonkeyPatch.context() as patch:
        home = importlib.import_module("wsitool.predict.outcomes")
        _at(2, full, patch, judging, "write_prediction")
        _at(1, UsageError("Nothing can be written to 'o'"), patch, home, "check_writable")
        with pytest.raises(UsageError, match="Nothing can be written"):
            judge(slides)
    assert list(_rows(tmp_path / "o")) == ["a"]
    assert judge(slides).kept == 1


@pytest.mark.parametrize("bad", ["file", "below a file", "read-only"])
def test_out_is_tried_before_anything_is_computed(
    run: Path, slides: list[Path], tmp_path: Path, bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o"
    if bad == "read-only":
        _at(1, OSError(errno.EROFS, "Read-only file system", str(out)), monkeypatch, Path, "mkdir")
    else:
        out.write_text("mine")
        out = out / "below" if bad == "below a file" else out
    monkeypatch.delattr(judging, "_predict_one")
    result = CliRunner().invoke(main, ["predict", str(run), str(slides[0]), "--out", str(out)])
    sentence = "is a file" if bad == "file" else f"Error: Nothing can be written to '{out}'"
    assert result.exit_code == 2 and sentence in result.stderr


@pytest.mark.parametrize(
    ("where", "number"),
    [
        *(
            (where, number)
            for where in ("_predict_one", "write_prediction", "append_summary")
            for number in (1, 3)
        ),
        *(("write_summary", 1), ("write_summary", 2), ("draw_heatmap", 2)),
    ],
)
def test_a_run_that_was_stopped_goes_on(
    judge: Run, slides: list[Path], tmp_path: Path, where: str, number: int
) -> None:
    names = {"_predict_one": "judging", "write_prediction": "judging", "draw_heatmap": "prediction"}
    with pytest.MonkeyPatch.context() as patch:
        home = importlib.import_module(f"wsitool.predict.{names.get(where, 'outcomes')}")
        _at(number, Interrupted(signal.SIGTERM), patch, home, where)
        with pytest.raises(Interrupted) as stopped:
            judge(slides)
    done = len(_rows(tmp_path / "o")) if (tmp_path / "o" / "summary.csv").exists() else 0
    assert "of 3 slides done; run again to go on" in str(stopped.value)
    again = judge(slides)
    assert again.kept == done <= int(str(stopped.value).split(": ")[1][0]) and len(again.slides) == 3
    judge(slides, "whole")
    assert _content(tmp_path / "o") == _content(tmp_path / "whole")


def test_a_row_that_a_killed_run_was_writing_costs_its_slide_only(
    judge: Run, slides: list[Path], tmp_path: Path
) -> None:
    judge(slides, "whole")
    whole = (tmp_path / "whole" / "summary.csv").read_bytes()
    for cut in (
        2,
        40,
        len(whole.splitlines()[-1]),
    ):  # of the last row: made_from, the middle, all but a letter
        shutil.copytree(tmp_path / "whole", tmp_path / f"{cut}")
        (tmp_path / f"{cut}" / "summary.csv").write_bytes(whole[:-cut])
        assert judge(slides, f"{cut}").kept == 2
        assert _content(tmp_path / f"{cut}") == _content(tmp_path / "whole")


def test_a_slide_costs_one_row_however_many_there_are(
    judge: Run, slides: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the whole table again; and a slide is looked at once, not before to see whether it is known."""
    home, calls = importlib.import_module("wsitool.predict.outcomes"), Counter[str]()
    for name in ("write_summary", "append_summary", "fingerprint"):
        real = getattr(home, name)

        def counted(*given: Any, real: Any = real, name: str = name) -> Any:
            calls[name] += 1
            return real(*given)

        monkeypatch.setattr(home, name, counted)
    judge(slides)
    assert calls == {"write_summary": 2, "append_summary": 3, "fingerprint": 3}


def test_only_what_is_the_same_is_kept(run: Path, judge: Run, slides: list[Path], tmp_path: Path) -> None:
    judge(slides[:2])
    assert judge(slides).kept == 2 and judge(slides, batch_size=3).kept == 3
    before = _content(tmp_path / "o")
    for fewer in (lambda: judge(slides, stride=32), lambda: judge(slides[:1])):
        with pytest.raises(UsageError, match=r"holds \d prediction.* pass --overwrite to lose them"):
            fewer()
    assert _content(tmp_path / "o") == before
    assert judge(slides, stride=32, overwrite=True).kept == 0
    (tmp_path / "o" / "b-dcis.jpg").unlink()
    assert judge(slides, stride=32).kept == 2 and (tmp_path / "o" / "b-dcis.jpg").exists()
    moved = Path(shutil.copytree(slides[0].parent, tmp_path / "slides"))
    changed = [moved / path.name for path in slides]
    assert judge(changed, "p").kept == 0
    Image.fromarray(draw_tissue(260, 200, kind="benign", mpp=0.5, seed=9, glass=0.0)).save(changed[1])
    assert judge(changed, "p", overwrite=True).kept == 2
    other, options = save_run(tmp_path / "other", seed=5), PredictOptions(default_mpp=0.5, overwrite=True)
    assert predict(other, changed, tmp_path / "p", options=options).kept == 0
    (tmp_path / "p" / "summary.csv").write_bytes(b"\xff\x00,,;")
    found = predict(other, changed, tmp_path / "p", options=PredictOptions(default_mpp=0.5))
    assert (found.kept, len(found.slides)) == (0, 3)


def test_slides_of_one_name_have_files_of_their_own(judge: Run, slides: list[Path], tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    twin = Path(shutil.copy(slides[1], tmp_path / "x" / "a.png"))
    found = judge([slides[0], twin, slides[0]])
    assert len({row.files for row in found.slides}) == 2
    for row, solo in zip(found.slides, (slides[0], slides[1]), strict=True):
        judge([solo], solo.stem)
        alone = tmp_path / solo.stem / f"{solo.stem}.csv"
        assert (tmp_path / "o" / f"{row.files}.csv").read_bytes() == alone.read_bytes()


def test_logits_that_are_no_numbers_are_no_verdict(
    judge: Run, slides: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Classifier.logits

    def broken(self: Classifier, patches: torch.Tensor) -> torch.Tensor:
        logits = real(self, patches)
        logits[-1] = torch.nan
        return logits

    monkeypatch.setattr(Classifier, "logits", broken)
    found = judge(slides)
    assert not found.slides and len(found.failed) == 3 and "not finite" in found.failed[0][1]
    assert {row["verdict"] for row in _rows(tmp_path / "o").values()} == {""}


def test_a_classifier_that_guessed_calls_nothing(slides: list[Path], tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", temperature=1.0)
    (run / "run.json").write_text(json.dumps({"better_than_guessing": False}))
    words = ["predict", str(run), str(slides[0]), "--default-mpp", "0.5", "--least-lead", "0"]
    said = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "o")])
    assert said.exit_code == 0, said.output
    first, second = said.stderr.splitlines()[1:3]
    assert (
        first == "Warning: The classifier was not found to be better than guessing: every slide is uncertain."
    )
    assert "not calibrated" in second
    assert "a: uncertain (its classifier was not found to be better than guessing" in said.stdout
    for text in ("{", "[]", '{"better_than_guessing": true}', "{}"):
        (run / "run.json").write_text(text)
        found = predict(
            run, slides[:1], tmp_path / "p", options=PredictOptions(default_mpp=0.5, least_lead=0)
        )
        assert found.doubts == () and found.slides[0].verdict.verdict in CLASSES


def test_limits_of_tile_hold(judge: Run, tmp_path: Path) -> None:
    pixels = draw_tissue(640, 640, kind="benign", mpp=0.5, seed=0, glass=0.0)
    pixels[128:256, 128:384] = (8, 8, 8)
    pixels[448:, 320:384] = (20, 40, 190)  # a pen
    Image.fromarray(pixels).save(tmp_path / "s.png")
    common = ["--patch-size", "64", "--mpp", "0.5", "--default-mpp", "0.5"]
    done = CliRunner().invoke(main, ["tile", str(tmp_path / "s.png"), "--out", str(tmp_path / "t"), *common])
    assert done.exit_code == 0, done.output
    judge([tmp_path / "s.png"], "slide")
    judge([tmp_path / "t"], "store")

    def places(name: str) -> set[tuple[str, str]]:
        with (tmp_path / name / "s.csv").open() as file:
            return {(row["x"], row["y"]) for row in csv.DictReader(file)}

    assert places("slide") == places("store") and 70 < len(places("slide")) < 100
