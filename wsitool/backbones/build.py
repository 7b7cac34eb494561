"""A backbone by name, with weights from ImageNet, from a seed, or from a file."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from wsitool.backbones.card import EncoderCard, LineageStep, read_card
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.files import encoder_file, file_digest, load_strictly, read_state, versions
from wsitool.backbones.source import Network, make_network
from wsitool.errors import EncoderError

__all__ = ["build_backbone"]

_DEFAULT = "resnet50"


def build_backbone(name: str | None = None, *, init: str | Path = "imagenet", seed: int = 0) -> Encoder:
    """Build the encoder `name` ("resnet50", "timm:efficientnet_lite0", ...) with the weights of `init`.

    `init` is "imagenet", "random" (drawn from `seed`), a run folder, or a .safetensors/.pth file; loading is
    strict. `name` None takes the backbone an encoder file says it is, else resnet50. The encoder's card tells
    the lineage. Raises UsageError for an unknown name, EncoderError for weights that are absent or unfit.
    """
    # Before the network is built: a file that is not there should not cost its construction.
    file = None if str(init) in ("imagenet", "random") else encoder_file(init)
    card = read_card(file) if file is not None and file.suffix == ".safetensors" else None
    name = name or (card.backbone if card else _DEFAULT)
    if card is not None and card.backbone != name:
        raise EncoderError(
            f"'{init}' is an encoder of {card.backbone}, and {name} was asked for: leave out --backbone."
        )
    # The global generator is put back: building a backbone must not shift what a trainer draws next. CPU
    # only, as networks are built there.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make_network(name)
    if file is None:
        lineage = _fresh(network, str(init), seed)
    else:
        load_strictly(
            network.trunk, read_state(file), what=f"'{init}' does not fit {name}", ignored=network.ignored
        )
        # A file of ours carries its history; another's is one step, named by the file.
        lineage = card.lineage if card else (_file_step(file),)
    return Encoder(network.trunk, _card(network, card, lineage))


def _fresh(network: Network, init: str, seed: int) -> tuple[LineageStep, ...]:
    if init == "random":
        return (LineageStep(kind="random", name="random", seed=seed),)
    source, state = network.imagenet()
    load_strictly(network.trunk, state, what=f"The weights of {source} do not fit", ignored=network.ignored)
    return (LineageStep(kind="imagenet", name="imagenet", params={"weights": source}),)


def _file_step(file: Path) -> LineageStep:
    # The file's own name tells most: efficientnet_lite0_imagenet.safetensors.
    name = "imagenet" if re.search(r"imagenet|in1k|in21k", file.stem, re.IGNORECASE) else file.stem
    return LineageStep(kind="file", name=name, params={"file": file.name}, fingerprint=file_digest(file))


def _card(network: Network, card: EncoderCard | None, lineage: tuple[LineageStep, ...]) -> EncoderCard:
    return EncoderCard(
        backbone=network.name,
        feature_dim=network.feature_dim,
        # The file's own values rule: another normalisation would give other features with the same weights.
        mean=card.mean if card else network.mean,
        std=card.std if card else network.std,
        image_size=card.image_size if card else None,
        patch_size=card.patch_size if card else None,
        mpp=card.mpp if card else None,
        lineage=lineage,
        versions=versions(),
    )
