"""An encoder that cells share costs one build, one hash and one pass over the patches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patch_stores import patch_folder

from wsitool.backbones import features as backbone_features
from wsitool.backbones.build import build_backbone
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.features import encode
from wsitool.experiment import encoders
from wsitool.experiment.encoders import shared_encoder
from wsitool.store.collection import open_collection


def test_cells_of_one_encoder_build_hash_and_run_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, calls = open_collection(patch_folder(tmp_path / "stores", each=4)), Counter[str]()
    for home, name in ((encoders, "encoder_digest"), (backbone_features, "over_patches")):
        real = getattr(home, name)

        def counted(*given: Any, real: Any = real, name: str = name, **options: Any) -> Any:
            calls[name] += 1
            return real(*given, **options)

        monkeypatch.setattr(home, name, counted)

    def features_of(key: str, seed: int) -> Any:
        def build() -> Encoder:
            calls["build"] += 1
            return build_backbone("squeezenet1_1", init="random", seed=seed)

        shared = shared_encoder(key, build)
        return shared.features(collection, image_size=32, cache=tmp_path / "cache", device="cpu")

    first = [features_of("one", 0) for _ in range(3)]
    assert calls == {"build": 1, "encoder_digest": 1, "over_patches": 1}
    other = features_of("two", 1)
    again = features_of("one", 0)  # built anew, as one is held; known by its key, and read from the cache
    assert calls == {"build": 3, "encoder_digest": 2, "over_patches": 2}
    plain = encode(
        build_backbone("squeezenet1_1", init="random", seed=0), collection, image_size=32, device="cpu"
    )
    for made in (*first, again):
        np.testing.assert_array_equal(made, plain)
    assert not np.allclose(other, plain)
