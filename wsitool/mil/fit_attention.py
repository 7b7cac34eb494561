"""Training the gated attention: steps over a few bags, each read and gone through by itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsitool.backbones.device import choose_device
from wsitool.classify.built_in_heads import fresh_layer
from wsitool.classify.finetune import Epoch
from wsitool.classify.heads import prior_shift
from wsitool.errors import LabelError, TrainingError
from wsitool.mil.bags import SlideBags
from wsitool.mil.head_contract import FittedSlideHead
from wsitool.mil.heads import GatedAttention
from wsitool.mil.options import SlideSettings
from wsitool.store.splits import patch_folds, whole_folds

__all__ = ["backward_of_bags", "fit_attention", "fresh_attention"]

_LR = 1e-3
_FOLDS = 5
_TOGETHER = 4096  # patches of small bags that go through the network at once
_LEAST_SPREAD = 1e-6  # of a feature that is constant but for rounding
Indices = NDArray[np.int64]


def fit_attention(bags: SlideBags, settings: SlideSettings, *, seed: int) -> FittedSlideHead:
    """AdamW on the cross-entropy of the bags, classes weighted alike, see `backward_of_bags`.

    Of `bags.held_out` it keeps the epoch of lowest loss. With nothing held out, and `settings.validation` not
    given, the number of epochs is that of lowest loss over at most 5 folds of whole groups inside the labels,
    on all of which it is then trained; with a validation of 0 it is `settings.epochs`.
    """
    if len(bags.held_out):
        return _by_held_out(bags, settings, seed)
    if settings.validation == 0:
        return _fitted(bags, bags.train, settings, seed, settings.epochs)
    return _by_folds(bags, settings, seed)


def _by_held_out(bags: SlideBags, settings: SlideSettings, seed: int) -> FittedSlideHead:
    head = fresh_attention(bags, bags.train, settings, seed=seed)
    _, shift = _class_weights(bags, bags.train, settings)
    labels = torch.from_numpy(bags.labels[bags.held_out])
    history: list[Epoch] = []
    best, kept = 0, copy.deepcopy(head.state_dict())
    with bags.reporter.task("attention", total=settings.epochs, unit="epochs") as task:
        for train_loss in _epochs(head, bags, bags.train, settings, seed, settings.epochs):
            logits = _judged(head, bags, bags.held_out, shift)
            loss = float(nn.functional.cross_entropy(logits, labels))
            accuracy = float((logits.argmax(1) == labels).double().mean())
            history.append(
                Epoch(
                    epoch=len(history) + 1,
                    train_loss=train_loss,
                    validation_loss=loss,
                    validation_accuracy=accuracy,
                )
            )
            task.advance(note=f"loss {loss:.3f}")
            if loss < history[best].validation_loss or len(history) == 1:
                best, kept = len(history) - 1, copy.deepcopy(head.state_dict())
            elif settings.patience is not None and len(history) - 1 - best >= settings.patience:
                break
    head.load_state_dict(kept)
    return _finished(head, shift, settings, history=tuple(history), choices={"epochs": best + 1})


def _by_folds(bags: SlideBags, settings: SlideSettings, seed: int) -> FittedSlideHead:
    train, warning = bags.train, ""
    labels = bags.labels[train]
    if np.bincount(labels, minlength=bags.classes).min() < 2:
        raise LabelError(
            "The epochs of --head attention are chosen by folds, which needs at least 2 labels of every "
            "class: use more, or give --validation 0 for all of --epochs."
        )
    fold_of = whole_folds(labels, bags.groups[train], classes=bags.classes, most=_FOLDS, seed=seed)
    if fold_of is None:
        fold_of = patch_folds(labels, folds=min(_FOLDS, int(np.bincount(labels).min())), seed=seed)
        warning = (
            "The labelled groups are too few to choose the number of epochs over whole groups, so it was "
            "chosen over slides and may be too large."
        )
    folds = int(fold_of.max()) + 1
    # (E, T, K): every bag is judged by the fold that held it out, after each epoch.
    logits = np.empty((settings.epochs, len(train), bags.classes))
    with bags.reporter.task("attention", total=folds * settings.epochs, unit="epochs") as task:
        for fold in range(folds):
            inside, outside = train[fold_of != fold], np.flatnonzero(fold_of == fold)
            head = fresh_attention(bags, inside, settings, seed=seed)
            _, shift = _class_weights(bags, inside, settings)
            for epoch, _ in enumerate(_epochs(head, bags, inside, settings, seed, settings.epochs)):
                logits[epoch, outside] = _judged(head, bags, train[outside], shift).double().numpy()
                task.advance(note=f"fold {fold + 1}")
    targets = torch.from_numpy(labels)
    losses = [float(nn.functional.cross_entropy(torch.from_numpy(rows), targets)) for rows in logits]
    epochs = int(np.argmin(losses)) + 1
    return _fitted(
        bags,
        train,
        settings,
        seed,
        epochs,
        unseen=logits[epochs - 1],
        warning=warning,
        choices={"epochs": epochs, "loss": round(losses[epochs - 1], 6), "folds": folds},
    )


def _fitted(
    bags: SlideBags, rows: Indices, settings: SlideSettings, seed: int, epochs: int, **told: object
) -> FittedSlideHead:
    head = fresh_attention(bags, rows, settings, seed=seed)
    for _ in _epochs(head, bags, rows, settings, seed, epochs):
        pass
    return _finished(head, _class_weights(bags, rows, settings)[1], settings, **told)


def _finished(
    head: GatedAttention, shift: Tensor, settings: SlideSettings, **told: object
) -> FittedSlideHead:
    with torch.no_grad():
        # As frequent as they were in training: what was learned is of equally weighted classes.
        head.classify.bias.add_(shift.to(head.center.device))
    sizes = {"hidden": settings.attention_dim}
    return FittedSlideHead(head=head.cpu().eval(), sizes=sizes, **told)  # type: ignore[arg-type]


def fresh_attention(bags: SlideBags, rows: Indices, settings: SlideSettings, *, seed: int) -> GatedAttention:
    """A head whose weights follow from `seed`, and whose center and scale from the bags `rows`."""
    head = GatedAttention(bags.feature_dim, bags.classes, settings.attention_dim)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in (head.value, head.gate, head.score):
            nn.init.xavier_uniform_(layer.weight, generator=rng)
        for layer in (head.value, head.gate):
            layer.bias.zero_()
        head.classify.load_state_dict(fresh_layer(bags.feature_dim, bags.classes, seed=seed).state_dict())
        # Each bag counts alike, so that one of 100,000 patches does not decide.
        means = np.mean([bags.mean(row) for row in rows.tolist()], axis=0)
        squares = np.mean([bags.mean_square(row) for row in rows.tolist()], axis=0)
        spread = np.sqrt(np.maximum(squares - means**2, 0))
        spread[spread < _LEAST_SPREAD] = 1
        head.center.copy_(torch.from_numpy(means))
        head.scale.copy_(torch.from_numpy(spread))
    return head.to(choose_device(settings.device))


def _epochs(
    head: GatedAttention, bags: SlideBags, rows: Indices, settings: SlideSettings, seed: int, epochs: int
) -> Iterator[float]:
    """Train on the bags `rows`: the mean loss of each epoch, after it; the first are as of fewer epochs."""
    weights, _ = _class_weights(bags, rows, settings)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=settings.head_lr or _LR, weight_decay=settings.weight_decay
    )
    rng = np.random.default_rng((seed, 0xBA65))
    for epoch in range(1, epochs + 1):
        order, losses = rng.permutation(rows), []
        for start in range(0, len(order), settings.bags_per_step):
            optimizer.zero_grad()
            losses.append(
                backward_of_bags(head, bags, order[start : start + settings.bags_per_step], weights)
            )
            optimizer.step()
        loss = float(np.mean(losses))
        if not math.isfinite(loss):
            raise TrainingError(f"The loss is not finite in epoch {epoch}: lower --head-lr.")
        yield loss


def backward_of_bags(head: GatedAttention, bags: SlideBags, rows: Indices, weights: Tensor) -> float:
    """Add to the gradients those of the weighted mean cross-entropy of the bags `rows`, and return it.

    `weights` (K,) are of the classes. It is the gradient of all of them together, whatever their sizes, in
    the memory of the largest: small bags go through the network together.
    """
    weights = weights.to(head.center)
    total, loss = weights[torch.from_numpy(bags.labels[rows])].sum(), 0.0
    for some in _together(bags, rows):
        logits = _logits(head, bags, some)
        labels = torch.from_numpy(bags.labels[some]).to(logits.device)
        part = nn.functional.cross_entropy(logits, labels, weight=weights, reduction="sum") / total
        part.backward()  # type: ignore[no-untyped-call]
        loss += part.item()
        # What they hold of these bags, before the next are read.
        del logits, part
    return loss


def _together(bags: SlideBags, rows: Indices) -> list[Indices]:
    """The bags `rows` in their order, as many at once as have few patches."""
    runs: list[list[int]] = []
    patches = _TOGETHER
    for row in rows.tolist():
        patches += bags.size(row)
        if patches > _TOGETHER:
            runs.append([])
            patches = bags.size(row)
        runs[-1].append(row)
    return [np.array(run) for run in runs]


def _logits(head: GatedAttention, bags: SlideBags, rows: Indices) -> Tensor:
    """(R, K) of the bags `rows`, on the head's device."""
    parts = [bags.read(row) for row in rows.tolist()]
    features = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))
    sizes = [len(part) for part in parts]
    logits, _ = head.of_bags(features.to(head.center.device, head.center.dtype), sizes)
    return logits


@torch.no_grad()
def _judged(head: GatedAttention, bags: SlideBags, rows: Indices, shift: Tensor) -> Tensor:
    """(R, K) on the CPU, of classes as frequent as they were in training."""
    return torch.cat([_logits(head, bags, some).cpu() for some in _together(bags, rows)]) + shift


def _class_weights(bags: SlideBags, rows: Indices, settings: SlideSettings) -> tuple[Tensor, Tensor]:
    """(K,) weights of the classes in the loss, and what logits of classes weighted so lack."""
    labels = bags.labels[rows]
    if settings.balance != "weighted":
        return torch.ones(bags.classes), torch.zeros(bags.classes)
    counts = np.maximum(np.bincount(labels, minlength=bags.classes), 1)
    weights = len(labels) / (bags.classes * counts)
    return torch.from_numpy(weights).float(), prior_shift(labels, bags.classes)
