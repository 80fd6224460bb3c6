"""Moments of draws: renamed copies of one chain decide alike, modes are not blurred, weights count."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pyro_compress.analysis.decisions.bits import bit_widths
from pyro_compress.analysis.decisions.pruning import prune
from pyro_compress.analysis.modes.alignment import Renamings, match, rename_all
from pyro_compress.analysis.modes.moments import candidates, one_mode
from pyro_compress.analysis.modes.symmetries import hidden_spaces
from pyro_compress.analysis.modes.weight_draws import WeightDraws
from pyro_compress.errors import InferenceError
from pyro_compress.network.architecture import Architecture
from pyro_compress.posterior.criterion import Criterion
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import Groups, ParameterPosterior, Posterior
from tests.analysis.modes.symmetric_networks import NETWORKS, any_renamings, built, outputs, tensors_of

SPREAD = 0.15
Chain = Sequence[Mapping[str, np.ndarray]]


def parameters_of(name: str) -> dict[str, np.ndarray]:
    network, _ = built(name)
    held = tensors_of(network)
    return {key: held[key] for key, _ in network.named_parameters()}


def one_chain(centre: Mapping[str, np.ndarray], count: int = 30, seed: int = 0, spread: float = SPREAD) -> Chain:
    """Independent draws around one point, rounded to float32 as samplers store them."""
    generator = np.random.default_rng(seed)
    noisy = [{k: a + spread * generator.standard_normal(a.shape) for k, a in centre.items()} for _ in range(count)]
    return [{key: array.astype(np.float32) for key, array in draw.items()} for draw in noisy]


def stacked(chains: Sequence[Chain], lp: np.ndarray | None = None, log_weight: np.ndarray | None = None) -> Draws:
    flat = np.array([[np.concatenate([a.ravel() for a in draw.values()]) for draw in chain] for chain in chains])
    shapes = {key: array.shape for key, array in chains[0][0].items()}
    return Draws(flat, shapes, log_weight, {} if lp is None else {"lp": lp})


def posterior_of(draws: Draws, buffers: Mapping[str, np.ndarray] | None = None) -> Posterior:
    moments = draws.moments()
    sites = {
        n: ParameterPosterior(m.astype(np.float32), v.astype(np.float32), "Normal") for n, (m, v) in moments.items()
    }
    statistics = {"complexity_nats": 3.0, "data_nats": -2.0}
    return Posterior(sites, {}, buffers or {}, "chains", {"method": "NUTS()"}, statistics, draws)


def log_joints(count: int, chains: int = 1) -> np.ndarray:
    """The same for every copy of a chain: the posterior doesn't know names."""
    return np.tile(-100 + np.random.default_rng(8).standard_normal(count), (chains, 1))


def decision_bytes(draws: Draws, architecture: Architecture, which: str, folder: Path, **settings: str) -> bytes:
    posterior = candidates(posterior_of(draws), draws, architecture, **settings)[which]
    pruned = prune(posterior, snr=4.0)
    assert 0 < pruned.weights_left()[0] < pruned.weights_left()[1]
    (pruned & bit_widths(posterior, c=1.0, within=pruned)).save(folder / "decision.safetensors")
    return (folder / "decision.safetensors").read_bytes()


def renamed_chain(architecture: Architecture, chain: Chain, generator: np.random.Generator, each: bool) -> Chain:
    """The chain with other names, the same for all its draws or others for each."""
    spaces = hidden_spaces(architecture)
    names: Renamings = any_renamings(architecture, generator)
    return [rename_all(spaces, any_renamings(architecture, generator) if each else names, draw) for draw in chain]


@pytest.mark.parametrize("each", [False, True], ids=["chains renamed", "draws renamed"])
@pytest.mark.parametrize("which", ["mean", "best draw"])
@pytest.mark.parametrize("name", NETWORKS)
def test_renamed_copies_of_one_chain_give_one_decision(name: str, which: str, each: bool, tmp_path: Path) -> None:
    _, architecture = built(name)
    generator = np.random.default_rng(4)
    chain = one_chain(parameters_of(name))
    lp = log_joints(len(chain), 3)
    by = {"align_by": "draw"} if each else {}
    plain = decision_bytes(stacked([chain] * 3, lp), architecture, which, tmp_path, **by)
    copies = [renamed_chain(architecture, chain, generator, each) for _ in range(3)]
    assert decision_bytes(stacked(copies, lp), architecture, which, tmp_path, **by) == plain
    assert decision_bytes(stacked([copies[1], chain, copies[0]], lp), architecture, which, tmp_path, **by) == plain
    if not each:
        alone = {"moments": "one-chain"}
        expected = decision_bytes(stacked([chain], lp[:1]), architecture, which, tmp_path, **alone)
        assert decision_bytes(stacked(copies[:1], lp[:1]), architecture, which, tmp_path, **alone) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_two_renamed_modes_do_not_blur(name: str) -> None:
    _, architecture = built(name)
    centre = parameters_of(name)
    first, second = one_chain(centre, 200, 1), one_chain(centre, 200, 2)
    second = renamed_chain(architecture, second, np.random.default_rng(5), each=False)
    draws = stacked([first, second], log_joints(200, 2))
    found = one_mode(WeightDraws.of(posterior_of(draws), draws), architecture)
    assert found.method["moments"] == "aligned" and found.method["aligned_by"] == "chain"
    variance = np.concatenate([found.variance[key].ravel() for key in centre])
    assert variance.mean() == pytest.approx(SPREAD**2, rel=0.05)
    assert variance.max() < 1.5 * SPREAD**2
    blurred = np.concatenate([v.ravel() for _, v in draws.moments().values()])
    assert blurred.max() > 10 * SPREAD**2


