"""The published encoders of pathology: what they are, how they are built, and what input they were made for.

Figures are those of their model cards. A new one is an entry below, or a package of its own that registers a
`PublishedEncoder` as an entry point of group `wsitool.encoders`. Weights are never downloaded without being
asked for by name, and their licences are their authors'.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wsitool.backbones.card import LineageStep
from wsitool.base.registry import Registry

__all__ = ["ENCODERS", "PublishedEncoder", "encoders_folder"]

Three = tuple[float, float, float]
_IMAGENET: tuple[Three, Three] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: tuple[Three, Three] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_BIOPTIMUS: tuple[Three, Three] = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_LUNIT: tuple[Three, Three] = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}


@dataclass(frozen=True, kw_only=True)
class PublishedEncoder:
    """One published encoder.

    `backbone` is a network's name ("timm:vit_large_patch16_224") that `args` and the weights `file` complete,
    or only the source ("timm", "hf") where the repository `hub` has a config.json that says the rest. Where
    it is `gated`, terms must be accepted before the hub gives it out. `width` is that of its features as
    `pool` makes them, `token_px` the side of a token and `image_px` that of an image; `mpp` the resolutions
    (um/px) it was trained at, the usual one first, empty where no card states them. `norm` is (mean, std).

    >>> wsitool.PublishedEncoder(
    ...     name="mine", backbone="timm:vit_small_patch16_224", hub="me/mine", licence="MIT", gated=False,
    ...     width=384, token_px=16, mpp=(0.5,),
    ... ).width
    384
    """

    name: str
    backbone: str
    hub: str
    licence: str
    gated: bool
    width: int
    token_px: int
    mpp: tuple[float, ...]
    norm: tuple[Three, Three] = _IMAGENET
    pool: str | None = None
    image_px: int = 224
    args: Mapping[str, Any] = field(default_factory=dict)
    file: str = "pytorch_model.bin"

    @property
    def files(self) -> tuple[str, ...]:
        """What of the repository is needed."""
        return (self.file,) if ":" in self.backbone else ("config.json", self.file)

    def step(self, step: LineageStep) -> LineageStep:
        """The weights' lineage under the encoder's own name."""
        about = {"hub": self.hub, "licence": self.licence}
        return replace(step, kind="published", name=self.name, params={**step.params, **about})


def encoders_folder() -> Path:
    """The folder with one folder of weights per published encoder: $WSITOOL_ENCODERS, or one of the cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("WSITOOL_ENCODERS") or cache / "wsitool" / "encoders")


def _vit(name: str, hub: str, **more: Any) -> PublishedEncoder:
    """A ViT of DINO's training that a repository of timm describes, used by its class token."""
    return PublishedEncoder(name=name, backbone="timm", hub=hub, file="model.safetensors", **more)


