"""Fine-tuning: encoder and linear layer together, the epoch of lowest validation loss kept.

The steps are those of the one engine; around them it is another run than pretraining: epochs are short,
choosing one needs the validation loss each time, and the best weights stay in memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from wsitool.api import all_gather, rank, world_size
from wsitool.augment import flip_rotate, to_device
from wsitool.backbones.device import choose_device, place
from wsitool.backbones.features import as_images
from wsitool.backbones.finite import first_not_finite, gradient_norm
from wsitool.backbones.precision import Precision
from wsitool.base.progress import SILENT, Reporter, Task
from wsitool.classify.heads import prior_shift
from wsitool.classify.logits import predict_logits
from wsitool.classify.model import Classifier
from wsitool.classify.settings import Settings
from wsitool.errors import TrainingError
from wsitool.evaluation.labels import LabelledPatches
from wsitool.loading import Batch, PatchLoader
from wsitool.stain.target import check_stain
from wsitool.training.engine import run_steps
from wsitool.training.ranks import shared
from wsitool.training.seeding import seed_of
from wsitool.training.sync_norm import synchronise

__all__ = ["Epoch", "finetune", "try_steps"]

_LOOK = 20  # batches between looks at losses and gradients on a GPU, each of which waits for it


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of metrics.csv; losses are means per patch."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float


def finetune(
    classifier: Classifier,
    train: LabelledPatches,
    validation: LabelledPatches,
    settings: Settings,
    *,
    seed: int,
    reporter: Reporter = SILENT,
    each_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> list[Epoch]:
    """Train `classifier` in place with Adam; leave it at the (earliest) epoch of lowest validation loss.

    `each_epoch` hears of each when it is over.
    Processes that train together take a part of each batch, such that the steps are those of one. Raises
    TrainingError if the loss, a gradient or a weight stops being a number.
    """
    check_stain(classifier.encoder.card.stain, train.collection.stain)
    tuning = _Tuning(classifier, train, settings, choose_device(settings.device), seed)
    history: list[Epoch] = []
    best: tuple[float, dict[str, Tensor]] | None = None
    # Draws inside the network only: views and order have generators of their own.
    epochs = settings.epochs_of(len(train))
    total, note = epochs * len(tuning.loader), ""
    with reporter.task("fine-tune", total=total, unit="batches") as task, _seeded(seed):
        for epoch in range(epochs):
            tuning.loader.set_epoch(epoch)
            tuning.run(_counted(tuning.loader, task, note))
            train_loss = tuning.end_epoch()
            # Waits for the device; ends in evaluation mode, which the next epoch undoes.
            line = _validate(classifier, validation, settings, epoch, train_loss, reporter)
            history.append(line)
            each_epoch(line)
            note = f"epoch {epoch + 1}, validation loss {line.validation_loss:.4f}"
            # < and not <=: of equal losses the earliest epoch stays.
            if best is None or line.validation_loss < best[0]:
                # All weights, 100 MB for a ResNet-50, only in epochs that are better than any before.
                best = (line.validation_loss, copy.deepcopy(classifier.state_dict()))
                kept = epoch
            elif settings.patience is not None and epoch - kept >= settings.patience:
                break
    if best is not None:
        classifier.load_state_dict(best[1])
    classifier.eval()
    return history


def _counted(batches: Iterable[Batch], task: Task, note: str) -> Iterator[Batch]:
    """The batches, each counted when the next is asked for: an epoch may take an hour."""
    for batch in batches:
        yield batch
        task.advance(1, note=note)


def try_steps(classifier: Classifier, train: LabelledPatches, settings: Settings, *, seed: int) -> None:
    """Two steps, of which the second has all the memory that training takes; `classifier` is spoilt."""
    with _seeded(seed):
        tuning = _Tuning(classifier, train, settings, choose_device(settings.device), seed)
        tuning.run(tuning.loader.batches(0, 2))


def _loader(train: LabelledPatches, settings: Settings, device: torch.device, seed: int) -> PatchLoader:
    size, ranks = min(settings.patches_per_step, len(train)), world_size()
    # Batch normalisation cannot work on a last batch of one patch: leave that one out, another each epoch.
    return PatchLoader(
        train.collection,
        batch_size=-(-size // ranks),
        rank=rank(),
        world_size=ranks,
        seed=seed,
        device=device,
        decode=settings.decode,
        drop_last=len(train) % size == 1,
        # One patch will do on a rank, as all normalise together: so that steps are those of one process.
        least=2 if ranks == 1 else 1,
    )


class _Tuning:
    """The work of fine-tuning, for `run_steps`, and all that it is done with."""

    def __init__(
        self,
        classifier: Classifier,
        train: LabelledPatches,
        settings: Settings,
        device: torch.device,
        seed: int,
    ) -> None:
        place(classifier, device)
        # Before the optimiser, as parameters are replaced.
        if world_size() > 1:
            synchronise(classifier, device)
        # The paper's optimiser, without weight decay.
        self._optimizer = torch.optim.Adam(
            [
                {"params": classifier.encoder.parameters(), "lr": settings.lr},
                {"params": classifier.head.parameters(), "lr": settings.head_lr or settings.lr},
            ],
            # One kernel for all weights: on a CPU an eighth of a small step's time.
            fused=device.type in ("cpu", "cuda"),
        )
        self.loader = _loader(train, settings, device, seed)
        self._precision = Precision(settings.precision, device)
        self._classifier, self._settings = classifier, settings
        self._labels = torch.from_numpy(train.labels)
        self._weights = self._shift = None
        if settings.balance == "weighted":
            self._weights = _class_weights(train, device)
            shift = prior_shift(train.labels, len(train.classes))
            _start_at_prior(classifier.head, shift)
            self._shift = shift.to(device)
        # After the head has its start, which all processes then have from the first.
        self._network = shared(classifier, device)
        # The same on all ranks: each draws for the whole batch and takes its own part.
        self._rng = torch.Generator().manual_seed(seed)
        # On a CPU a look costs nothing, and a broken step need not be taken; ranks look together.
        self._look_every = 1 if device.type == "cpu" else _LOOK
        # (patches, loss, gradient norm) of batches that were not looked at.
        self._pending: list[tuple[int, Tensor, Tensor]] = []
        self._latest: tuple[int, Tensor] | None = None
        self._total, self._count, self._step = 0.0, 0, 0

    def run(self, batches: Iterable[Batch]) -> None:
        """Take a step on each of `batches`."""
        self._classifier.train()
        self._step = 0
        run_steps(self, batches, network=self._network, optimizer=self._optimizer, precision=self._precision)

    def begin(self, batch: Batch) -> bool:
        return True

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        count, first = self._place(batch)
        # Views in float32 whatever the precision, as in pretraining.
        with torch.autocast(batch.patches.device.type, enabled=False):
            images = as_images(batch.patches, self._classifier.card.image_size)
            if self._settings.augment:
                turns = torch.randint(0, 8, (count,), generator=self._rng)
                images = flip_rotate(images, turns[first : first + len(batch)])
            targets = to_device(self._labels[batch.indices], images.device)
        logits = network(images)
        if self._shift is not None:
            # The network's logits are of the classes as they are; those of equal classes are weighted.
            logits = logits - self._shift
        loss = self._mean_loss(logits, targets)
        self._latest = (count, loss.detach())
        return loss

    def _place(self, batch: Batch) -> tuple[int, int]:
        """Patches of the batch over all ranks, and how many of them come before this rank's."""
        ranks = world_size()
        if ranks == 1:
            # Not as planned, where patches could not be read.
            return len(batch), 0
        parts = [self.loader.plan.positions(self._step % len(self.loader), number) for number in range(ranks)]
        return parts[-1].stop - parts[0].start, parts[rank()].start - parts[0].start

    def _mean_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over the batch; of a rank its part of that, such that the mean over ranks is the whole."""
        if world_size() == 1:
            return nn.functional.cross_entropy(logits, targets, weight=self._weights)
        losses = nn.functional.cross_entropy(logits, targets, weight=self._weights, reduction="sum")
        weights = torch.ones_like(targets, dtype=losses.dtype)
        if self._weights is not None:
            weights = self._weights[targets]
        # Ranks may have unequal parts, and of a class more or less.
        whole = weights.sum()
        dist.all_reduce(whole)
        return losses * world_size() / whole

    def before_step(self) -> None:
        assert self._latest is not None
        self._pending.append((*self._latest, gradient_norm(self._classifier.parameters())))
        if len(self._pending) >= self._look_every:
            self._look()

    def after_step(self, batch: Batch) -> None:
        return

    def end(self, batch: Batch) -> bool:
        self._step += 1
        return False

    def end_epoch(self) -> float:
        """The mean loss per patch of the epoch; TrainingError if something is no number."""
        self._look()
        # Running statistics of batch norm, too, which no gradient shows.
        broken = first_not_finite(self._classifier.state_dict())
        if broken is not None:
            raise TrainingError(f"{broken} is no longer finite: use a lower --lr than {self._settings.lr:g}.")
        mean = self._total / self._count
        self._total, self._count = 0.0, 0
        return mean

    def _look(self) -> None:
        if not self._pending:
            return
        # One tensor, one wait. (2, batches)
        counts, losses, slopes = zip(*self._pending, strict=True)
        mine = torch.stack([torch.stack(losses).float(), torch.stack(slopes).float()])
        values = all_gather(mine[None]).mean(dim=0).tolist()
        for patches, loss, slope in zip(counts, *values, strict=True):
            for what, number in (("training loss", loss), ("gradient norm", slope)):
                if not np.isfinite(number):
                    raise TrainingError(
                        f"The {what} became {number}: use a lower --lr than {self._settings.lr:g}."
                    )
            self._total, self._count = self._total + loss * patches, self._count + patches
        self._pending.clear()


def _validate(
    classifier: Classifier,
    validation: LabelledPatches,
    settings: Settings,
    epoch: int,
    train_loss: float,
    reporter: Reporter,
) -> Epoch:
    # (V, K) float64
    logits = torch.from_numpy(
        predict_logits(
            classifier,
            validation.collection,
            batch_size=settings.patches_per_step,
            device=settings.device,
            decode=settings.decode,
            reporter=reporter,
        )
    )
    labels = torch.from_numpy(validation.labels)
    return Epoch(
        epoch=epoch,
        train_loss=train_loss,
        validation_loss=float(nn.functional.cross_entropy(logits, labels)),
        validation_accuracy=float((logits.argmax(1) == labels).double().mean()),
    )


def _class_weights(train: LabelledPatches, device: torch.device) -> Tensor:
    counts = np.bincount(train.labels, minlength=len(train.classes))
    # N / (K n_k), scikit-learn's "balanced": the mean weight over patches is 1.
    weights = len(train) / (len(train.classes) * np.maximum(counts, 1))
    return torch.from_numpy(weights).float().to(device)


def _start_at_prior(head: nn.Module, shift: Tensor) -> None:
    """Spare the first steps learning the classes' shares; a head without a bias learns them all the same."""
    bias = getattr(head, "bias", None)
    if isinstance(bias, Tensor) and bias.shape == shift.shape:
        with torch.no_grad():
            bias.add_(shift.to(bias))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draws inside the backbone (dropout, stochastic depth) come from `seed`; the caller's state is kept."""
    # Of the CPU's generator; a GPU's is left seeded.
    before = torch.get_rng_state()
    torch.manual_seed(seed if rank() == 0 else seed_of(seed, rank()))
    try:
        yield
    finally:
        torch.set_rng_state(before)
