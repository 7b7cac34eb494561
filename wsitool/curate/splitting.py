"""Labelled stores parted into training and test patients. No pixels are copied: both sides are links."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wsitool.base.files import replace_file
from wsitool.base.json_files import read_json
from wsitool.base.partial import partial_path, replace_path
from wsitool.base.paths import AnyPath
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.tables import table_bytes
from wsitool.errors import LabelError, StoreError, UsageError
from wsitool.store.collection import Collection, open_readable
from wsitool.store.schema import UNLABELLED
from wsitool.store.splits import holdout

__all__ = ["SIDES", "SPLIT_JSON", "SplitResult", "SplitSide", "side_of", "sides_at", "split_stores"]

SPLIT_JSON = "split.json"
_TABLE = "split.csv"
_LEAST_GROUPS = 5  # fewer test patients bear no interval
Side = Literal["train", "test"]
SIDES: tuple[Side, ...] = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class SplitSide:
    """What lies on one side: counts of stores, groups (patients) and patches, and of patches by label."""

    stores: int
    groups: int
    patches: int
    labels: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """Where the two folders are and what is in them; `status` is "skipped" where they were there already.

    `failed` are stores that cannot be opened and lie on neither side, each with the reason.
    """

    out_dir: str
    status: Literal["done", "skipped"]
    train: SplitSide
    test: SplitSide
    failed: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON can hold it."""
        return asdict(self)


def split_stores(
    stores: AnyPath | list[AnyPath],
    out_dir: str | Path,
    *,
    test: float = 0.3,
    seed: int = 0,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> SplitResult:
    """Part stores into `out_dir`/train and `out_dir`/test, links to them, whole groups (patients) together.

    About `test` of the patches of each class are on the test side; groups without a label are trained on.
    split.csv names the side of each store. A finished split of the same stores by the same options is left
    alone; StoreError where another one is in the way and `overwrite` is false. LabelError where no choice of
    whole groups leaves every class on both sides.
    """
    out = Path(out_dir)
    collection, failed = open_readable(stores)
    try:
        side_of = _sides(collection, test, seed)
        made_of = {
            "command": "split",
            "test": test,
            "seed": seed,
            "stores": {store.meta.name: store.content_hash for store in collection.stores},
        }
        sides = {side: _side(collection, side_of, side) for side in SIDES}
        if sides["test"].groups < _LEAST_GROUPS:
            reporter.warn(
                f"The test side has {sides['test'].groups} group(s), where figures need {_LEAST_GROUPS} to "
                "bear an interval: take a larger --test."
            )
        result = SplitResult(out_dir=str(out), status="done", **sides, failed=tuple(failed))
        if out.exists() and not overwrite:
            if _known(out) == made_of:
                return replace(result, status="skipped")
            raise StoreError(
                f"'{out}' exists and is not this split: pass --overwrite to replace it, or choose another "
                "--out."
            )
        if out.exists() and _known(out) is None:
            raise StoreError(f"'{out}' is no split and is not overwritten: choose another --out.")
        _write(collection, side_of, out, made_of)
    finally:
        for store in collection.stores:
            store.close()
    return result


def sides_at(path: AnyPath) -> list[Path]:
    """The folders of both sides where `path` is a split, else `path` itself."""
    folder = Path(os.fsdecode(path))
    return [folder / side for side in SIDES] if (folder / SPLIT_JSON).is_file() else [folder]


def side_of(store: Path) -> str:
    """The side of a split that a store lies on; "" where it lies on none."""
    side = store.parent.name
    return side if side in SIDES and (store.parent.parent / SPLIT_JSON).is_file() else ""


def _sides(collection: Collection, test: float, seed: int) -> dict[str, Side]:
    """The side of each group."""
    labelled = np.flatnonzero(collection.labels != UNLABELLED)
    if not len(labelled):
        raise LabelError(
            "None of these stores is labelled, so there is nothing to part alike: label them first."
        )
    groups = collection.group_index[labelled]
    split = holdout(collection.labels[labelled], groups, share=test, seed=seed)
    if split.by == "patch":
        raise LabelError(
            f"No choice of whole groups among {len(np.unique(groups))} leaves every class on both sides: "
            "take another --test, or add patients of the rarest class."
        )
    tested = {collection.groups[index] for index in np.unique(groups[split.held_out])}
    return {group: "test" if group in tested else "train" for group in collection.groups}


def _side(collection: Collection, side_of: dict[str, Side], side: Side) -> SplitSide:
    there = np.array([side_of[store.meta.group] == side for store in collection.stores])
    labels = collection.labels[there[collection.store_index]]
    counts = Counter(labels.tolist())
    names = (*collection.classes, "unlabelled")
    return SplitSide(
        stores=int(there.sum()),
        groups=sum(one == side for one in side_of.values()),
        patches=len(labels),
        labels={names[index]: number for index, number in sorted(counts.items())},
    )


def _known(out: Path) -> dict[str, Any] | None:
    """What an earlier split was made of; None where `out` is no finished split."""
    try:
        record = read_json(out / SPLIT_JSON)
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _write(collection: Collection, side_of: dict[str, Side], out: Path, made_of: dict[str, Any]) -> None:
    rows = [("store", "path", "group", "side", "patches")]
    with partial_path(out) as folder:
        for side in SIDES:
            (folder / side).mkdir(parents=True)
        for store in collection.stores:
            side = side_of[store.meta.group]
            link = folder / side / store.path.name
            if link.is_symlink():
                raise UsageError(
                    f"Two of the stores are called '{link.name}': rename one, or split them apart."
                )
            # Relative: the data may be moved as a whole. One more level up than from where it is now.
            link.symlink_to(os.path.relpath(store.path.resolve(), (out / side).resolve()))
            rows.append((store.path.name, str(store.path), store.meta.group, side, str(len(store))))
        replace_file(folder / _TABLE, table_bytes(rows))
        replace_file(folder / SPLIT_JSON, json.dumps(made_of, indent=2).encode())
        replace_path(folder, out)
