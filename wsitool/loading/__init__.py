"""Feeding patches to a trainer: the threaded loader, and a dataset for stock DataLoaders."""

from wsitool.loading.dataset import PatchDataset
from wsitool.loading.loader import Batch, PatchLoader
from wsitool.loading.order import Balance, BatchPlan
from wsitool.loading.stats import BadPatch, LoaderStats

__all__ = ["BadPatch", "Balance", "Batch", "BatchPlan", "LoaderStats", "PatchDataset", "PatchLoader"]
