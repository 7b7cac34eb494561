"""Features of whole stores, in the files that slide-level tools read, and a map of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from wsitool.backbones.build import build_encoder
from wsitool.backbones.resolution import resolution_warnings
from wsitool.backbones.sizes import check_size
from wsitool.base.cluster import on_cluster
from wsitool.base.file_names import file_names
from wsitool.base.files import check_writable
from wsitool.base.interrupt import progress_on_stop, raise_if_stopping
from wsitool.base.lock import locked
from wsitool.base.paths import AnyPath, shown
from wsitool.base.planned import TABLE_PATIENCE_SECONDS, Noted, noted, refuse_others
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.sentences import one_sentence, system_error
from wsitool.base.shards import part_of
from wsitool.errors import UsageError
from wsitool.evaluation.labels import check_table, read_label_table
from wsitool.loading.device_decode import say_decoding
from wsitool.predict.clam_bags import BAGS_CSV, ClamBags
from wsitool.predict.options import EmbedOptions
from wsitool.predict.result import EmbedResult
from wsitool.predict.store_features import (
    StoreEmbedder,
    common_of,
    embedder,
    remote_store,
    task_of,
    under_norm,
)
from wsitool.report.scatter import save_scatter
from wsitool.stain.slides import with_stain
from wsitool.stain.target import choose_norm
from wsitool.store.collection import Collection, open_readable
from wsitool.store.opening import stores_at
from wsitool.store.stain_table import StainNorm

__all__ = ["embed", "project"]

_MAP, _MAP_POINTS = "map.png", 5000
Features = NDArray[np.float32]


def embed(
    stores: AnyPath | Iterable[AnyPath],
    *,
    encoder: str | Path,
    out: str | Path,
    reporter: Reporter = SILENT,
    **options: Any,
) -> EmbedResult:
    """Write `out`/<slide>.h5 with `features` (N, F) and `coords` (N, 2) per store, and `out`/map.png.

    One store after another, of which one is held in memory. The layout is CLAM's and TRIDENT's, row for row
    that of the store. Beside them stand `tissue` (N,) and, where the store has them, `label` (N,) int16 with
    the collection's `classes`, and `source` (N,).
    `options` are the fields of `EmbedOptions`. Files of an earlier run that were made of the same patches
    with the same encoder are kept. With `shard` the map is drawn by the job that finds all stores there, with
    `dask` each store is a task of that cluster. Raises UsageError if choices do not fit, or other files are
    in the way. A store that cannot be opened or fails does not stop the others.
    """
    settings = EmbedOptions.from_dict(options, what="embed")
    paths = stores_at(stores)
    collection, unopened = open_readable(paths)
    _check(collection, settings)
    # Of the paths: every job has the same list, whatever it can open.
    mine = set(part_of(paths, settings.shard))
    filled = np.unique(collection.store_index).tolist()
    part = [number for number in filled if collection.stores[number].path in mine]
    folder = Path(out)
    names = [store.meta.name for store in collection.stores]
    targets = [folder / f"{name}.h5" for name in file_names(names)]
    bags = _bags(collection, settings, folder, reporter)
    if len(set(names)) < len(names):
        raise UsageError("Two stores are of a slide of the same name: embed them into folders of their own.")
    built = build_encoder(settings, encoder, reporter=reporter)
    norm = choose_norm(settings.stain_norm, settings.stain_target, built.card.stain)
    rows = np.flatnonzero(np.isin(collection.store_index, part))
    normed = with_stain(collection.subset(rows), norm, reporter, needed=settings.shard is None)
    for warning in resolution_warnings(built.card, collection):
        reporter.warn(warning)
    size, classes = collection.patch_size, collection.classes
    run = embedder(built, settings, patch_size=size, classes=classes, folder=str(folder), reporter=reporter)
    run = under_norm(run, normed, bags)
    say_decoding(run.decode, collection, reporter)
    kept = {number for number in part if run.check(collection.stores[number], targets[number])}
    check_size(built, run.image_size, reporter)
    for each in (folder, *([] if run.cache is None else [run.cache])):
        check_writable(each)
    work = _Work(
        run=run,
        collection=collection,
        normed=normed,
        norm=norm,
        targets=targets,
        settings=settings,
        start=encoder,
        folder=folder,
        reporter=reporter,
    )
    named = {shown(path.name) for path in mine}
    return work.embed_part(part, kept, [each for each in unopened if each[0] in named])


@dataclass(frozen=True, kw_only=True)
class _Work:
    """The stores of one call and their files; of `normed` only what this job embeds has patches."""

    run: StoreEmbedder
    collection: Collection
    normed: Collection
    norm: StainNorm | None
    targets: Sequence[Path]
    settings: EmbedOptions
    start: str | Path
    folder: Path
    reporter: Reporter

    def embed_part(
        self, part: Sequence[int], kept: set[int], unopened: Sequence[tuple[str, str]]
    ) -> EmbedResult:
        """Embed the stores of `part` that are not `kept`.

        A job of an array locks one store at a time, and draws the map if it finds all there; any other run
        has the folder for itself.
        """
        whole, what = self.settings.shard is None, f"'{self.folder}'"
        made = {self._name(number): self._files(number)[-1] for number in self._filled}
        with locked(self.folder / _MAP, what=what) if whole else nullcontext():
            if whole:
                refuse_others(made.values(), what)
            with noted(self.folder, "embed", made, whole=whole) as plan:
                done, failed = self._embed_each(part, kept, plan)
                drawn = self._draw(done) if whole else self._draw_last(plan)
        return EmbedResult(
            out=self.folder,
            files=tuple(path for number in done for path in self._files(number)),
            map=self.folder / _MAP if drawn else None,
            method=self.settings.projection,
            unit="stores" if self.run.bags is None else "bags",
            patches=sum(len(self.collection.stores[number]) for number in done),
            feature_dim=self.run.encoder.feature_dim,
            failed=(*unopened, *failed),
        )

    @property
    def _filled(self) -> list[int]:
        """The stores that have patches."""
        return [number for number, store in enumerate(self.collection.stores) if len(store)]

    def _name(self, number: int) -> str:
        return self.targets[number].stem

    def _files(self, number: int) -> tuple[Path, ...]:
        return self.run.files(self.collection.stores[number], self.targets[number])

    def _embed_each(
        self, part: Sequence[int], kept: set[int], plan: Noted
    ) -> tuple[list[int], list[tuple[str, str]]]:
        done, failed = sorted(kept), dict[int, str]()
        again = "do all once more" if self.settings.overwrite else "go on"
        waiting = [number for number in part if number not in kept]
        with (
            progress_on_stop(lambda: f"{len(done)} of {len(part)} stores done; run again to {again}"),
            self.reporter.task("embed", total=len(part), unit="stores") as task,
        ):
            task.advance(len(kept))
            for number, problem in (
                self._embed_here(waiting) if self.settings.dask is None else self._embed_there(waiting)
            ):
                if problem:
                    failed[number] = problem
                    plan.fails(self._name(number), problem)
                else:
                    done.append(number)
                task.advance(note=self._name(number))
        stores = self.collection.stores
        return sorted(done), [(stores[number].meta.name, failed[number]) for number in sorted(failed)]

    def _embed_here(self, numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Each of the stores, and why it failed ("" where it did not)."""
        rows = dict(self.normed.rows_by_store())
        for number in numbers:
            store, problem = self.collection.stores[number], ""
            try:
                self.run.make(self.normed.subset(rows[number]), store, self.targets[number], self.reporter)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is one store's
                raise_if_stopping()
                problem = one_sentence(error)
                if system_error(error) is not None:
                    check_writable(self.folder)  # if it is full, the others would be computed for nothing
            yield number, problem

    def _embed_there(self, numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
        """The same on a cluster, as they end."""
        stores, names = self.collection.stores, [self._name(number) for number in numbers]
        common = common_of(self.run, self.start, self.settings, self.collection.patch_size)
        tasks = [task_of(common, self.run, stores[number], self.targets[number]) for number in numbers]
        for index, answer in on_cluster(remote_store, tasks, names, address=self.settings.dask or ""):
            if isinstance(answer, str):
                yield numbers[index], answer
                continue
            for warning in answer["warnings"]:
                self.reporter.warn(warning)
            if answer["is_system"]:
                check_writable(self.folder)
            yield numbers[index], answer["problem"]

    def _draw_last(self, plan: Noted) -> bool:
        """What is of all stores, where all jobs have ended; else say how many they lack."""
        with locked(self.folder / _MAP, what=f"'{self.folder}'", wait_seconds=TABLE_PATIENCE_SECONDS):
            there, lacking = [], plan.lacking()
            if not lacking:
                normed = with_stain(self.collection, self.norm, needed=False)
                run = under_norm(self.run, normed, self.run.bags)
                stores, failed = self.collection.stores, plan.failed()
                kept = {each: run.kept(stores[each], self.targets[each]) for each in self._filled}
                there = [each for each in kept if kept[each]]
                # A file that was made otherwise is in the way of another job, which tells of it.
                lacking = [
                    name for each in kept if not kept[each] and (name := self._name(each)) not in failed
                ]
            if not lacking:
                return self._draw(there)
        also = "" if self.run.bags is None else f" and {BAGS_CSV}"
        self.reporter.say(
            f"{len(lacking)} of {len(self._filled)} stores are not there yet, of other jobs: the last one "
            f"writes {_MAP}{also}."
        )
        return False

    def _draw(self, done: Sequence[int]) -> bool:
        """What is of all stores that are `done`; False where there is none."""
        if done:
            rest = self.collection.subset(np.flatnonzero(np.isin(self.collection.store_index, done)))
            _draw(self.folder / _MAP, self.run, self.targets, rest, self.settings)
            if self.run.bags is not None:
                self.run.bags.write_table(self.collection, done, self.reporter)
        return bool(done)


def _bags(
    collection: Collection, settings: EmbedOptions, folder: Path, reporter: Reporter
) -> ClamBags | None:
    """Where bags go, with the layout of CLAM."""
    if settings.layout != "clam":
        return None
    table = None
    if settings.labels is not None:
        table = read_label_table(settings.labels, reporter=reporter)
        check_table(table, [collection])
    return ClamBags(folder, collection.stores, table)


def _check(collection: Collection, settings: EmbedOptions) -> None:
    if settings.labels is not None and settings.layout != "clam":
        raise UsageError("--labels is for the table of --layout clam: leave it out, or pass --layout clam.")
    if settings.color == "label" and not (collection.labels >= 0).any():
        raise UsageError("The stores hold no labels: colour the map by slide.")
    if settings.projection == "umap":
        _umap(seed=0)  # say now, not after an hour of computing, that it is missing


def _draw(
    path: Path, run: StoreEmbedder, files: Sequence[Path], collection: Collection, settings: EmbedOptions
) -> None:
    """The map of some patches of `collection`; `files` has the features of each of its stores."""
    projection, color, seed = settings.projection, settings.color, settings.seed
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(collection))[:_MAP_POINTS])
    points = project(_features_at(run, files, collection.subset(rows)), projection, seed=seed)
    if color == "label":
        names: tuple[str, ...] = (*collection.classes, "unlabelled")
        groups = collection.labels[rows].astype(np.int64)
        groups[groups < 0] = len(names) - 1
    else:
        names = tuple(store.meta.name for store in collection.stores)
        groups = collection.store_index[rows].astype(np.int64)
    save_scatter(path, points, groups, names, title=f"{len(rows)} patches by {color}, {projection.upper()}")


