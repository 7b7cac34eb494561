"""The optional members of a method in a run: when they are called, what they decide, what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_methods import Good, GoodParams
from patch_stores import patch_folder
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from wsitool.api import Meta, Method, ParamGroup, Progress, Recipe, Step, ema_update, frozen_copy
from wsitool.backbones.build import build_backbone
from wsitool.backbones.precision import Precision
from wsitool.base.progress import SILENT, Task
from wsitool.errors import PluginError, UsageError
from wsitool.training import assembly, monitor
from wsitool.training.config import PretrainConfig
from wsitool.training.optim import hold_frozen, learning_rate, make_optimizer, set_rates, weight_decay
from wsitool.training.parts import TRANSFORMER, make_method, recipe_of
from wsitool.training.run import pretrain

QUICK: dict[str, Any] = {"backbone": "resnet18", "init": "random", "batch_size": 8, "seed": 5, "epochs": 2}


class Voice:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def task(self, description: str, *, total: float, unit: str = "it") -> AbstractContextManager[Task]:
        return SILENT.task(description, total=total, unit=unit)

    def say(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.said.append(message)


class Taught(Good):
    """It notes all it is told, and exports a teacher, arXiv:2005.10242."""

    needs = frozenset({"coords"})
    recipe = Recipe(
        optimizer="sgd", lr=0.5, batch=256, weight_decay=0.1, final_weight_decay=0.4, clip_grad=1e-3
    )
    seen: list[Any] = []

    def __init__(self, backbone: nn.Module, feature_dim: int, params: GoodParams) -> None:
        super().__init__(backbone, feature_dim, params)
        self.teacher = frozen_copy(self.backbone)

    def views(self, patches: Tensor, rng: Generator, meta: Meta) -> dict[str, Tensor]:  # type: ignore[override]
        self.seen.append((meta, patches[:, 0, 0, 0].tolist(), self.training))
        return super().views(patches, rng)

    def before_step(self, progress: Progress) -> None:
        self.seen.append(progress)

    def after_step(self, progress: float) -> None:
        self.seen.append(progress)
        ema_update(self.teacher, self.backbone, 0.5)

    def encoder(self) -> nn.Module:
        return self.teacher


@pytest.fixture(scope="module")
def kidney(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patch_folder(tmp_path_factory.mktemp("data") / "kidney")


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(kind: type[Method[Any]]) -> None:
        monkeypatch.setattr(assembly, "load_method", lambda name: kind)

    return install


def _rows(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_calls_every_member_in_its_turn_and_exports_the_teacher(
    kidney: Path, tmp_path: Path, use: Any
) -> None:
    use(Taught)
    Taught.seen.clear()
    voice = Voice()
    result = pretrain(
        kidney,
        method="taught",
        out=tmp_path / "r",
        accumulate=2,
        holdout=0.5,
        reporter=voice,
        **QUICK | {"batch_size": 4},
    )
    trained = [each for each in Taught.seen if not isinstance(each, tuple) or each[2]]
    kinds = "".join({Progress: "b", tuple: "v", float: "a"}[type(each)] for each in trained)
    assert kinds == "bvva" * 3  # 2 epochs of 3 batches, two to a step
    steps = [each for each in trained if isinstance(each, Progress)]
    assert [(each.step, each.steps, each.epoch, each.share) for each in steps] == [
        (0, 3, 0, 0),
        (1, 3, 0, 1 / 3),
        (2, 3, 1, 2 / 3),
    ]
    assert [each.lr for each in steps] == [float(row["lr"]) for row in _rows(tmp_path / "r")]
    assert steps[0].lr == pytest.approx(0.5 * 8 / 256)  # grows with the patches of a step
    metas = [each for each in Taught.seen if isinstance(each, tuple)]
    assert {training for _, _, training in metas} == {True, False}  # held-out batches are described as well
    for meta, first, _ in metas:
        assert meta.coords[:, 0].tolist() == [32 * (index % 12) for index in meta.indices.tolist()]
        assert len(first) == len(meta.store) and meta.pairs is None
    state = torch.load(tmp_path / "r" / "last.ckpt", weights_only=True)["method"]
    saved = load_file(result.encoder)
    assert all(torch.equal(value, state[f"teacher.trunk.{name}"]) for name, value in saved.items())
    assert any(not torch.equal(value, state[f"backbone.trunk.{name}"]) for name, value in saved.items())
    facts = json.loads((tmp_path / "r" / "run.json").read_text())
    assert (facts["optimizer"], facts["weight_decay"], facts["clip_grad"]) == ("sgd", 0.1, 1e-3)
    (said,) = [text for text in voice.said if text.startswith("Trained by")]
    assert said.startswith("Trained by sgd at lr 0.0156 for 8 patches a step, cosine, 0% warm-up")
    assert (
        "weight decay 0.1 to 0.4, gradients of norm 0.001 at most: what was not given is the method's" in said
    )
    again = pretrain(
        kidney,
        method="taught",
        out=tmp_path / "r",
        accumulate=2,
        holdout=0.5,
        resume=True,
        **QUICK | {"batch_size": 4},
    )
    assert again.loss == result.loss


def test_a_row_is_the_mean_of_its_accumulated_batches(
    kidney: Path, tmp_path: Path, use: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []

    class Noted(Good):
        """arXiv:2005.10242"""

        def loss(self, views: dict[str, Tensor]) -> Step:
            step = super().loss(views)
            losses.append(float(step.loss.detach()))
            return Step(loss=step.loss, metrics={"number": torch.tensor(float(len(losses)))})

    use(Noted)
    # A look after each batch: the parts of a step come one by one.
    monkeypatch.setattr(monitor, "_FLUSH_SECONDS", 0.0)
    pretrain(
        kidney, method="noted", out=tmp_path / "r", accumulate=4, **QUICK | {"batch_size": 4, "epochs": 1}
    )
    rows = _rows(tmp_path / "r")
    assert [float(row["loss"]) for row in rows] == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 2])
    assert [float(row["number"]) for row in rows] == [2.5, 5.5]


@pytest.mark.parametrize(
    ("needs", "options", "message"),
    [
        ({"labels"}, {}, "needs patches labelled with at least two classes, and the stores have 0"),
        ({"tokens"}, {"backbone": "squeezenet1_1"}, "needs a backbone with tokens"),
        (set(), {"layer_decay": 0.5}, "--layer-decay is for transformers, and resnet18 is none"),
    ],
)
def test_a_need_that_cannot_be_met_leaves_nothing_behind(
    kidney: Path, tmp_path: Path, use: Any, needs: set[str], options: dict[str, Any], message: str
) -> None:
    use(type("Needy", (Taught,), {"needs": frozenset(needs), "__doc__": "arXiv:2005.10242"}))
    with pytest.raises(UsageError, match=message):
        pretrain(kidney, method="needy", out=tmp_path / "r", **QUICK | options)
    assert not (tmp_path / "r").exists()


def test_a_network_that_cannot_hide_tokens_is_refused_before_the_run(
    kidney: Path, tmp_path: Path, use: Any
) -> None:
    class Hides(Good):
        """arXiv:2005.10242"""

        needs = frozenset({"tokens"})

        def loss(self, views: dict[str, Tensor]) -> Step:
            keep = torch.zeros(len(views["a"]), 1, dtype=torch.long)
            return Step(loss=self.backbone.tokens(views["a"], keep=keep)[0].mean())  # type: ignore[operator]

    use(Hides)
    with pytest.raises(
        UsageError, match="hidden in transformers of timm, and ResNet is none: pass --backbone"
    ):
        pretrain(kidney, method="hides", out=tmp_path / "r", **QUICK)
    assert not (tmp_path / "r").exists()


def test_an_encoder_that_is_no_part_of_the_method_is_refused(kidney: Path, tmp_path: Path, use: Any) -> None:
    use(type("Heady", (Good,), {"encoder": lambda self: nn.Identity(), "__doc__": "arXiv:2005.10242"}))
    with pytest.raises(
        PluginError, match=r"encoder\(\) of method 'heady' must return its backbone .* got Identity"
    ):
        pretrain(kidney, method="heady", out=tmp_path / "r", **QUICK)
    assert not (tmp_path / "r").exists()


class Grouped(Good):
    """Its projection waits, arXiv:2005.10242."""

    def param_groups(self) -> Sequence[ParamGroup]:
        own = ParamGroup(params=(self.projection.weight,), lr_scale=10, weight_decay=0.0, frozen_until=0.5)
        return (own, ParamGroup(params=(self.projection.bias,), weight_decay=0.3))


def _config(**options: Any) -> PretrainConfig:
    return PretrainConfig(method="m", **options)


def test_groups_have_rates_decays_and_frozen_times_of_their_own() -> None:
    torch.manual_seed(0)
    method = Grouped(nn.Linear(3, 16), 16, GoodParams())
    config = _config(optimizer="adamw", lr=1e-3, weight_decay=0.1, final_weight_decay=0.5)
    optimizer = make_optimizer(method, config)
    set_rates(optimizer, config, 5, 10)
    by_id = {id(weight): group for group in optimizer.param_groups for weight in group["params"]}
    backbone, projection = method.backbone, method.projection
    halfway = learning_rate(config, 5, 10)
    for weight, lr, decay in (
        (backbone.weight, halfway, 0.3),
        (backbone.bias, halfway, 0.0),
        (projection.weight, 10 * halfway, 0.0),
        (projection.bias, halfway, 0.3),
    ):
        group = by_id[id(weight)]
        assert (group["lr"], group["weight_decay"]) == (pytest.approx(lr), pytest.approx(decay))
    for share, moves in ((0.0, False), (0.49, False), (0.5, True)):
        before = projection.weight.detach().clone()
        for weight in method.parameters():
            weight.grad = torch.ones_like(weight)
        hold_frozen(optimizer, share)
        optimizer.step()
        assert torch.equal(projection.weight, before) != moves
    assert int(optimizer.state[projection.weight]["step"]) == 1  # it remembers nothing of the time before


def test_the_weight_decay_goes_along_a_cosine() -> None:
    config = _config(weight_decay=0.04, final_weight_decay=0.4)
    for step in (0, 3, 10):
        expected = 0.4 + 0.5 * (0.04 - 0.4) * (1 + math.cos(math.pi * step / 10))  # DINO's cosine_scheduler
        assert weight_decay(config, step, 10) == pytest.approx(expected)
    assert weight_decay(_config(weight_decay=0.04), 7, 10) == 0.04


def test_layer_decay_is_timms() -> None:
    from timm.optim import param_groups_layer_decay

    encoder = build_backbone("timm:test_vit", init="random")
    method = Good(encoder, encoder.feature_dim, GoodParams())
    optimizer = make_optimizer(method, _config(layer_decay=0.75, weight_decay=0.05))
    ours = {id(weight): group for group in optimizer.param_groups for weight in group["params"]}
    theirs = param_groups_layer_decay(
        encoder.trunk, weight_decay=0.05, layer_decay=0.75, no_weight_decay_list=()
    )
    for group in theirs:
        for weight in group["params"]:
            assert ours[id(weight)]["lr_scale"] == pytest.approx(group["lr_scale"])
    assert ours[id(method.projection.weight)]["lr_scale"] == 1
    assert optimizer.param_groups[0]["lr_scale"] == 1


def test_activations_computed_again_give_the_same_gradients_from_less_memory() -> None:
    images, kept, gradients = torch.rand(4, 3, 64, 64), [], []
    for again in (False, True):
        encoder = build_backbone("timm:test_vit", init="random", seed=3)
        method = make_method(Good, encoder, GoodParams(), _config(gradient_checkpointing=again))
        sizes: list[int] = []

        def note(saved: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(saved.numel())
            return saved

        with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
            loss = method.loss({"a": images, "b": images.flip(-1)}).loss
        kept.append(sum(sizes))
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.append([weight.grad for weight in method.parameters()])
    assert kept[1] < 0.5 * kept[0]
    torch.testing.assert_close(gradients[0], gradients[1])
    with pytest.raises(UsageError, match="--gradient-checkpointing is for transformers, and resnet18 is"):
        resnet = build_backbone("resnet18", init="random")
        make_method(Good, resnet, GoodParams(), _config(gradient_checkpointing=True))


def test_gradients_are_clipped_together() -> None:
    weights = [nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))]
    optimizer = torch.optim.SGD(weights, lr=1.0)
    for largest, expected in ((0.0, [30.0, 40.0]), (5.0, [3.0, 4.0]), (100.0, [30.0, 40.0])):
        for weight, gradient in zip(weights, (30.0, 40.0), strict=True):
            weight.grad = torch.tensor([gradient])
        Precision("32", torch.device("cpu")).clip(optimizer, largest)
        assert [float(weight.grad) for weight in weights if weight.grad is not None] == pytest.approx(
            expected
        )


def test_what_is_not_given_is_the_recipes() -> None:
    recipe = Recipe(optimizer="lars", lr=0.2, batch=256, weight_decay=1.5e-6, warmup=0.01)
    config = _config(batch_size=64, device="cuda:0,cuda:1", accumulate=4)
    ours = config.with_recipe(recipe)
    assert (ours.optimizer, ours.lr, ours.weight_decay, ours.warmup) == (
        "lars",
        pytest.approx(0.4),
        1.5e-6,
        0.01,
    )
    assert _config(lr=1.0).with_recipe(recipe).lr == 1.0
    # Another optimiser has no use for its rates.
    other = _config(optimizer="adam").with_recipe(recipe)
    assert (other.lr, other.weight_decay, other.warmup) == (3e-4, 1e-6, 0.0)
    falling = dataclasses.replace(recipe, final_weight_decay=0.4)
    assert config.with_recipe(falling).final_weight_decay == 0.4
    assert _config(weight_decay=0.1).with_recipe(falling).final_weight_decay is None
    for values in ({"optimizer": "adamax"}, {"lr": 0.0}, {"warmup": 1.0}, {"layer_decay": 0.0}):
        with pytest.raises(ValueError, match="A recipe's"):
            Recipe(**values)  # type: ignore[arg-type]


def test_a_transformer_is_not_trained_by_a_recipe_for_convolutions() -> None:
    vit, resnet = (build_backbone(name, init="random") for name in ("timm:test_vit", "resnet18"))
    assert recipe_of(Good, resnet) == (Recipe(), "the study's settings")
    assert recipe_of(Taught, resnet)[0] == Taught.recipe
    assert recipe_of(Good, vit)[0] == recipe_of(Taught, vit)[0] == TRANSFORMER
    own = type("Own", (Good,), {"recipe": Recipe(optimizer="adamw", lr=1e-4)})
    assert recipe_of(own, vit) == (own.recipe, "the method's own recipe")


def test_a_run_of_an_earlier_build_goes_on_as_it_was_begun(kidney: Path, tmp_path: Path, use: Any) -> None:
    use(Good)
    out, told = tmp_path / "r", Voice()
    options = QUICK | {"epochs": 1, "schedule": "constant"}
    pretrain(kidney, method="taught", out=out, **options)
    state = torch.load(out / "last.ckpt", weights_only=True)
    for name in ("final_weight_decay", "clip_grad", "layer_decay"):
        del state["config"][name]
    for group in state["optimizer"]["param_groups"]:
        for name in ("lr_scale", "scheduled_decay", "frozen_until"):
            del group[name]
    torch.save(state, out / "last.ckpt")
    use(
        type(
            "Recipes",
            (Good,),
            {"recipe": Recipe(optimizer="lars", lr=0.2, batch=256), "__doc__": "arXiv:2005.10242"},
        )
    )
    pretrain(kidney, method="taught", out=out, resume=True, reporter=told, **options | {"epochs": 2})
    facts = json.loads((out / "run.json").read_text())
    assert (facts["optimizer"], facts["lr"]) == ("adam", 3e-4) and facts["status"] == "complete"
    assert len(_rows(out)) == 6 and float(_rows(out)[-1]["lr"]) == 3e-4


@pytest.mark.parametrize(
    ("queue", "message"),
    [
        (100, "only 48 will ever be written, the rest stay random"),
        (30, "there are 24: a patch meets its own"),
        (16, ""),
    ],
)
def test_a_queue_that_is_too_long_is_said(kidney: Path, tmp_path: Path, queue: int, message: str) -> None:
    voice = Voice()
    pretrain(kidney, method="moco", out=tmp_path / "r", params={"queue": queue}, reporter=voice, **QUICK)
    said = [text for text in voice.said if "negatives" in text]
    assert (message in said[0] and "--queue" in said[0]) if message else not said