@pytest.mark.parametrize("name", NETWORKS)
def test_alignment_leaves_the_best_draw_and_every_other_function_as_they_are(name: str) -> None:
    network, architecture = built(name)
    # the same for every unit, so that they need no renaming
    equal = {"running_mean": 0.0, "running_var": 0.7}
    buffers = {
        key: np.full_like(array, equal[key.rpartition(".")[2]])
        for key, array in tensors_of(network).items()
        if key not in parameters_of(name)
    }
    chain = renamed_chain(architecture, one_chain(parameters_of(name)), np.random.default_rng(6), each=True)
    lp = log_joints(len(chain))
    best = chain[int(lp.argmax())]
    draws = stacked([chain], lp)
    stored = candidates(posterior_of(draws), draws, architecture, align_by="draw")["best draw"]
    values = {n: site.to_store.astype(np.float64) for n, site in stored.parameters.items()}
    drawn = {n: array.astype(np.float64) for n, array in best.items()}
    np.testing.assert_allclose(
        outputs(network, values | buffers, architecture), outputs(network, drawn | buffers, architecture), rtol=1e-6
    )


def test_both_candidates_have_the_same_moments_and_say_what_was_done() -> None:
    _, architecture = built("dense tanh")
    chain = one_chain(parameters_of("dense tanh"))
    draws = stacked([chain, chain], log_joints(30, 2))
    mean, best = candidates(posterior_of(draws), draws, architecture).values()
    for name, site in mean.parameters.items():
        np.testing.assert_array_equal(site.mean, best.parameters[name].mean)
        np.testing.assert_array_equal(site.variance, best.parameters[name].variance)
        assert site.value is None and not np.array_equal(best.parameters[name].to_store, site.mean)
    assert mean.provenance == {
        "method": "NUTS()",
        "moments": {
            "moments": "aligned", "disagreeing_weights_percent": 0.0, "aligned_by": "chain", "chains": 2, "draws": 30,
            "stored": "mean",
        },
    }  # fmt: skip
    assert best.provenance["moments"] == {**mean.provenance["moments"], "stored": "best draw"}  # type: ignore[dict-item]
    assert mean.kind == "iid" and mean.draws is None
    # −log prior of a draw is no KL
    assert mean.statistics == {"data_nats": -2.0}


def test_without_a_log_joint_there_is_no_best_draw() -> None:
    _, architecture = built("dense relu")
    draws = stacked([one_chain(parameters_of("dense relu"))])
    assert list(candidates(posterior_of(draws), draws, architecture)) == ["mean"]


def test_chains_in_different_modes_are_not_mixed() -> None:
    _, architecture = built("dense relu")
    centre = parameters_of("dense relu")
    generator = np.random.default_rng(3)
    other = {key: generator.standard_normal(array.shape) for key, array in centre.items()}
    lp = np.stack([log_joints(30)[0] - 50, log_joints(30)[0]])
    lp[0, 3] = 0.0  # the best draw of all is in the worse chain
    draws = stacked([one_chain(centre), one_chain(other)], lp)
    weights = WeightDraws.of(posterior_of(draws), draws)
    found = one_mode(weights, architecture)
    assert found.method["moments"] == "one-chain" and found.method["chain"] == 1
    assert float(str(found.method["disagreeing_weights_percent"])) > 80
    alone = one_mode(weights.select(1), architecture)
    assert found.best is not None and alone.best is not None
    for key in centre:
        np.testing.assert_array_equal(found.mean[key], alone.mean[key])
        np.testing.assert_array_equal(found.best[key], alone.best[key])
    blurred = one_mode(weights, architecture, moments="aligned")
    assert blurred.variance["a.weight"].mean() > 5 * found.variance["a.weight"].mean()


