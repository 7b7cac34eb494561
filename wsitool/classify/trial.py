"""Whether a batch of a classification run fits in memory, found by trying with networks that then go away."""

from __future__ import annotations

from dataclasses import replace

from wsitool.backbones.device import choose_device
from wsitool.backbones.memory import encoding_batch
from wsitool.base.machine import FIRST_BATCH, largest_that_fits
from wsitool.classify.cross_validation import ClassificationTask
from wsitool.classify.feature_files import StandIn
from wsitool.classify.finetune import try_steps
from wsitool.classify.fit import new_card, new_classifier
from wsitool.errors import MemoryShortError

__all__ = ["memory_advice", "with_batch"]


def with_batch(task: ClassificationTask) -> ClassificationTask:
    """`task` with a number in place of a batch size "auto"; MemoryShortError where not even 2 patches fit."""
    settings = task.settings
    if settings.batch_size != "auto":
        return task
    size = _largest(task, FIRST_BATCH)
    if size is None:
        raise MemoryShortError(
            f"There is not enough memory for 2 patches at once: lower --image-size ({task.image_size}), or "
            "take a smaller --backbone."
        )
    task.reporter.say(f"--batch-size auto is {size}.")
    return replace(task, settings=replace(settings, batch_size=size))


def memory_advice(task: ClassificationTask) -> str:
    """What to do where memory is short."""
    size, otherwise = task.settings.patches_per_step, f"--image-size ({task.image_size})"
    # Alone: others that train with this process wait for it.
    fits = _largest(task, size // 2) if task.settings.devices == 1 else None
    if fits is None:
        return f"lower --batch-size ({size}) or {otherwise}"
    return f"pass --batch-size {fits}, which fits, or lower {otherwise}"


def _largest(task: ClassificationTask, first: int) -> int | None:
    """The largest of `first`, its half, ... that fits."""
    settings, train = task.settings, task.data.train
    if settings.frozen:
        encoder, device = task.encoder(), choose_device(settings.device)
        if isinstance(encoder, StandIn):
            return first  # nothing is encoded
        room = encoding_batch(
            encoder,
            image_size=task.image_size,
            patch_size=train.collection.patch_size,
            device=device,
            precision="32",
        )
        return largest_that_fits(room.try_patches, first, least=2)

    def attempt(size: int) -> None:
        encoder, sized = task.encoder(), replace(settings, batch_size=size)
        card = new_card(encoder, train, sized, task.image_size)
        with new_classifier(encoder, train, card, sized, task.seed) as classifier:
            try_steps(classifier, train, sized, seed=task.seed)

    return largest_that_fits(attempt, first, least=2)
