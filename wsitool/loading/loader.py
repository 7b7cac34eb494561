"""The loader: threads read ahead into reusable memory, in an order anyone can recompute."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsitool.errors import CorruptStoreError, UsageError
from wsitool.loading.adjacent import Adjacent
from wsitool.loading.buffers import PinnedRing, SharedBuffers, ring_for
from wsitool.loading.device_decode import DeviceDecoder, Streams, UndecodedError
from wsitool.loading.near import Near
from wsitool.loading.order import BatchPlan, Order, Sampling
from wsitool.loading.stain import normalizer_of
from wsitool.loading.stats import BadPatch, LoaderStats
from wsitool.store import jpeg
from wsitool.store.collection import Collection
from wsitool.store.layout import Tally
from wsitool.store.options import Decode
from wsitool.store.regions import region_side

__all__ = ["Batch", "PatchLoader"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch: patches on their device, indices and labels on the CPU, where most of their use is.

    `patches` uint8 (B, 3, P, P) in channels-last memory, `indices` (B,) int64 into the collection,
    `labels` (B,) int64 into its classes, -1 = unlabelled. `pairs`, like `patches`, are those that lie beside
    them, where the loader was asked for pairs. `to` takes all of it along.
    """

    patches: Tensor
    indices: Tensor
    labels: Tensor
    pairs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: str | torch.device) -> Batch:
        """The batch on `device`; trainers move what has this method."""
        return Batch(
            patches=self.patches.to(device),
            indices=self.indices.to(device),
            labels=self.labels.to(device),
            pairs=None if self.pairs is None else self.pairs.to(device),
        )


@dataclass(frozen=True)
class _Read:
    """Patches on their device and their indices; `copied` is recorded on the side stream.

    (B, P, P, 3), or (2 B, P, P, 3) with pairs, those of all patches after the patches.
    """

    patches: Tensor
    indices: NDArray[np.int64]
    copied: torch.cuda.Event | None = None