def test_a_chain_that_wanders_is_aligned_draw_by_draw() -> None:
    _, architecture = built("conv, pool, flatten")
    centre = parameters_of("conv, pool, flatten")
    stays = one_chain(centre, 100)
    wanders = renamed_chain(architecture, stays, np.random.default_rng(7), each=True)
    for chain, by in ((stays, "chain"), (wanders, "draw")):
        draws = stacked([chain], log_joints(100))
        found = one_mode(WeightDraws.of(posterior_of(draws), draws), architecture)
        assert found.method["aligned_by"] == by
        variance = np.concatenate([found.variance[key].ravel() for key in centre])
        assert variance.mean() == pytest.approx(SPREAD**2, rel=0.1)


def test_importance_weights_are_honoured() -> None:
    _, architecture = built("dense tanh")
    centre, generator = parameters_of("dense tanh"), np.random.default_rng(1)
    chains = [one_chain(centre, 20, 1), renamed_chain(architecture, one_chain(centre, 20, 2), generator, each=False)]
    log_weight = generator.standard_normal((2, 20))
    log_weight[0, 5] = -np.inf
    lp = log_joints(20, 2)
    lp[0, 5] = 100.0  # a draw without weight is not the best one
    draws = stacked(chains, lp, log_weight)
    found = one_mode(WeightDraws.of(posterior_of(draws), draws), architecture, moments="aligned")
    spaces = hidden_spaces(architecture)
    rows = [rename_all(spaces, match(spaces, found.mean, draw), draw) for chain in chains for draw in chain]
    weights = np.exp(log_weight).ravel() / np.exp(log_weight).sum()
    for key in centre:
        drawn = np.stack([row[key] for row in rows]).astype(np.float64)
        mean = np.tensordot(weights, drawn, 1)
        np.testing.assert_allclose(found.mean[key], mean, rtol=1e-9)
        np.testing.assert_allclose(found.variance[key], np.tensordot(weights, np.square(drawn - mean), 1), rtol=1e-8)
    assert found.best is not None
    best = chains[0][int(np.where(np.arange(20) == 5, -np.inf, lp[0]).argmax())]
    expected = rename_all(spaces, match(spaces, found.mean, best), best)
    np.testing.assert_array_equal(found.best["b.weight"], expected["b.weight"])


def test_a_chain_without_any_weight_counts_for_nothing() -> None:
    _, architecture = built("dense relu")
    chains = [one_chain(parameters_of("dense relu"), 10, seed) for seed in (1, 2)]
    log_weight = np.zeros((2, 10))
    log_weight[0] = -np.inf
    draws = stacked(chains, log_joints(10, 2), log_weight)
    weights = WeightDraws.of(posterior_of(draws), draws)
    found, alone = one_mode(weights, architecture), one_mode(weights.select(1), architecture)
    np.testing.assert_allclose(found.mean["b.weight"], alone.mean["b.weight"], rtol=1e-12)


def test_units_with_constants_of_all_draws_keep_their_places() -> None:
    network, architecture = built("dense tanh")
    centre = parameters_of("dense tanh")
    weights_only = {key: array for key, array in centre.items() if key.endswith("weight")}
    draws = stacked([one_chain(weights_only, spread=1e-4)], log_joints(30))
    posterior = posterior_of(draws)
    biases = {
        key: ParameterPosterior(array.astype(np.float32), np.zeros(array.shape, np.float32), "point")
        for key, array in centre.items()
        if key.endswith("bias")
    }
    posterior = replace(posterior, parameters={**posterior.parameters, **biases})
    mean = candidates(posterior, draws, architecture)["mean"]
    # a fit's own point estimates are in its draws: what is not there is frozen, and must come back as it was
    np.testing.assert_array_equal(mean.parameters["a.bias"].mean, biases["a.bias"].mean)
    assert mean.parameters["a.bias"].is_point and not mean.parameters["a.bias"].variance.any()
    values = {name: site.mean.astype(np.float64) for name, site in mean.parameters.items()}
    np.testing.assert_allclose(
        outputs(network, values, architecture), outputs(network, centre, architecture), atol=2e-3
    )


