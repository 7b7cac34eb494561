"""How good is it so far: the pretext loss on slides held out, and what the features know of the labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsitool.api import all_gather, world_size
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.features import encode
from wsitool.backbones.neighbours import neighbour_votes
from wsitool.errors import UsageError
from wsitool.loading import PatchLoader
from wsitool.methods.meta import describer
from wsitool.store.collection import Collection
from wsitool.training.module import PretrainModule, compute_step
from wsitool.training.seeding import seed_of

__all__ = [
    "held_out_loss",
    "knn_accuracy",
    "linear_accuracy",
    "probe",
    "probe_rows",
    "split_groups",
    "without_held_out",
]

_PROBE_PATCHES = 2000
Labels = NDArray[np.int64]


def split_groups(
    collection: Collection, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and rows of about `share` of the groups (at least one), which training never sees."""
    # Sorted unique numbers, so that the permutation depends on the seed only.
    groups = np.unique(collection.group_index)
    if len(groups) < 2:
        raise UsageError(
            f"--holdout keeps whole patients apart and the stores hold {len(groups)}: leave it out, or add "
            "slides."
        )
    # At least one group on either side.
    count = min(max(1, round(share * len(groups))), len(groups) - 1)
    # Seeds of their own (2, and 3 below): to hold out does not change what is probed.
    held_out_groups = np.random.default_rng(seed_of(seed, 2)).permutation(groups)[:count]
    is_held_out = np.isin(collection.group_index, held_out_groups)
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def without_held_out(collection: Collection, share: float, seed: int) -> tuple[Collection, Collection | None]:
    """`collection` without the patients that are held out, and those; None for a share of 0."""
    if share == 0:
        return collection, None
    train, held_out = split_groups(collection, share, seed)
    return collection.subset(train), collection.subset(held_out)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; afterwards every part is in the mode it was in."""
    # Part by part: methods keep teachers in evaluation mode during training.
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in before.items():
            part.training = training


def held_out_loss(module: PretrainModule, loader: PatchLoader) -> float:
    """Mean pretext loss over the loader's batches of at least two patches, the same views every time.

    In evaluation mode, without gradient; the modes of all parts are put back. Every rank must call it: it
    gathers.
    """
    losses: list[Tensor] = []
    describe = describer(type(module.method), loader.collection)
    with _evaluating(module.method):
        # The first batch again, whatever the loader has done since.
        loader.load_state_dict(loader.state_dict() | {"epoch": 0, "step": 0})
        for number, batch in enumerate(loader):
            # A last batch of one: most losses need company, none is wrong without it.
            if len(batch) >= 2:
                # Numbers no training step has: the views must not be those of a step.
                meta = None if describe is None else describe(batch)
                step = compute_step(module.method, batch.patches, module.config, -number - 1, meta=meta)
                losses.append(step.loss.float())
    mean = torch.stack(losses).mean()
    # Ranks have equal shares, so the mean of means is the mean.
    return float(all_gather(mean[None]).mean()) if world_size() > 1 else float(mean)


def probe_rows(collection: Collection, seed: int) -> NDArray[np.int64] | None:
    """Up to 2000 labelled rows; None unless there are two classes and two groups among them."""
    rows = np.flatnonzero(collection.labels >= 0)
    if len(rows) > _PROBE_PATCHES:
        # Sorted: reading goes through the files in order.
        rows = np.sort(np.random.default_rng(seed_of(seed, 3)).choice(rows, _PROBE_PATCHES, replace=False))
    several = all(len(np.unique(of[rows])) > 1 for of in (collection.labels, collection.group_index))
    return rows if several else None


def probe(
    encoder: Encoder, collection: Collection, *, image_size: int, device: torch.device
) -> dict[str, float]:
    """Balanced accuracies of the labels told from features: nearest neighbours and a linear layer.

    Neither ever compares a patch with patches of its own group.
    """
    with _evaluating(encoder):
        # Only the first rank comes here: nothing in it may gather.
        features = encode(encoder, collection, image_size=image_size, device=str(device))
    labels, groups = collection.labels.astype(np.int64), collection.group_index.astype(np.int64)
    return {
        "knn_accuracy": knn_accuracy(features, labels, groups),
        "probe_accuracy": linear_accuracy(features, labels, groups),
    }


def knn_accuracy(features: NDArray[np.float32], labels: Labels, groups: Labels) -> float:
    """Vote of the 20 nearest patches of other groups, of which there must be two: see `neighbour_votes`."""
    unit = nn.functional.normalize(torch.from_numpy(features), dim=1)
    # (n, n) cosines, 16 MB for 2,000 patches.
    similarity = unit @ unit.T
    # Their own group, themselves among them, never vote.
    similarity[torch.from_numpy(groups[:, None] == groups[None, :])] = -torch.inf
    one_hot = nn.functional.one_hot(torch.from_numpy(labels)).float()
    return _balanced(neighbour_votes(similarity, one_hot).argmax(dim=1).numpy(), labels)


def linear_accuracy(features: NDArray[np.float32], labels: Labels, groups: Labels) -> float:
    """Ridge regression to one-hot labels, fitted on half of the groups and judged on the other, both ways.

    Balanced accuracy, deterministic; `features` (N, D), `labels` and `groups` (N,). At least two groups.
    """
    # Every second group: both halves have groups wherever there are two.
    second = np.isin(groups, np.unique(groups)[1::2])
    targets = np.eye(labels.max() + 1)[labels]
    guess = np.empty(len(labels), np.int64)
    for test in (second, ~second):
        train = ~test
        # 1e-6: a feature that is constant in training has no spread.
        mean, spread = features[train].mean(axis=0), features[train].std(axis=0) + 1e-6
        x = np.concatenate([(features - mean) / spread, np.ones((len(features), 1))], axis=1).astype(
            np.float64
        )
        # Classes weigh the same; the penalty grows with the data, so that any number of patches is served.
        weight = (1 / np.maximum(targets[train].sum(axis=0), 1))[labels[train]][:, None]
        gram = x[train].T @ (weight * x[train])
        # Relative to the mean of the diagonal, as features have no common scale.
        gram += 0.1 * np.trace(gram) / len(gram) * np.eye(len(gram))
        solution = np.linalg.solve(gram, x[train].T @ (weight * targets[train]))
        guess[test] = (x[test] @ solution).argmax(axis=1)
    return _balanced(guess, labels)


def _balanced(guess: Labels, labels: Labels) -> float:
    # Mean of the classes' recalls: a rare class counts as much as a common one.
    return float(np.mean([(guess[labels == c] == c).mean() for c in np.unique(labels)]))
