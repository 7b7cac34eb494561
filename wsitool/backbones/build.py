"""A backbone by name, with weights from ImageNet, from a seed, from a hub, or from a file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wsitool.backbones.card import EncoderCard, LineageStep, read_card
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.files import encoder_file, file_digest, load_strictly, read_state, versions
from wsitool.backbones.network import Network
from wsitool.backbones.options import BackboneOptions, Norm, parse_norm
from wsitool.backbones.published import ENCODERS, PublishedEncoder
from wsitool.backbones.published_files import folder_start, norm_beside, published_start
from wsitool.backbones.readout import check_pool, pooled_width
from wsitool.backbones.source import has_source, make_network
from wsitool.backbones.weights import network_state
from wsitool.base.progress import SILENT, Reporter
from wsitool.errors import EncoderError, UsageError

__all__ = ["build_backbone", "build_encoder", "empty_encoder", "says_its_network", "start_digest"]

_DEFAULT = "resnet50"
_STANDARD = "imagenet"


def build_backbone(
    name: str | None = None,
    *,
    init: str | Path = _STANDARD,
    seed: int = 0,
    args: Mapping[str, Any] | None = None,
    pool: str | None = None,
    norm: str | None = None,
    weights_key: str | None = None,
) -> Encoder:
    """Build the encoder `name` ("resnet50", "timm:efficientnet_lite0", ...) with the weights of `init`.

    `init` is "imagenet" (of a hub's network or a folder: its own weights), "random" (drawn from `seed`), a
    published encoder ("uni2-h"), a backbone of a hub or a folder, a run folder, a folder that timm or
    transformers has written, or a .safetensors/.pth file; loading is strict. `name` None takes the backbone
    an encoder file says it is, else resnet50. `args`, `pool`, `norm` and `weights_key` are those of
    `BackboneOptions`. The encoder's card tells the lineage, its `notes` how the weights were read. Raises
    UsageError for an unknown name, EncoderError for weights that are absent or unfit.

    >>> import torch
    >>> encoder = wsitool.build_backbone("resnet18", init="random", seed=0).eval()
    >>> with torch.inference_mode():
    ...     encoder(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 512])
    """
    # Before the network is built: a file that is not there should not cost its construction.
    start = _start(name, init)
    card = start.card
    asked = parse_norm(norm)
    _check_against_card(start, {"--backbone-args": args, "--pool": pool, "--norm": asked})
    published = start.published
    # The global generator is put back: building a backbone must not shift what a trainer draws next. CPU
    # only, as networks are built there.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        given = card.args if card else {**(published.args if published else {}), **(args or {})}
        network = make_network(start.name, given)
    pool = card.pool if card else pool or (published.pool if published else None)
    check_pool(network.name, network.trunk, pool)
    mean, std = _normalisation(network, start, asked)
    loaded = _load(network, start, seed, weights_key)
    new = EncoderCard(
        backbone=network.name,
        feature_dim=pooled_width(network.feature_dim, pool),
        mean=mean,
        std=std,
        args={**network.args, **loaded.args},
        pool=pool,
        lineage=loaded.lineage,
        versions=versions(),
        **_made_for(network, start),
    )
    return Encoder(network.trunk, new, (*loaded.notes, *_norm_note(network, start, norm)))


def build_encoder(
    options: BackboneOptions, init: str | Path, seed: int = 0, reporter: Reporter = SILENT
) -> Encoder:
    """The encoder that a command's options and its `init` ask for, its notes said; as `build_backbone`."""
    encoder = build_backbone(options.backbone, init=init, seed=seed, **options.how_built())
    for note in encoder.notes:
        reporter.say(note)
    return encoder


def empty_encoder(card: EncoderCard) -> Encoder:
    """The encoder that `card` describes, with weights that are about to be replaced."""
    with torch.random.fork_rng(devices=[]):
        return Encoder(make_network(card.backbone, card.args).trunk, card)


def says_its_network(init: str | Path) -> bool:
    """Whether `init` needs no backbone to be named: all but standard starts and bare files of weights."""
    start = _start(None, init)
    return start.init != "random" and (start.card is not None or start.name != _DEFAULT)


