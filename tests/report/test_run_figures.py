"""The figures of a whole run, written as files, and the rule that each posterior was pruned by."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from pyro_compress.analysis.decisions.bits import bit_widths
from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.decisions.pruning import prune
from pyro_compress.analysis.decisions.structure import remove_dead
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Activation, Linear
from pyro_compress.posterior.criterion import Criterion
from pyro_compress.posterior.posterior import Groups, ParameterPosterior, Posterior
from pyro_compress.report.figures import RatePoint, save_all
from pyro_compress.report.run_figures import cut_and_rule, figures_of_run

POINTS = [RatePoint("this run", 181.4, 1.72, "file", ours=True)]
ARCHITECTURE = Architecture((16,), (Linear("one", 16, 6, True), Activation("relu"), Linear("two", 6, 3, True)))
EPOCH = {
    "epoch": 0,
    "data_nats": -10.0,
    "complexity_nats": 5.0,
    "kl_weight": 1.0,
    "validation_error": 0.1,
    "weights_left_percent": 50.0,
}


LOG_ALPHA = Criterion("log_alpha", "weight", 3.0, label="log α")
VARIANCE = Criterion("variance", "log_scale", 0.5, label="Var(ln z)")


def posterior(prior: str, criterion: Criterion | None = None) -> Posterior:
    generator = np.random.default_rng(0)
    parameters = {}
    for name, shape in {"one.weight": (6, 16), "two.weight": (3, 6)}.items():
        mean = generator.standard_normal(shape).astype(np.float32)
        variance = np.full(shape, 0.0 if prior == "point" else 0.25, np.float32)
        made = ParameterPosterior(mean, variance, prior, criterion=criterion)
        if criterion is not None and criterion.per_group:
            statistic = np.linspace(0, 1, shape[1], dtype=np.float32)
            made = replace(made, groups=Groups(1, np.ones(shape[1], np.float32)), statistic=statistic)
        parameters[name] = made
    for name, size in {"one.bias": 6, "two.bias": 3}.items():
        parameters[name] = ParameterPosterior(np.ones(size, np.float32), np.zeros(size, np.float32), "point")
    return Posterior(parameters, provenance={"history": [EPOCH, {**EPOCH, "epoch": 1}]})


def weights(found: Posterior) -> list[ParameterPosterior]:
    return [site for site in found.parameters.values() if site.mean.ndim > 1]


def test_figures_of_a_run_are_written_one_by_one(tmp_path: Path) -> None:
    fitted = posterior("Normal")
    decision = prune(fitted, snr=1.0)
    decision = decision & bit_widths(fitted, within=decision)
    left = remove_dead(ARCHITECTURE, decision).architecture
    drawn = figures_of_run(fitted, decision, (ARCHITECTURE, left), POINTS)
    (cut,) = drawn["snr_histogram"].axes[0].get_lines()
    assert np.asarray(cut.get_xdata()).tolist() == [1.0, 1.0]
    paths = save_all(tmp_path / "figures", drawn)
    assert [path.name for path in paths] == [
        "learning_curve.png",
        "pruned_architecture.png",
        "weight_matrices.png",
        "snr_histogram.png",
        "error_against_rate.png",
    ]
    assert {imread(path).shape[1] for path in paths} == {1000}


def test_after_is_what_the_file_holds() -> None:
    fitted = posterior("Normal")
    decision = prune(fitted, snr=2.0)
    left = remove_dead(ARCHITECTURE, decision).architecture
    drawn = figures_of_run(fitted, decision, (ARCHITECTURE, left), POINTS)
    after = np.asarray(drawn["weight_matrices"].axes[1].get_images()[0].get_array())
    np.testing.assert_array_equal(after, np.abs(decision.sites["one.weight"].stored()))
    assert 0 < np.count_nonzero(after) < after.size
    bars = drawn["pruned_architecture"].axes[0].containers[1]
    inputs = [layer.in_features for layer in left.weighted() if isinstance(layer, Linear)]
    assert [bar.get_width() for bar in bars] == inputs


def test_a_point_estimate_has_no_signal_to_noise_ratio() -> None:
    fitted = posterior("point")
    drawn = figures_of_run(fitted, prune(fitted), (ARCHITECTURE, ARCHITECTURE), POINTS)
    assert list(drawn) == ["learning_curve", "pruned_architecture", "weight_matrices", "error_against_rate"]


@pytest.mark.parametrize(("given", "log_alpha"), [(None, 3.0), (2.0, 2.0)])
def test_a_cut_on_log_alpha_is_a_cut_on_the_ratio(given: float | None, log_alpha: float) -> None:
    fitted = posterior("AnyPrior", LOG_ALPHA)
    decision = prune(fitted, log_alpha=given)
    cut, rule = cut_and_rule(weights(fitted), decision)
    assert cut == pytest.approx(math.exp(-log_alpha / 2))
    assert rule == f"weights are pruned at log α > {log_alpha:g}"
    for name, site in fitted.parameters.items():
        if site.mean.ndim > 1:
            ratio = np.abs(site.mean) / np.sqrt(site.variance)
            np.testing.assert_array_equal(decision.sites[name].kept(), ratio > cut)


@pytest.mark.parametrize(("given", "shown"), [(None, "0.5"), (0.3, "0.3")])
def test_groups_have_a_rule_but_no_cut_on_the_ratio(given: float | None, shown: str) -> None:
    fitted = posterior("AnyPrior", VARIANCE)
    found = cut_and_rule(weights(fitted), prune(fitted, group_threshold=given))
    assert found == (None, f"weights are pruned in groups, Var(ln z) > {shown}")


def test_the_grid_prunes_too_and_the_rule_says_so() -> None:
    fitted = posterior("Normal")
    assert cut_and_rule(weights(fitted), Decision({})) == (None, "no weight is pruned")
    decision = prune(fitted, snr=1.5) & bit_widths(fitted)
    assert cut_and_rule(weights(fitted), decision) == (
        1.5,
        "weights are pruned below the cut, or rounded to zero by their grid",
    )
