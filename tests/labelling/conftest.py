"""Three slides of two classes in stores, features that tell the classes apart, and sessions over them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patch_stores import patch_meta

from wsitool.labelling.database import Database
from wsitool.labelling.patches import Patches, numbered, open_patches
from wsitool.labelling.session import Learning, Plan, Session
from wsitool.store.opening import create_store
from wsitool.store.schema import Candidates, Codec, Rows

CLASSES = ("tumour", "stroma")
SIZE, ACROSS = 16, 8


def slide_store(
    path: Path, patches: int = 24, *, group: str = "", seed: int = 0, codec: Codec = "raw"
) -> Path:
    """A store of one slide: its patches lie in rows of eight, every other one is of the second class."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(120, 200, (patches, SIZE, SIZE, 3), dtype=np.uint8)
    pixels[1::2, ..., 0] //= 4
    coords = (
        np.stack([np.arange(patches) % ACROSS, np.arange(patches) // ACROSS], axis=1).astype(np.int64) * SIZE
    )
    tissue = np.ones(patches, np.float32)
    meta = replace(
        patch_meta(path.stem, SIZE, patches),
        group=group or path.stem,
        level0_height=SIZE * patches,
        codec=codec,
        quality=90 if codec == "jpeg" else None,
    )
    with create_store(path, meta) as writer:
        writer.append(Rows(patches=pixels, coords=coords, tissue=tissue))
        candidates = Candidates(coords=coords, tissue=tissue, reason=np.zeros(patches, np.uint8))
        writer.finish(candidates, counts={"kept": patches})
    return path


@dataclass(frozen=True)
class Bench:
    """Stores of six patients, and how a session over them is made."""

    folder: Path
    patches: Patches

    @property
    def truth(self) -> np.ndarray:
        return self.patches.collection.row % 2

    def features(self, gap: float = 3.0) -> np.ndarray:
        rng = np.random.default_rng(1)
        features = rng.normal(size=(len(self.patches), 12)) + gap * np.eye(2, 12)[self.truth]
        return features.astype(np.float32)

    def session(
        self, path: Path, *, learns: bool = False, plan: dict[str, Any] | None = None, **how: Any
    ) -> Session:
        database = Database(path)
        patches, records = numbered(self.patches, database.stores)
        if records:
            database.begin({}, records)
        plan = {"classes": CLASSES, "seed": 0, "shared": 0.0, "test": (), **(plan or {})}
        learning = Learning(features=self.features(), name="x") if learns else None
        return Session(patches, database, Plan(**plan), learning=learning, **how)


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("label") / "stores"
    folder.mkdir()
    for number in range(6):
        slide_store(folder / f"s{number}.h5", seed=number, group=f"p{number}")
    return folder


@pytest.fixture(scope="session")
def bench(stores: Path) -> Iterator[Bench]:
    patches = open_patches(stores)
    yield Bench(folder=stores, patches=patches)
    patches.collection.close()


def give(session: Session, client: str = "c", annotator: str = "ann", **what: Any) -> int | None:
    """Answer what is asked next, truly unless `what` says otherwise; the patch, None where there is none."""
    asked = session.next(client, annotator)
    if asked is None:
        return None
    truth = int(session.patches.collection.row[asked.patch] % 2)
    answer = {"id": f"{annotator}-{asked.patch}", "kind": "label", "label": truth, **what}
    if answer["kind"] != "label":
        answer["label"] = None
    session.answer(client=client, annotator=annotator, patch=asked.patch, chosen=asked.chosen, **answer)
    return asked.patch
