"""Which tensors of a training program's file are those of the network that is wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from wsitool.backbones.network import State
from wsitool.errors import EncoderError

__all__ = ["network_state"]

# Where training programs keep weights, in the order they are looked for; of a pair the average comes first.
_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "net", "network", "weights")

# Of the names of a network; fewer, such as a norm's, stand under many prefixes of any other network.
_LEAST_SHARE = 0.5


def network_state(
    content: Any, expected: Iterable[str], *, what: str, key: str | None = None
) -> tuple[State, tuple[str, ...]]:
    """The tensors of the network with keys `expected` in what a file holds, under those keys; and notes.

    They stand in the file itself or under a usual key ("state_dict", "model", "teacher", ...), and may have a
    prefix ("module.backbone."): that under which most of the `expected` names stand. What stands elsewhere is
    another network, and the notes name it. `key` is a word that must lead there. EncoderError, beginning with
    `what`, where there are no tensors, where two networks fit equally well, or the word is nowhere.
    """
    content, rest = _entered(content, key)
    state, expected = _plain(content, what), list(expected)
    counts = _prefixes(state, expected)
    if rest:
        counts = Counter({prefix: n for prefix, n in counts.items() if rest <= set(prefix.split("."))})
        if not counts:
            raise EncoderError(
                f"{what} has no such network under '{key}': leave out --weights-key to see why."
            )
    if not counts:
        return state, ()
    (best, most), *others = counts.most_common()
    if rivals := [prefix for prefix, count in others if count == most]:
        if most < _LEAST_SHARE * len(expected):
            return state, ()  # of another network: what does not fit is said by whoever loads it
        names = ", ".join(sorted(repr(prefix.rstrip(".")) for prefix in (best, *rivals)))
        raise EncoderError(f"{what} holds several such networks ({names}): choose with --weights-key.")
    if not best:
        return state, ()
    inside = {name[len(best) :]: value for name, value in state.items() if name.startswith(best)}
    note = f"Its weights stand under '{best.rstrip('.')}'"
    if left := [name for name in state if not name.startswith(best)]:
        note += f"; {len(left)} tensors of other parts are left out ({', '.join(left[:2])})"
    return inside, (f"{note}.",)


def _entered(content: Any, key: str | None) -> tuple[Any, set[str]]:
    """What stands under `key`, as far as it leads, and the words that are left of it."""
    words = key.split(".") if key else []
    while words and isinstance(content, Mapping) and isinstance(content.get(words[0]), Mapping):
        content = content[words.pop(0)]
    return content, set(words)


def _plain(content: Any, what: str) -> State:
    while isinstance(content, Mapping) and not _is_state(content):
        usual = next((name for name in _KEYS if isinstance(content.get(name), Mapping)), None)
        if usual is None:
            break
        content = content[usual]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        names = f" of {', '.join(map(str, list(content)[:6]))}" if isinstance(content, Mapping) else ""
        raise EncoderError(
            f"{what} must hold a state dict (names to tensors), got {type(content).__name__}{names}: say "
            "where the weights are with --weights-key."
        )
    if others := [str(name) for name, value in content.items() if not isinstance(value, Tensor)]:
        raise EncoderError(f"{what} must hold a state dict (names to tensors), and {others[0]} is no tensor.")
    return {str(name): value for name, value in content.items()}


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(value, Tensor) for value in content.values())


def _prefixes(state: State, expected: Iterable[str]) -> Counter[str]:
    """How many of the `expected` names stand in `state` behind each prefix."""
    # By their last two parts, so that each name is compared with the few that can end it.
    ends: dict[tuple[str, ...], list[str]] = {}
    for name in expected:
        ends.setdefault(tuple(name.split(".")[-2:]), []).append(name)
    counts: Counter[str] = Counter()
    for name in state:
        for end in ends.get(tuple(name.split(".")[-2:]), ()):
            if name == end or name.endswith(f".{end}"):
                counts[name[: len(name) - len(end)]] += 1
    return counts
