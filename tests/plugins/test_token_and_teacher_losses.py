"""SupCon, DINO, iBOT, MAE and neighbours against lightly, pytorch-metric-learning and slow transcriptions."""

from __future__ import annotations

import math
from typing import Any

import lightly.loss
import pytest
import torch
import torch.nn.functional as F
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn
from lightly.models.modules.heads import DINOProjectionHead
from lightly.models.utils import get_2d_sine_cosine_positional_embedding
from pytorch_metric_learning.losses import SupConLoss
from torch import Generator, Tensor

from wsitool.api import Progress
from wsitool.testing.subject import Subject
from wsitool_plugins import dino, ibot, mae, neighbours, parts, supcon

SMALL: dict[str, Any] = {"outputs": 32, "hidden_dim": 16, "local_crops": 3}


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


def _close(ours: Tensor, theirs: Tensor | float) -> None:
    torch.testing.assert_close(ours, torch.as_tensor(theirs).to(ours), atol=1e-5, rtol=1e-5)


def _progress(share: float) -> Progress:
    return Progress(step=0, steps=100, epoch=0, share=share, lr=0.1)


@pytest.mark.parametrize(("n", "temperature"), [(4, 0.1), (9, 0.5), (32, 0.07)])
def test_supcon_is_metric_learnings_and_a_patch_without_a_label_is_alone(n: int, temperature: float) -> None:
    za, zb = _random(n, 8), _random(n, 8, seed=1)
    labels = torch.randint(-1, 3, (n,), generator=Generator().manual_seed(n))
    alone = torch.where(labels < 0, 100 + torch.arange(n), labels)
    theirs = SupConLoss(temperature=temperature)(torch.cat([za, zb]), alone.repeat(2))
    _close(supcon.supcon_loss(za, zb, labels, temperature), theirs)


def test_supcon_is_equation_2_summed_by_hand() -> None:
    z, labels = F.normalize(_random(6, 5), dim=1).double(), [0, 1, 0, 0, 1, 0]
    slow = 0.0
    for i in range(6):
        others = [a for a in range(6) if a != i]
        total = sum(math.exp(float(z[i] @ z[a]) / 0.2) for a in others)
        positives = [p for p in others if labels[p] == labels[i]]
        slow -= sum(float(z[i] @ z[p]) / 0.2 - math.log(total) for p in positives) / len(positives) / 6
    _close(supcon.supcon_loss(z[:3], z[3:], torch.tensor([0, 1, 0]), 0.2), slow)


@pytest.mark.parametrize(("n", "crops"), [(2, 2), (5, 8)])
def test_dinos_loss_is_lightlys(n: int, crops: int) -> None:
    said, taught, center = _random(crops * n, 16), _random(2 * n, 16, seed=1), _random(16, seed=2)
    theirs = lightly.loss.DINOLoss(output_dim=16, teacher_temp=0.05, student_temp=0.1)
    theirs.center.copy_(center[None, None])
    target = ((taught - center) / 0.05).softmax(dim=1)
    _close(parts.dino_loss(said, target, n), theirs(list(taught.chunk(2)), list(said.chunk(crops))))


def test_dinos_whole_loss_and_center_are_lightlys() -> None:
    subject = Subject(cls=dino.DINO, params=SMALL)
    method: Any = subject.build()
    views = subject.views(method, subject.patches(6))
    assert [tuple(view.shape) for view in views.values()] == [(12, 3, 32, 32), (18, 3, 14, 14)]
    theirs = lightly.loss.DINOLoss(output_dim=32, teacher_temp=0.055, student_temp=0.1)
    for share in (0.15, 0.15):  # halfway from .04 to .07
        method.before_step(_progress(share))
        with torch.no_grad():
            taught = method.teacher_head(method.teacher(views["large"]))
            said = [
                method.head(method.backbone(part))
                for name, k in (("large", 2), ("small", 3))
                for part in views[name].chunk(k)
            ]
        _close(method.loss(views).loss.detach(), theirs(list(taught.chunk(2)), said))
        method.after_step(0.5)
        _close(method.center, theirs.center[0, 0])


