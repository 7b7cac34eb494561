"""An encoder as a folder that a hub takes: weights, the library's own description, and a card for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from wsitool.backbones.build import build_backbone
from wsitool.backbones.card import EncoderCard, LineageStep
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.source import HF_PREFIX, TIMM_PREFIX, make_network
from wsitool.base.files import replace_file, write_json
from wsitool.errors import EncoderError, UsageError
from wsitool.stain.target import stain_words

__all__ = ["write_folder"]

_WEIGHTS = "model.safetensors"


def write_folder(encoder: Encoder, out: Path, images: Tensor) -> Tensor:
    """Write model.safetensors, config.json and README.md into the new folder `out`.

    timm's `local-dir:` or, for a network of transformers, AutoModel load them. Returns the features (B, D)
    that a network read back from the folder gives of `images` (B, 3, S, S) in [0, 1]. EncoderError for a
    network that neither library has.
    """
    out.mkdir()
    card = encoder.card
    size = int(images.shape[-1])
    if card.backbone.startswith(HF_PREFIX):
        _write_transformers(encoder, out, size)
    else:
        _write_timm(encoder, out, size)
    replace_file(out / "README.md", _readme(card, size).encode())
    again = build_backbone(init=out, pool=card.pool).eval()
    if again.card.mean != card.mean or again.card.std != card.std:
        raise EncoderError(f"The normalisation in '{out}' was not read back as it was written.")
    with torch.no_grad():
        features: Tensor = again(images)
    return features


def _write_timm(encoder: Encoder, out: Path, size: int) -> None:
    card = encoder.card
    plain = card.backbone.removeprefix(TIMM_PREFIX)
    try:
        # timm's ResNet has torchvision's keys, hence this for networks that came from torchvision.
        network = make_network(TIMM_PREFIX + plain, card.args)
        network.trunk.load_state_dict(encoder.trunk.state_dict(), strict=True)
    except (RuntimeError, UsageError) as error:
        raise EncoderError(
            f"timm has no '{plain}' with the tensors of {encoder.name} ({str(error).splitlines()[0]}): "
            "use --to torchvision or --to onnx."
        ) from None
    trunk: Any = network.trunk
    stated = {
        # The resizing in front of the network is no part of it: images come at its size.
        "input_size": [3, size, size],
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": card.mean,
        "std": card.std,
        "num_classes": 0,
        "first_conv": trunk.pretrained_cfg.get("first_conv"),
        "classifier": trunk.pretrained_cfg.get("classifier"),
        "license": "other",
    }
    described = {
        "architecture": plain.partition(".")[0],
        "num_classes": 0,
        "num_features": network.feature_dim,
        "model_args": dict(network.args),
        "pretrained_cfg": stated,
    }
    if isinstance(pool := getattr(trunk, "global_pool", None), str):
        described["global_pool"] = pool
    state = {key: value.contiguous() for key, value in trunk.state_dict().items()}
    replace_file(out / _WEIGHTS, safetensors.torch.save(state, {"format": "pt"}))
    write_json(out / "config.json", described)


def _write_transformers(encoder: Encoder, out: Path, size: int) -> None:
    trunk: Any = encoder.trunk
    from transformers.utils import logging

    logging.disable_progress_bar()
    trunk.save_pretrained(out)
    described = {
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": encoder.card.mean,
        "image_std": encoder.card.std,
        "do_resize": True,
        "size": {"height": size, "width": size},
    }
    write_json(out / "preprocessor_config.json", described)


def _readme(card: EncoderCard, size: int) -> str:
    """The model card; what only its author can say is left to be filled in."""
    library = "transformers" if card.backbone.startswith(HF_PREFIX) else "timm"
    lines = [
        "---",
        f"library_name: {library}",
        "pipeline_tag: image-feature-extraction",
        "license: other  # to be chosen by its author, within the terms of the data and of the weights below",
        "tags: [pathology, histology, self-supervised]",
        "---",
        "",
        f"# {card.chain}",
        "",
        f"An encoder of histology patches: {card.backbone.partition(':')[2] or card.backbone}, "
        f"{card.feature_dim} features.",
        "",
        f"- **Input**: {size} x {size} px, RGB in [0, 1], mean {_three(card.mean)}, std {_three(card.std)}",
        f"- **Resolution**: {_resolution(card)}",
        *([] if card.stain is None else [f"- **Stain**: {stain_words(card.stain)}, {card.stain.target}"]),
        f"- **Features**: {card.pool or 'as the network gives them'}",
        f"- **Made with**: {', '.join(f'{name} {version}' for name, version in card.versions.items())}",
        "",
        "## How it was made",
        "",
        *(f"{number}. {_stage(step)}" for number, step in enumerate(card.lineage, 1)),
        "",
        "## Use",
        "",
        "```python",
        *_use(card, library),
        "```",
        "",
        "Not a medical device; not validated for diagnosis.",
        "",
    ]
    return "\n".join(lines)


def _three(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _resolution(card: EncoderCard) -> str:
    if card.mpp is None:
        return "not known"
    return f"{' or '.join(f'{mpp:g}' for mpp in (card.mpp, *card.more_mpp))} um/px"


def _stage(step: LineageStep) -> str:
    if step.kind != "pretrain":
        details = ", ".join(f"{name} {value}" for name, value in step.params.items())
        return f"{step.kind}: {step.name}" + (f" ({details})" if details else "")
    params = json.dumps(step.params, sort_keys=True)
    return (
        f"{step.method} on {step.patches} patches of {len(step.slides)} slides and {len(step.groups)} "
        f"patients ({step.name}), {step.epochs or 'not yet all'} epochs, seed {step.seed}; {params}"
    )


def _use(card: EncoderCard, library: str) -> list[str]:
    if library == "transformers":
        return ["from transformers import AutoModel", "", 'network = AutoModel.from_pretrained("DIR")']
    layers = {key: value for key, value in card.args.items() if key.endswith("_layer")}
    # Which a description in JSON cannot hold as timm wants them.
    more = "".join(
        f", {key}={'torch.nn' if hasattr(torch.nn, str(value)) else 'timm.layers'}.{value}"
        for key, value in layers.items()
    )
    start = ["import timm", *(["import torch"] if "torch.nn" in more else []), ""]
    return [*start, f'network = timm.create_model("local-dir:DIR", pretrained=True{more})']