ENCODERS: Registry[PublishedEncoder] = Registry(
    group="wsitool.encoders",
    noun="encoder",
    kind=PublishedEncoder,
    builtin=(
        PublishedEncoder(
            name="uni",
            backbone="timm:vit_large_patch16_224",
            hub="MahmoodLab/UNI",
            licence="CC-BY-NC-ND-4.0",
            gated=True,
            width=1024,
            token_px=16,
            mpp=(0.5,),
            args={"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
        ),
        PublishedEncoder(
            name="uni2-h",
            backbone="timm:vit_giant_patch14_224",
            hub="MahmoodLab/UNI2-h",
            licence="CC-BY-NC-ND-4.0",
            gated=True,
            width=1536,
            token_px=14,
            mpp=(0.5,),
            args={
                "img_size": 224,
                "patch_size": 14,
                "depth": 24,
                "num_heads": 24,
                "init_values": 1e-5,
                "embed_dim": 1536,
                "mlp_ratio": 2.66667 * 2,
                "no_embed_class": True,
                "reg_tokens": 8,
                "dynamic_img_size": True,
                **_SWIGLU,
            },
        ),
        PublishedEncoder(
            name="virchow",
            backbone="timm:vit_huge_patch14_224",
            hub="paige-ai/Virchow",
            licence="Apache-2.0",
            gated=True,
            width=2560,
            token_px=14,
            mpp=(0.5,),
            pool="cls+mean",
            args={
                "img_size": 224,
                "init_values": 1e-5,
                "mlp_ratio": 5.3375,
                "global_pool": "",
                "dynamic_img_size": True,
                **_SWIGLU,
            },
        ),
        PublishedEncoder(
            name="virchow2",
            backbone="timm:vit_huge_patch14_224",
            hub="paige-ai/Virchow2",
            licence="CC-BY-NC-ND-4.0",
            gated=True,
            width=2560,
            token_px=14,
            mpp=(0.5, 0.25, 1.0, 2.0),
            pool="cls+mean",
            args={
                "img_size": 224,
                "init_values": 1e-5,
                "reg_tokens": 4,
                "mlp_ratio": 5.3375,
                "global_pool": "",
                "dynamic_img_size": True,
                **_SWIGLU,
            },
        ),
        *(
            PublishedEncoder(
                name=name,
                backbone="timm:vit_giant_patch14_reg4_dinov2",
                hub=hub,
                licence=licence,
                gated=True,
                width=1536,
                token_px=14,
                mpp=(0.5,),
                norm=_BIOPTIMUS,
                args={
                    "img_size": 224,
                    "global_pool": "token",
                    "init_values": 1e-5,
                    "dynamic_img_size": False,
                },
            )
            for name, hub, licence in (
                ("h-optimus-0", "bioptimus/H-optimus-0", "Apache-2.0"),
                ("h-optimus-1", "bioptimus/H-optimus-1", "CC-BY-NC-ND-4.0"),
            )
        ),
        _vit(
            "h0-mini",
            "bioptimus/H0-mini",
            licence="CC-BY-NC-ND-4.0",
            gated=True,
            width=1536,
            token_px=14,
            mpp=(0.5,),
            norm=_BIOPTIMUS,
            pool="cls+mean",
            args=_SWIGLU,
        ),
        PublishedEncoder(
            name="prov-gigapath",
            backbone="timm:vit_giant_patch14_dinov2",
            hub="prov-gigapath/prov-gigapath",
            licence="Apache-2.0",
            gated=True,
            width=1536,
            token_px=16,
            mpp=(0.5,),
            args={
                "img_size": 224,
                "patch_size": 16,
                "embed_dim": 1536,
                "depth": 40,
                "num_heads": 24,
                "mlp_ratio": 5.33334,
            },
        ),
        *(
            _vit(
                f"kaiko-{name}",
                f"1aurent/{repository}.kaiko_ai_towards_large_pathology_fms",
                licence="Kaiko non-commercial",
                gated=False,
                width=width,
                token_px=token_px,
                mpp=(),
                norm=_HALF,
                args={"img_size": 224},
            )
            for name, repository, width, token_px in (
                ("vits8", "vit_small_patch8_224", 384, 8),
                ("vits16", "vit_small_patch16_224", 384, 16),
                ("vitb8", "vit_base_patch8_224", 768, 8),
                ("vitb16", "vit_base_patch16_224", 768, 16),
            )
        ),
        _vit(
            "lunit-vits8",
            "1aurent/vit_small_patch8_224.lunit_dino",
            licence="Lunit non-commercial",
            gated=False,
            width=384,
            token_px=8,
            mpp=(),
            norm=_LUNIT,
        ),
        PublishedEncoder(
            name="phikon",
            backbone="hf",
            hub="owkin/phikon",
            licence="Owkin non-commercial",
            gated=False,
            width=768,
            token_px=16,
            mpp=(0.5,),
        ),
        PublishedEncoder(
            name="phikon-v2",
            backbone="hf",
            hub="owkin/phikon-v2",
            licence="Owkin non-commercial",
            gated=False,
            width=1024,
            token_px=16,
            mpp=(0.5,),
            file="model.safetensors",
        ),
        PublishedEncoder(
            name="midnight",
            backbone="hf",
            hub="kaiko-ai/midnight",
            licence="MIT",
            gated=False,
            width=3072,
            token_px=14,
            mpp=(0.5, 0.25, 1.0, 2.0),
            norm=_HALF,
            pool="cls+mean",
            file="model.safetensors",
        ),
    ),
)
