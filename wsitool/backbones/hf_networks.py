"""Image networks of transformers: from a folder it has written, or from a hub."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from wsitool.backbones.card import LineageStep
from wsitool.backbones.hub import from_hub
from wsitool.backbones.network import Adapted, Network, State
from wsitool.backbones.readout import has_class_token
from wsitool.base.json_files import read_json
from wsitool.errors import EncoderError, UsageError

__all__ = ["make"]

_PROCESSOR = "preprocessor_config.json"
_ON_TOP = re.compile(r"(^|\W)(pooler|classifier)\.")
_SILENT = 50  # the level of critical messages
_ADVICE = "download the repository where there is a network, and pass --backbone hf:DIR"


def make(name: str, args: Mapping[str, Any]) -> Network:
    """The network of folder or repository `name`; `args` change its configuration.

    With a "model_type" among them, as cards have it, `args` are the whole configuration and `name` is only
    what it is called. See `MakeNetwork`.
    """
    if importlib.util.find_spec("transformers") is None:
        raise UsageError(f"The backbone 'hf:{name}' needs transformers: install wsitool[transformers].")
    with _quietly():
        config = _config(name, args)
        trunk = _build(name, config)
    mean, std, size, norm_from = (
        _preprocessing(name) if "model_type" not in args else _unknown_preprocessing()
    )
    return Network(
        name=Path(name).resolve().name if Path(name).is_dir() else name,
        args=_as_args(config),
        trunk=trunk,
        feature_dim=_width(trunk, config),
        mean=mean,
        std=std,
        norm_from=norm_from,
        # Of what sits on top of the network that is wanted.
        ignored=("pooler.", "classifier."),
        fetch=lambda: _fetch(name, trunk),
        adapt=functools.partial(_adapt, trunk, name),
        image_size=size or _square(getattr(config, "image_size", None)),
    )


def _config(name: str, args: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    if "model_type" in args:
        rest = {key: value for key, value in args.items() if key != "model_type"}
        try:
            return AutoConfig.for_model(str(args["model_type"]), **rest)
        except (ValueError, TypeError, KeyError) as error:
            raise EncoderError(
                f"transformers cannot build hf:{name} ({str(error).splitlines()[0]}): upgrade it."
            ) from None
    config = _from(name, "The description", lambda: AutoConfig.from_pretrained(name, trust_remote_code=False))
    if unknown := sorted(key for key in args if not hasattr(config, key)):
        raise UsageError(f"--backbone-args: {config.model_type} of transformers has no {', '.join(unknown)}.")
    for key, value in args.items():
        setattr(config, key, value)
    return config


def _build(name: str, config: Any) -> Any:
    from transformers import AutoModel

    try:
        model = AutoModel.from_config(config)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EncoderError(f"transformers cannot build hf:{name} ({str(error).splitlines()[0]}).") from None
    trunk = _image_part(model)
    if getattr(trunk, "main_input_name", "") != "pixel_values":
        raise EncoderError(
            f"hf:{name} is a {type(model).__name__}, which takes no images: use another backbone."
        )
    return trunk.float()


def _image_part(model: Any) -> Any:
    # An image and text model is wanted for its image half.
    trunk = getattr(model, "vision_model", model)
    if has_class_token(trunk) and getattr(trunk, "pooler", None) is not None:
        # A layer that only some trainings had; where weights lack it, it would be drawn at random.
        trunk.pooler = None
    return trunk


def _from(name: str, what: str, load: Any) -> Any:
    """What `load` reads from the folder or the hub, as sentences where it cannot."""
    if Path(name).is_dir():
        try:
            return load()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise EncoderError(f"'{name}' cannot be read as a folder of transformers ({reason}).") from None
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise EncoderError(f"There is no folder '{name}': pass hf:DIR, or hf:ORG/NAME of a hub.")
    return from_hub(f"{what} of {name}", _ADVICE, load)


def _fetch(name: str, trunk: Any) -> tuple[LineageStep, State]:
    from transformers import AutoModel

    def load() -> Any:
        return AutoModel.from_pretrained(
            name, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )

    with _quietly():
        model, report = _from(name, "The weights", load)
    _refuse_rest(report, what=f"The weights of hf:{name} do not fit {type(trunk).__name__}")
    title = Path(name).resolve().name if Path(name).is_dir() else name
    return LineageStep(kind="published", name=title), _image_part(model).state_dict()


def _adapt(trunk: Any, name: str, state: State) -> Adapted:
    """A file's weights under the keys of the installed transformers, which renames them between versions."""
    if state.keys() == trunk.state_dict().keys():
        return Adapted(state=state)
    with _quietly():
        try:
            model, report = type(trunk).from_pretrained(
                None,
                config=trunk.config,
                state_dict=dict(state),
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except (RuntimeError, ValueError, KeyError, TypeError):
            return Adapted(state=state)  # the strict comparison names the keys
    _refuse_rest(report, what=f"The file does not fit hf:{name}")
    return Adapted(state=_image_part(model).state_dict())


def _refuse_rest(report: Mapping[str, Any], *, what: str) -> None:
    parts = [
        f"{problem}: {', '.join(keys[:4])}"
        for problem, name in (
            ("missing", "missing_keys"),
            ("unexpected", "unexpected_keys"),
            ("of another shape", "mismatched_keys"),
            ("errors", "error_msgs"),
        )
        # What sits on top is neither asked for nor in the way.
        if (keys := sorted(str(key) for key in report[name] if not _ON_TOP.search(str(key))))
    ]
    if parts:
        raise EncoderError(f"{what} - {'; '.join(parts)}.")


def _preprocessing(name: str) -> tuple[Any, Any, int | None, str]:
    """Mean, std, side in pixels and who says so, of preprocessor_config.json."""
    if Path(name).is_dir():
        path = Path(name, _PROCESSOR)
        if not path.is_file():
            return _unknown_preprocessing()
    else:
        from huggingface_hub import hf_hub_download

        path = Path(
            from_hub(f"The preprocessing of {name}", _ADVICE, lambda: hf_hub_download(name, _PROCESSOR))
        )
    try:
        stated = read_json(path)
        if stated.get("do_normalize", True):
            mean, std = tuple(stated["image_mean"]), tuple(stated["image_std"])
        else:
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderError(f"'{path}' states no normalisation ({error!r}): repair it.") from None
    size = stated.get("crop_size") if stated.get("do_center_crop") else stated.get("size")
    return mean, std, _square(size), f"its {_PROCESSOR}"


def _unknown_preprocessing() -> tuple[Any, Any, int | None, str]:
    return (), (), None, ""


def _square(size: Any) -> int | None:
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    if isinstance(size, list | tuple):
        size = size[0]
    return size if isinstance(size, int) else None


def _width(trunk: Any, config: Any) -> int:
    config = getattr(trunk, "config", config)
    width = getattr(config, "hidden_size", None) or (getattr(config, "hidden_sizes", None) or [None])[-1]
    if not isinstance(width, int):
        raise EncoderError(f"The configuration of {type(trunk).__name__} states no hidden_size: use another.")
    return width


def _as_args(config: Any) -> dict[str, Any]:
    # What differs from the defaults is enough to build it again; the path it came from is nobody's business.
    stated = config.to_diff_dict()
    stated.pop("_name_or_path", None)
    return {key: value for key, value in stated.items() if not key.startswith("_")} | {
        "model_type": config.model_type
    }


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' bars and reports: what matters is raised."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(_SILENT)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
