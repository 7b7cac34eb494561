"""What is done to weights, their cards, checkpoints, and the JSON and TOML of runs and plans."""

from __future__ import annotations

import json
import math
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz.slide_damage import flip, truncate
from fuzz.weight_bases import Safetensors

__all__ = ["damage_checkpoint", "damage_json", "damage_plan", "damage_weights"]

Rng = np.random.Generator
_VALUES: tuple[Any, ...] = (
    None, -1, 0, 1, 10**12, 1e308, math.nan, math.inf, "", "x", "../../evil", "timm:../../evil", [], {}, [[]],
    ["../../evil", "a\nb"], "\x1b[31mred", [math.nan] * 3, [0, 0, 0], True, "n" * 300, {"a": {"a": {}}},
)  # fmt: skip


class _Payload:
    """A pickle that would write a file if it were trusted."""

    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return Path.touch, (Path("ran-foreign-code"),)  # type: ignore[return-value]


def _pick(rng: Rng, things: Any) -> Any:
    return things[int(rng.integers(len(things)))]


def change_somewhere(rng: Rng, value: Any, depth: int = 0) -> tuple[Any, str]:
    """Change, remove or add something anywhere in a value of lists and dicts; says where and how."""
    if isinstance(value, dict) and value and rng.random() < (0.97 if depth == 0 else 0.75):
        name = _pick(rng, sorted(value))
        fate = rng.random()
        if fate < 0.12:
            return {key: item for key, item in value.items() if key != name}, f"{name} removed"
        if fate < 0.18:
            return {**value, "unheard-of": 1}, f"a key beside {name} added"
        new, where = change_somewhere(rng, value[name], depth + 1)
        return {**value, name: new}, f"{name}: {where}"
    if isinstance(value, list) and value and depth and rng.random() < 0.5:
        index = int(rng.integers(len(value)))
        new, where = change_somewhere(rng, value[index], depth + 1)
        return [*value[:index], new, *value[index + 1 :]], f"[{index}] {where}"
    new = _pick(rng, _VALUES)
    return new, f"{str(value)[:30]!r} -> {str(new)[:30]!r}"


def damage_weights(rng: Rng, path: Path, *, key: str) -> tuple[str, bool]:
    """Damage a safetensors file whose card is the metadata `key`; says also if a weight is not finite."""
    data, fate = path.read_bytes(), rng.random()
    if fate < 0.12:
        damaged, title = truncate(rng, data)
    elif fate < 0.2:
        damaged, title = flip(rng, data, range(min(2000, len(data))))
    elif fate < 0.25:
        length = _pick(rng, (0, 2**63, 2**32, len(data), 7, 100_000_001))
        damaged, title = struct.pack("<Q", length) + data[8:], f"a header of {length} bytes claimed"
    elif fate < 0.65:
        file = Safetensors(data)
        card, title = change_somewhere(rng, json.loads(file.metadata[key]))
        file.metadata[key] = json.dumps(card)
        if rng.random() < 0.05:
            file.metadata[key] = _pick(rng, ("", "null", "[]", "[" * 100_000, "{"))
            title = "no card"
        damaged, title = file.write(), f"card {title}"
    else:
        return _damage_tensor(rng, path)
    path.write_bytes(damaged)
    return title, False


