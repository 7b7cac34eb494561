"""What every self-supervised method must do: one plain function per rule of the plugin contract.

Each takes a `Subject` and raises AssertionError saying what was expected, what came and what to do.
"""

from __future__ import annotations

import json
import pickle
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from wsitool.api import Method, Progress, Step, to_float
from wsitool.errors import PluginError, UsageError
from wsitool.methods.meta import call_views
from wsitool.methods.registry import check_method as check_class
from wsitool.testing.processes import ClassAddress, import_effects, loss_and_gradients, on_two_ranks
from wsitool.testing.subject import Subject, keep_randomness, seed_everything, stop_dropout
from wsitool.training.config import PretrainConfig
from wsitool.training.optim import make_optimizer

__all__ = ["METHOD_CHECKS", "Check", "check_contract"]

Check = Callable[[Subject], None]

_SOURCE = re.compile(r"https?://|arxiv:\s*\d|doi:\s*10\.|\b10\.\d{4,}/", re.IGNORECASE)
_FALL_STEPS, _FALL_LR = 30, 2e-3
# In float64 the order of sums is all that may differ.
_DDP_BATCH, _DDP_TOLERANCE = 8, 1e-6


def check_contract(subject: Subject) -> None:
    """The class derives from Method, has this API version, views and loss, and frozen params."""
    try:
        check_class(subject.cls, getattr(subject.cls, "__name__", repr(subject.cls)))
    # From None: the sentence says it all.
    except PluginError as error:
        raise AssertionError(str(error)) from None


def check_docstring(subject: Subject) -> None:
    """The class says where the method comes from."""
    # The class's own docstring: an inherited one is the base class's.
    text = vars(subject.cls).get("__doc__") or ""
    assert _SOURCE.search(text), (
        f"The docstring of {subject.cls.__name__} must name the method's source as a URL, arXiv:NUMBER or "
        f"doi:NUMBER, got {text.strip()[:60]!r}: add it, so that users know what they run."
    )


def check_params(subject: Subject) -> None:
    """Every parameter has help, defaults and presets are within bounds, and all survive JSON."""
    kind = subject.cls.params_type
    silent = [spec.name for spec in kind.hparams() if not spec.help.strip()]
    assert not silent, f"Parameter {', '.join(silent)} has no help: write hparam(default, 'what it is')."
    # "paper" is there without being named.
    for preset in ("paper", *kind.presets):
        try:
            params = kind.from_preset(preset, subject.params)
        except UsageError as error:
            raise AssertionError(
                f"The values of preset '{preset}' must be valid, got: {error} Change them or the bounds."
            ) from None
        # Through JSON, as a checkpoint's parameters go.
        again = kind.from_dict(json.loads(json.dumps(params.to_dict(), allow_nan=False)))
        assert again == params, (
            f"{kind.__name__} must be the same after JSON, got {again} from {params}: keep values of type "
            "int, float, bool, str or None."
        )


def check_views(subject: Subject) -> None:
    """Views are named tensors without gradient, of whole multiples of the batch."""
    method, patches = subject.build(), subject.patches(6)
    views = subject.views(method, patches)
    assert isinstance(views, dict) and views, f"views must return a dict of tensors, got {views!r:.80}."
    for name, view in views.items():
        assert isinstance(name, str) and isinstance(view, Tensor), (
            f"views must map names to tensors, got {name!r}: {type(view).__name__}."
        )
        assert view.ndim >= 1 and len(view) and len(view) % len(patches) == 0, (
            f"The first axis of view '{name}' must be the batch of {len(patches)} or a multiple of it, got "
            f"shape {tuple(view.shape)}: put samples first."
        )
        assert not view.requires_grad, f"View '{name}' must need no gradient: learn in loss, not in views."


def check_input_unmodified(subject: Subject) -> None:
    """The loader's batch is the same after views: it is reused."""
    patches = subject.patches()
    before, meta = patches.clone(), subject.meta(patches)
    with torch.no_grad():
        call_views(subject.build(), patches, Generator().manual_seed(0), meta)
    pairs = patches if meta.pairs is None else meta.pairs.roll(-1, dims=0)
    assert torch.equal(patches, before) and torch.equal(pairs, before), (
        "views must not modify the patches it is given, and it did: use operations that return a new tensor."
    )


def check_randomness(subject: Subject) -> None:
    """Views draw from `rng` and nothing else: the same generator gives the same views."""
    method, patches = subject.build(), subject.patches()
    with keep_randomness():
        seed_everything(1)
        # Global seeds that differ: what draws from them shows.
        first = subject.views(method, patches, seed=5)
        seed_everything(2)
        # After seeding, before the views: any difference is the method's doing.
        states = _global_randomness()
        second = subject.views(method, patches, seed=5)
        touched = [name for name, state in _global_randomness().items() if state != states[name]]
    assert all(torch.equal(first[name], second[name]) for name in first), (
        "views must give the same views for the same rng, and they differ: pass rng to every random function "
        "(generator=rng) and use neither random, numpy.random nor torch's global generator."
    )
    assert not touched, f"views must draw from rng only, and it used {', '.join(touched)}: pass rng instead."


