"""The paper's experiment: arms, label fractions and seeds in one resumable grid with an honest report."""

from wsitool.experiment.plan import ARMS, Plan, read_plan
from wsitool.experiment.run import ExperimentResult, experiment

__all__ = ["ARMS", "ExperimentResult", "Plan", "experiment", "read_plan"]