def start_digest(init: str, backbone: str | None = None) -> str:
    """Text that is another for other start weights: a hash of their file or folder, else their name."""
    if init == "random":
        return init
    start = _start(backbone if init == _STANDARD else None, init)
    if start.file is not None:
        return file_digest(start.file)
    folder = Path(start.name.removeprefix("timm:local-dir:").removeprefix("hf:"))
    if ":" not in start.name or not folder.is_dir():
        return init
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return hashlib.sha256("".join(file_digest(path) for path in files).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What a name and an init come to: a backbone, and a file, a card or an entry of the table, if any."""

    name: str
    init: str
    file: Path | None = None
    card: EncoderCard | None = None
    published: PublishedEncoder | None = None


def _start(name: str | None, init: str | Path) -> _Start:
    text = str(init)
    if text in (_STANDARD, "random"):
        return _Start(name=name or _DEFAULT, init=text)
    if not Path(text).exists() and text in ENCODERS.names():
        return _of_published(name, text)
    # A folder that timm or transformers has written, or a source's own name: the network says its weights.
    if described := text if has_source(text) and not Path(text).exists() else folder_start(Path(text)):
        if name not in (None, described):
            raise UsageError(f"'{init}' is a backbone with weights of its own: leave out --backbone {name}.")
        return _Start(name=described, init=_STANDARD)
    file = encoder_file(init)
    card = read_card(file) if file.suffix == ".safetensors" else None
    if card is not None and name is not None and card.backbone != name:
        raise EncoderError(
            f"'{init}' is an encoder of {card.backbone}, and {name} was asked for: leave out --backbone."
        )
    if card is not None:
        return _Start(name=card.backbone, init=text, file=file, card=card)
    # One file of a folder that says what it is of.
    return _Start(name=name or folder_start(file.parent) or _DEFAULT, init=text, file=file)


def _of_published(name: str | None, text: str) -> _Start:
    if name is not None:
        raise UsageError(f"{text} says which network it is: leave out --backbone {name}.")
    entry = ENCODERS.get(text)
    backbone, file = published_start(entry)
    return _Start(name=backbone, init=text if file else _STANDARD, file=file, published=entry)


def _check_against_card(start: _Start, options: Mapping[str, Any]) -> None:
    """UsageError for an option that says something else than the encoder's own card, or its authors'."""
    if start.published is not None and options["--norm"] not in (None, start.published.norm):
        raise UsageError(f"{start.published.name} has a normalisation of its own: leave out --norm.")
    if start.card is None:
        return
    card = start.card
    stated = {"--backbone-args": card.args, "--pool": card.pool, "--norm": (card.mean, card.std)}
    for option, value in options.items():
        if value and value != stated[option]:
            raise UsageError(f"'{start.init}' says by itself how it was made: leave out {option}.")


def _normalisation(network: Network, start: _Start, asked: Norm | None) -> Norm:
    # The file's own values rule: another normalisation would give other features with the same weights.
    if start.card is not None:
        return start.card.mean, start.card.std
    if asked is not None:
        return asked
    if start.published is not None:
        return start.published.norm
    if start.file is not None and (beside := norm_beside(start.file)):
        return beside[0]
    if not network.mean:
        raise UsageError(
            f"{network.name} states no normalisation, nor does a description beside it: pass --norm "
            "imagenet, half or MEAN;STD, as its weights were trained with."
        )
    (r, g, b), (sr, sg, sb) = network.mean, network.std
    return (r, g, b), (sr, sg, sb)


def _norm_note(network: Network, start: _Start, asked: str | None) -> tuple[str, ...]:
    """What normalisation a file gets that does not state one, and why: a wrong one shows in nothing else."""
    if start.file is None or start.card is not None or start.published is not None:
        return ()
    name = start.file.name
    if asked is not None:
        return (f"{name} is normalised as --norm {asked} says.",)
    if beside := norm_beside(start.file):
        return (f"{name} is normalised as the {beside[1]} beside it says.",)
    mean, std = (",".join(f"{value:g}" for value in three) for three in (network.mean, network.std))
    return (
        f"{name} states no normalisation, so that of {network.norm_from} is taken ({mean};{std}): give "
        "--norm where its weights were trained with another.",
    )


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """What loading came to: the weights' lineage, how they were read, and further args of the network."""

    lineage: tuple[LineageStep, ...]
    notes: tuple[str, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)


def _load(network: Network, start: _Start, seed: int, weights_key: str | None) -> _Loaded:
    if start.init == "random":
        return _Loaded(lineage=(LineageStep(kind="random", name="random", seed=seed),))
    if start.file is None:
        step, content = network.fetch()
        what = f"The weights of {step.params.get('weights', step.name)}"
    else:
        step, content, what = _file_step(start.file), read_state(start.file), f"'{start.init}'"
    state, notes = network_state(content, network.trunk.state_dict(), what=what, key=weights_key)
    if start.published is not None:
        step = start.published.step(step)
    adapted = network.adapt(state)
    fits = "do not fit" if start.file is None else "does not fit"
    load_strictly(network.trunk, adapted.state, what=f"{what} {fits} {network.name}", ignored=network.ignored)
    # A file of ours carries its history; another's is one step, named by the file.
    lineage = start.card.lineage if start.card else (step,)
    return _Loaded(lineage=lineage, notes=(*notes, *adapted.notes), args=adapted.args)


def _file_step(file: Path) -> LineageStep:
    # The file's own name tells most: efficientnet_lite0_imagenet.safetensors.
    name = "imagenet" if re.search(r"imagenet|in1k|in21k", file.stem, re.IGNORECASE) else file.stem
    return LineageStep(kind="file", name=name, params={"file": file.name}, fingerprint=file_digest(file))


def _made_for(network: Network, start: _Start) -> dict[str, Any]:
    """The input that the weights were made for, as far as it is known."""
    if start.card is not None:
        card = start.card
        return {
            name: getattr(card, name) for name in ("image_size", "patch_size", "mpp", "more_mpp", "stain")
        }
    if start.published is not None:
        entry = start.published
        return {"image_size": entry.image_px, "mpp": next(iter(entry.mpp), None), "more_mpp": entry.mpp[1:]}
    return {"image_size": network.image_size}
