"""One method that keeps the contract, and many that each break it in one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import (
    Method,
    ParamGroup,
    Progress,
    Step,
    ViewParams,
    all_gather,
    hparam,
    rank,
    two_views,
)


@dataclass(frozen=True, kw_only=True)
class GoodParams(ViewParams):
    projection_dim: int = hparam(8, "width of the projection", ge=2)


class Good(Method[GoodParams]):
    """Alignment and uniformity, arXiv:2005.10242."""

    params_type = GoodParams

    def __init__(self, backbone: nn.Module, feature_dim: int, params: GoodParams) -> None:
        super().__init__(backbone, feature_dim, params)
        self.projection = nn.Linear(feature_dim, params.projection_dim)

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        return two_views(patches, rng, self.params)

    def gather(self, z: Tensor) -> Tensor:
        return all_gather(z)

    def loss(self, views: dict[str, Tensor]) -> Step:
        za, zb = (self.projection(self.backbone(views[name])) for name in ("a", "b"))
        with torch.autocast(za.device.type, enabled=False):
            za, zb = (F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1) for z in (za, zb))
            za, zb = self.gather(za), self.gather(zb)
            distance = torch.cdist(za, zb).square()
            loss = distance.diagonal().mean() + (-2 * distance).exp().mean().log()
        return Step(loss=loss)


class Api(Good):
    """Another API version, arXiv:2005.10242."""

    api_version = 2


class Docstring(Good):
    """A very good method."""


@dataclass(frozen=True, kw_only=True)
class SilentParams(GoodParams):
    rounds: int = hparam(1, " ")


class Silent(Good):
    """A parameter without help, arXiv:2005.10242."""

    params_type = SilentParams


@dataclass(frozen=True, kw_only=True)
class PresetParams(GoodParams):
    presets = {"histology": {"min_scale": 2.0}}


class Preset(Good):
    """A preset out of bounds, arXiv:2005.10242."""

    params_type = PresetParams


class Views(Good):
    """Views that ask for gradient, arXiv:2005.10242."""

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        return {name: view.requires_grad_() for name, view in super().views(patches, rng).items()}


class Modifies(Good):
    """It writes into the loader's batch, arXiv:2005.10242."""

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        return super().views(patches.bitwise_not_(), rng)


class Randomness(Good):
    """It draws from the global generator, arXiv:2005.10242."""

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        return {name: view * torch.rand(()) for name, view in super().views(patches, rng).items()}


class HiddenRandomness(Good):
    """It draws from the global generator what it does not use, arXiv:2005.10242."""

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        torch.rand(())
        return super().views(patches, rng)


class Shape(Good):
    """A loss of shape (1,), arXiv:2005.10242."""

    def loss(self, views: dict[str, Tensor]) -> Step:
        return Step(loss=super().loss(views).loss[None])


class Unused(Good):
    """A parameter nobody trains, arXiv:2005.10242."""

    def __init__(self, backbone: nn.Module, feature_dim: int, params: GoodParams) -> None:
        super().__init__(backbone, feature_dim, params)
        self.unused = nn.Linear(2, 2)


class Detached(Good):
    """The backbone learns nothing, arXiv:2005.10242."""

    def loss(self, views: dict[str, Tensor]) -> Step:
        with torch.no_grad():
            features = self.backbone(views["a"])
        return Step(loss=self.projection(features).square().mean())


class Small(Good):
    """Not a number for fewer than four patches, arXiv:2005.10242."""

    def loss(self, views: dict[str, Tensor]) -> Step:
        factor = 1.0 if len(views["a"]) > 3 else float("nan")
        return Step(loss=factor * super().loss(views).loss)


class Bfloat16(Good):
    """Its loss is as coarse as its features, arXiv:2005.10242."""

    def loss(self, views: dict[str, Tensor]) -> Step:
        dtype = self.projection(self.backbone(views["a"])).dtype
        return Step(loss=super().loss(views).loss.to(dtype))


class Validation(Good):
    """It counts its calls, arXiv:2005.10242."""

    calls: Tensor

    def __init__(self, backbone: nn.Module, feature_dim: int, params: GoodParams) -> None:
        super().__init__(backbone, feature_dim, params)
        self.register_buffer("calls", torch.zeros(()))

    def loss(self, views: dict[str, Tensor]) -> Step:
        self.calls += 1
        return super().loss(views)


class Hidden(Good):
    """State that is in no buffer, arXiv:2005.10242."""

    scale = 1.0

    def loss(self, views: dict[str, Tensor]) -> Step:
        return Step(loss=self.scale * super().loss(views).loss)

    def after_step(self, progress: float) -> None:
        self.scale *= 1.5


class Lambda(Good):
    """It holds a function that cannot be pickled, arXiv:2005.10242."""

    def __init__(self, backbone: nn.Module, feature_dim: int, params: GoodParams) -> None:
        super().__init__(backbone, feature_dim, params)
        self.activation: Callable[[Tensor], Tensor] = lambda values: values


class Rises(Good):
    """The gradient has the wrong sign, arXiv:2005.10242."""

    def loss(self, views: dict[str, Tensor]) -> Step:
        loss = super().loss(views).loss
        return Step(loss=2 * loss.detach() - loss)


class Local(Good):
    """Each rank knows its own samples only, arXiv:2005.10242."""

    def gather(self, z: Tensor) -> Tensor:
        return z


class NoGradient(Good):
    """Other ranks' samples count in the loss, not in the gradient, arXiv:2005.10242."""

    def gather(self, z: Tensor) -> Tensor:
        everyone = all_gather(z.detach()).clone()
        everyone[rank() * len(z) : (rank() + 1) * len(z)] = z
        return everyone


class Raises(Good):
    """It cannot run at all, arXiv:2005.10242."""

    def loss(self, views: dict[str, Tensor]) -> Step:
        raise KeyError("c")


class Needs(Good):
    """It asks for what no wsitool can give, arXiv:2005.10242."""

    needs = frozenset({"tokens", "survival"})


class NoMeta(Good):
    """It needs labels and does not take them, arXiv:2005.10242."""

    needs = frozenset({"labels"})


class Foreign(Good):
    """It groups what it does not train, arXiv:2005.10242."""

    def param_groups(self) -> list[ParamGroup]:
        return [ParamGroup(params=(nn.Parameter(torch.zeros(2)),))]


class Twice(Good):
    """It groups a parameter twice, arXiv:2005.10242."""

    def param_groups(self) -> list[ParamGroup]:
        return [ParamGroup(params=(self.projection.weight,)) for _ in range(2)]


class WithHead(Good):
    """It exports a head, arXiv:2005.10242."""

    def encoder(self) -> nn.Module:
        return nn.Sequential(self.backbone, self.projection)


class Counts(Good):
    """It counts steps for itself where no checkpoint sees it, arXiv:2005.10242."""

    scale = 1.0

    def before_step(self, progress: Progress) -> None:
        self.scale *= 1.5

    def loss(self, views: dict[str, Tensor]) -> Step:
        return Step(loss=self.scale * super().loss(views).loss)
