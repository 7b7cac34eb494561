import numpy as np
import pytest

from wsitool.evaluation.calibration import fit_temperature, softmax


def test_temperature_that_was_applied_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)) * 2
    cumulative = softmax(logits).cumsum(axis=1)
    labels = (rng.random((20_000, 1)) > cumulative).sum(axis=1)
    assert fit_temperature(logits * 2.5, labels) == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize(("right", "bound"), [(True, 0.05), (False, 20.0)])
def test_few_patches_do_not_send_it_to_a_bound(right: bool, bound: float) -> None:
    for count, at_bound in ((49, False), (50, True)):
        logits = np.tile([[0.2, -0.2]], (count, 1))
        found = fit_temperature(logits, np.zeros(count, int) if right else np.ones(count, int))
        assert (found == pytest.approx(bound, rel=1e-2)) == at_bound
        # With no patch at all it would be 1; six patches leave it near that.
        assert 0.2 < fit_temperature(logits[:6], np.zeros(6, int) if right else np.ones(6, int)) < 6


def test_softmax_survives_large_logits() -> None:
    assert softmax(np.array([[1000.0, 999.0]]))[0] == pytest.approx([0.7310586, 0.2689414])