def _features_at(run: StoreEmbedder, files: Sequence[Path], patches: Collection) -> Features:
    """Features (N, F) of patches, read back from the files of their stores."""
    parts = []
    for number, places in patches.rows_by_store():
        # Rising, as h5py wants them: a map's patches are in the order of stores and rows.
        rows = patches.row[places].astype(np.int64)
        if run.bags is not None:
            parts.append(run.bags.read(patches.stores[number], rows))
            continue
        with h5py.File(files[number], "r") as file:
            parts.append(np.asarray(file["features"][rows], np.float32))
    return np.concatenate(parts)


def project(features: Features, method: str = "pca", *, seed: int = 0) -> NDArray[np.float64]:
    """Features (N, F) as points (N, 2): principal components (signs fixed), or UMAP by cosine distance.

    Deterministic: a component's largest coefficient is positive, UMAP has `seed`. UsageError where umap-learn
    is not installed.
    """
    if method == "umap":
        with warnings.catch_warnings():  # umap says that a fixed seed costs it its threads: so it is meant
            warnings.simplefilter("ignore")
            return np.asarray(_umap(seed=seed).fit_transform(features), np.float64)
    centerd = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centerd.T @ centerd)
    best = axes[:, :-3:-1]  # (F, 2), largest first
    best = best * np.sign(best[np.abs(best).argmax(axis=0), np.arange(best.shape[1])])
    points: NDArray[np.float64] = centerd @ best
    return points


def _umap(*, seed: int) -> Any:
    try:
        from umap import UMAP
    except ImportError:
        raise UsageError("The projection umap needs umap-learn: install wsitool[umap], or use pca.") from None
    return UMAP(n_components=2, metric="cosine", random_state=seed)
