"""What the artists of a diagnosis's figures hold, and the files; needs no torch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from pyro_compress.analysis.diagnosis.arviz_export import to_arviz
from pyro_compress.analysis.diagnosis.diagnostics import Diagnosis, diagnose
from pyro_compress.analysis.diagnosis.flags import Row
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import Posterior
from pyro_compress.report import diagnostic_figures as figures
from pyro_compress.report.figures import save_all

SHAPES: dict[str, tuple[int, ...]] = {"a": (3,), "b": ()}


def made(kind: str = "chains", chains: int = 3) -> tuple[Any, Diagnosis]:
    generator = np.random.default_rng(0)
    flat = generator.normal(size=(chains, 200, 4))
    flat[1:, :, 2] += 4
    diverging = np.zeros((chains, 200))
    diverging[0, [10, 50]] = 1
    statistics = {
        "lp": generator.normal(size=(chains, 200)) - 100,
        "energy": generator.normal(size=(chains, 200)),
        "diverging": diverging,
    }
    posterior = Posterior({}, kind=kind, draws=Draws(flat, SHAPES, None, statistics))
    exported = to_arviz(posterior)
    return exported, diagnose(posterior, exported)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def stairs(axes: Axes) -> list[np.ndarray]:
    patches: list[Any] = [patch for patch in axes.patches if hasattr(patch, "get_data")]
    return [np.asarray(patch.get_data().values) for patch in patches]


def row(name: str) -> Row:
    return Row(name, 0.0, 1.0, -1.0, 1.0, None, 10.0, 20.0, 1.234)


def test_chains_have_five_figures_as_files(tmp_path: Path) -> None:
    drawn = figures.figures_of_diagnosis(*made())
    assert set(drawn) == {"forest", "energy", "trace", "rank", "autocorrelation"}
    for path in save_all(tmp_path, drawn):
        image = imread(path)
        assert image.shape[1] == 1000
        assert float((image[..., :3] < 0.9).any(axis=-1).mean()) > 0.01


def test_independent_draws_have_a_forest_alone() -> None:
    assert list(figures.figures_of_diagnosis(*made("iid", chains=2))) == ["forest"]


def test_the_log_joint_and_the_worst_of_every_variable_are_shown() -> None:
    drawn = figures.figures_of_diagnosis(*made())
    shown = [title.partition("   ")[0] for title in titles(drawn["trace"])]
    assert shown[:2] == ["log_joint", "a[2]"] and shown[2] == "b" and len(shown) == 5
    assert titles(drawn["rank"]) == titles(drawn["trace"])
    assert "R-hat" in titles(drawn["trace"])[1]


def test_traces_are_the_draws_and_divergences_are_marked() -> None:
    values, diverging = np.random.default_rng(0).normal(size=(2, 100)), np.zeros((2, 100), bool)
    diverging[1, 30] = True
    axes, margin = figures.trace([row("x")], {"x": values}, diverging).axes
    first, second, marks = axes.get_lines()
    np.testing.assert_array_equal(first.get_ydata(), values[0])
    np.testing.assert_array_equal(second.get_ydata(), values[1])
    assert np.asarray(marks.get_xdata()).tolist() == [30]
    assert [counts.sum() for counts in stairs(margin)] == [100, 100]
    assert titles(axes.figure) == ["x   R-hat 1.23   ESS 10"]  # type: ignore[arg-type]


def test_long_traces_are_thinned_for_drawing() -> None:
    axes, _ = figures.trace([row("x")], {"x": np.zeros((1, 10_000))}).axes
    assert len(axes.get_lines()[0].get_xdata()) <= figures.MOST_POINTS  # type: ignore[arg-type]


def test_ranks_of_separated_chains_fill_opposite_halves() -> None:
    values = np.stack([np.arange(200.0), 1000 + np.arange(200.0)])
    low, high = stairs(figures.rank([row("x")], {"x": values}).axes[0])
    assert low[: len(low) // 2].tolist() == [2.0] * (len(low) // 2) and low[len(low) // 2 :].sum() == 0
    np.testing.assert_array_equal(high, low[::-1])


def test_autocorrelation_is_that_of_the_process() -> None:
    generator, rho = np.random.default_rng(0), 0.8
    series = generator.normal(size=20_000)
    for t in range(1, len(series)):
        series[t] = rho * series[t - 1] + np.sqrt(1 - rho**2) * series[t]
    np.testing.assert_allclose(figures.autocorrelations(series, 10), rho ** np.arange(11), atol=0.05)
    assert figures.autocorrelations(np.ones(5), 2).tolist() == [1.0, 0.0, 0.0]


def test_energy_panels_show_both_distributions() -> None:
    energies = np.random.default_rng(0).normal(size=(2, 500))
    figure = figures.energy(energies)
    assert titles(figure)[0].startswith("chain 0: E-BFMI 2.") or titles(figure)[0].startswith("chain 0: E-BFMI 1.9")
    assert [len(stairs(axes)) for axes in figure.axes] == [2, 2]


@pytest.mark.parametrize("chains", [1, 3])
def test_forest_intervals_are_quantiles(chains: int) -> None:
    values = np.random.default_rng(0).normal(size=(chains, 400))
    kind = "chains" if chains > 1 else "iid"
    (axes,) = figures.forest(Diagnosis(kind, chains, 400, (row("x[1]"),), (), ()), {"x[1]": values}).axes
    far, near, mean = axes.get_lines()[:3]
    np.testing.assert_allclose(np.asarray(far.get_xdata(), float), np.quantile(values[0], (0.03, 0.97)))
    np.testing.assert_allclose(np.asarray(near.get_xdata(), float), np.quantile(values[0], (0.25, 0.75)))
    assert float(np.asarray(mean.get_xdata())[0]) == pytest.approx(values[0].mean())
    assert len(axes.get_lines()) == 3 * chains
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["1"]


def test_a_crowded_variable_says_how_many_it_shows() -> None:
    rows = tuple(row(f"w[{place}]") for place in range(30))
    figure = figures.forest(Diagnosis("chains", 2, 5, rows, (), ()), {r.name: np.zeros((2, 5)) for r in rows})
    assert titles(figure) == ["w: 12 of 30"]


def test_the_band_of_ranks_holds_what_agreeing_chains_show() -> None:
    values = np.random.default_rng(1).normal(size=(4, 4000))
    axes = figures.rank([row("x")], {"x": values}).axes[0]
    shares = np.concatenate(stairs(axes))
    (band,) = [patch for patch in axes.patches if not hasattr(patch, "get_data")]
    low, high = band.get_extents().transformed(axes.transData.inverted()).intervaly
    assert band.get_zorder() < min(patch.get_zorder() for patch in axes.patches if patch is not band)
    # of 80 counts, dependent a little, 95 % ± 3 standard errors
    assert 0.87 < ((shares > low) & (shares < high)).mean() <= 1.0
    assert np.abs(shares - 1).max() > 0.5 * (high - low) / 2


def test_predictions_that_do_not_move_make_room_for_those_that_do() -> None:
    still = tuple(Row(f"predictions[{k},0]", 0.0, 1e-5, 0.0, 0.0, None, 10.0, 20.0, 1.5) for k in range(3))
    moving, values = row("predictions[9,1]"), np.random.default_rng(0).normal(size=(2, 50))
    by_name = {r.name: values for r in (*still, moving)}
    diagnosis = Diagnosis("chains", 2, 50, (*still, moving), (), ())
    axes_of = {"predictions": ("held_out", "class")}
    (axes,) = figures.forest(diagnosis, by_name, axes_of).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["9,1"]
    assert titles(axes.figure) == ["predictions [held out, class]: 1 of 4"]  # type: ignore[arg-type]
    (axes,) = figures.forest(Diagnosis("chains", 2, 50, still, (), ()), by_name).axes
    assert len(axes.get_yticklabels()) == 3
