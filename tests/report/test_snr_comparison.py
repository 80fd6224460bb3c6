"""Rankings of weights under two posteriors, and what the figure shows of them."""

import numpy as np
import pytest

from pyro_compress.posterior.posterior import ParameterPosterior
from pyro_compress.report.snr_comparison import Ranking, ranking, snr_comparison


def site(mean: list[list[float]], sd: float, prior: str = "Normal") -> ParameterPosterior:
    array = np.array(mean, np.float32)
    return ParameterPosterior(array, np.full_like(array, sd**2), prior)


FIRST = {
    "a.weight": site([[1.0, -2.0, 3.0]], 0.5),
    "a.bias": ParameterPosterior(np.ones(1, np.float32), np.ones(1, np.float32), "Normal"),
    "b.weight": site([[0.5], [-4.0]], 0.25),
    "c.weight": site([[1.0]], 1.0, "point"),
}
SECOND = FIRST | {"b.weight": site([[-30.0], [0.1]], 2.0)}


def test_ratios_are_those_of_weights_that_are_uncertain_in_both() -> None:
    found = ranking(FIRST, SECOND)
    assert list(found.first) == list(found.second) == ["a.weight", "b.weight"]
    np.testing.assert_allclose(found.first["a.weight"], [[2.0, 4.0, 6.0]], rtol=1e-6)
    np.testing.assert_allclose(found.second["b.weight"], [[15.0], [0.05]], rtol=1e-6)


def test_correlation_and_agreement() -> None:
    found = ranking(FIRST, SECOND)
    # ratios 2 4 6 2 16 and 2 4 6 15 0.05: ranks 1.5 3 4 1.5 5 and 2 3 4 5 1
    ranks = np.array([[1.5, 3, 4, 1.5, 5], [2, 3, 4, 5, 1]])
    assert found.correlation() == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert found.agreement(0.4) == 0.5  # {16, 6} and {15, 6}
    assert found.agreement(0.6) == pytest.approx(2 / 3)
    assert ranking(FIRST, FIRST).correlation() == pytest.approx(1.0)
    assert ranking(FIRST, FIRST).agreement(0.2) == 1.0


def test_the_figure_shows_a_point_per_weight_and_both_curves() -> None:
    first = {"a.weight": np.array([[3.0, 1.0]]), "b.weight": np.array([[2.0], [0.5]])}
    second = {"a.weight": np.array([[2.0, 3.0]]), "b.weight": np.array([[0.1], [5000.0]])}
    figure = snr_comparison(Ranking(first, second), "SVI", "NUTS")
    ranks, curves = figure.axes
    points = [np.asarray(drawn.get_offsets()).tolist() for drawn in ranks.collections]
    assert points == [[[4, 2], [2, 3]], [[3, 1], [1, 4]]]
    assert [str(drawn.get_label()) for drawn in ranks.collections] == ["a.weight (2)", "b.weight (2)"]
    assert "ρ = -0.80" in ranks.get_title(loc="left")
    assert [np.asarray(line.get_ydata()).tolist() for line in curves.get_lines()] == [
        [0.5, 1.0, 2.0, 3.0],
        [0.1, 2.0, 3.0, 1000.0],
    ]
    assert ranks.get_xlabel().startswith("rank under SVI") and ranks.get_ylabel() == "rank under NUTS"
