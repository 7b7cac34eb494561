"""What a device is asked to do, counted as torch hands it over: kernels, copies, waits of the host."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Operations"]

# What only says anew how memory is looked at, and so is no kernel.
_NO_KERNELS = frozenset(
    (
        *("_unsafe_view", "alias", "as_strided", "chunk", "detach", "empty", "empty_like", "empty_strided"),
        *("expand", "lift_fresh", "new_empty", "permute", "select", "slice", "split", "split_with_sizes"),
        *("squeeze", "t", "transpose", "unbind", "unsqueeze", "view"),
    )
)
# What has to know values, or how many there are, before it can go on.
_READS = frozenset(("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"))
_COPIES = frozenset(("_to_copy", "copy_"))


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's, unannotated
    """Counts, within its block, what `device` is asked for; backward passes too.

    `kernels` are operations by name, near to what a profiler counts (one may be several kernels, a foreach is
    one for many tensors). `uploads` are copies from the host, `waits` how often the host stands still: copies
    that block, and values it reads.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._type = device.type
        self.kernels, self.uploads, self.waits = Counter[str](), 0, 0

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Carry an operation out."""
        return func(*args, **kwargs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = self.run(func, args, kwargs)
        name = func.overloadpacket.__name__
        to = {leaf.device.type for leaf in tree_leaves(made) if isinstance(leaf, Tensor)}
        if name in _COPIES and len({*given, *to}) > 1:
            up = self._type in to
            self.uploads += up
            in_time = kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,))
            self.waits += not (up and in_time)
        elif name in _READS and self._type in given:
            self.waits += 1
        elif self._type in to and name not in _NO_KERNELS:
            self.kernels[name] += 1
        return made
