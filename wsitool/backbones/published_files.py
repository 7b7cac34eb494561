"""Where the weights of a published encoder are: a folder of the user's, or a hub and its cache."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from wsitool.backbones.files import ENCODER_FILE, folder_weights
from wsitool.backbones.hub import from_hub
from wsitool.backbones.options import Norm
from wsitool.backbones.published import PublishedEncoder, encoders_folder
from wsitool.base.json_files import read_json
from wsitool.errors import UsageError

__all__ = ["folder_start", "norm_beside", "published_start"]


def published_start(entry: PublishedEncoder) -> tuple[str, Path | None]:
    """The backbone's name and the weights file of `entry`; no file where the backbone says its own.

    EncoderError that says which files to put where, for weights that are neither here nor to be had.
    """
    folder = encoders_folder() / entry.name
    if not folder.is_dir():
        folder = _from_hub(entry, folder)
    if ":" in entry.backbone:
        return entry.backbone, folder_weights(folder)
    described = folder_start(folder)
    if described is None or not described.startswith(entry.backbone):
        raise UsageError(
            f"'{folder}' holds no config.json of {entry.hub}: put {' and '.join(entry.files)} there."
        )
    return described, None


def _from_hub(entry: PublishedEncoder, folder: Path) -> Path:
    terms = ", whose terms must be accepted there first," if entry.gated else ""
    advice = f"put {' and '.join(entry.files)} of {entry.hub}{terms} into '{folder}'"
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UsageError(f"The weights of {entry.name} are not here: {advice}, or install wsitool[timm].")
    from huggingface_hub import hf_hub_download

    return from_hub(
        f"The weights of {entry.name}",
        advice,
        lambda: [Path(hf_hub_download(entry.hub, name)).parent for name in entry.files][-1],
    )


def folder_start(folder: Path) -> str | None:
    """The backbone that a folder of timm's or transformers' describes ("timm:local-dir:DIR"); else None.

    A run folder of wsitool's own is none.
    """
    if not folder.is_dir() or (folder / ENCODER_FILE).exists() or not (folder / "config.json").is_file():
        return None
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    # A wrapper that transformers makes of timm's networks has both, and timm's is the whole.
    if "architecture" in config:
        return f"timm:local-dir:{folder}"
    return f"hf:{folder}" if "model_type" in config else None


def norm_beside(file: Path) -> tuple[Norm, str] | None:
    """The (mean, std) that a description beside a weights file states, and its name; None without one."""
    for name, mean, std in (
        ("config.json", "mean", "std"),
        ("preprocessor_config.json", "image_mean", "image_std"),
    ):
        try:
            stated = read_json(file.with_name(name))
            stated = stated.get("pretrained_cfg", stated)
            (r, g, b), (sr, sg, sb) = (tuple(map(float, stated[key])) for key in (mean, std))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        return ((r, g, b), (sr, sg, sb)), name
    return None
