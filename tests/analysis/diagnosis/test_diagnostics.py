"""Diagnostics of chains whose truth is known; needs no torch."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pyro_compress.analysis.diagnosis.arviz_export import to_arviz
from pyro_compress.analysis.diagnosis.arviz_versions import arviz, group
from pyro_compress.analysis.diagnosis.diagnostics import Diagnosis, chain_notes, diagnose
from pyro_compress.analysis.diagnosis.flags import e_bfmi, setting
from pyro_compress.errors import InferenceError
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import Latent, ParameterPosterior, Posterior


def autoregressive(rho: float, chains: int = 4, count: int = 4000, seed: int = 0) -> np.ndarray:
    """(chain, draw): x_t = ρ x_{t−1} + √(1 − ρ²) ε_t, standard normal from the start."""
    noise = np.random.default_rng(seed).normal(size=(chains, count))
    x = noise.copy()
    for t in range(1, count):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * noise[:, t]
    return x


def of(values: np.ndarray, kind: str = "chains", settings: str = "", **statistics: Any) -> Posterior:
    log_weight = statistics.pop("log_weight", None)
    held = Draws(values[..., None], {"x": ()}, log_weight, statistics)
    return Posterior({}, kind=kind, draws=held, provenance={"settings": settings})


def diagnosis(posterior: Posterior, **keywords: Any) -> Diagnosis:
    return diagnose(posterior, to_arviz(posterior), **keywords)


def names(found: Diagnosis) -> list[str]:
    return [flag.name for flag in found.flags]


# ---- chains ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_effective_sample_size_of_an_autoregressive_chain(rho: float) -> None:
    """ESS of the mean is n (1 − ρ) / (1 + ρ)."""
    posterior = of(autoregressive(rho, count=10_000))
    (row,) = diagnosis(posterior).rows
    expected = 40_000 * (1 - rho) / (1 + rho)
    assert row.ess_bulk == pytest.approx(expected, rel=0.12)
    assert row.mcse is not None and row.mcse == pytest.approx(1 / math.sqrt(expected), rel=0.1)
    assert row.r_hat is not None and row.r_hat < 1.01
    assert row.mean == pytest.approx(0.0, abs=4 * row.mcse)
    assert (row.hdi_low, row.hdi_high) == pytest.approx((-1.88, 1.88), abs=0.2)
    dataset = group(to_arviz(posterior), "posterior")
    assert row.ess_bulk == pytest.approx(float(arviz().ess(dataset, method="bulk")["x"]))
    assert row.r_hat == pytest.approx(float(arviz().rhat(dataset)["x"]))


def test_good_chains_have_no_flag() -> None:
    found = diagnosis(of(autoregressive(0.3)))
    assert found.flags == () and found.notes == ()
    assert (found.chains, found.draws, found.kind) == (4, 4000, "chains")


def test_separated_chains_are_flagged() -> None:
    values = autoregressive(0.0, chains=2, count=1000)
    values[1] += 5
    found = diagnosis(of(values))
    assert names(found) == ["r_hat", "ess"]
    assert "R-hat is above 1.01 for 1 of 1 quantities, most for x" in found.flags[0].sentence
    assert "do not describe one distribution" in found.flags[0].sentence


def test_predictions_are_judged_apart_from_weights() -> None:
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(2, 500, 2)) + np.array([[[0, 3]], [[3, 0]]])  # two hidden units change places
    parameter = ParameterPosterior(np.zeros((2, 1), np.float32), np.ones((2, 1), np.float32), "Normal")
    draws = Draws(weight, {"fc.weight": (2,)})
    posterior = Posterior({"fc.weight": parameter, "out.weight": parameter}, kind="chains", draws=draws)
    agreeing = generator.uniform(size=(2, 500, 3))
    found = diagnose(posterior, to_arviz(posterior, predictions=agreeing))
    assert "r_hat" in names(found) and "r_hat_predictions" not in names(found)
    assert "hidden units can be exchanged" in found.flags[0].sentence
    # softmax regression has none, nor has any model that is no network
    for others in ({"fc.weight": parameter}, dict.fromkeys(("a", "b"), replace(parameter, prior="site"))):
        plain = diagnose(replace(posterior, parameters=others), to_arviz(posterior, predictions=agreeing))
        assert "the chains do not describe one distribution: run longer" in plain.flags[0].sentence
    assert [row.name for row in found.rows][-3:] == ["predictions[0]", "predictions[1]", "predictions[2]"]
    agreeing[1] += 1
    assert "r_hat_predictions" in names(diagnose(posterior, to_arviz(posterior, predictions=agreeing)))


def test_short_effective_samples_are_flagged_by_chain() -> None:
    found = diagnosis(of(autoregressive(0.99, chains=4, count=2000)))
    assert "ess" in names(found)
    (sentence,) = [flag.sentence for flag in found.flags if flag.name == "ess"]
    assert sentence.startswith("effective sample size is below 400 (100 per chain) for 1 of 1 quantities")


def test_one_chain_is_compared_with_itself_and_says_so() -> None:
    drifting = autoregressive(0.0, chains=1, count=1001) + np.linspace(0, 4, 1001)
    found = diagnosis(of(drifting))
    assert found.rows[0].r_hat is not None and found.rows[0].r_hat > 1.5
    assert found.notes[0].startswith("there is one chain: R-hat compares its halves (split R-hat)")
    assert diagnosis(of(autoregressive(0.0, chains=1))).flags == ()


@pytest.mark.parametrize(
    ("chains", "draws", "need"), [(2, 3, "4 draws per chain"), (1, 7, "8 draws of a single chain")]
)
def test_too_few_draws_get_a_sentence(chains: int, draws: int, need: str) -> None:
    found = diagnosis(of(autoregressive(0.0, chains=chains, count=draws)))
    assert found.rows[0].r_hat is None and found.rows[0].ess_bulk is None
    assert "too few for R-hat" in found.notes[0] and need in found.notes[0]
    assert list(chain_notes(chains, draws + 1)) != list(found.notes)


def test_a_chain_that_never_moves_is_flagged() -> None:
    found = diagnosis(of(np.full((2, 50), 3.0)))
    assert names(found) == ["constant"] and found.rows[0].r_hat is None
    # at different places R-hat would be infinite
    apart = diagnosis(of(np.broadcast_to(np.array([[1.0], [3.0]]), (2, 50)).copy()))
    assert names(apart) == ["constant"] and apart.rows[0].r_hat is None


# ---- what samplers note ---------------------------------------------------------------------------------------


def test_what_cannot_move_is_not_flagged_and_what_does_not_is() -> None:
    """Of a Cholesky factor of correlations three of four numbers move at most."""
    moving = np.stack([autoregressive(0.0, seed=seed) for seed in (0, 1)], -1)
    flat = np.concatenate([np.ones((4, 4000, 1)), np.zeros((4, 4000, 1)), moving], -1)
    held = Draws(flat, {"chain": (2, 2)}, fixed={"chain": (0, 1)})
    assert diagnosis(Posterior({}, kind="chains", draws=held)).flags == ()
    assert names(diagnosis(Posterior({}, kind="chains", draws=replace(held, fixed={"chain": (0,)})))) == ["constant"]
    large = Draws(np.tile(flat, 600)[:, :50], {"x": (4, 600)}, fixed={"x": tuple(range(2400))})
    found = diagnose(Posterior({}, kind="chains", draws=large), to_arviz(Posterior({}, kind="chains", draws=large)))
    assert "constant" not in names(found)


def test_draws_that_single_precision_cannot_tell_apart_are_flagged() -> None:
    x = autoregressive(0.0)
    near = of((1e5 + 0.02 * x).astype(np.float32))
    (flag,) = diagnosis(near).flags
    assert flag.name == "resolution" and "x with the sd 0.02 around 100000" in flag.sentence
    assert diagnosis(of(1e5 + 0.02 * x)).flags == ()
    assert diagnosis(of((1e5 + 5 * x).astype(np.float32))).flags == ()
    assert diagnosis(of(x.astype(np.float32))).flags == ()


def test_divergences_depth_energy_and_acceptance_are_flagged() -> None:
    x = autoregressive(0.0, chains=2, count=1000)
    diverging, depth = np.zeros((2, 1000)), np.full((2, 1000), 3)
    diverging[0, :3], depth[1, :5] = 1, 8
    slow = np.cumsum(np.random.default_rng(1).normal(size=(2, 1000)), axis=1)
    rate = np.full((2, 1000), 0.8)
    rate[1] = 0.5
    statistics: dict[str, Any] = {"diverging": diverging, "tree_depth": depth, "energy": slow, "acceptance_rate": rate}
    found = diagnosis(of(x, settings="NUTS(target_acceptance=0.8, max_tree_depth=8)", **statistics))
    assert names(found) == ["divergences", "tree_depth", "e_bfmi", "acceptance"]
    sentences = [flag.sentence for flag in found.flags]
    assert sentences[0].startswith("3 of 2,000 transitions diverged")
    assert sentences[1].startswith("5 of 2,000 trajectories reached the greatest tree depth of 8")
    assert sentences[3].startswith("the mean acceptance rate is 0.50 in one chain, its target was 0.8")
    assert found.statistics["divergences"] == 3 and found.statistics["acceptance_rate"] == pytest.approx([0.8, 0.5])
    healthy: dict[str, Any] = {
        "diverging": np.zeros((2, 1000)),
        "tree_depth": np.full((2, 1000), 9),
        "energy": np.random.default_rng(2).normal(size=(2, 1000)),
        "acceptance_rate": np.full((2, 1000), 0.85),
    }
    assert diagnosis(of(x, settings="NUTS(target_acceptance=0.8)", **healthy)).flags == ()
    for accepted, flags in ((0.6, []), (0.99, []), (0.4, ["acceptance"])):
        rates = {**healthy, "acceptance_rate": np.full((2, 1000), accepted)}
        assert names(diagnosis(of(x, settings="HMC(target_acceptance=0.8)", **rates))) == flags


@pytest.mark.parametrize(("rate", "word"), [(0.02, "shorten"), (1.0, "lengthen")])
def test_acceptance_without_a_target(rate: float, word: str) -> None:
    found = diagnosis(of(autoregressive(0.0), acceptance_rate=np.full((4, 4000), rate)))
    assert [f.sentence.endswith(f"{word} the step") for f in found.flags] == [True]


def test_e_bfmi_of_white_noise_is_two_and_of_a_random_walk_nearly_zero() -> None:
    noise = np.random.default_rng(0).normal(size=(3, 20_000))
    np.testing.assert_allclose(e_bfmi(noise), 2.0, rtol=0.05)
    assert (e_bfmi(np.cumsum(noise, axis=1)) < 0.01).all()


def test_settings_are_read_from_the_provenance() -> None:
    posterior = of(autoregressive(0.0, count=10), settings="NUTS(epochs=1, target_accept=0.95, max_tree_depth=7)")
    assert setting(posterior, "max_tree_depth") == 7
    assert setting(posterior, r"target\w*") == 0.95
    assert setting(posterior, "depth") is None


# ---- independent draws ----------------------------------------------------------------------------------------


def test_r_hat_is_refused_on_independent_draws() -> None:
    found = diagnosis(of(autoregressive(0.0, chains=1), kind="iid"))
    (row,) = found.rows
    assert row.r_hat is None and row.ess_bulk is None and row.ess_tail is None
    assert row.mcse == pytest.approx(row.sd / math.sqrt(4000))
    assert found.notes[0].startswith("the draws are independent")


def test_few_effective_importance_draws_are_flagged() -> None:
    x = autoregressive(0.0, chains=1, count=500)
    even = diagnosis(of(x, kind="iid", log_weight=np.zeros((1, 500))))
    assert even.flags == () and even.statistics["effective_draws"] == pytest.approx(500)
    found = diagnosis(of(x, kind="iid", log_weight=8 * np.random.default_rng(0).normal(size=(1, 500))))
    assert names(found) == ["importance_ess", "pareto_k"]
    assert found.rows[0].mcse == pytest.approx(found.rows[0].sd / math.sqrt(found.statistics["effective_draws"]))


def test_k_hat_of_a_guide_is_flagged_when_it_is_narrow() -> None:
    guide = Posterior({}, {"x": Latent("normal", np.zeros(1, np.float32), np.ones(1, np.float32))})
    exported, draws = to_arviz(guide, draws=100), np.random.default_rng(0).normal(size=2000)
    wide, narrow = (-0.5 * (draws / scale) ** 2 + 0.5 * draws**2 for scale in (0.9, 4.0))
    assert names(diagnose(guide, exported, log_ratios=wide)) == []
    found = diagnose(guide, exported, log_ratios=narrow)
    assert names(found) == ["pareto_k"] and found.statistics["pareto_k"] > 0.7
    outside = np.where(np.arange(2000) < 1500, -np.inf, wide)
    assert "is infinite" in diagnose(guide, exported, log_ratios=outside).flags[0].sentence


# ---- rows -----------------------------------------------------------------------------------------------------


def test_rows_are_named_by_their_coordinates_and_sorted_by_the_worst() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(2, 400, 6))
    values[1, :, 4] += 2
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (2, 2), "tau": (2,)}
    parameter = ParameterPosterior(np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32), "Normal")
    posterior = Posterior({"fc.weight": parameter}, kind="chains", draws=Draws(values, shapes))
    found = diagnosis(posterior)
    expected = ["fc.weight[0,0]", "fc.weight[0,1]", "fc.weight[1,0]", "fc.weight[1,1]", "tau[0]", "tau[1]"]
    assert [row.name for row in found.rows] == [*expected, "layer_norm[fc.weight]"]
    assert found.worst(3)[0].name == "tau[0]" and len(found.worst(3)) == 3
    written = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert written["rows"][4]["name"] == "tau[0]" and written["hdi_share"] == 0.94
    assert written["flags"][0]["name"] == "r_hat"


def test_a_quantity_with_infinite_values_is_valid_json() -> None:
    found = diagnosis(of(np.full((2, 50), 3.0)))
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["rows"][0]["r_hat"] is None


def test_errors_are_sentences() -> None:
    with pytest.raises(InferenceError, match="at least 25 log ratios"):
        diagnosis(of(autoregressive(0.0, chains=1), kind="iid"), log_ratios=np.zeros(3))
