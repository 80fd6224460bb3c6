"""Shared weights: the levels against an exhaustive search, and what they change in a decision."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.analysis.decisions.weight_sharing import STARTS, lloyd_max, weight_sharing
from pyro_compress.errors import DecisionError
from pyro_compress.network.quantizers import Codebook


def cost(values: np.ndarray, precisions: np.ndarray, levels: np.ndarray) -> float:
    return float((precisions * (values - levels) ** 2).sum())


def best_cost(values: np.ndarray, precisions: np.ndarray, count: int) -> float:
    """Over all ways to cut the sorted values into so many runs: the best levels are means of runs."""
    costs = []
    for cuts in combinations(range(1, len(values)), count - 1):
        runs = zip((0, *cuts), (*cuts, len(values)), strict=True)
        means = [np.full(b - a, np.average(values[a:b], weights=precisions[a:b])) for a, b in runs]
        costs.append(cost(values, precisions, np.concatenate(means)))
    return min(costs)


@pytest.mark.parametrize("seed", range(5))
def test_levels_are_near_the_best(seed: int) -> None:
    """Lloyd's algorithm ends in a local minimum: between the best cost and half as much again, on clusters."""
    random = np.random.default_rng(seed)
    values = np.sort(np.repeat([-1.0, 0.3, 0.9], 6) + random.normal(scale=0.1, size=18))
    precisions = random.uniform(0.2, 5, 18)
    levels = lloyd_max(values, precisions, 3)
    best = best_cost(values, precisions, 3)
    assert len(np.unique(levels)) <= 3
    assert best * (1 - 1e-9) <= cost(values, precisions, levels) <= 1.5 * best


def test_precise_weights_draw_the_level_to_them() -> None:
    values, precisions = np.array([0.0, 1.0]), np.array([3.0, 1.0])
    np.testing.assert_allclose(lloyd_max(values, precisions, 1), 0.25)


def decision(variance: float) -> Decision:
    random = np.random.default_rng(1)
    value = random.normal(size=(20, 30)).astype(np.float32)
    bits = np.where(random.random((20, 30)) < 0.3, 32, 0).astype(np.uint8)
    bias = SiteDecision(value[0], np.zeros(30, np.float32), np.full(30, 32, np.uint8))
    return Decision({"a.weight": SiteDecision(value, np.full_like(value, variance), bits), "a.bias": bias})


@pytest.mark.parametrize("variance", [0.0, 0.01])
@pytest.mark.parametrize("levels", [1, 4, 16])
def test_kept_weights_share_few_values_and_the_rest_stays(levels: int, variance: float) -> None:
    before = decision(variance)
    after = weight_sharing(before, levels)
    site = after.sites["a.weight"]
    np.testing.assert_array_equal(site.kept(), before.sites["a.weight"].kept())
    assert 0 < len(np.unique(site.integers()[site.kept()])) <= levels
    np.testing.assert_array_equal(site.stored()[site.kept()], site.value[site.kept()])
    assert np.abs(site.integers()).max() <= 2**12
    assert after.sites["a.bias"] is before.sites["a.bias"] and after.made_by["codebook_levels"] == levels


def test_more_levels_are_nearer() -> None:
    before = decision(0.01).sites["a.weight"]
    distance = [
        float(((weight_sharing(decision(0.01), levels).sites["a.weight"].stored() - before.stored()) ** 2).sum())
        for levels in (2, 8, 32)
    ]
    assert distance[0] > 4 * distance[1] > 16 * distance[2]


@pytest.mark.parametrize("levels", [0, 257])
def test_levels_out_of_range(levels: int) -> None:
    with pytest.raises(DecisionError, match=f"a codebook has 1 to 256 levels, found {levels}"):
        weight_sharing(decision(0.01), levels)


