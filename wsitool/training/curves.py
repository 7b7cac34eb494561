"""curves.png: the rows of metrics.csv as pictures; the only part of a training that brings matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsitool.report.curves import Curve, Panel, save_curves
from wsitool.training.metrics_file import Row

__all__ = ["curve_panels", "draw_curves"]

_PANELS = 10


def draw_curves(rows: Sequence[Row], path: Path) -> None:
    """Loss, the method's own metrics, and the learning rate over the steps."""
    save_curves(path, curve_panels(rows))


def curve_panels(rows: Sequence[Row]) -> list[Panel]:
    """What `draw_curves` draws."""
    names = dict.fromkeys(name for row in rows for name in row if name not in _COMMON)
    # A metric that never changes says nothing as a curve.
    varying = [name for name in names if len({row[name] for row in rows if name in row}) > 1]
    losses = [_curve(rows, name) for name in ("loss", "val_loss")]
    chance = rows[-1].get("chance_loss") if rows else None
    panels = [Panel(title="loss", curves=[curve for curve in losses if curve.y], chance=chance)]
    panels += [Panel(title=name.replace("_", " "), curves=[_curve(rows, name)]) for name in varying[:_PANELS]]
    return [*panels, Panel(title="learning rate", curves=[_curve(rows, "lr")])]


_COMMON = ("step", "epoch", "loss", "val_loss", "chance_loss", "lr", "images_per_s", "wait_share")


def _curve(rows: Sequence[Row], name: str) -> Curve:
    points = [(row["step"], row[name]) for row in rows if name in row]
    return Curve(
        label=name,
        x=[x for x, _ in points],
        y=[y for _, y in points],
        # Held-out losses and probes come once an epoch: few points are not smoothed.
        smooth=name != "lr" and len(points) == len(rows),
    )
