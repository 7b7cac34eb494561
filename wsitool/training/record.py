"""What a run writes about itself: the encoder's card and run.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wsitool.backbones.card import EncoderCard, LineageStep, read_card
from wsitool.base.devices import placed
from wsitool.base.json_files import read_json
from wsitool.base.paths import AnyPath, as_list
from wsitool.errors import EncoderError
from wsitool.store.collection import Collection
from wsitool.training.config import PretrainConfig

__all__ = ["Stores", "finished_state", "groups_of", "read_facts", "run_card", "run_facts"]

# Of one slide or of its store: said elsewhere, or of no meaning to patches that are in none.
_OF_STORES = ("group", "label", "classes", "annotations", "codec", "quality", "subsampling")
Stores = AnyPath | Iterable[AnyPath] | Collection


def run_card(
    before: EncoderCard, config: PretrainConfig, collection: Collection, stores: Stores
) -> EncoderCard:
    """The card of the encoder this run makes of one with the card `before`.

    `collection` is what is trained on, `stores` what the user named, for the lineage's words.
    """
    step = LineageStep(
        kind="pretrain",
        name=_name_of(stores),
        method=config.method,
        # The method's parameters in full, defaults too, so that the card can be read without the plugin.
        params=config.params,
        epochs=config.epochs,
        seed=config.seed,
        patches=len(collection),
        fingerprint=collection.fingerprint,
        slides=tuple(
            # a Collection given may be a part of its stores: only what is in it has been seen
            sorted({collection.stores[index].meta.name for index in set(collection.store_index.tolist())})
        ),
        groups=tuple(groups_of(collection)),
        streamed=_cut_of(collection),
    )
    return dataclasses.replace(
        before,
        # The input that the encoder was made for: predictions warn where theirs is another.
        image_size=config.image_size or collection.patch_size,
        patch_size=collection.patch_size,
        mpp=collection.mpp,
        lineage=(*before.lineage, step),
    )


def groups_of(collection: Collection) -> list[str]:
    """The names of the patients that the patches are of, sorted."""
    return sorted({collection.groups[index] for index in set(collection.group_index.tolist())})


def _cut_of(collection: Collection) -> dict[str, Any]:
    """How slides were cut that no store was made of; nothing of stores, which say it themselves."""
    if not collection.streamed:
        return {}
    params = collection.stores[0].meta.params
    return {name: value for name, value in params.items() if name not in _OF_STORES}


def _name_of(stores: Stores) -> str:
    # Of a Collection only its stores' folders are known.
    if isinstance(stores, Collection):
        return "+".join(dict.fromkeys(store.path.resolve().parent.name for store in stores.stores))
    names = [Path(path).resolve() for path in as_list(stores)]
    # Three names, as the chain of lineages is a line to read.
    more = f"+{len(names) - 3} more" if len(names) > 3 else ""
    return "+".join(path.stem if path.is_file() else path.name for path in names[:3]) + more


def run_facts(
    card: EncoderCard, config: PretrainConfig, collection: Collection, *, status: str, **more: Any
) -> dict[str, Any]:
    """The content of run.json: enough to repeat the run and to know what it saw."""
    return {
        "command": "pretrain",
        "status": status,
        "lineage": card.chain,
        # Flat beside the facts, as people look for "lr" and not for "config.lr".
        **config.to_dict(),
        # As they were named: a URL is no path.
        "stores": [store.meta.source if store.streamed else str(store.path) for store in collection.stores],
        **({"streamed": card.lineage[-1].streamed} if collection.streamed else {}),
        "patches": len(collection),
        "groups": list(card.lineage[-1].groups),
        "fingerprint": collection.fingerprint,
        "card": card.to_dict(),
        **more,
    }


def read_facts(out: Path) -> dict[str, Any]:
    """What run.json of a run says; nothing where there is none, or it is damaged."""
    # Read leniently: the file is a record, and a damaged one must not stop a run from being redone.
    try:
        record = read_json(out / "run.json")
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def finished_state(out: Path) -> dict[str, Any] | None:
    """A finished run without its checkpoint, in a checkpoint's form but without weights; else None."""
    record, encoder = read_facts(out), out / "encoder.safetensors"
    try:
        if record.get("status") != "complete" or not encoder.is_file() or read_card(encoder) is None:
            return None
    except EncoderError:
        return None
    # Only what this version knows; a newer one may have written more.
    names = {field.name for field in dataclasses.fields(PretrainConfig)}
    config = {name: value for name, value in placed(record).items() if name in names}
    state = {"batches": None, "config": config, "data": record.get("fingerprint"), "method": None}
    # Of a run that nobody asked to go on with the checkpoint may still be there.
    state["longer"] = (out / "last.ckpt").is_file()
    return state | {"warnings": {}, "skipped": [], "history": [], "snapshots": record.get("snapshots")}
