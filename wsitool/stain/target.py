"""What slides are brought to: a collection's stains, those of a file, or published ones."""

from __future__ import annotations

from pathlib import Path

from wsitool.base.json_files import read_json
from wsitool.errors import StoreError, UsageError
from wsitool.stain.options import StainChoice
from wsitool.stain.slides import sample_of, stain_of_pixels
from wsitool.store.collection import open_collection
from wsitool.store.stain_table import StainMethod, StainNorm, StainTable

__all__ = ["PUBLISHED", "check_stain", "choose_norm", "stain_words"]

PUBLISHED: dict[str, StainNorm] = {
    # The reference of the authors' own program, which most others copied: unit vectors of haematoxylin and
    # eosin, and their strongest concentrations.
    "macenko": StainNorm(
        method="macenko",
        target=(0.5626, 0.7201, 0.4062, 0.2159, 0.8012, 0.5581, 1.9705, 1.0308),
        source="published (Macenko et al. 2009)",
    )
}


def choose_norm(
    asked: StainChoice | None,
    target: str | None,
    trained: StainNorm | None = None,
    *,
    may_differ: bool = False,
) -> StainNorm | None:
    """The norm of a run, from --stain-norm and --stain-target and what its encoder was `trained` under.

    UsageError where they contradict each other (`may_differ`: the encoder is trained on), or for a target
    that cannot be.
    """
    if asked is None or asked == "none":
        if target is not None:
            raise UsageError("--stain-target says what slides are brought to: give --stain-norm too.")
        norm = trained if asked is None else None
    elif target is None and trained is not None and trained.method == asked:
        norm = trained
    else:
        norm = _target(asked, target)
    if trained is not None and not may_differ and not trained.same(norm):
        raise UsageError(
            f"The network was trained under {stain_words(trained)}, and {stain_words(norm)} was asked for: "
            "leave out --stain-norm and --stain-target, or take another network."
        )
    return norm


def check_stain(trained: StainNorm | None, used: StainTable | None) -> None:
    """UsageError where patches normalised by `used` meet a network trained under another norm."""
    norm = None if used is None else used.norm
    if trained is not None and not trained.same(norm):
        raise UsageError(
            f"The encoder was trained under {stain_words(trained)}, and the patches come under "
            f"{stain_words(norm)}, so its features would mean nothing: use a command with --stain-norm, or "
            "an encoder trained without."
        )


def stain_words(norm: StainNorm | None) -> str:
    """A norm in words."""
    return "no stain norm" if norm is None else f"the stain norm {norm.method} to {norm.source}"


def _target(method: StainMethod, target: str | None) -> StainNorm:
    if target is None:
        if method not in PUBLISHED:
            raise UsageError(f"There is no published target of {method}: give one with --stain-target.")
        return PUBLISHED[method]
    path = Path(target)
    if path.suffix == ".json":
        try:
            figures = read_json(path)[method]
            return StainNorm(method=method, target=tuple(map(float, figures)), source=path.name)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"--stain-target '{target}' holds no figures of {method} ({error}): give a .stain.json that "
                "wsitool wrote of a slide it could fit, or a store."
            ) from None
    try:
        collection = open_collection(path)
    except StoreError as error:
        raise UsageError(f"--stain-target cannot be used: {error}") from None
    try:
        figures = stain_of_pixels(collection.read(sample_of(len(collection))))[method]
    finally:
        collection.close()
    if isinstance(figures, str):
        raise UsageError(f"--stain-target '{target}' cannot be used: {figures}.")
    return StainNorm(method=method, target=figures, source=path.resolve().name)
