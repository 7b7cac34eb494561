"""What loggers are told is what the run writes, and none of them can end, hold up or change it."""

from __future__ import annotations

import csv
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from classify_stores import labelled_store
from logging_libraries import Library, stand_in
from patch_stores import patch_folder
from safetensors.torch import load_file

import wsitool
from wsitool.base.progress import SILENT
from wsitool.classify.run import classify
from wsitool.classify.settings import Settings
from wsitool.errors import TrainingError, UsageError
from wsitool.experiment.place import ExperimentDevice
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.run import experiment
from wsitool.tracking import loggers as named_loggers
from wsitool.tracking.loggers import Loggers
from wsitool.tracking.registry import LOGGERS, LoggerOptions
from wsitool.training import monitor
from wsitool.training.run import pretrain

QUICK: dict[str, Any] = {
    "method": "rotation",
    "backbone": "squeezenet1_1",
    "init": "random",
    "device": "cpu",
    "epochs": 2,
    "batch_size": 4,
    "save_every": 1,
}
BOTH = ("mlflow", "wandb")


class Heard:
    """A reporter that remembers warnings."""

    task, say = staticmethod(SILENT.task), staticmethod(SILENT.say)

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> dict[str, Library]:
    return {name: stand_in(name, monkeypatch) for name in BOTH}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patch_folder(tmp_path_factory.mktemp("data") / "kidney", each=10)