def _global_randomness() -> dict[str, object]:
    return {
        "torch's global generator": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        # Arrays compare element by element; their text compares at once.
        "numpy.random": repr(np.random.get_state()),  # noqa: NPY002
    }


def check_loss(subject: Subject) -> None:
    """The loss is a finite scalar float32 with gradient, the metrics are finite scalars."""
    step = subject.step(subject.build())
    assert isinstance(step, Step), f"loss must return wsitool.api.Step(loss=...), got {type(step).__name__}."
    _require_good_loss(step.loss, "The loss")
    for name, value in step.metrics.items():
        assert isinstance(value, Tensor) and value.numel() == 1 and bool(torch.isfinite(value).all()), (
            f"Metric '{name}' must be a finite scalar tensor, got {value!r:.80}: reduce it, or leave it out."
        )


def _require_good_loss(loss: object, what: str) -> None:
    assert isinstance(loss, Tensor) and loss.ndim == 0 and loss.dtype == torch.float32, (
        f"{what} must be a scalar float32 tensor, got {_shown(loss)}: reduce it with .mean() and compute it "
        "in float32."
    )
    assert loss.requires_grad, f"{what} must have a gradient: do not detach it or compute it under no_grad."
    assert bool(torch.isfinite(loss)), (
        f"{what} must be finite, got {loss.item()}: look for a logarithm, root or division of zero."
    )


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)} and {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def check_gradient(subject: Subject) -> None:
    """Every trainable parameter gets gradient, the backbone's a finite one that is not zero."""
    method = subject.build()
    _backward(subject.step(method).loss)
    # Distributed training waits for the gradient of every parameter.
    unused = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused, (
        f"Every trainable parameter must take part in the loss, and {', '.join(unused[:4])} does not: remove "
        "it or set requires_grad_(False); distributed training stops at unused parameters."
    )
    dead = [
        name
        for name, p in method.backbone.named_parameters()
        # `any`: a gradient of zeros means that the features do not matter.
        if p.grad is None or not bool(torch.isfinite(p.grad).all()) or not bool(p.grad.any())
    ]
    assert not dead, (
        f"The loss must give {', '.join(dead[:4])} of the backbone a finite gradient other than zero: check "
        "that the features are neither detached nor frozen."
    )


def _backward(loss: Tensor) -> None:
    loss.sum().backward()  # type: ignore[no-untyped-call]


def check_batch_sizes(subject: Subject) -> None:
    """Small and odd batches and patch sizes work: the last batch of an epoch is one."""
    # 33 px: an odd size finds assumptions about halving; tokens are whole, an odd number of them does.
    for count, size in ((2, 32), (3, 32), (5, 40 if subject.needs_tokens else 33), (7, 48)):
        loss = subject.step(subject.build(), count, size).loss
        assert bool(torch.isfinite(loss).all()), (
            f"The loss of {count} patches of {size} px must be finite, got {loss}: guard statistics over "
            "the batch."
        )


def check_bfloat16(subject: Subject) -> None:
    """Under bfloat16 autocast the loss is still float32 and finite, and so are the gradients."""
    method = subject.build()
    views = subject.views(method, subject.patches())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.loss(views).loss
    assert loss.dtype == torch.float32 and bool(torch.isfinite(loss).all()), (
        f"Under bfloat16 autocast the loss must be finite float32, got {_shown(loss)} ({loss.detach()}): "
        "compute it from values.float() inside torch.autocast(device, enabled=False)."
    )
    _backward(loss)
    broken = [n for n, p in method.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    assert not broken, f"Under bfloat16 autocast the gradient of {', '.join(broken[:4])} must be finite."


def check_validation(subject: Subject) -> None:
    """In evaluation mode and without gradient the loss is finite, and computing it changes no state."""
    method = subject.build().eval()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with torch.no_grad():
        loss = subject.step(method).loss
    assert bool(torch.isfinite(loss).all()), f"In evaluation mode the loss must be finite, got {loss}."
    changed = [name for name, value in method.state_dict().items() if not torch.equal(value, before[name])]
    assert not changed, (
        f"In evaluation mode the loss must change no state, and it changed {', '.join(changed[:4])}: "
        "update teachers and queues in after_step."
    )


def check_state_dict(subject: Subject) -> None:
    """A method restored from its state dict goes on exactly as the original does."""
    method = subject.build()
    _train(subject, method, steps=2)
    # Other weights first, so that a state that is not loaded shows.
    restored = subject.build(seed=1)
    # Cloned, as `_train` changes the first one's tensors in place.
    restored.load_state_dict({name: value.clone() for name, value in method.state_dict().items()})
    expected, got = (_train(subject, each, steps=3) for each in (method, restored))
    # Equal to the bit: both compute the same on the same machine.
    assert expected == got, (
        f"After load_state_dict training must go on as before, with losses {expected}, got {got}: keep state "
        "in parameters and registered buffers, and change buffers in place."
    )


def _train(subject: Subject, method: Method[Any], steps: int) -> list[float]:
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.01)
    # In place of the engine: before_step, views, loss, backward, step, after_step, in its order.
    losses = []
    with keep_randomness():
        for number in range(steps):
            torch.manual_seed(number)
            optimizer.zero_grad()
            method.before_step(Progress(step=number, steps=steps, epoch=0, share=number / steps, lr=0.01))
            loss = method.loss(subject.views(method, subject.patches(), seed=number)).loss
            _backward(loss)
            optimizer.step()
            method.after_step((number + 1) / steps)
            losses.append(loss.sum().item())
    return losses


def check_pickling(subject: Subject) -> None:
    """A method can be sent to another process."""
    method = subject.build()
    try:
        again = pickle.loads(pickle.dumps(method))  # noqa: S301 - what was pickled a moment ago
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AssertionError(
            f"The method must survive pickling, got {type(error).__name__}: {error}. Define the class at "
            "module level and keep no lambdas, locals or open files."
        ) from None
    with keep_randomness():
        losses = []
        for each in (method, again):
            # Dropout draws from the global generator.
            torch.manual_seed(0)
            losses.append(subject.step(each).loss.sum().item())
    assert losses[0] == losses[1], f"A pickled copy must have the same loss, {losses[0]}, got {losses[1]}."


def check_loss_falls(subject: Subject) -> None:
    """Minimising the loss on one batch of fixed views lowers it."""
    method = subject.build()
    views = subject.views(method, subject.patches())
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=_FALL_LR)
    losses = []
    with keep_randomness():
        for _ in range(_FALL_STEPS):
            # The same dropout each time, so that only the weights change.
            torch.manual_seed(0)
            optimizer.zero_grad()
            loss = method.loss(views).loss
            _backward(loss)
            optimizer.step()
            losses.append(loss.sum().item())
    # The least of the last five: a step may overshoot.
    assert min(losses[-5:]) < losses[0], (
        f"{_FALL_STEPS} steps on one repeated batch must lower the loss, got {losses[0]:.4f} -> "
        f"{losses[-1]:.4f}: check its sign, and that gradients belong to the value that is returned."
    )


