"""Bit widths against their closed forms."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_compress.analysis.decisions.bits import (
    COARSEST_STEP,
    FINEST_STEP,
    bit_widths,
    fixed_point_step,
    on_grid,
    published_bits,
    significand_bits,
    step_bounds,
)
from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.analysis.decisions.pruning import prune
from pyro_compress.errors import DecisionError
from pyro_compress.network.quantizers import Codebook, PerChannel, Uniform, bits_for
from pyro_compress.posterior.criterion import Criterion
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior


def parameter(mean: Any, variance: Any, prior: str = "Normal") -> ParameterPosterior:
    value = np.array(mean, np.float32)
    return ParameterPosterior(value, np.full(value.shape, variance, np.float32), prior)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(1e-9, 10.0), st.floats(1 / 16, 16.0))
def test_step_is_the_coarsest_power_of_two_within_the_variance(variance: float, c: float) -> None:
    step = fixed_point_step(variance, c)
    assert math.log2(step) == round(math.log2(step))
    assert step**2 / 12 <= c * variance * (1 + 1e-12)
    assert (2 * step) ** 2 / 12 > c * variance * (1 - 1e-12) or step == COARSEST_STEP


def test_step_stays_within_its_bounds() -> None:
    assert fixed_point_step(12.0, 1.0) == 8.0  # Δ² ≤ 144
    assert fixed_point_step(1 / 12, 1.0) == 1.0
    assert fixed_point_step(1 / 12, 0.2499) == 0.25
    assert fixed_point_step(1e9, 1.0) == COARSEST_STEP
    assert fixed_point_step(1e-30, 1.0) == FINEST_STEP
    assert fixed_point_step(0.0, 1.0) == FINEST_STEP


@pytest.mark.parametrize("scale", [1e-9, 1e-7, 1e-3, 1.0, 1e3, 1e6, 1e9])
@pytest.mark.parametrize("grid", ["power_of_two", "uniform", "per_channel"])
def test_the_size_of_a_layers_weights_does_not_matter(scale: float, grid: str) -> None:
    values = scale * np.random.default_rng(0).normal(size=(3, 40))
    for share in (1e-4, 1e-20, 0.0):
        site = parameter(values, share * scale**2)
        found = bit_widths(Posterior({"w": site}), grid=grid).sites["w"]
        error = np.square((found.stored() - site.mean) / scale).mean()
        assert error <= max(1.1 * share / 16, 2.0**-28)
        assert np.abs(found.integers()).max() <= 2**23


def test_bounds_of_steps_leave_15_to_23_bits() -> None:
    assert step_bounds(1.0) == step_bounds(7.9) == step_bounds(2.0**-5) == step_bounds(0.0) == (2.0**-20, 2.0**4)
    assert step_bounds(2.0**-10) == (2.0**-24, 2.0**4)  # 2⁻¹⁰ is 2¹⁴ steps
    assert step_bounds(2.0**9) == (2.0**-13, 2.0**4) and step_bounds(2.0**40) == (2.0**18, 2.0**18)


def test_a_bias_that_the_weights_step_is_too_fine_for_has_8_bits_of_its_own() -> None:
    sites = {"fc.weight": parameter([[1e-7, -1e-7]], 1e-18), "fc.bias": parameter([0.5], 0.0, "point")}
    found = bit_widths(Posterior(sites)).sites
    assert found["fc.weight"].quantizer == Uniform(2.0**-31) and found["fc.bias"].quantizer == Uniform(2.0**-7)


@pytest.mark.parametrize("grid", ["power_of_two", "uniform", "per_channel"])
def test_a_single_number_and_a_frozen_bias_beside_a_weight_stay(grid: str) -> None:
    sites = {
        "fc.weight": parameter([[4.0, 4.0]], 1.0),
        "fc.gain": ParameterPosterior.point(np.array(0.1, np.float32)),
        "fc.bias": ParameterPosterior.point(np.array([0.1], np.float32), frozen=True),
    }
    found = bit_widths(Posterior(sites), c=1.0, grid=grid).sites
    for name in ("fc.gain", "fc.bias"):
        assert found[name].quantizer is None and np.array_equal(found[name].stored(), sites[name].mean)


@pytest.mark.parametrize(
    ("mean", "variance", "message"),
    [(1.0, np.inf, "variance that is not finite, first inf"), (np.nan, 1.0, "value that is not finite, first nan")],
)
def test_steps_of_what_is_not_finite_are_refused(mean: float, variance: float, message: str) -> None:
    site = parameter([[mean, 1.0]], [[variance, 1.0]])
    with pytest.raises(DecisionError, match=f"w: 1 of 2 weights that are kept have a {message}"):
        bit_widths(Posterior({"w": site}))
    gone = Decision({"w": SiteDecision.of(site, np.array([[0, FLOAT_BITS]], np.uint8))})
    assert bit_widths(Posterior({"w": site}), c=1.0, within=gone).sites["w"].quantizer == Uniform(2.0)


def test_a_gain_beside_a_weight_has_8_bits_of_its_own() -> None:
    gain = np.array([0.2, -0.01, 0.0, 0.13], np.float32)
    sites = {
        "fc.weight": ParameterPosterior(np.full((4, 6), 3.0, np.float32), np.full((4, 6), 1.0, np.float32), "Normal"),
        "fc.gain": ParameterPosterior.point(gain),
        "fc.bias": ParameterPosterior.point(gain),
    }
    decision = bit_widths(Posterior(sites), c=1.0)
    # 2⁻⁹ is the smallest power of two with which 0.2 takes 8 bits
    assert decision.sites["fc.gain"].quantizer == Uniform(2.0**-9)
    np.testing.assert_allclose(decision.sites["fc.gain"].stored(), gain, atol=2.0**-10)
    assert decision.sites["fc.bias"].quantizer == decision.sites["fc.weight"].quantizer == Uniform(2.0)


@pytest.mark.parametrize(
    ("largest", "bits"), [(0, 2), (1, 2), (2, 3), (3, 3), (4, 4), (7, 4), (8, 5), (127, 8), (128, 9), (2**23, 25)]
)
def test_bits_for_is_the_fewest_that_hold_every_integer(largest: int, bits: int) -> None:
    integers = np.array([0, -largest, min(1, largest)])
    assert bits_for(integers) == bits
    held = SiteDecision(np.array([-largest], np.float32), np.zeros(1), np.array([bits], np.uint8), Uniform(1.0))
    assert held.integers().tolist() == [-largest]


def test_bits_for_nothing() -> None:
    assert bits_for(np.zeros(0)) == 2


def test_on_grid_counts_what_is_kept_only() -> None:
    site = parameter([[1.0, 100.0]], 1.0)
    assert on_grid(site, Uniform(0.5)).bits.tolist() == [[9, 9]]  # 200 takes 8 bits and a sign
    assert on_grid(site, Uniform(0.5), np.array([[True, False]])).bits.tolist() == [[3, 3]]
    assert on_grid(site, None).bits.tolist() == [[FLOAT_BITS, FLOAT_BITS]]


def test_each_layer_has_its_own_step_from_the_weights_that_stay() -> None:
    sites = {
        "a.weight": parameter([[4.0, 0.0]], [[1 / 12, 100.0]]),  # the dead weight's variance must not count
        "a.bias": parameter([0.4], 0.0, "point"),
        "b.weight": parameter([[4.0, 4.0]], [[1 / 48, 1 / 48]]),
        "norm.weight": parameter([1.1], 0.0, "point"),
    }
    posterior = Posterior(sites)
    pruned = prune(posterior, snr=1.0)
    found = pruned & bit_widths(posterior, c=1.0, within=pruned)
    assert {name: site.quantizer for name, site in found.sites.items()} == {
        "a.weight": Uniform(1.0),
        "a.bias": Uniform(1.0),  # its layer's
        "b.weight": Uniform(0.5),
        "norm.weight": None,
    }
    assert found.sites["a.weight"].bits.tolist() == [[4, 0]]
    assert found.sites["norm.weight"].bits.tolist() == [FLOAT_BITS]
    assert (found.made_by["bit_rule"], found.made_by["c"]) == ("fixed_point", 1.0)
    by_default = bit_widths(posterior, within=pruned)  # c = 1/16
    assert by_default.sites["a.weight"].quantizer == Uniform(0.25)


def test_without_a_decision_the_priors_own_cut_says_what_stays() -> None:
    cut = Criterion("log_alpha", "weight", 3.0)
    site = replace(parameter([[1.0, 0.001]], [[1 / 12, 1.0]]), criterion=cut)  # log α of the second is 13.8
    assert bit_widths(Posterior({"w": site}), c=1.0).sites["w"].quantizer == Uniform(1.0)


def test_rounding_adds_no_more_than_c_of_the_posterior_variance() -> None:
    generator = np.random.default_rng(1)
    site = parameter(generator.normal(size=(200, 50)), 1e-3)
    for c in (0.25, 1.0, 4.0):
        stored = bit_widths(Posterior({"w": site}), c=c).sites["w"].stored()
        error = float(np.square(stored - site.mean).mean())
        assert 0.2 * c * 1e-3 < error <= 1.02 * c * 1e-3


@pytest.mark.parametrize("c", [0.0, -1.0])
def test_c_must_be_positive(c: float) -> None:
    with pytest.raises(DecisionError, match=f"c must be positive, found {c}"):
        bit_widths(Posterior({"w": parameter([[1.0]], 1.0)}), c=c)


def test_a_layer_of_which_nothing_stays_is_held_all_the_same() -> None:
    posterior = Posterior({"w": parameter([[1.0, 2.0]], 1.0)})
    nothing = Decision({"w": SiteDecision(np.array([[1, 2]], np.float32), np.ones((1, 2)), np.zeros((1, 2), np.uint8))})
    found = nothing & bit_widths(posterior, within=nothing)
    assert found.sites["w"].stored().tolist() == [[0.0, 0.0]]


def test_published_bits_by_hand() -> None:
    """2·Var < ½·2^{1−t} = 2^{−t}: Var = 2^{−6} gives t < 5, so 4; Var = 2^{−8} gives 6."""
    site = parameter([[0.5, -3.0, 9.0]], [[2.0**-6, 2.0**-8, 1e-9]])
    kept = np.array([[True, True, False]])
    assert significand_bits(site, kept) == 5  # mean of 4 and 6
    # max|w| = 3: ⌈log₂(log₂ 3 + 1) + 1⌉ = ⌈log₂ 2.585 + 1⌉ = ⌈2.37⌉ = 3; sign 1
    assert published_bits(site, kept) == 1 + 5 + 3
    # without the large weight the exponent takes one bit: 1 + 4 + 1
    assert published_bits(site, np.array([[True, False, False]])) == 6
    assert published_bits(site, np.zeros((1, 3), bool)) == 0
    # the tiny variance fills the significand: 23, and max|w| = 9: ⌈log₂(4.17) + 1⌉ = 4
    assert published_bits(site, np.array([[False, False, True]])) == 1 + 23 + 4


def test_other_grids_take_the_coarsest_step_that_the_rule_allows() -> None:
    variance = [[0.01, 100.0], [0.04, 0.04], [5.0, 5.0]]
    sites = {
        "a.weight": parameter([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], variance),
        "a.bias": parameter([0.4, 0.5, 0.6], 0.0, "point"),
    }
    posterior = Posterior(sites)
    pruned = prune(posterior, snr=1.0)
    kept = np.array([0.01, 0.04, 0.04])
    exact = np.sqrt(12 * 0.25 * kept.mean())
    uniform = bit_widths(posterior, c=0.25, within=pruned, grid="uniform")
    for site in uniform.sites.values():
        assert isinstance(site.quantizer, Uniform) and site.quantizer.step == pytest.approx(exact)
    assert uniform.made_by["grid"] == "uniform" and "grid" not in bit_widths(posterior, within=pruned).made_by
    power = bit_widths(posterior, c=0.25, within=pruned).sites["a.weight"].quantizer
    assert isinstance(power, Uniform) and exact / 2 < power.step <= exact
    for site in bit_widths(posterior, c=0.25, within=pruned, grid="per_channel").sites.values():
        assert isinstance(site.quantizer, PerChannel)  # nothing of the last channel is kept
        assert site.quantizer.steps == pytest.approx((np.sqrt(12 * 0.25 * 0.01), np.sqrt(12 * 0.25 * 0.04), exact))
    with pytest.raises(DecisionError, match="unknown grid 'per_layer': known are per_channel, power_of_two, uniform"):
        bit_widths(posterior, grid="per_layer")


def test_what_a_method_says_may_be_stored_stands() -> None:
    """A codebook that a method learned is what the decision rounds to, pruned weights apart."""
    generator = np.random.default_rng(5)
    mean = generator.choice([-0.3, 0.0, 0.7], size=(6, 4)) + 0.05 * generator.normal(size=(6, 4))
    book = Codebook((-0.3, 0.7))
    sites = {
        "a.weight": ParameterPosterior(mean, np.full((6, 4), 1e-4), "Normal", quantizer=book),
        "b.weight": ParameterPosterior(mean, 0 * mean, "point", quantizer=book),
        "c.weight": ParameterPosterior(mean, np.full((6, 4), 1e-4), "Normal"),
    }
    posterior = Posterior(sites)
    decision = prune(posterior, snr=3.0) & bit_widths(posterior)
    for name in ("a.weight", "b.weight"):
        stored = decision.sites[name].stored()
        assert set(np.unique(stored)) <= {np.float32(-0.3), np.float32(0), np.float32(0.7)}
        nearest = book.book[np.abs(mean[..., None] - book.book).argmin(-1)]
        kept = decision.sites[name].kept()
        np.testing.assert_array_equal(stored[kept], nearest[kept])
    assert decision.sites["c.weight"].quantizer != book


def test_steps_of_point_estimates_follow_their_size() -> None:
    generator = np.random.default_rng(2)
    weight = 0.3 * generator.normal(size=(60, 50))
    sites = {"a.weight": parameter(weight, 0.0, "point"), "a.bias": parameter(np.ones(60), 0.0, "point")}
    size = math.sqrt(float(np.square(weight).mean()))
    for c in (1 / 16, 1.0, 64.0):
        found = bit_widths(Posterior(sites), c=c, grid="uniform").sites
        assert found["a.weight"].quantizer.step == pytest.approx(math.sqrt(12 * c / 1024) * size, rel=1e-5)  # type: ignore[union-attr]
        assert found["a.bias"].quantizer == found["a.weight"].quantizer
        error = np.square(found["a.weight"].stored() - weight).mean()
        assert float(error) == pytest.approx(c / 1024 * size**2, rel=0.1)
    # weights that are gone have no say
    pruned = prune(Posterior(sites), remove_percent=90.0)
    large = math.sqrt(float(np.square(weight[pruned.sites["a.weight"].kept()]).mean()))
    step = bit_widths(Posterior(sites), c=1.0, within=pruned, grid="uniform").sites["a.weight"].quantizer
    assert step == Uniform(math.sqrt(12 / 1024) * large)
    channels = bit_widths(Posterior(sites), c=1.0, grid="per_channel").sites["a.weight"].quantizer
    expected = [math.sqrt(12 / 1024 * float(np.square(row).mean())) for row in weight]
    assert isinstance(channels, PerChannel) and channels.steps == pytest.approx(expected, rel=1e-5)
    frozen = ParameterPosterior.point(weight.astype(np.float32), frozen=True)
    assert bit_widths(Posterior({"a.weight": frozen})).sites["a.weight"].quantizer is None


def test_biases_of_modules_of_several_matrices_have_eight_bits_on_steps_of_their_own() -> None:
    values = np.linspace(-3.0, 1.0, 8)
    point = ParameterPosterior.point(np.array(values, np.float32))
    sites = {
        "lstm.weight_ih_l0": parameter(np.ones((8, 3)), 0.02),
        "lstm.bias_ih_l0": point,
        "attention.in_proj_weight": parameter(np.ones((8, 2)), 0.02),
        "attention.in_proj_bias": ParameterPosterior.point(np.zeros(8, np.float32)),
        "attention.bias_k": point,
        "cell.weight_hh": ParameterPosterior.point(np.ones((8, 2), np.float32), frozen=True),
        "cell.bias_hh": point,
        "fc.weight": parameter(np.ones((8, 2)), 0.02),
        "fc.bias": point,
    }
    found = bit_widths(Posterior(sites, {}), c=1 / 16).sites
    # 3 / 127 is below 2**-5 and above 2**-6
    assert found["lstm.bias_ih_l0"].quantizer == Uniform(2.0**-5)
    np.testing.assert_allclose(found["lstm.bias_ih_l0"].stored(), values, atol=2.0**-6)
    assert found["attention.in_proj_bias"].quantizer == Uniform(1.0), "any step does for zeros"
    assert found["fc.bias"].quantizer == found["fc.weight"].quantizer == Uniform(2.0**-4)
    for name in ("attention.bias_k", "cell.bias_hh", "cell.weight_hh"):
        assert found[name].quantizer is None and np.array_equal(found[name].stored(), sites[name].mean), name