@pytest.fixture(scope="module")
def undisturbed(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(stores, out=tmp_path_factory.mktemp("run") / "r", **QUICK).out


def _rows(out: Path, key: str = "step") -> dict[int, dict[str, float]]:
    with (out / "metrics.csv").open(newline="") as file:
        rows = [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
    return {int(row[key]): row for row in rows}


def _same_weights(one: Path, two: Path) -> bool:
    first, second = (load_file(run / "encoder.safetensors") for run in (one, two))
    return all(torch.equal(first[name], second[name]) for name in second)


def test_both_are_told_what_the_run_writes(
    stores: Path, tmp_path: Path, libraries: dict[str, Library]
) -> None:
    out = tmp_path / "r"
    wsitool.pretrain(stores, out, logger="mlflow,wandb", progress=False, **QUICK)
    for library in libraries.values():
        told = library.run
        assert told.rows == _rows(out) and len(told.rows) == 10
        assert told.end == "finished" and told.figures["result/loss"] > 0
        assert told.figures.keys().isdisjoint(told.rows[1])  # which would be points of a curve
        assert told.files["curves.png"] == (out / "curves.png").read_bytes()
        assert told.files["run.json"] == (out / "run.json").read_bytes()
        assert str(told.config["epochs"]) == "2" and told.config["report"] == str(out / "report.html")
    assert libraries["mlflow"].opened == {
        "tracking_uri": f"sqlite:///{out.resolve() / 'mlflow' / 'mlflow.db'}",
        "artifact_location": (out.resolve() / "mlflow" / "artifacts").as_uri(),
    }
    opened = libraries["wandb"].opened
    assert (opened["mode"], opened["dir"]) == ("offline", str(out))


def test_the_environment_says_where(
    tmp_path: Path, libraries: dict[str, Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    monkeypatch.setenv("WANDB_MODE", "online")
    with _loggers(tmp_path / "r", Heard()) as told:
        told.log_metrics({"loss": 1.0}, step=1)
    assert libraries["mlflow"].opened == {"tracking_uri": "http://there", "artifact_location": None}
    assert libraries["wandb"].opened["mode"] == "online"
    assert not (tmp_path / "r" / "mlflow").exists()


def test_a_resumed_run_is_the_same_run_of_the_logger(
    stores: Path, tmp_path: Path, libraries: dict[str, Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, out = monitor.save_checkpoint, tmp_path / "r"

    def stop(path: Path, *args: Any, batches: int, **more: Any) -> None:
        real(path, *args, batches=batches, **more)
        if batches == 4:
            raise TrainingError("stopped")

    monkeypatch.setattr(monitor, "save_checkpoint", stop)
    with pytest.raises(TrainingError, match="stopped"):
        pretrain(stores, out=out, logger=BOTH, **QUICK)
    assert {library.run.end for library in libraries.values()} == {"failed"}
    monkeypatch.setattr(monitor, "save_checkpoint", real)
    pretrain(stores, out=out, logger=BOTH, resume=True, **QUICK)
    for library in libraries.values():
        assert (library.run.begun, library.run.end) == (2, "finished")
        assert library.run.rows == _rows(out)
    # Killed after the last step: what the run came to is told when it is concluded.
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"status": "running"}))
    for _ in range(2):  # the second time nothing is left to tell
        pretrain(stores, out=out, logger=BOTH, resume=True, **QUICK)
        assert {library.run.begun for library in libraries.values()} == {3}
    pretrain(stores, out=out, logger=BOTH, overwrite=True, **QUICK)
    assert all(len(library.runs) == 2 for library in libraries.values())


def test_a_failure_on_the_way_is_one_warning_and_changes_nothing(
    stores: Path, undisturbed: Path, tmp_path: Path, libraries: dict[str, Library]
) -> None:
    libraries["mlflow"].fails, reporter = "rows", Heard()
    pretrain(stores, out=tmp_path / "r", logger=BOTH, reporter=reporter, **QUICK)
    about = [text for text in reporter.warnings if "logger" in text]
    assert len(about) == 1 and "mlflow" in about[0] and "no route to host" in about[0]
    assert libraries["wandb"].run.rows == _rows(tmp_path / "r")  # the other one is not touched
    assert _same_weights(tmp_path / "r", undisturbed)


@pytest.mark.parametrize("fails", ["begin", "config", "file", "close"])
def test_each_call_may_fail(tmp_path: Path, libraries: dict[str, Library], fails: str) -> None:
    libraries["mlflow"].fails, reporter = fails, Heard()
    (tmp_path / "run.json").write_text("{}")
    with _loggers(tmp_path, reporter) as told:
        for step in range(1, 4):
            told.log_metrics({"loss": 1.0}, step=step)
        told.finish({"loss": 1.0}, pictures=[tmp_path / "curves.png"], files=[tmp_path / "run.json"])
    (warning,) = reporter.warnings
    assert "mlflow" in warning and "no route to host" in warning
    assert list(libraries["wandb"].run.files) == ["run.json"]


def test_a_server_that_hangs_holds_up_nothing(
    tmp_path: Path, libraries: dict[str, Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, reporter = threading.Event(), Heard()
    monkeypatch.setattr(Library, "called", lambda library, name: answers.wait())
    monkeypatch.setattr(named_loggers, "_LAST_WAIT", 0.01)
    try:
        with _loggers(tmp_path, reporter) as told:
            told.log_metrics({"loss": 1.0}, step=1)
    finally:
        answers.set()
    assert len(reporter.warnings) == 2 and "mlflow" in reporter.warnings[0]


def _loggers(out: Path, reporter: Heard) -> Loggers:
    return Loggers(BOTH, out, command="pretrain", config={"epochs": 1}, resume=False, reporter=reporter)


def test_fine_tuning_is_told_of_by_epochs_and_in_the_end_by_figures_with_intervals(
    tmp_path: Path, libraries: dict[str, Library]
) -> None:
    for number in range(6):
        part = "test" if number >= 4 else "train"
        labelled_store(tmp_path / part / f"p{number}.h5", seed=number, per_class=4)
    common: dict[str, Any] = {"encoder": "random", "backbone": "squeezenet1_1", "logger": BOTH}
    result = classify(
        [tmp_path / "train"],
        out=tmp_path / "run",
        test=[tmp_path / "test"],
        settings=Settings(epochs=2, batch_size=16, device="cpu"),
        **common,
    )
    epochs = _rows(result.out, "epoch")
    for library in libraries.values():
        told = library.run
        assert told.figures["test/accuracy"] == result.scores["accuracy"]
        low_high = [told.figures.get(f"test/accuracy_{end}") for end in ("low", "high")]
        assert low_high == list(result.scores["intervals"]["accuracy"] or (None, None))
        assert told.files["confusion.png"] == (result.out / "confusion.png").read_bytes()
        assert json.loads(told.files["run.json"])["command"] == "classify"
    assert libraries["wandb"].run.rows == epochs and len(epochs) == 2


def test_an_experiment_tells_of_each_arm_and_amount(tmp_path: Path, libraries: dict[str, Library]) -> None:
    for number in range(4):
        labelled_store(tmp_path / "stores" / f"p{number}.h5", seed=number, per_class=3)
    plan = ExperimentPlan(
        train=(str(tmp_path / "stores"),),
        folds=2,
        methods=("supervised",),
        fractions=(0.5, 1.0),
        seeds=1,
        head="linear",
        init="random",
        backbone="squeezenet1_1",
    )
    for _ in range(2):  # the second finds all of it done, and is the same run
        result = experiment(
            plan, tmp_path / "table", where=ExperimentDevice(device="cpu", logger=("mlflow", "wandb"))
        )
    for library in libraries.values():
        figures = library.run.figures
        for row in result.rows:
            amount = f"supervised/{100 * row['fraction']:g}pct"  # type: ignore[operator]
            assert figures[f"{amount}/accuracy"] == row["accuracy"]
            assert figures[f"{amount}/trained_on"] == row["trained_on"]
        assert {"table2.csv", *(path.name for path in result.pictures)} <= set(library.run.files)
        assert library.run.begun == 2


@pytest.mark.parametrize("name", (*BOTH, "tensorboard"))
def test_what_is_not_installed_is_said_before_anything(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("wsitool.tracking.registry.find_spec", lambda package: None)
    with pytest.raises(UsageError, match=rf"needs {name}: install wsitool\[{name}\]"):
        pretrain(stores, out=tmp_path / "r", logger=f"none,{name}", **QUICK)
    with pytest.raises(UsageError, match=rf"install wsitool\[{name}\]"):
        ExperimentDevice(logger=(name,))
    assert not (tmp_path / "r").exists()


def test_each_logger_has_an_extra_of_its_name() -> None:
    import tomllib

    project = tomllib.loads(Path(wsitool.__file__).parents[1].joinpath("pyproject.toml").read_text())
    assert set(LOGGERS) <= set(project["project"]["optional-dependencies"])
    with pytest.raises(UsageError, match="one of none, tensorboard, mlflow, wandb"):
        LoggerOptions.from_dict({"logger": "mlflow,neptune"})
