"""MLflow by its client, which leaves the caller's own active run alone: a database under OUT, or a server."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsitool.tracking.contract import LoggedRow, RunInfo

__all__ = ["MlflowRun", "start"]

_PROJECT = "wsitool"
_MOST_PARAMS, _MOST_METRICS = 100, 1000  # of one request, as MLflow's REST interface states
_LONGEST = 500  # characters of a parameter, which older servers refuse more of


class MlflowRun:
    """One run of an experiment."""

    def __init__(self, library: Any, client: Any, run_id: str) -> None:
        self._entities, self._client, self.run_id = library.entities, client, run_id

    def config(self, config: Mapping[str, Any]) -> None:
        params = [
            self._entities.Param(_allowed(name), str(value)[:_LONGEST]) for name, value in _flat(config)
        ]
        for some in _parts(params, _MOST_PARAMS):
            self._client.log_batch(self.run_id, params=some)

    def rows(self, rows: Sequence[LoggedRow]) -> None:
        self._log([(name, value, row.step) for row in rows for name, value in row.values.items()])

    def figures(self, figures: Mapping[str, float]) -> None:
        self._log([(name, value, 0) for name, value in figures.items()])

    def _log(self, values: Sequence[tuple[str, float, int]]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(_allowed(name), value, now, step) for name, value, step in values]
        for some in _parts(metrics, _MOST_METRICS):
            self._client.log_batch(self.run_id, metrics=some)

    def picture(self, path: Path) -> None:
        self._client.log_artifact(self.run_id, str(path))

    def file(self, path: Path) -> None:
        self._client.log_artifact(self.run_id, str(path))

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


def start(info: RunInfo) -> MlflowRun:
    """A run in the store of MLFLOW_TRACKING_URI, else in OUT/mlflow; experiment MLFLOW_EXPERIMENT_NAME."""
    uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
    if not uri:
        # Nothing leaves the machine unless a server is named; read when MLflow is imported.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        folder = (info.out / "mlflow").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        # Folders of text files, which MLflow wrote by default, are refused by its newer releases.
        uri, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table that it makes
    client = mlflow.MlflowClient(tracking_uri=uri)
    if info.run_id is not None:
        client.update_run(info.run_id, status="RUNNING")
        # The parameters stay those of its beginning, as MLflow lets none change.
        return MlflowRun(mlflow, client, info.run_id)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        number = client.create_experiment(name, artifact_location=artifacts)
    else:
        number = experiment.experiment_id
    tags = {"wsitool.command": info.command}
    begun = client.create_run(number, tags=tags, run_name=info.out.resolve().name)
    run = MlflowRun(mlflow, client, begun.info.run_id)
    run.config(info.config)
    return run


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _allowed(name: str) -> str:
    """A name of the characters that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "-", name)


def _parts(values: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(values), most):
        yield values[first : first + most]
