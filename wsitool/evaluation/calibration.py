"""Temperature scaling: one number that makes probabilities mean what they say (arXiv:1706.04599)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import EncoderError

__all__ = ["check_logits", "fit_temperature", "softmax"]

Floats = NDArray[np.float64]
_ENOUGH, _SPREAD = 50, 0.5  # patches for a free fit, and what the logarithm is taken to vary by with fewer
_LOG_BOUNDS = (-3.0, 3.0)  # temperatures of 0.05 to 20: beyond them the fit is running away


def check_logits(logits: NDArray[np.floating]) -> None:
    """EncoderError if one is not finite: the largest of such a row would be taken for a class."""
    if not np.isfinite(logits).all():
        raise EncoderError(
            "The classifier's values are not finite (NaN or infinity) and are taken for no class: train it "
            "again with a lower --lr, or take another encoder."
        )


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities (N, K) of logits (N, K) divided by a temperature; EncoderError as `check_logits`."""
    check_logits(logits)
    scaled = np.asarray(logits, np.float64) / temperature
    # The largest is 0: no power overflows.
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: Floats = powers / powers.sum(axis=1, keepdims=True)
    return result


def fit_temperature(logits: Floats, labels: NDArray[np.integer]) -> float:
    """The temperature in [0.05, 20] that minimises the log-loss of logits (N, K) on labels (N,).

    Below 50 patches it is drawn towards 1, as if its logarithm were normal with mean 0 and deviation 0.5: a
    few patches that are all right, or wrong, would send it to either bound. Deterministic. Labels index
    columns. One number changes neither the order of classes nor accuracy.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(labels))

    # Over the logarithm: 1/2 and 2 are as far from 1, and no bound of the search is 0.
    def loss(log_temperature: float) -> float:
        p = softmax(logits, float(np.exp(log_temperature)))
        # The floor keeps a patch of probability 0 from deciding alone.
        mean_loss = float(-np.log(np.maximum(p[rows, labels], 1e-12)).mean())
        return (
            mean_loss + (log_temperature / _SPREAD) ** 2 / (2 * len(rows))
            if len(rows) < _ENOUGH
            else mean_loss
        )

    # Bounded search, so that logits which are all right (whose best temperature is 0) end at 0.05.
    optimum = minimize_scalar(loss, bounds=_LOG_BOUNDS, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(optimum.x))
