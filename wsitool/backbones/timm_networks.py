"""timm's networks: by name, or as a folder or a repository of a hub describes them."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from wsitool.backbones.card import LineageStep
from wsitool.backbones.files import folder_weights, read_state
from wsitool.backbones.hub import from_hub
from wsitool.backbones.network import Adapted, Network, State
from wsitool.base.json_files import read_json
from wsitool.errors import EncoderError, UsageError

__all__ = ["HUB", "LOCAL", "make", "read_config"]

HUB, LOCAL = "hf-hub:", "local-dir:"
# Facebook's training writes blocks in chunks: blocks.CHUNK.NUMBER.rest.
_CHUNKED = re.compile(r"^blocks\.\d+\.(\d+)\.")
# What a file says of its training or its labels, and a trunk without classifier is not built by.
_NOT_OF_THE_TRUNK = ("num_classes", "pretrained", "pretrained_cfg", "in_chans")


def make(name: str, args: Mapping[str, Any]) -> Network:
    """timm's NAME, hf-hub:ORG/NAME or local-dir:DIR, built with `args`; see `MakeNetwork`."""
    if importlib.util.find_spec("timm") is None:
        raise UsageError(f"The backbone 'timm:{name}' needs timm: install wsitool[timm].")
    if name.startswith(LOCAL):
        folder = Path(name.removeprefix(LOCAL))
        config = read_config(folder)
        return _described(config, args, what=f"'{folder / 'config.json'}'", fetch=lambda: _in_folder(folder))
    if name.startswith(HUB):
        repository = name.removeprefix(HUB)
        config = _hub_config(repository)
        return _described(
            config, args, what=f"the config.json of {repository}", fetch=lambda: _in_hub(repository)
        )
    return _by_name(name, args)


def read_config(folder: Path) -> dict[str, Any]:
    """timm's config.json in `folder`; EncoderError where there is none or it is none of timm's."""
    path = folder / "config.json"
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise EncoderError(f"'{path}' cannot be read as timm's config.json ({error}).") from None
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise EncoderError(f"'{path}' names no timm architecture: pass a folder that timm has written.")
    return config


def _by_name(name: str, args: Mapping[str, Any]) -> Network:
    trunk = _build(name, args)
    return _network(
        name,
        args,
        trunk,
        trunk.pretrained_cfg,
        norm_from=f"timm's {_tagged(name, trunk)}",
        fetch=lambda: _timm_weights(name, args),
        # Networks by name take the patches as they are, as they always have.
        image_size=None,
    )


def _described(
    config: Mapping[str, Any],
    args: Mapping[str, Any],
    *,
    what: str,
    fetch: Callable[[], tuple[LineageStep, Any]],
) -> Network:
    """The network of a config.json; explicit `args` go before those of the file."""
    name = str(config["architecture"])
    # Old files have the values at the top.
    stated = config.get("pretrained_cfg", config)
    model_args = {
        key: value for key, value in config.get("model_args", {}).items() if key not in _NOT_OF_THE_TRUNK
    }
    if isinstance(config.get("global_pool"), str) and "global_pool" not in model_args:
        model_args["global_pool"] = config["global_pool"]
    merged = {**model_args, **args}
    trunk = _build(name, merged)
    size = stated.get("input_size") or (3, None, None)
    return _network(
        name,
        merged,
        trunk,
        # Not the architecture's own normalisation where the description has none.
        {**trunk.pretrained_cfg, "mean": (), "std": (), **stated},
        norm_from=what,
        fetch=fetch,
        image_size=size[-1],
    )


def _network(
    name: str,
    args: Mapping[str, Any],
    trunk: Any,
    config: Mapping[str, Any],
    *,
    norm_from: str,
    fetch: Callable[[], tuple[LineageStep, Any]],
    image_size: int | None,
) -> Network:
    heads: str | tuple[str, ...] = config.get("classifier") or ()
    return Network(
        name=name,
        args=dict(args),
        trunk=trunk,
        # Newer heads have a hidden layer in front of the classifier, which stays and decides the width.
        feature_dim=trunk.num_features if not hasattr(trunk, "head_hidden_size") else trunk.head_hidden_size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        norm_from=norm_from,
        ignored=tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads)),
        fetch=fetch,
        adapt=functools.partial(_adapt, trunk, has_size="img_size" in args),
        image_size=image_size,
    )


def _build(name: str, args: Mapping[str, Any]) -> Any:
    """timm's network without classifier, and of any input size where it is a transformer that can be."""
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = f": did you mean 'timm:{near[0]}'?" if near else "; see timm.list_models()."
        raise UsageError(f"timm has no network '{name}'{hint}")
    resolved = {key: _layer(key, value) for key, value in args.items()}
    create = functools.partial(timm.create_model, name, pretrained=False, num_classes=0)
    if "dynamic_img_size" not in resolved:
        # Networks that do not have the option refuse it before they are built.
        try:
            return create(**resolved, dynamic_img_size=True)
        except TypeError:
            pass
    try:
        return create(**resolved)
    except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError, KeyError) as error:
        raise UsageError(
            f"timm cannot build {name} with --backbone-args {dict(args)} ({str(error).splitlines()[0]})."
        ) from None


