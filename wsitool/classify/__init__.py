"""Classifiers from few labels: subsets, splits, training, figures."""

from wsitool.classify.model import Classifier, ClassifierCard, load_classifier
from wsitool.classify.run import ClassifyResult, classify
from wsitool.classify.settings import Settings

__all__ = ["Classifier", "ClassifierCard", "ClassifyResult", "Settings", "classify", "load_classifier"]
