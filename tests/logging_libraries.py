"""Stand-ins for `mlflow` and `wandb`: the public functions that wsitool calls, remembering what is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@dataclass
class Told:
    """Of one run: its id, what it was told, and how it ended ("" while it lasts)."""

    run_id: str
    config: dict[str, Any] = field(default_factory=dict)
    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    begun: int = 0
    end: str = ""

    def take(self, path: str) -> None:
        self.files[Path(path).name] = Path(path).read_bytes()


@dataclass
class Library:
    """What a stand-in holds; the call named `fails` raises from its `after`-th time on."""

    runs: dict[str, Told] = field(default_factory=dict)
    opened: dict[str, Any] = field(default_factory=dict)
    fails: str = ""
    after: int = 1
    calls: int = 0

    def called(self, name: str) -> None:
        if name == self.fails:
            self.calls += 1
            if self.calls >= self.after:
                raise ConnectionError("no route to host")

    @property
    def run(self) -> Told:
        (told,) = self.runs.values()
        return told


def stand_in(name: str, monkeypatch: pytest.MonkeyPatch) -> Library:
    """Put the stand-in of `name` where it is imported from."""
    module, library = ModuleType(name), Library()
    module.__spec__ = ModuleSpec(name, None)
    _FILL[name](module, library)
    monkeypatch.setitem(__import__("sys").modules, name, module)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("MLFLOW_DISABLE_TELEMETRY", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(variable, "true")  # so that what the code sets is taken back
    return library


@dataclass(frozen=True)
class _Param:
    key: str
    value: str


@dataclass(frozen=True)
class _Metric:
    key: str
    value: float
    timestamp: int
    step: int


def _fill_mlflow(module: Any, library: Library) -> None:
    experiments: dict[str, SimpleNamespace] = {}

    class MlflowClient:
        def __init__(self, tracking_uri: str) -> None:
            library.opened["tracking_uri"] = tracking_uri

        def get_experiment_by_name(self, name: str) -> Any:
            return experiments.get(name)

        def create_experiment(self, name: str, artifact_location: str | None) -> str:
            library.opened["artifact_location"] = artifact_location
            experiments[name] = SimpleNamespace(experiment_id=str(len(experiments)))
            return str(experiments[name].experiment_id)

        def create_run(self, experiment_id: str, tags: Mapping[str, str], run_name: str) -> Any:
            library.called("begin")
            told = Told(run_id=f"run{len(library.runs)}", begun=1)
            library.runs[told.run_id] = told
            return SimpleNamespace(info=SimpleNamespace(run_id=told.run_id))

        def update_run(self, run_id: str, status: str) -> None:
            library.called("begin")
            library.runs[run_id].begun += 1

        def log_batch(
            self, run_id: str, metrics: Sequence[_Metric] = (), params: Sequence[_Param] = ()
        ) -> None:
            library.called("rows" if metrics else "config")
            assert len(metrics) <= 1000 and len(params) <= 100
            told = library.runs[run_id]
            for param in params:
                assert told.config.setdefault(param.key, param.value) == param.value  # as MLflow insists
            for metric in metrics:
                kept = told.rows.setdefault(metric.step, {}) if metric.step else told.figures
                kept[metric.key] = metric.value

        def log_artifact(self, run_id: str, local_path: str) -> None:
            library.called("file")
            library.runs[run_id].take(local_path)

        def set_terminated(self, run_id: str, status: str) -> None:
            library.called("close")
            library.runs[run_id].end = {"FINISHED": "finished", "FAILED": "failed"}[status]

    module.MlflowClient = MlflowClient
    module.entities = SimpleNamespace(Param=_Param, Metric=_Metric)


def _fill_wandb(module: Any, library: Library) -> None:
    class Run:
        def __init__(self, told: Told, folder: str) -> None:
            self.id, self.dir, self._told = told.run_id, folder, told
            self.summary = told.figures

        def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
            library.called("rows")
            if step is None:
                for path in values.values():
                    self._told.take(path)
            else:
                self._told.rows.setdefault(step, {}).update(values)

        def save(self, path: str, base_path: str, policy: str) -> None:
            library.called("file")
            self._told.take(path)

        def finish(self, exit_code: int) -> None:
            library.called("close")
            self._told.end = "failed" if exit_code else "finished"

    def init(*, id: str, config: dict[str, Any], **options: Any) -> Run:
        library.called("begin")
        library.opened.update(options)
        told = library.runs.setdefault(id, Told(run_id=id))
        told.begun, told.config = told.begun + 1, config
        folder = Path(options["dir"]) / "wandb" / "files"
        folder.mkdir(parents=True, exist_ok=True)
        return Run(told, str(folder))

    module.init, module.Image, module.Settings = init, str, SimpleNamespace


_FILL = {"mlflow": _fill_mlflow, "wandb": _fill_wandb}