def check_members(subject: Subject) -> None:
    """Its own parameter groups and its exported encoder are parts of the method that can be used as such."""
    method = subject.build()
    try:
        make_optimizer(method, PretrainConfig(method=subject.cls.__name__))
    except PluginError as error:
        raise AssertionError(str(error)) from None
    encoder = method.encoder()
    assert any(encoder is part for part in method.modules()), (
        f"encoder() must return the backbone, or a frozen_copy of it that is a part of the method, got "
        f"{type(encoder).__name__}: keep the copy as an attribute."
    )
    with torch.no_grad():
        images = to_float(subject.patches(2))
        features, expected = (part(images) for part in (encoder, method.backbone))
    assert features.shape == expected.shape, (
        f"encoder() must give features like the backbone's {tuple(expected.shape)}, got "
        f"{tuple(features.shape)}: return the copy of the backbone alone, without heads."
    )


def check_import(subject: Subject) -> None:
    """Importing the plugin changes nothing for the rest of the program."""
    effects = import_effects(ClassAddress.of(subject.cls))
    assert not effects, (
        f"Importing {subject.cls.__module__} must have no side effects, and it changed {', '.join(effects)}: "
        "move that into the method's own functions, or remove it."
    )


def check_distributed(subject: Subject) -> None:
    """The mean over two ranks of loss and gradients is that of one process with the whole batch."""
    # float64: rounding cannot hide a gather that was forgotten.
    method = subject.build().double()
    state = {name: value.clone() for name, value in method.state_dict().items()}
    # Views once, in this process: both sides see the very same.
    with torch.no_grad():
        views = subject.views(method, subject.patches(_DDP_BATCH))
    views = {name: view.double() if view.is_floating_point() else view for name, view in views.items()}
    stop_dropout(method)
    loss, gradients = loss_and_gradients(method, views)
    mean_loss, mean_gradients = on_two_ranks(subject, state, views, _DDP_BATCH)
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    off = max(float((gradients[name] - mean_gradients[name]).abs().max()) for name in gradients)
    assert abs(float(loss - mean_loss)) <= _DDP_TOLERANCE * max(1.0, abs(float(loss))), (
        f"The mean loss of two ranks must be that of one process with the whole batch, {float(loss):.8f}, "
        f"got {float(mean_loss):.8f}: gather what samples share with wsitool.api.all_gather."
    )
    assert off <= _DDP_TOLERANCE * max(1.0, largest), (
        f"The mean gradient of two ranks must be that of one process, and differs by {off:.2e} (of at most "
        f"{largest:.2e}): gather with wsitool.api.all_gather, whose gradient flows to every rank."
    )


METHOD_CHECKS: tuple[Check, ...] = (
    check_contract,
    check_docstring,
    check_params,
    check_views,
    check_input_unmodified,
    check_randomness,
    check_loss,
    check_gradient,
    check_batch_sizes,
    check_bfloat16,
    check_validation,
    check_state_dict,
    check_pickling,
    check_loss_falls,
    check_members,
    check_import,
    check_distributed,
)