def test_scales_of_groups_follow_their_units() -> None:
    _, architecture = built("conv, pool, flatten")
    chain = one_chain(parameters_of("conv, pool, flatten"), 40)
    generator = np.random.default_rng(2)
    # dense layers have a scale per input, convolutions per filter
    z = {"b.weight": np.exp(generator.standard_normal((40, 3, 1, 1, 1))), "c.weight": 1 + generator.random((40, 1, 12))}
    own = [
        {**draw, **{f"{n}.unscaled": (draw[n] / scale[i]).astype(np.float32) for n, scale in z.items()}}
        for i, draw in enumerate(chain)
    ]
    spaces, names = hidden_spaces(architecture), any_renamings(architecture, generator)
    copies = []
    for draw in own:
        unscaled = {n: draw[f"{n}.unscaled"] for n in z}
        renamed = rename_all(spaces, names, unscaled)
        copies.append(rename_all(spaces, names, draw) | {f"{n}.unscaled": array for n, array in renamed.items()})
    criteria = {
        "b.weight": Criterion("variance", "log_scale", 0.5),
        "c.weight": Criterion("log_alpha", "scale", 0.25),
        "d.weight": Criterion("log_alpha", "scale", 0.0),
    }
    axes = {"b.weight": 0, "c.weight": 1, "d.weight": 1}
    groups = {n: Groups(axis, unscaled=f"{n}.unscaled") for n, axis in axes.items()}
    found = []
    for draws in (stacked([own], log_joints(40)), stacked([copies], log_joints(40))):
        posterior = posterior_of(draws)
        sites = {
            n: replace(s, groups=groups.get(n), criterion=criteria.get(n))
            for n, s in posterior.parameters.items()
            if n in chain[0]
        }
        made = candidates(replace(posterior, parameters=sites), draws, architecture)["mean"]
        found.append(made.parameters)
    logarithm, scale = np.log(z["b.weight"]).reshape(40, 3), z["c.weight"].reshape(40, 12)
    expected = {
        "b.weight": (logarithm.var(axis=0), np.exp(logarithm.mean(axis=0))),
        "c.weight": (np.log(scale.var(axis=0)) - 2 * np.log(scale.mean(axis=0)), scale.mean(axis=0)),
    }
    for name, (value, mean) in expected.items():
        first, second = (held[name] for held in found)
        assert first.criterion == second.criterion == criteria[name]
        assert first.groups is not None and second.groups is not None and first.statistic is not None
        found_scale = first.groups.scale
        assert found_scale is not None
        np.testing.assert_array_equal(first.statistic, second.statistic)
        np.testing.assert_array_equal(found_scale, second.groups.scale)
        order, back = np.argsort(found_scale), np.argsort(mean)
        np.testing.assert_allclose(found_scale[order], mean[back], rtol=1e-5)
        np.testing.assert_allclose(first.statistic[order], value[back], rtol=1e-4, atol=1e-5)
    # no draws of its w̃, so nothing to say of its groups
    assert found[0]["d.weight"].groups is None and found[0]["d.weight"].criterion is None


def test_a_reference_names_the_units() -> None:
    _, architecture = built("dense tanh")
    centre = parameters_of("dense tanh")
    chain = renamed_chain(architecture, one_chain(centre, 50), np.random.default_rng(1), each=False)
    draws = stacked([chain])
    for by in ("chain", "draw"):
        weights = WeightDraws.of(posterior_of(draws), draws)
        found = one_mode(weights, architecture, align_by=by, reference=centre)
        for key, array in centre.items():
            np.testing.assert_allclose(found.mean[key], array, atol=6 * SPREAD / np.sqrt(50))


def test_sites_of_no_parameter_are_passed_over() -> None:
    _, architecture = built("dense relu")
    chain = one_chain(parameters_of("dense relu"))
    plain = stacked([chain], log_joints(30))
    noisy = stacked([[{"first": d["a.bias"], **d, "noise": d["b.bias"][:1]} for d in chain]], log_joints(30))
    between = stacked([[{**dict(list(d.items())[:2]), "x": d["a.bias"], **d} for d in chain]], log_joints(30))
    expected = candidates(posterior_of(plain), plain, architecture)["mean"]
    for draws in (noisy, between):
        found = candidates(replace(posterior_of(plain), draws=draws), draws, architecture)["mean"]
        for key, site in expected.parameters.items():
            np.testing.assert_array_equal(found.parameters[key].mean, site.mean)


def test_bad_input_is_refused_with_a_sentence() -> None:
    _, architecture = built("dense relu")
    draws = stacked([one_chain(parameters_of("dense relu"))])
    posterior = posterior_of(draws)
    with pytest.raises(InferenceError, match="moments is one of auto, aligned, one-chain, found 'mode'"):
        candidates(posterior, draws, architecture, moments="mode")
    with pytest.raises(InferenceError, match="align_by is one of auto, chain, draw, found 'unit'"):
        candidates(posterior, draws, architecture, align_by="unit")
    biases = Draws(draws.site("a.bias"), {"a.bias": (7,)})
    with pytest.raises(InferenceError, match=r"no draws of the weights a\.weight, b\.weight.*the sites are a\.bias"):
        candidates(posterior, biases, architecture)
