"""Which features bags have: those of the files that were passed, or made of their stores by an encoder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from wsitool.backbones.build import build_encoder
from wsitool.backbones.card import EncoderCard, LineageStep
from wsitool.backbones.device import choose_device
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.features import encoder_digest
from wsitool.backbones.memory import encoding_batch
from wsitool.backbones.resolution import mixed_resolutions, resolution_warnings
from wsitool.backbones.sizes import check_size
from wsitool.base.progress import Reporter
from wsitool.classify.checks import chosen_image_size, say_transductive
from wsitool.classify.feature_files import FEATURES_PREFIX
from wsitool.classify.settings import ClassifyOptions
from wsitool.errors import UsageError
from wsitool.evaluation.leakage import check_pretraining
from wsitool.loading.device_decode import effective_decode, say_decoding
from wsitool.mil.bags import LabelledBags
from wsitool.mil.data import LabelledSides
from wsitool.mil.making import FeatureMaker
from wsitool.mil.options import SlideSettings
from wsitool.mil.sources import Side
from wsitool.stain.target import choose_norm

__all__ = ["FeatureSource", "card_of_files", "features_for"]

_NOT_SAID = "not said"


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """Where features come from; `maker`, `encoder` and `image_size` are None where they were made elsewhere.

    `seen` are the judged groups that the encoder was pretrained on.
    """

    card: EncoderCard
    digest: str
    maker: FeatureMaker | None = None
    encoder: Encoder | None = None
    image_size: int | None = None
    seen: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Values of a patch."""
        return self.card.feature_dim

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where they are written, if they are made."""
        return () if self.maker is None else (self.maker.folder,)

    def made(self, bags: LabelledBags, side: Side) -> LabelledBags:
        """`bags` as rows of files of features, which are made where they are not there."""
        if self.maker is None or side.collection is None:
            return bags
        return self.maker.made(bags, side.collection)


def features_for(
    data: LabelledSides,
    asked: ClassifyOptions,
    settings: SlideSettings,
    out: Path,
    reporter: Reporter,
) -> FeatureSource:
    """Look at what the features will be; nothing is made. UsageError for choices that do not fit or leak."""
    if not data.collections:
        return _of_files(data, asked)
    encoder = build_encoder(asked, asked.encoder, asked.seed, reporter)
    norm = choose_norm(asked.stain_norm, asked.stain_target, encoder.card.stain)
    encoder.card = replace(encoder.card, stain=norm)
    judged = data.test if data.test is not None else data.train if asked.folds else None
    seen = check_pretraining(
        encoder.card.groups,
        judged.groups.tolist() if judged is not None else (),
        allowed=asked.allow_transductive,
    )
    say_transductive(seen, reporter)
    for warning in resolution_warnings(encoder.card, *data.collections) + mixed_resolutions(
        *data.collections
    ):
        reporter.warn(warning)
    device = choose_device(settings.device)
    decode = effective_decode(settings.decode, device)
    patch_size = data.collections[0].patch_size
    size = chosen_image_size(asked.image_size, encoder, patch_size)
    check_size(encoder, size, reporter)
    for collection in data.collections:
        say_decoding(decode, collection, reporter)
    room = encoding_batch(encoder, image_size=size, patch_size=patch_size, device=device, precision="32")
    maker = FeatureMaker(
        encoder=encoder,
        image_size=size,
        folder=out / "features" if asked.cache is None else Path(asked.cache),
        device=settings.device,
        decode=decode,
        batch_size=room.chosen(settings.batch_size, reporter),
        reporter=reporter,
    )
    return FeatureSource(
        card=encoder.card,
        digest=encoder_digest(encoder),
        maker=maker,
        encoder=encoder,
        image_size=size,
        seen=tuple(seen),
    )


def _of_files(data: LabelledSides, asked: ClassifyOptions) -> FeatureSource:
    if asked.encoder != "imagenet" or asked.backbone is not None or asked.stain_norm is not None:
        raise UsageError(
            "The features are made already: leave out --encoder, --backbone and --stain-norm, or pass the "
            "stores."
        )
    side = data.sides[0]
    name = side.encoder or _NOT_SAID
    return FeatureSource(card=card_of_files(side), digest=hashlib.sha256(name.encode()).hexdigest())


def card_of_files(side: Side) -> EncoderCard:
    """What stands for the encoder of files of features."""
    name = side.encoder or _NOT_SAID
    return EncoderCard(
        backbone=f"{FEATURES_PREFIX}{name}",
        feature_dim=side.width,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        lineage=(LineageStep(kind="file", name=name),),
    )
