"""The look back at the end of each epoch: features, held-out loss, probes."""

from __future__ import annotations

from dataclasses import dataclass

from wsitool.api import rank
from wsitool.backbones.encoder import Encoder
from wsitool.loading import PatchLoader
from wsitool.store.collection import Collection
from wsitool.training.diagnostics import FeatureWatch
from wsitool.training.module import PretrainModule
from wsitool.training.probe import held_out_loss, probe
from wsitool.training.snapshots import LOSS, PROBE

__all__ = ["EpochReview"]


@dataclass(frozen=True, kw_only=True)
class EpochReview:
    """Measures at the end of an epoch; `held_out` and `labelled` are None where there is nothing."""

    encoder: Encoder
    watch: FeatureWatch
    image_size: int
    held_out: PatchLoader | None = None
    labelled: Collection | None = None
    probe_every: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all that `look` may give."""
        held_out = (LOSS,) if self.held_out is not None else ()
        probes = ("knn_accuracy", PROBE) if self._probes else ()
        return ("feature_std", "rank_me", *held_out, *probes)

    @property
    def _probes(self) -> bool:
        return self.labelled is not None and self.probe_every > 0

    def look(self, module: PretrainModule, epoch: int) -> dict[str, float]:
        """Measure after epoch number `epoch`, counted from 1; training goes on as if nobody had looked."""
        # The watch has seen this rank's batches only; the first rank's go into the file.
        values = self.watch.measure()
        if self.held_out is not None:
            values[LOSS] = held_out_loss(module, self.held_out)
        due = self._probes and (epoch % self.probe_every == 0 or epoch == module.schedule.epochs)
        # On one rank: it gathers nothing, and the others wait for it at the next step.
        if due and self.labelled is not None and rank() == 0:
            values |= probe(self.encoder, self.labelled, image_size=self.image_size, device=module.device)
        return values
