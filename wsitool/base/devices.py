"""The one option that says what computes: names of devices, of which several train together or share work."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wsitool.base.parameters import Params, hparam
from wsitool.errors import UsageError

__all__ = ["DeviceOptions", "device_names", "one_device", "placed", "same_kind"]

_NAME = re.compile(r"([a-z_]+)(?::(\d{1,3})(?:-(\d{1,3}))?)?")
_EXPECTED = "expected auto, cpu, cuda, cuda:1, or several such as cuda:0,cuda:1 or cuda:0-3"


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Params):
    """Which device computes; "auto" is a GPU where there is one, else the CPU."""

    device: str = hparam("auto", "auto (a GPU if there is one), cpu, cuda, cuda:1, mps.")


def device_names(device: str) -> tuple[str, ...]:
    """The names in a --device: "cuda:0,cuda:1" and "cuda:0-1" are two; UsageError for what is no name."""
    names: list[str] = []
    for word in device.split(","):
        match = _NAME.fullmatch(word.strip())
        if match is None or match[1] == "gpu":
            count = int(device) if device.isdecimal() and len(device) < 4 else 0
            hint = f"; for {count} of them cuda:0-{count - 1}" if count > 1 else ""
            raise UsageError(f"--device {device[:40]!r}: {_EXPECTED}{hint}.")
        kind, first, last = match.groups()
        if last is None:
            names.append(word.strip())
        else:
            names += [f"{kind}:{number}" for number in range(int(first), int(last) + 1)]
    if not names or (len(set(names)) < len(names) and any(":" in name for name in names)):
        raise UsageError(f"--device {device[:40]!r} names {'one twice' if names else 'none'}: {_EXPECTED}.")
    return tuple(names)


def one_device(device: str) -> str:
    """The name, of a command that computes on one device; UsageError for several."""
    names = device_names(device)
    if len(names) > 1:
        raise UsageError(f"--device {device[:40]!r} are {len(names)}, and this computes on one: name one.")
    return names[0]


def same_kind(device: str) -> tuple[str, ...]:
    """The names of devices that train together; UsageError for those of several kinds."""
    names = device_names(device)
    if len(kinds := {name.partition(":")[0] for name in names}) > 1:
        raise UsageError(
            f"--device {device[:40]!r}: devices that train together are all of a kind, and these "
            f"are {' and '.join(sorted(kinds))}."
        )
    return names


def placed(config: dict[str, object]) -> dict[str, object]:
    """The options of a run of an earlier build, --accelerator and --devices as the --device they are now."""
    if "device" in config or "accelerator" not in config:
        return config
    count = config.get("devices", 1)
    names = [str(config["accelerator"])] * (count if isinstance(count, int) else 1)
    rest = {name: value for name, value in config.items() if name not in ("accelerator", "devices")}
    return {**rest, "device": ",".join(names)}
