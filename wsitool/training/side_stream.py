"""Making the views of a batch while the step before is still running."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["SideStream"]


class SideStream:
    """A second queue of a CUDA device; on other devices there is none, and all is made in turn.

    The host stays in its order: views first, then the step. What is queued for the step does not hold up the
    next views, as these are in a queue of their own. At most one batch of them is ahead.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's, unannotated
        # When the step before the last one is done, and memory of its views is free.
        self._before: torch.cuda.Event | None = None

    def make(self, views: Callable[[], dict[str, Tensor]], *inputs: Tensor) -> dict[str, Tensor]:
        """What `views` makes of `inputs`, as the current stream may use it from here on.

        The inputs' content must be there, as that of the loader's batches is: it is not waited for.
        """
        side = self._stream
        if side is None:
            return views()
        current = torch.cuda.current_stream(self._device)
        # The first time for everything: weights and buffers may just have been copied.
        if self._before is None:
            side.wait_stream(current)
        else:
            side.wait_event(self._before)
        for each in inputs:
            # Its memory must not go to another tensor while the views are being made of it.
            each.record_stream(side)
        with torch.cuda.stream(side):
            made = views()
        self._before = current.record_event()
        current.wait_stream(side)
        for each in made.values():
            each.record_stream(current)
        return made