class PatchLoader:
    """Iterates `Batch`es of a collection, once per epoch, each rank its own part.

    Every epoch covers every patch exactly once over all ranks (unless `drop_last`, or `balance="slides"`), in
    an order that depends on (seed, epoch) only: `sampling` are the fields of `Sampling`. Iterating advances
    the epoch; `set_epoch` chooses it. A patch that cannot be decoded is skipped (with
    several ranks, another of the batch comes twice instead) and noted in `stats.bad`; more than
    `max_bad_share` of the collection is a CorruptStoreError, as is a store that was deleted or replaced.
    With `pairs` each patch comes with one that lies beside it, see `Adjacent`; `near` is in which order they
    come instead of `Sampling`'s; `least` is `BatchPlan`'s.
    Where the collection has a `stain`, patches are brought to it on the device. `decode` is an
    `effective_decode`: with "gpu" the device gets JPEG streams as they are stored, and decodes them.
    Works wherever an iterable with a length does.

    >>> for batch in wsitool.PatchLoader(wsitool.open_collection("stores"), batch_size=6, seed=0):
    ...     print(batch.patches.shape, batch.patches.dtype)
    torch.Size([6, 3, 16, 16]) torch.uint8
    torch.Size([6, 3, 16, 16]) torch.uint8
    """

    def __init__(
        self,
        collection: Collection,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 2,
        device: str | torch.device = "cpu",
        max_bad_share: float = 0.01,
        pairs: Adjacent | None = None,
        near: Near | None = None,
        least: int = 2,
        decode: Decode = "cpu",
        **sampling: Any,
    ) -> None:
        if not 0 <= rank < world_size:
            raise UsageError(f"The rank must be at least 0 and less than {world_size}, got {rank}.")
        if threads < 1:
            raise UsageError(f"The loader needs at least 1 reader thread, got {threads}.")
        self.collection = collection
        self.sampling = Sampling(**sampling)
        self.plan = BatchPlan(
            n=len(collection),
            batch_size=batch_size,
            world_size=world_size,
            drop_last=self.sampling.drop_last,
            least=least,
        )
        self.stats = LoaderStats()
        self._pairs, self._near = pairs, near
        self._rank, self._threads, self._device = rank, threads, torch.device(device)
        self._normalize = normalizer_of(collection, self._device)
        # At least one, so that a small collection does not end with its first bad patch.
        self._bad_allowed = max(1, int(max_bad_share * len(collection)))
        self._epoch, self._step, self._start = 0, 0, 0
        # Every buffer has the room of the largest batch; smaller ones use its first rows.
        most = self.plan.largest_batch * (1 if pairs is None else 2)
        shape = (most, collection.patch_size, collection.patch_size, 3)
        self._buffers = SharedBuffers(shape)
        self._decoder = DeviceDecoder(self._device) if decode == "gpu" else None
        self._ring = ring_for(shape, threads + 1, self._device)
        # Only where neighbours come together: else whole squares would be decoded for a patch of each.
        told = collection.streamed and (near is not None or not self.sampling.shuffle)
        square = region_side(collection.patch_size) ** 2
        # A square for each thread that decodes, beside the batches that are being read.
        self._told_ahead = threads + -(-threads * square // batch_size) if told else 0

    @property
    def batch_size(self) -> int:
        return self.plan.batch_size

    @property
    def epoch(self) -> int:
        """The epoch the next batch belongs to."""
        return self._epoch

    def __len__(self) -> int:
        """Batches per epoch, the same on every rank."""
        return len(self.plan)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; a position restored within this very epoch is kept."""
        # Trainers call this before every epoch, also the one just resumed in the middle.
        if epoch != self._epoch:
            self._epoch, self._step, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: batches already handed out are not read again after `load_state_dict`.

        As JSON holds it. It is past the batch that was handed out last, whether or not that was used.
        """
        return {"epoch": self._epoch, "step": self._step, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; UsageError if data, seed, batch size or ranks are not the same."""
        identity = self._identity()
        # Only what decides the order is compared; threads and device may differ from one run to the next.
        for name, value in identity.items():
            was = state.get(name)
            if was != value:
                raise UsageError(
                    f"The loader cannot go on from a state with {name} {was!r}, as it is now {value!r}: "
                    "resume with the same data and settings, or start anew."
                )
        self._epoch, self._step = int(state["epoch"]), int(state["step"])
        self._start = self._step

    def _identity(self) -> dict[str, Any]:
        return {
            **asdict(self.sampling),
            "batch_size": self.plan.batch_size,
            "world_size": self.plan.world_size,
            "collection": self.collection.fingerprint,
            # Absent where it is not used, as in states of before there was one.
            **({} if self._near is None else {"near": True}),
        }

    def order(self, epoch: int) -> Order:
        """Indices into the collection in the order of `epoch`, all ranks together.

        (N,), a function of (seed, epoch) and the collection; with balance "slides" patches may be missing and
        repeated.
        """
        if self._near is not None:
            return self._near.order(seed=self.sampling.seed, epoch=epoch)
        return self.sampling.order(self.collection.store_index, epoch)

    def __iter__(self) -> Iterator[Batch]:
        # From here on a restored position is used up: the next epoch begins at its first batch.
        start, self._start = self._start, 0
        first = self._epoch * len(self)
        yield from self.batches(first + start, first + len(self))

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Batches `first` to `last` as counted over all epochs: reading ahead goes on into the next one."""
        numbers = range(first, last)
        self._epoch, self._step = divmod(first, len(self))
        with ThreadPoolExecutor(self._threads, thread_name_prefix="wsitool-read") as pool:
            ahead: deque[Future[_Read]] = deque()
            try:
                for number, read in zip(
                    numbers, self._read_ahead(pool, self._jobs(numbers), ahead), strict=True
                ):
                    # Counted before it is handed out: a state saved while the batch is used is past it, and a
                    # trainer that stops asking after the last batch has ended the epoch.
                    self._epoch, self._step = divmod(number + 1, len(self))
                    yield self._batch(read)
            finally:
                # Also where the consumer stops in the middle: leaving the pool waits for all that was not
                # cancelled.
                for future in ahead:
                    future.cancel()

    def _jobs(self, numbers: Iterable[int]) -> Iterator[NDArray[np.int64]]:
        """The indices of each batch of this rank, those of pairs behind them."""
        for number, indices in self._told(self._indices(numbers)):
            if self._pairs is not None:
                # By the batch's number, so that a resumed run has the same pairs.
                seed = (self.sampling.seed, number, self._rank)
                indices = np.concatenate([indices, self._pairs.draw(indices, seed)])
            yield indices

    def _indices(self, numbers: Iterable[int]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Each batch's number and the indices of this rank; stores are looked at anew with every epoch."""
        for epoch, steps in groupby(numbers, key=lambda number: number // len(self)):
            # A store replaced since the last epoch would give other patches at the same indices.
            self.collection.check()
            order = self.order(epoch)
            for number in steps:
                yield number, order[self.plan.positions(number % len(self), self._rank)]

    def _told(
        self, batches: Iterator[tuple[int, NDArray[np.int64]]]
    ) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """The same batches, of which a streamed collection hears before they are read."""
        coming: deque[tuple[int, NDArray[np.int64]]] = deque()
        for number, indices in batches:
            if self._told_ahead:
                self.collection.prefetch(indices)
            coming.append((number, indices))
            if len(coming) > self._told_ahead:
                yield coming.popleft()
        yield from coming

    def _read_ahead(
        self, pool: ThreadPoolExecutor, jobs: Iterator[NDArray[np.int64]], ahead: deque[Future[_Read]]
    ) -> Iterator[_Read]:
        for indices in jobs:
            ahead.append(self._submit(pool, indices))
            # One batch more than threads in flight: no thread idles while the consumer takes the oldest.
            if len(ahead) > self._threads:
                yield self._waited(ahead.popleft())
        while ahead:
            yield self._waited(ahead.popleft())

    def _submit(self, pool: ThreadPoolExecutor, indices: NDArray[np.int64]) -> Future[_Read]:
        if self._ring is not None:
            return pool.submit(self._read_to_cuda, indices, self._ring)
        # The buffer is taken here, in the consumer's thread: `SharedBuffers` is for one thread.
        return pool.submit(self._read_to_host, indices, self._buffers.take())

    def _read_to_host(self, indices: NDArray[np.int64], buffer: NDArray[np.uint8]) -> _Read:
        good = self._fill(indices, buffer)
        # Shares the buffer's memory: as long as the tensor lives, the buffer counts as in use.
        return _Read(torch.from_numpy(buffer[: len(good)]), good)

    def _read_to_cuda(self, indices: NDArray[np.int64], ring: PinnedRing) -> _Read:
        """Read into page-locked memory and copy it on the side stream, ahead of the step."""
        pinned = ring.take()
        try:
            streams = None if self._decoder is None else Streams(len(indices))
            good = self._fill(indices, pinned.numpy(), streams)
            patches, copied = ring.upload(lambda: self._on_device(pinned[: len(good)], streams))
        except UndecodedError:
            # Read again, this time for the CPU, which says which of the streams is damaged.
            good = self._fill(indices, pinned.numpy())
            patches, copied = ring.upload(lambda: self._on_device(pinned[: len(good)], None))
        finally:
            # Only after the copy: an earlier release would let the next batch overwrite it under way.
            ring.release(pinned)
        return _Read(patches, good, copied)

    def _on_device(self, pinned: Tensor, streams: Streams | None) -> Tensor:
        if self._decoder is None or streams is None:
            return pinned.to(self._device, non_blocking=True)
        return self._decoder.batch(pinned, streams.lengths)

    def _fill(
        self, indices: NDArray[np.int64], buffer: NDArray[np.uint8], streams: Streams | None = None
    ) -> NDArray[np.int64]:
        """Read into the first rows of `buffer`; returns the indices of the good ones, moved together."""
        tally, place = Tally(), streams or jpeg.problem_of_decoding
        self.collection.read_into(indices, buffer[: len(indices)], tally=tally, place=place)
        self.stats.add(tally)
        if not tally.bad:
            return indices
        bad = [BadPatch(int(indices[row]), reason) for row, reason in tally.bad]
        self.stats.add_bad(bad)
        blocks = 1 if self._pairs is None else 2
        number = len(indices) // blocks
        # A patch goes with its pair.
        good = np.setdiff1d(np.arange(number), [row % number for row, _ in tally.bad])
        # Batch normalisation needs two patches; of a batch of one, one.
        if len(self.stats.bad) > self._bad_allowed or len(good) < min(2, number):
            raise self._too_bad(bad[0])
        if self.plan.world_size > 1:
            good = np.resize(good, number)  # ranks that gather from each other need equal batches
        good = np.concatenate([good + block * number for block in range(blocks)])
        # Gathered first on the right (fancy indexing copies), so overlapping rows are safe.
        buffer[: len(good)] = buffer[good]
        if streams is not None:
            streams.lengths = streams.lengths[good]
        kept: NDArray[np.int64] = indices[good]
        return kept

    def skipped(self) -> list[str]:
        """The patches skipped so far, in words: row, store and reason of each."""
        # A list of its own, as reader threads may add to the dictionary meanwhile.
        return [self._in_words(patch) for patch in list(self.stats.bad.values())]

    def _in_words(self, patch: BadPatch) -> str:
        store = self.collection.stores[self.collection.store_index[patch.index]]
        return f"patch {self.collection.row[patch.index]} of {store.path} ({patch.reason})"

    def _too_bad(self, patch: BadPatch) -> CorruptStoreError:
        mend = "write that store again"
        if self.collection.streamed:
            mend = "run 'wsitool tile' first, which leaves them out"
        return CorruptStoreError(
            f"{len(self.stats.bad)} of {len(self.collection)} patches cannot be read and {self._bad_allowed} "
            f"may be skipped; one is {self._in_words(patch)}: {mend}."
        )

    def _waited(self, future: Future[_Read]) -> _Read:
        began = time.perf_counter()
        read = future.result()
        self.stats.wait_seconds += time.perf_counter() - began
        return read

    def _batch(self, read: _Read) -> Batch:
        if read.copied is not None:
            # Without these two the step could read before the copy ended, and the allocator could hand the
            # memory to the side stream while the step still uses it.
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(read.copied)
            read.patches.record_stream(stream)
        self.stats.batches += 1
        # (B, 3, P, P) with channels last in memory: a view, not a transposition.
        patches, pairs = read.patches.to(self._device).permute(0, 3, 1, 2), None
        indices = read.indices
        if self._normalize is not None:
            patches = self._normalize(patches, indices)
        if self._pairs is not None:
            patches, pairs = patches.chunk(2)
            indices = indices[: len(patches)]
        self.stats.patches += len(indices)
        labels = torch.from_numpy(self.collection.labels[indices].astype(np.int64))
        return Batch(patches=patches, indices=torch.from_numpy(indices), labels=labels, pairs=pairs)
