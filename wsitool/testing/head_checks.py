"""What every head of slides must do: one plain function per rule of `FitSlideHead` and its neighbours.

Each takes the head's description and raises AssertionError saying what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsitool.base.plugins import import_target
from wsitool.base.progress import SILENT, Reporter
from wsitool.mil.bags import Bag, BagReader, Part, SlideBags
from wsitool.mil.head_contract import FittedSlideHead
from wsitool.mil.head_registry import SLIDE_HEADS, SlideHead
from wsitool.mil.options import SlideSettings
from wsitool.testing.results import CheckResult, check_description, run_checks

__all__ = ["HEAD_CHECKS", "check_head"]

_DIM = 12
_NEAR = 1e-4


def check_head(head: SlideHead | str, *, reporter: Reporter = SILENT) -> list[CheckResult]:
    """Run every check of `head`, a description or an installed head's name.

    A description that is none gets that one result. Raises UsageError for a name that is not there,
    PluginError for one that cannot be loaded.
    """
    entry = SLIDE_HEADS.get(head) if isinstance(head, str) else head
    return run_checks(HEAD_CHECKS, entry, title=getattr(entry, "name", repr(entry)), reporter=reporter)


def check_contract(entry: SlideHead) -> None:
    """The description is a SlideHead, and its functions can be imported."""
    for function in ("fit", "build"):
        check_description(entry, SLIDE_HEADS, function=function)
    assert entry.about.strip(), "`about` must say in words what the head is."


def check_output(entry: SlideHead) -> None:
    """Bags of 1, 7 and 300 patches have finite logits (K,), and attention (n,) >= 0 that sums to 1."""
    for classes in (2, 3):
        head = _fit(entry, _bags(classes=classes)).head
        for patches in (1, 7, 300):
            logits, attention = _of(head, _patches(patches))
            assert logits.shape == (classes,), f"Logits must be ({classes},), got {logits.shape}."
            assert attention.shape == (patches,), f"Attention must be ({patches},), got {attention.shape}."
            assert np.isfinite(logits).all(), "Logits must be finite."
            assert (attention >= 0).all() and abs(attention.sum() - 1) < _NEAR, (
                f"Attention must not be negative and sum to 1; it is from {attention.min():.3g} and sums to "
                f"{attention.sum():.3g}."
            )


def check_order(entry: SlideHead) -> None:
    """A bag in another order has the same logits, and attention in that order."""
    head, bag = _fit(entry, _bags()).head, _patches(40)
    order = np.random.default_rng(1).permutation(len(bag))
    (logits, attention), (others, reordered) = _of(head, bag), _of(head, bag[order])
    assert np.allclose(logits, others, atol=_NEAR), "Logits must not depend on the order of the patches."
    assert np.allclose(attention[order], reordered, atol=_NEAR), "Attention must follow its patch."


def check_each(entry: SlideHead) -> None:
    """`each`, where there is one, gives every patch the logits of a bag that holds it alone."""
    head, bag = _fit(entry, _bags()).head, _patches(9)
    each = getattr(head, "each", None)
    if each is not None:
        with torch.no_grad():
            rows = each(torch.from_numpy(bag)).numpy()
        alone = np.stack([_of(head, bag[row : row + 1])[0] for row in range(len(bag))])
        assert rows.shape == alone.shape and np.allclose(rows, alone, atol=_NEAR), (
            "`each` must give (n, K) logits, those of bags of one patch: leave it out, or make it so."
        )


def check_deterministic(entry: SlideHead) -> None:
    """The same bags, settings and seed give the same head, whatever the global random states."""
    first = _fit(entry, _bags()).head.state_dict()
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002 - it is the legacy global state that is to be caught
    second = _fit(entry, _bags()).head.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first), (
        "Two fits of one seed must be equal to the bit: draw from a generator of that seed only."
    )


def check_file(entry: SlideHead) -> None:
    """What `build` makes of `sizes` takes the weights of what was fitted, and then says the same."""
    fitted, bag = _fit(entry, _bags(classes=3)), _patches(11)
    empty = import_target(entry.build, SLIDE_HEADS.who(entry))(_DIM, 3, dict(fitted.sizes))
    assert isinstance(empty, nn.Module), f"`build` must give a torch.nn.Module, got {empty!r:.80}."
    empty.load_state_dict(fitted.head.state_dict(), strict=True)
    for one, other in zip(_of(fitted.head, bag), _of(empty.eval(), bag), strict=True):
        assert np.array_equal(one, other), (
            "A head read from its file must say what it said when it was fitted."
        )


def check_reads_only_its_share(entry: SlideHead) -> None:
    """Only bags of `train` and `held_out` are read, and none is changed."""
    bags = _bags()
    reader = bags.reader
    assert isinstance(reader, _InMemory)
    before = {name: features.copy() for name, features in reader.features.items()}
    train, held_out = np.arange(12), np.arange(14, 20)
    _fit(entry, replace(bags, train=train, held_out=held_out))
    allowed = {bags.bags[row].name for row in (*train.tolist(), *held_out.tolist())}
    assert reader.read_names <= allowed, (
        "Bags that are neither in `train` nor in `held_out` must not be read."
    )
    same = all(np.array_equal(features, before[name]) for name, features in reader.features.items())
    assert same, "Features must not be changed: work on a copy."


def check_learns(entry: SlideHead) -> None:
    """Two classes that every patch tells apart are learned."""
    bags = _bags()
    head = _fit(entry, bags).head
    right = [_of(head, bags.read(row))[0].argmax() == bags.labels[row] for row in range(len(bags))]
    share = np.mean(right)
    assert share >= 0.9, (
        f"Of two classes that each patch tells apart 90 % must be right after training, got {share:.0%}."
    )


class _InMemory(BagReader):
    """Features of bags by their names, and which were asked for."""

    def __init__(self, features: dict[str, NDArray[np.float32]]) -> None:
        super().__init__()
        self.features, self.read_names = features, set[str]()

    def read(self, bag: Bag) -> NDArray[np.float32]:
        self.read_names.add(bag.name)
        return self.features[bag.name]


def _bags(*, classes: int = 2) -> SlideBags:
    """24 bags of 1 to 60 patches, whose class is in the first features of each patch."""
    rng = np.random.default_rng(classes)
    labels = np.arange(24) % classes
    features = {}
    for row, label in enumerate(labels.tolist()):
        drawn = rng.normal(size=(int(rng.choice([1, 5, 60])), _DIM)).astype(np.float32)
        drawn[:, label] += 6
        features[str(row)] = drawn
    bags = [
        Bag(
            name=name,
            group=name,
            parts=(Part(path=Path(name), rows=np.arange(len(rows)), whole=True, content=name),),
        )
        for name, rows in features.items()
    ]
    return SlideBags(
        labels=labels,
        groups=np.arange(24),
        classes=classes,
        feature_dim=_DIM,
        train=np.arange(24),
        held_out=np.zeros(0, np.int64),
        bags=bags,
        reader=_InMemory(features),
    )


def _patches(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(count).normal(size=(count, _DIM)).astype(np.float32)


def _fit(entry: SlideHead, bags: SlideBags) -> FittedSlideHead:
    settings = SlideSettings(
        level="slide", epochs=12, head_lr=0.05, attention_dim=8, validation=0.0, c=0.1, device="cpu"
    )
    fitted = import_target(entry.fit, SLIDE_HEADS.who(entry))(bags, settings, seed=3)
    assert isinstance(fitted, FittedSlideHead), (
        f"`fit` must give a wsitool.FittedSlideHead, got {fitted!r:.80}."
    )
    fitted.head.eval()
    return fitted


@torch.no_grad()
def _of(head: nn.Module, bag: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    logits, attention = head(torch.from_numpy(bag))
    return logits.numpy(), attention.numpy()


HEAD_CHECKS: tuple[Callable[[SlideHead], None], ...] = (
    check_contract,
    check_output,
    check_order,
    check_each,
    check_deterministic,
    check_file,
    check_reads_only_its_share,
    check_learns,
)
