"""All ratios of stores, loader, augmentation and training step, with the peers' versions.

python tests/benchmarks/bench_data.py [PART ...]     parts: stores loader augment step; all without any
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import bench_augment
import bench_loader
import bench_step
import bench_stores

__all__ = ["PARTS", "main"]

PARTS: dict[str, Callable[[list[str] | None], None]] = {
    "stores": bench_stores.main,
    "loader": bench_loader.main,
    "augment": bench_augment.main,
    "step": bench_step.main,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without any")
    chosen = parser.parse_args(arguments).parts or list(PARTS)
    unknown = sorted(set(chosen) - set(PARTS))
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}: choose from {', '.join(PARTS)}")
    for name in chosen:
        PARTS[name]([])


if __name__ == "__main__":
    main()