def test_the_head_is_lightlys_with_the_last_layers_norm_fixed() -> None:
    ours = parts.DINOHead(7, 16, 32)
    with pytest.warns(FutureWarning, match="weight_norm"):
        theirs = DINOProjectionHead(7, 16, 256, 32)
    theirs.layers.load_state_dict(ours.layers.state_dict())
    theirs.last_layer.weight_v.data.copy_(ours.last.detach())
    features = _random(5, 7)
    for head in (ours, theirs):
        (head(features).square()).sum().backward()
    _close(ours(features).detach(), theirs(features).detach())
    _close(ours.last.grad, theirs.last_layer.weight_v.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.9])
def test_the_teachers_temperature_rises_over_the_first_third(share: float) -> None:
    assert parts.warming(0.07, share) == pytest.approx(0.04 + 0.03 * min(1, share / 0.3))


def test_a_teacher_follows_and_is_what_is_exported_and_the_last_layer_waits() -> None:
    for cls in (dino.DINO, ibot.IBOT):
        subject = Subject(cls=cls, params=SMALL | {"momentum": 0.75})  # type: ignore[arg-type]
        method: Any = subject.build()
        assert method.encoder() is method.teacher
        (frozen,) = method.param_groups()
        assert frozen.frozen_until == 0.01 and any(weight is method.head.last for weight in frozen.params)
        teacher, student = next(method.teacher.parameters()), next(method.backbone.parameters())
        with torch.no_grad():
            student += 1
        method.after_step(0.0)
        _close(teacher, student - 0.75)
        subject.step(method).loss.backward()  # type: ignore[no-untyped-call]
        assert all(weight.grad is None for weight in method.teacher.parameters())


def test_sinkhorn_is_lightlys_and_leaves_out_what_is_not_used() -> None:
    scores = _random(12, 6)
    _close(parts.sinkhorn(scores, 0.1), lightly_sinkhorn(scores, iterations=3, epsilon=0.1))
    used = torch.tensor([1.0, 0.0, 1.0] * 4)
    part = parts.sinkhorn(scores, 0.1, used)
    _close(part[used > 0], lightly_sinkhorn(scores[used > 0], iterations=3, epsilon=0.1))
    assert not part[used == 0].any() and torch.isfinite(parts.sinkhorn(scores, 0.1, 0 * used)).all()


def test_the_loss_of_hidden_tokens_is_lightlys() -> None:
    counts = [3, 0, 1, 4]
    said, taught = _random(4, 4, 8), _random(4, 4, 8, seed=1)
    used = (torch.arange(4) < torch.tensor(counts)[:, None]).float()
    mask = torch.zeros(4, 3, 3, dtype=torch.bool)
    for image, count in enumerate(counts):
        mask[image].view(-1)[:count] = True
    theirs = lightly.loss.IBOTPatchLoss(output_dim=8, teacher_temp=0.07, student_temp=0.1)
    expected = theirs(taught[used > 0], said[used > 0], mask)
    _close(parts.masked_loss(said, (taught / 0.07).softmax(dim=-1), used), expected)


@pytest.mark.parametrize("n", [2, 9])
def test_koleo_is_lightlys(n: int) -> None:
    features = _random(n, 6)
    _close(parts.koleo(features), lightly.loss.KoLeoLoss()(features))


def test_ibots_whole_loss_is_put_together_from_lightlys() -> None:
    subject = Subject(cls=ibot.IBOT, params=SMALL | {"masked_p": 1.0})
    method: Any = subject.build()
    views = subject.views(method, subject.patches(4))
    used, masked = views["used"], views["masked"]
    grid = torch.zeros(8, 16).scatter(1, masked, used).view(8, 4, 4) > 0
    with torch.no_grad():
        cls, tokens = method.teacher.tokens(views["large"])
        target = lightly_sinkhorn(method.teacher_heads[0](cls), iterations=3, epsilon=0.04)
        there = lightly_sinkhorn(method.teacher_heads[1](tokens[grid]), iterations=3, epsilon=0.04)
        own, seen = method.backbone.tokens(views["large"], grid, method.mask_token)
        said = torch.cat([method.head(own), method.head(method.backbone(views["small"]))])
        image = sum(
            -(target[t * 4 : t * 4 + 4] * (said[v * 4 : v * 4 + 4] / 0.1).log_softmax(1)).sum(1).mean()
            for t in range(2)
            for v in range(5)
            if t != v
        )
        each = -(there * (method.token_head(seen[grid]) / 0.1).log_softmax(1)).sum(1)
        weight = (1 / grid.sum(dim=(1, 2)))[:, None, None].expand_as(grid)[grid]
        spread = sum(lightly.loss.KoLeoLoss()(part) for part in own.chunk(2))
    _close(method.loss(views).loss.detach(), image / 8 + (each * weight).sum() / 8 + 0.1 * spread)