def _layer(key: str, value: Any) -> Any:
    """The layer that a text names, for arguments that take one: "SwiGLUPacked", "SiLU"."""
    import timm.layers

    if not (key.endswith("_layer") and isinstance(value, str)):
        return value
    for module in (timm.layers, nn):
        layer = getattr(module, value, None)
        # timm's SwiGLUPacked is a partial, hence callable and not a class; functions there are lower case.
        if callable(layer) and value[:1].isupper():
            return layer
    if key in ("act_layer", "norm_layer"):
        return value  # timm resolves "gelu" and "layernorm2d" by itself
    names = [each for module in (timm.layers, nn) for each in dir(module) if each[:1].isupper()]
    near = difflib.get_close_matches(value, names, n=1)
    raise UsageError(
        f"--backbone-args {key}: neither timm.layers nor torch.nn has a '{value}'"
        f"{f': did you mean {near[0]!r}?' if near else '.'}"
    )


def _adapt(trunk: Any, state: State, *, has_size: bool) -> Adapted:
    """A file's weights as timm itself would load them: its renaming, its resampling of positions.

    A transformer whose grid was not asked for takes the file's, so that its positions are used as they are.
    """
    if not any(_CHUNKED.match(key) for key in trunk.state_dict()):
        state = {_CHUNKED.sub(r"blocks.\1.", key): value for key, value in state.items()}
    notes, args = [], {}
    side = _grid_side(trunk, state)
    grid = getattr(getattr(trunk, "patch_embed", None), "grid_size", None)
    if side and grid and tuple(grid) != (side, side):
        size = side * int(trunk.patch_embed.patch_size[0])
        if not has_size and hasattr(trunk, "set_input_size"):
            trunk.set_input_size(img_size=(size, size))
            args["img_size"] = size
            notes.append(f"It is built for the {size} px of the file's {side} x {side} positions.")
        else:
            notes.append(
                f"The file's {side} x {side} position embeddings are resampled to {grid[0]} x {grid[1]}, by "
                "timm's rule."
            )
    rename = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    if rename is not None:
        try:
            state = rename(dict(state), trunk)
        except (KeyError, IndexError, TypeError, AttributeError, RuntimeError, AssertionError, ValueError):
            # Of another architecture: the strict comparison names the keys.
            return Adapted(state=state)
    return Adapted(state=dict(state), notes=tuple(notes), args=args)


def _grid_side(trunk: Any, state: State) -> int | None:
    """The side of the square grid that a file's position embeddings are of; None where there is none."""
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3 or getattr(trunk, "pos_embed", None) is None:
        return None
    extra = 0 if getattr(trunk, "no_embed_class", False) else getattr(trunk, "num_prefix_tokens", 1)
    if "register_tokens" in state:  # Facebook's: the class token has a position, registers have none
        extra = 1
    side = math.isqrt(max(0, positions.shape[1] - extra))
    return side if side * side == positions.shape[1] - extra else None


def _tagged(name: str, trunk: Any) -> str:
    # The tag names the data set and recipe of the weights, which differ a lot between tags.
    return f"{name.partition('.')[0]}.{trunk.pretrained_cfg.get('tag') or 'default'}"


def _timm_weights(name: str, args: Mapping[str, Any]) -> tuple[LineageStep, State]:
    import timm

    resolved = {key: _layer(key, value) for key, value in args.items()}
    network: Any = from_hub(
        f"The pretrained weights of timm's {name}",
        "pass --init FILE, a .safetensors or .pth file of timm's keys",
        lambda: timm.create_model(name, pretrained=True, num_classes=0, **resolved),
    )
    source = f"imagenet (timm {_tagged(name, network)})"
    return LineageStep(kind="imagenet", name="imagenet", params={"weights": source}), network.state_dict()


def _in_folder(folder: Path) -> tuple[LineageStep, Any]:
    file = folder_weights(folder)
    step = LineageStep(kind="published", name=folder.resolve().name, params={"file": file.name})
    return step, read_state(file)


def _hub_config(repository: str) -> dict[str, Any]:
    from timm.models import load_model_config_from_hf

    stated, name, args = from_hub(
        f"The description of {repository}",
        "download the repository where there is a network, and pass --backbone timm:local-dir:DIR",
        lambda: load_model_config_from_hf(repository),
    )
    return {"architecture": name, "model_args": args, "pretrained_cfg": stated}


def _in_hub(repository: str) -> tuple[LineageStep, State]:
    from timm.models import load_state_dict_from_hf

    state: State = from_hub(
        f"The weights of {repository}",
        "download the repository where there is a network, and pass --backbone timm:local-dir:DIR",
        lambda: load_state_dict_from_hf(repository, weights_only=True),
    )
    return LineageStep(kind="published", name=repository), state