@pytest.mark.parametrize("levels", [1, 2, 16])
def test_real_levels_are_those_of_lloyd(levels: int) -> None:
    before = decision(0.01)
    site, held = weight_sharing(before, levels, real=True).sites["a.weight"], before.sites["a.weight"]
    kept = held.kept()
    np.testing.assert_array_equal(site.kept(), kept)
    expected = lloyd_max(held.value[kept], np.full(kept.sum(), 100.0), levels).astype(np.float32)
    np.testing.assert_allclose(site.stored()[kept], expected, rtol=1e-6)
    assert isinstance(site.quantizer, Codebook) and len(site.quantizer.levels) == len(np.unique(expected)) <= levels
    assert not site.stored()[~kept].any()


def test_two_real_levels_make_ternary_weights() -> None:
    quantizer = weight_sharing(decision(0.01), 2, real=True).sites["a.weight"].quantizer
    assert isinstance(quantizer, Codebook) and quantizer.sides == (1, 1)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_levels_are_those_of_scikit_learn_from_the_same_start(start: str, weighted: bool) -> None:
    random = np.random.default_rng(3)
    values = random.normal(size=400) + np.sign(random.normal(size=400))
    precisions = random.uniform(0.5, 2, 400) if weighted else np.ones(400)
    found = lloyd_max(values, precisions, 7, start, seed=5)
    first = {
        "density": np.quantile(values, (np.arange(7) + 0.5) / 7),
        "linear": np.linspace(values.min(), values.max(), 7),
        "random": np.sort(np.random.default_rng(5).choice(np.unique(values), 7, replace=False)),
    }[start]
    means = KMeans(7, init=first[:, None], n_init=1, tol=0).fit(values[:, None], sample_weight=precisions)
    np.testing.assert_allclose(found, means.cluster_centers_[means.labels_, 0], rtol=1e-9)


def test_levels_that_start_without_values_take_those_that_are_far() -> None:
    """Two clumps far apart: a linear start has most of its levels between them."""
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(-1, 0.05, 300), random.normal(1, 0.05, 100)])
    found = lloyd_max(values, np.ones(400), 12, "linear")
    first = np.linspace(values.min(), values.max(), 12)[:, None]
    means = KMeans(12, init=first, n_init=1, tol=0).fit(values[:, None])
    assert len(np.unique(found)) == 12
    assert cost(values, np.ones(400), found) <= 1.1 * means.inertia_
    assert len(np.unique(lloyd_max(np.repeat([1.0, 2.0], 5), np.ones(10), 6, "linear"))) == 2


def test_a_start_that_is_none() -> None:
    with pytest.raises(DecisionError, match="unknown start of k-means 'middle'"):
        lloyd_max(np.arange(9.0), np.ones(9), 3, "middle")


def test_levels_by_patterns() -> None:
    sites = {f"{name}.weight": decision(0.01).sites["a.weight"] for name in ("conv1", "conv2", "fc")}
    shared = weight_sharing(Decision(sites), {"conv*": 8, "fc.*": 3}, real=True)
    counts = [len(site.quantizer.levels) for site in shared.sites.values() if isinstance(site.quantizer, Codebook)]
    assert counts == [8, 8, 3]
    with pytest.raises(DecisionError, match=r"'dense\*' matches no weight: there are conv1\.weight, conv2"):
        weight_sharing(Decision(sites), {"dense*": 8})
    with pytest.raises(
        DecisionError, match=r"levels: 'conv1\*' and '\*1\.weight' both match weight conv1\.weight: make"
    ):
        weight_sharing(Decision(sites), {"conv1*": 8, "*1.weight": 3})


def test_a_layer_of_few_values_has_a_codebook_of_them_if_levels_are_real() -> None:
    site = decision(0.01).sites["a.weight"]
    few = SiteDecision(np.sign(site.value), site.variance, site.bits)
    assert weight_sharing(Decision({"w": few}), 4).sites["w"] is few
    shared = weight_sharing(Decision({"w": few}), 4, real=True).sites["w"]
    assert shared.quantizer == Codebook((-1.0, 1.0))
    np.testing.assert_array_equal(shared.stored(), few.stored())