def _damage_tensor(rng: Rng, path: Path) -> tuple[str, bool]:
    file = Safetensors(path.read_bytes())
    name = _pick(rng, [name for name in file.tensors if file.header[name]["dtype"] == "F32"])
    entry = file.header[name]
    begin, end = entry["data_offsets"]
    what = _pick(rng, ("nan", "inf", "removed", "added", "shape", "type", "offsets", "zeros", "huge"))
    if what in ("nan", "inf", "zeros", "huge"):
        value = {"nan": math.nan, "inf": math.inf, "zeros": 0.0, "huge": 3e38}[what]
        at = begin + 4 * int(rng.integers((end - begin) // 4))
        stop = at + 4 if what in ("nan", "inf") else end
        at = at if what in ("nan", "inf") else begin
        file.body[at:stop] = struct.pack("<f", value) * ((stop - at) // 4)
    elif what == "removed":
        del file.header[name]
    elif what == "added":
        file.header["unheard.of"] = {**entry, "data_offsets": [len(file.body), len(file.body) + end - begin]}
        file.body += bytes(end - begin)
    elif what == "shape":
        entry["shape"] = _pick(rng, ([*entry["shape"], 1], [-1], [2**40, 2**40], [], entry["shape"][::-1]))
    elif what == "type":
        entry["dtype"] = _pick(rng, ("I32", "U32", "F64", "BF16", "BOOL", "x", None))
    else:
        entry["data_offsets"] = _pick(rng, ([0, 0], [end, begin], [0, 2**50], [-4, 4], "x"))
    path.write_bytes(file.write())
    return f"tensor {name}: {what}", what in ("nan", "inf")


def damage_checkpoint(rng: Rng, path: Path) -> str:
    data, fate = path.read_bytes(), rng.random()
    if fate < 0.2:
        damaged, title = truncate(rng, data)
    elif fate < 0.4:
        damaged, title = flip(rng, data)
    elif fate < 0.6:
        protocol = int(rng.integers(0, 5))
        damaged, title = (
            pickle.dumps({"format": 1, "x": _Payload()}, protocol),
            f"a pickle {protocol} that runs code",
        )
        if rng.random() < 0.5:
            torch.save({"format": 1, "x": _Payload()}, path)
            return "a checkpoint that runs code"
    else:
        state = torch.load(path, weights_only=True)
        state, title = _changed_state(rng, state)
        torch.save(state, path)
        return title
    path.write_bytes(damaged)
    return title


def _changed_state(rng: Rng, state: dict[str, Any]) -> tuple[dict[str, Any], str]:
    if rng.random() < 0.5:
        return change_somewhere(rng, state)  # type: ignore[return-value]
    name = _pick(rng, [key for key, value in state["method"].items() if value.is_floating_point()])
    tensor = state["method"][name].clone(memory_format=torch.contiguous_format)
    tensor.view(-1)[0] = math.nan
    return {**state, "method": {**state["method"], name: tensor}}, f"NaN in {name}"


def damage_json(rng: Rng, path: Path) -> str:
    text, fate = path.read_text(), rng.random()
    if fate < 0.75:
        value, title = change_somewhere(rng, json.loads(text))
        path.write_text(json.dumps(value))
        return title
    if fate < 0.9:
        damaged, title = (flip if fate < 0.82 else truncate)(rng, text.encode())
        path.write_bytes(damaged)
        return title
    other = _pick(rng, ("", "null", "[]", "7", "[" * 100_000, '{"a": ' * 5000, "\ufeff{}", "{} {}"))
    path.write_text(other)
    return f"other JSON {other[:12]!r}"


def damage_plan(rng: Rng, plan: dict[str, Any], path: Path) -> str:
    """Write `plan` as TOML or JSON with something changed."""
    changed, title = change_somewhere(rng, plan)
    if path.suffix == ".json" or not isinstance(changed, dict):
        path.write_text(json.dumps(changed))
        return title
    writers: dict[type, Callable[[Any], str]] = {bool: lambda value: str(value).lower()}
    lines = []
    for name, value in changed.items():
        text = writers.get(type(value), lambda value: json.dumps(value))(value)
        text = text.replace("NaN", "nan").replace("Infinity", "inf")
        lines.append(f"{json.dumps(name)} = {text}" if value is not None else f"{json.dumps(name)} = ")
    text = "\n".join(lines)
    if rng.random() < 0.1:
        damaged, title = flip(rng, text.encode())
        path.write_bytes(damaged)
        return title
    path.write_text(text)
    return title
