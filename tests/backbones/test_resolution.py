"""What is said of the resolution of patches, by every command that shows them to a network."""

from __future__ import annotations

from pathlib import Path

import pytest
from classify_stores import labelled_store
from listener import Listener

from wsitool.backbones.build import build_backbone
from wsitool.backbones.card import EncoderCard
from wsitool.backbones.resolution import mixed_resolutions, resolution_warnings
from wsitool.classify.run import classify
from wsitool.classify.settings import Settings
from wsitool.store.collection import open_collection
from wsitool.training.run import pretrain

_MIXED = (
    "The patches are of several resolutions, from 0.5 to 1 um/px, by which a network can tell slides apart"
)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    for number in range(4):
        labelled_store(folder / f"p{number}.h5", per_class=4, seed=number, mpp=1.0 if number == 3 else 0.5)
    return folder


def _card(mpp: float | None) -> EncoderCard:
    return EncoderCard(backbone="x", feature_dim=1, mean=(0.0,) * 3, std=(1.0,) * 3, mpp=mpp)


def test_each_resolution_is_told_once_and_a_mixture_hides_none(mixed: Path) -> None:
    patches = open_collection(mixed)
    assert patches.mpp is None  # of which nothing could be said
    assert resolution_warnings(_card(0.5), patches) == [
        "The encoder was pretrained at 0.5 um/px and the patches are 1 um/px."
    ]
    assert len(resolution_warnings(_card(4.0), patches, patches)) == 2
    assert resolution_warnings(_card(None), patches) == []
    (said,) = mixed_resolutions(patches)
    assert said.startswith(_MIXED)
    alike = [open_collection(mixed / f"p{number}.h5") for number in range(3)]
    assert mixed_resolutions(*alike) == [] and mixed_resolutions(alike[0], patches)


def test_pretrain_and_classify_say_it(mixed: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "run"
    common = {"backbone": "squeezenet1_1", "init": "random", "epochs": 1, "batch_size": 12}
    first, then, last = Listener(), Listener(), Listener()
    pretrain(mixed, method="rotation", out=encoder, reporter=first, **common)
    assert [line for line in first.warned if line.startswith(_MIXED)]
    card = build_backbone(init=encoder).card
    assert card.mpp is None  # no one resolution
    pretrain(mixed / "p0.h5", method="rotation", out=tmp_path / "one", **common)
    again = {name: value for name, value in common.items() if name not in ("backbone", "init")}
    pretrain(
        mixed / "p3.h5",
        method="rotation",
        out=tmp_path / "two",
        init=tmp_path / "one",
        reporter=then,
        **again,
    )
    assert then.warned[0] == "The encoder was pretrained at 0.5 um/px and the patches are 1 um/px."
    settings = Settings(head="knn", device="cpu")
    classify(mixed, out=tmp_path / "c", settings=settings, encoder=str(tmp_path / "one"), reporter=last)
    told = [line for line in last.warned if "um/px" in line]
    assert told[0] == then.warned[0] and told[1].startswith(_MIXED)