def test_ibot_hides_a_tenth_to_a_half_of_the_asked_share_in_blots() -> None:
    subject = Subject(cls=ibot.IBOT, params=SMALL)
    method = subject.build()
    views = subject.views(method, subject.patches(100, 96))  # 12 x 12 tokens
    counts = views["used"].sum(dim=1)
    hidden = counts[counts > 0]
    assert 0.35 < len(hidden) / 200 < 0.65 and hidden.min() >= 14 and 60 < hidden.max() <= 72
    mask = torch.zeros(200, 144).scatter(1, views["masked"], views["used"]).view(200, 12, 12)
    # How often the token to the right of a hidden one is hidden too, beside the share expected by chance.
    together = float((mask[:, :, 1:] * mask[:, :, :-1]).sum() / mask[:, :, :-1].sum())
    assert together > 1.5 * float((counts / 144)[counts > 0].mean())


def test_maes_error_is_the_authors_written_out() -> None:
    images, hidden = (
        torch.rand(2, 3, 12, 8, generator=Generator().manual_seed(0)),
        torch.tensor([[5, 0], [2, 3]]),
    )
    painted = _random(2, 2, 48)
    slow = guess = 0.0
    for image in range(2):
        for place, token in enumerate(hidden[image].tolist()):
            y, x = 4 * (token // 2), 4 * (token % 2)
            values = images[image, :, y : y + 4, x : x + 4].double().flatten()
            mean = values.mean()
            variance = ((values - mean) ** 2).sum() / 47
            truth = (values - mean) / (variance + 1e-6).sqrt()
            slow += float((painted[image, place].double() - truth).square().mean()) / 4
            guess += float(truth.square().mean()) / 4
    error, chance = mae.painting_error(painted, images, hidden, 4)
    _close(error, slow)
    _close(chance, guess)


def test_maes_positions_are_lightlys() -> None:
    theirs = get_2d_sine_cosine_positional_embedding(32, 5, cls_token=False)
    _close(mae.positions(5, 5, torch.zeros(1, 32)), torch.from_numpy(theirs).float())
    assert mae.positions(2, 3, torch.zeros(1, 30)).shape == (6, 30)


def test_mae_shows_a_quarter_and_paints_from_nothing_else() -> None:
    subject = Subject(cls=mae.MAE, params={"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2})
    method = subject.build().eval()
    views = subject.views(method, subject.patches(4))
    asked: list[Tensor] = []
    tokens = method.backbone.tokens
    method.backbone.tokens = lambda images, keep: asked.append(keep) or tokens(images, keep=keep)  # type: ignore[operator, assignment]
    painted: list[Tensor] = []
    method.pixels.register_forward_hook(lambda _, __, out: painted.append(out))  # type: ignore[union-attr]
    with torch.no_grad():
        method.loss(views)
        seen = views["order"][:, :4]  # of 16 tokens
        other = views["images"].clone()
        for image in range(4):
            for token in set(range(16)) - set(seen[image].tolist()):
                y, x = 8 * (token // 4), 8 * (token % 4)
                other[image, :, y : y + 8, x : x + 8] = 0.5
        method.loss(views | {"images": other})
    assert torch.equal(asked[0], seen) and painted[0].shape == (4, 12, 192)
    assert torch.equal(painted[0], painted[1])


def test_neighbours_is_simclrs_loss_of_a_patch_and_the_one_beside_it() -> None:
    subject = Subject(cls=neighbours.Neighbours, params={"strength": 0.0, "blur_p": 0.0})
    method: Any = subject.build()
    patches = torch.arange(8, dtype=torch.uint8)[:, None, None, None].expand(8, 3, 32, 32) * 30
    views = subject.views(method, patches)
    assert [round(float(view.mean()) * 255 / 30) for view in views["a"]] == list(range(8))
    assert [round(float(view.mean()) * 255 / 30) for view in views["b"]] == [7, *range(7)]
    views = subject.views(method, subject.patches(8))
    za, zb = method.projection(method.backbone(torch.cat([views["a"], views["b"]]))).chunk(2)
    _close(method.loss(views).loss.detach(), lightly.loss.NTXentLoss(temperature=0.5)(za, zb).detach())
