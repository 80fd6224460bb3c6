"""Pruning against hand-made posteriors."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pyro_compress.analysis.decisions.bits import bit_widths
from pyro_compress.analysis.decisions.decision import FLOAT_BITS
from pyro_compress.analysis.decisions.pruning import prune, signal_to_noise
from pyro_compress.errors import DecisionError, PriorError
from pyro_compress.pipeline.decision_settings import DecisionSettings
from pyro_compress.pipeline.validation import nothing_pruned
from pyro_compress.posterior.criterion import Criterion
from pyro_compress.posterior.posterior import Groups, ParameterPosterior, Posterior

LOG_ALPHA = Criterion("log_alpha", "weight", 3.0)


def parameter(mean: Any, variance: Any, prior: str = "Normal", **judged: Any) -> ParameterPosterior:
    value = np.array(mean, np.float32)
    return ParameterPosterior(value, np.full(value.shape, variance, np.float32), prior, **judged)


def grouped(mean: Any, axis: int, statistic: list[float], criterion: Criterion) -> ParameterPosterior:
    groups = Groups(axis, np.ones(len(statistic), np.float32))
    value = np.array(statistic, np.float32)
    return parameter(mean, 1.0, "AnyPrior", groups=groups, criterion=criterion, statistic=value)


def point(mean: Any) -> ParameterPosterior:
    return parameter(mean, 0.0, "point")


def test_signal_to_noise_is_mean_over_standard_deviation() -> None:
    site = parameter([[3.0, -3.0, 0.0, 2.0]], [[4.0, 9.0, 1.0, 0.0]])
    assert signal_to_noise(site).tolist() == [[1.5, 1.0, 0.0, np.inf]]
    assert signal_to_noise(point([0.0, 1.0])).tolist() == [np.inf, np.inf]


def test_snr_prunes_below_the_cut_and_leaves_biases_and_point_estimates() -> None:
    sites = {
        "a.weight": parameter([[1.0, 2.0, 4.0]], 4.0),
        "a.bias": parameter([0.001], 1.0),
        "b.weight": point([[0.0, 1.0]]),
    }
    found = prune(Posterior(sites), snr=1.0)
    assert found.sites["a.weight"].bits.tolist() == [[0, FLOAT_BITS, FLOAT_BITS]]  # 1.0 itself is kept
    assert found.sites["a.bias"].bits.tolist() == [FLOAT_BITS]
    assert found.sites["b.weight"].kept().all()
    assert found.made_by == {"snr": 1.0}
    assert np.array_equal(found.sites["a.weight"].value, sites["a.weight"].mean)
    assert np.array_equal(found.sites["a.weight"].variance, sites["a.weight"].variance)


def test_weights_go_where_their_own_statistic_is_beyond_the_priors_cut() -> None:
    # log α = ln variance − ln mean²: 2.9, 3.1 and, with mean 2, 2.9
    variance = np.exp([[2.9, 3.1, 2.9 + np.log(4.0)]])
    site = parameter([[1.0, -1.0, 2.0]], variance, "AnyPrior", criterion=LOG_ALPHA)
    assert site.log_alpha() == pytest.approx(np.array([[2.9, 3.1, 2.9]]), abs=1e-5)
    posterior = Posterior({"w": site})
    assert prune(posterior).sites["w"].kept().tolist() == [[True, False, True]]
    assert prune(posterior, log_alpha=2.0).sites["w"].kept().tolist() == [[False, False, False]]
    assert prune(posterior, log_alpha=np.inf).sites["w"].kept().all()
    other = Posterior({"w": parameter([[1.0, -1.0, 2.0]], variance, "Normal")})
    assert prune(other).sites["w"].kept().all()
    assert prune(other, log_alpha=3.0).sites["w"].kept().tolist() == [[True, False, True]]


@pytest.mark.parametrize("axis", [0, 1])
def test_group_cut_removes_whole_groups_along_their_axis(axis: int) -> None:
    shape = (3, 2) if axis == 0 else (2, 3)
    criterion = Criterion("log_alpha", "scale", 0.5)
    posterior = Posterior({"w": grouped(np.ones(shape), axis, [0.4, 0.5, 0.6], criterion)})

    def kept(cut: float | None) -> list[bool]:
        found = prune(posterior, group_threshold=cut).sites["w"].kept()
        lines = found if axis == 0 else found.T
        assert (lines == lines[:, :1]).all()
        return lines[:, 0].tolist()

    assert kept(None) == [True, True, False]  # the prior's own cut is inclusive
    assert kept(0.45) == [True, False, False]
    assert kept(float("inf")) == [True, True, True]


def test_a_criterion_says_which_side_is_off() -> None:
    statistic = [0.4, 0.5, 0.6]
    below = Criterion("share of draws above one", "group", 0.5, off="below")
    posterior = Posterior({"w": grouped(np.ones((2, 3)), 1, statistic, below)})
    assert prune(posterior).sites["w"].kept().tolist() == [[False, True, True]] * 2
    assert prune(posterior, group_threshold=0.55).sites["w"].kept().tolist() == [[False, False, True]] * 2
    assert nothing_pruned(posterior).sites["w"].kept().all()
    weights = {"snr": Criterion("signal_to_noise", "weight", 2.0, off="below"), "own": replace(below, of="weight")}
    mean = [[1.0, -2.0, 3.0]]
    by_ratio = parameter(mean, 1.0, criterion=weights["snr"])
    assert prune(Posterior({"w": by_ratio})).sites["w"].kept().tolist() == [[False, True, True]]
    own = parameter(mean, 1.0, criterion=weights["own"], statistic=np.array([[0.6, 0.4, 0.5]], np.float32))
    assert prune(Posterior({"w": own})).sites["w"].kept().tolist() == [[True, False, True]]
    # a cut on log α takes the place of what the prior says of single weights: −2 ln |mean| here
    assert prune(Posterior({"w": own}), log_alpha=-1.0).sites["w"].kept().tolist() == [[False, True, True]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"of": "filter"}, "unknown 'of' of a criterion 'filter': known are group, log_scale, scale, weight"),
        ({"off": "left"}, "unknown 'off' of a criterion 'left'.*above, below"),
        ({"of": "scale", "statistic": "mine"}, "its statistic is one of log_alpha, signal_to_noise, variance, found"),
    ],
)
def test_criteria_of_unknown_words_are_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(PriorError, match=message):
        replace(LOG_ALPHA, **words)


def test_snr_and_groups_combine() -> None:
    criterion = Criterion("log_alpha", "scale", 1.0)
    posterior = Posterior({"w": grouped([[5.0, 5.0], [0.1, 5.0]], 1, [0.0, 9.0], criterion)})
    assert prune(posterior, snr=1.0).sites["w"].kept().tolist() == [[True, False], [False, False]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("percent", "gone"), [(0, 0), (30, 2), (50, 2), (90, 2)])
def test_weights_without_a_variance_among_others_go_last(percent: float, gone: int) -> None:
    site = parameter([[1.0, 2.0, 3.0, 4.0, 5.0]], [[1.0, 1.0, 0.0, 0.0, 0.0]])
    for over in ("network", "layer"):
        kept = prune(Posterior({"w": site}), remove_percent=percent, over=over).sites["w"].kept()
        assert kept.tolist() == [[False] * gone + [True] * (5 - gone)]


@pytest.mark.parametrize("percent", [0.0, 25.0, 90.0, 99.5])
def test_remove_percent_is_exact_over_all_layers_together(percent: float) -> None:
    generator = np.random.default_rng(0)
    sites = {
        "a.weight": parameter(generator.normal(size=(20, 30)), 1.0),
        "a.bias": parameter(np.zeros(20), 1.0),
        "b.weight": parameter(0.1 * generator.normal(size=(20, 20)), 1.0),
    }
    found = prune(Posterior(sites), remove_percent=percent)
    kept, total = found.weights_left()
    assert total == 1000
    assert kept == round(total * (1 - percent / 100))
    assert found.sites["a.bias"].kept().all()
    ratios = np.concatenate([signal_to_noise(sites[name]).ravel() for name in ("a.weight", "b.weight")])
    stays = np.concatenate([found.sites[name].kept().ravel() for name in ("a.weight", "b.weight")])
    assert ratios[stays].min() > (ratios[~stays].max() if percent else -1)
    assert found.made_by["remove_percent"] == percent
    if percent == 90.0:  # one cut for all layers, not a share of each
        assert found.sites["b.weight"].kept().mean() < 0.01


@pytest.mark.parametrize("percent", [-1.0, 100.0])
def test_remove_percent_has_its_range(percent: float) -> None:
    with pytest.raises(DecisionError, match=rf"remove_percent must lie in \[0, 100\), found {percent}"):
        prune(Posterior({"w": parameter([[1.0]], 1.0)}), remove_percent=percent)


def test_point_estimates_go_by_magnitude() -> None:
    sites = {
        "a.weight": point([[-4.0, 1.0, 0.5, -0.1]]),
        "a.bias": point([0.0]),
        "b.weight": point([[-0.4, 0.3], [0.2, -0.1]]),
    }
    posterior = Posterior(sites, kind="point")
    found = prune(posterior, remove_percent=50.0)
    assert found.sites["a.weight"].kept().tolist() == [[True, True, True, False]]
    assert found.sites["b.weight"].kept().tolist() == [[True, False], [False, False]]
    assert found.sites["a.bias"].kept().all()
    assert found.made_by == {"remove_percent": 50.0, "removed_by": "magnitude"}
    of_each = prune(posterior, remove_percent=50.0, over="layer")
    assert of_each.sites["a.weight"].kept().tolist() == [[True, True, False, False]]
    assert of_each.sites["b.weight"].kept().tolist() == [[True, True], [False, False]]
    assert of_each.made_by == {"remove_percent": 50.0, "removed_by": "magnitude", "removed_over": "layer"}
    with pytest.raises(DecisionError, match="no weight has a signal-to-noise ratio that tells it from others"):
        prune(posterior, remove_percent=50.0, by="snr")


def test_magnitude_is_that_of_the_value_to_store_and_zeros_are_gone_already() -> None:
    mean = np.array([[3.0, 2.0, 1.0, 0.0]], np.float32)
    drawn = replace(point(mean), value=mean[:, ::-1].copy())
    assert prune(Posterior({"w": drawn}), remove_percent=50.0).sites["w"].kept().tolist() == [
        [False, False, True, True]
    ]
    zeros = point([[0.0, 0.0, 0.0, 1.0]])
    assert prune(Posterior({"w": zeros}), remove_percent=25.0).sites["w"].kept().tolist() == [[False] * 3 + [True]]


def test_weights_with_a_variance_go_by_magnitude_where_that_is_said_or_no_ratio_tells_them_apart() -> None:
    mean, variance = np.array([[1.0, -2.0, 3.0, -4.0]], np.float32), np.array([[1.0, 1.0, 9.0, 64.0]], np.float32)
    sites = {"w": parameter(mean, variance), "v": point([[0.5, 5.0]])}
    by_ratio = prune(Posterior(sites), remove_percent=50.0)  # 1, 2, 1, ½
    assert by_ratio.sites["w"].kept().tolist() == [[True, True, True, False]]
    assert by_ratio.sites["v"].kept().all() and by_ratio.made_by == {"snr": 1.0, "remove_percent": 50.0}
    by_size = prune(Posterior(sites), remove_percent=50.0, by="magnitude")
    assert by_size.sites["w"].kept().tolist() == [[False, False, True, True]]
    assert by_size.sites["v"].kept().tolist() == [[False, True]]
    dropped = Posterior({"w": replace(parameter(mean, mean**2, "dropout"), ratio_ranks=False)})
    assert prune(dropped, remove_percent=50.0).made_by == {"remove_percent": 50.0, "removed_by": "magnitude"}
    with pytest.raises(DecisionError, match=r"those of\s+dropout all the same"):
        prune(dropped, remove_percent=50.0, by="snr")


def test_frozen_weights_are_not_ranked() -> None:
    frozen = ParameterPosterior.point(np.array([[0.1, 0.2]], np.float32), frozen=True)
    found = prune(Posterior({"w": frozen, "v": point([[1.0, 2.0]])}), remove_percent=50.0)
    assert found.sites["w"].kept().all() and found.sites["v"].kept().tolist() == [[False, True]]
    with pytest.raises(DecisionError, match="here is none that may go"):
        prune(Posterior({"w": frozen}), remove_percent=50.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remove_percent": 1.0, "by": "sn"}, "unknown word for by 'sn': known are magnitude, snr"),
        ({"remove_percent": 1.0, "over": "layers"}, "unknown word for over 'layers': .* Did you mean 'layer'"),
        ({"by": "magnitude"}, "over say which weights remove_percent takes: give remove_percent too"),
        ({"over": "layer", "snr": 1.0}, "give remove_percent too"),
    ],
)
def test_a_ranking_that_cannot_be_honoured_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DecisionError, match=message):
        prune(Posterior({"w": parameter([[1.0]], 1.0)}), **options)
    settings = {name if name in ("snr", "remove_percent") else f"remove_{name}": v for name, v in options.items()}
    with pytest.raises(DecisionError, match=message.replace("for ", "for remove_")):
        DecisionSettings(**settings)


def test_buffers_are_carried() -> None:
    posterior = Posterior({"w": point([[1.0]])}, buffers={"norm.running_mean": np.ones(2)})
    assert prune(posterior).buffers["norm.running_mean"].tolist() == [1.0, 1.0]


def test_what_a_method_took_out_has_no_bits_whatever_the_cut() -> None:
    generator = np.random.default_rng(3)
    mean, variance = generator.normal(size=(6, 5)), np.full((6, 5), 0.1)
    off = generator.random((6, 5)) < 0.3
    sites = {
        "a.weight": ParameterPosterior(np.where(off, 0, mean), variance, "Normal", off=off),
        "b.weight": ParameterPosterior(np.where(off, 0, mean), 0 * variance, "point", off=off),
        "c.weight": ParameterPosterior(mean, variance, "Normal"),
    }
    posterior = Posterior(sites)
    for decision in (prune(posterior), bit_widths(posterior), prune(posterior, snr=0.5) & bit_widths(posterior)):
        for name in ("a.weight", "b.weight"):
            assert not decision.sites[name].bits[off].any()
        assert (decision.sites["b.weight"].bits[~off] > 0).all()
    assert (prune(posterior).sites["a.weight"].bits == np.where(off, 0, FLOAT_BITS)).all()
    # of a share that is to go, they are the first
    share = 100.0 * off.sum() / 60
    assert (prune(posterior, remove_percent=share - 1).sites["c.weight"].bits > 0).all()
