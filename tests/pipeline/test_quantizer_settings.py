"""`decision.quantizer` on the digits: each family of grids through the search to the decoded file."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.analysis.decisions.pruning import prune
from pyro_compress.analysis.decisions.relative_index import deep_compression_bytes
from pyro_compress.analysis.decisions.weight_sharing import lloyd_max
from pyro_compress.errors import DecisionError
from pyro_compress.network.quantizers import Affine, Codebook, PerChannel, Uniform, stored_as
from pyro_compress.pipeline.quantizing import QUANTIZERS, roundings
from pyro_compress.pipeline.settings import settings_from_entry

ROUNDED: dict[str, Any] = {"fine_tune_epochs": 0, "refine": False}


@cache
def fitted() -> tuple[nn.Module, pc.DataSet, pc.Posterior]:
    """A small network, the digits, and normals about the mode of its weights; made once."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
        data = pc.data.load("digits")
        model = pc.BayesianNetwork(network, pc.models.Normal(scale=0.5), pc.models.Categorical())
        posterior = pc.fit(model, data, pc.inference.MAP(epochs=12, batch_size=64, learning_rate=0.01), seed=0)
    sites = dict(posterior.parameters)
    for name in ("1.weight", "3.weight"):
        spread = np.random.default_rng(0).uniform(0.03, 0.12, (len(sites[name].mean), 1))
        variance = np.broadcast_to(spread**2, sites[name].mean.shape).astype(np.float32)
        sites[name] = replace(sites[name], variance=variance, prior="Normal")
    return network, data, replace(posterior, parameters=sites)


def decided(**settings: Any) -> tuple[pc.analysis.Decision, list[str]]:
    network, data, posterior = fitted()
    lines: list[str] = []
    how = pc.DecisionSettings(snr=0.5, **ROUNDED | settings)
    return pc.decide(posterior, network, data, how, say=lines.append), lines


def test_every_family_ends_in_a_file_that_predicts() -> None:
    network, data, _ = fitted()
    kinds: dict[str, type] = {
        "power_of_two": Uniform,
        "uniform": Uniform,
        "per_channel": PerChannel,
        "codebook": Codebook,
    }
    kinds |= dict.fromkeys(("int8", "int8_per_channel", "int4", "int4_per_channel"), Affine)
    sizes = {}
    for quantizer in QUANTIZERS:
        decision, _ = decided(quantizer=quantizer)
        for name in ("1.weight", "3.weight"):
            assert type(decision.sites[name].quantizer) is kinds.get(quantizer, type(None))
        file = pc.compress(network, decision, data=data)
        found = pc.evaluate(file, data)
        assert found["error_after_percent"] < 9, (quantizer, found)
        sizes[quantizer] = found["file_bytes"]
    # weights and inputs of the digits that are always blank are gone from all files: 4 bytes against few bits
    assert max(size for name, size in sizes.items() if name != "float32") < sizes["float32"] / 3
    power = decided()[0].sites["1.weight"].quantizer
    assert isinstance(power, Uniform) and power.exponent is not None
    free = decided(quantizer="uniform", c=1.0)[0].sites["1.weight"].quantizer
    assert isinstance(free, Uniform) and free.exponent is None


def test_the_default_is_the_grid_by_variance_and_says_nothing_new() -> None:
    default, lines = decided()
    named, _ = decided(quantizer="power_of_two")
    for name, site in default.sites.items():
        np.testing.assert_array_equal(site.stored(), named.sites[name].stored())
    assert "quantizer" not in default.made_by and any(line.startswith("rounding with c = ") for line in lines)


def test_a_codebook_is_that_of_k_means_and_its_biases_stand_on_a_grid() -> None:
    _, _, posterior = fitted()
    decision, lines = decided(quantizer="codebook", levels={"1.*": 4, "3.weight": 8}, level_start="linear")
    pruned = prune(posterior, snr=0.5)
    for name, levels in {"1.weight": 4, "3.weight": 8}.items():
        site = pruned.sites[name]
        kept = site.kept()
        expected = lloyd_max(site.value[kept], 1 / site.variance[kept].astype(np.float64), levels, "linear")
        np.testing.assert_array_equal(decision.sites[name].stored()[kept], expected.astype(np.float32))
        assert not decision.sites[name].stored()[~kept].any()
    bias = decision.sites["1.bias"]
    assert isinstance(bias.quantizer, Uniform) and 64 <= np.abs(bias.integers()).max() <= 127
    assert any(line.startswith("rounding to a codebook changes") for line in lines)
    assert decision.made_by["codebook_levels"] == {"1.*": 4, "3.weight": 8}


def test_float32_keeps_the_means() -> None:
    _, _, posterior = fitted()
    decision, _ = decided(quantizer="float32", refine=True)
    for name, site in decision.sites.items():
        kept = site.kept()
        np.testing.assert_array_equal(site.stored()[kept], posterior.parameters[name].mean[kept])


def test_frozen_weights_stay_float32_beside_a_codebook() -> None:
    _, _, posterior = fitted()
    frozen = {name: replace(posterior.parameters[name], prior="frozen") for name in ("3.weight", "3.bias")}
    posterior = replace(posterior, parameters={**posterior.parameters, **frozen})
    assert frozen["3.weight"].is_frozen
    ((_, decision),) = roundings(posterior, prune(posterior), "codebook")
    kinds: dict[str, type] = {name: type(site.quantizer) for name, site in decision.sites.items()}
    assert kinds == {"1.weight": Codebook, "1.bias": Uniform, "3.weight": type(None), "3.bias": type(None)}


def test_a_random_start_follows_the_seed() -> None:
    _, _, posterior = fitted()
    pruned = prune(posterior)

    def books(seed: int) -> list[Any]:
        how: dict[str, Any] = {"levels": 6, "level_start": "random", "seed": seed}
        ((_, decision),) = roundings(posterior, pruned, "codebook", **how)
        return [site.quantizer for site in decision.sites.values()]

    assert books(1) == books(1) != books(2)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"quantizer": "int3"}, "quantizer is one of power_of_two, uniform, per_channel, int8, int4"),
        ({"quantizer": "codebook", "levels": 1}, "2 to 256 levels beside zero, found levels=1: with one there is"),
        ({"quantizer": "codebook", "levels": {"fc*": 300}}, "2 to 256 levels"),
        ({"quantizer": "codebook", "c": 0.5}, r"c=0\.5 says nothing of quantizer='codebook': leave it out, or take"),
        ({"quantizer": "float32", "c": 0.5}, "'power_of_two' or 'uniform' or 'per_channel'"),
        ({"levels": 16}, "levels=16 says nothing of quantizer='power_of_two': leave it out, or take quantizer='cod"),
        ({"level_start": "linear"}, "level_start='linear' says nothing of quantizer='power_of_two'"),
        ({"range_by": "least_squares"}, "range_by='least_squares' says nothing of quantizer='power_of_two'"),
        ({"quantizer": "int4", "range_by": "mse"}, "range_by is one of min_max, least_squares, found 'mse'"),
        ({"quantizer": "codebook", "level_start": "kmeans"}, "level_start is one of density, linear, random, found"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DecisionError, match=sentence):
        pc.DecisionSettings(**settings)


def test_what_the_method_says_may_be_stored_stands_beside_no_other_quantizer() -> None:
    network, data, posterior = fitted()
    own = replace(posterior.parameters["3.weight"], quantizer=Codebook((-0.5, 0.5)))
    posterior = replace(posterior, parameters={**posterior.parameters, "3.weight": own})
    with pytest.raises(DecisionError, match=r"says which values 3\.weight may take, so quantizer='uniform' cannot"):
        pc.decide(posterior, network, data, pc.DecisionSettings(quantizer="uniform"))
    kept = pc.decide(posterior, network, data, pc.DecisionSettings(snr=0.5, **ROUNDED), say=lambda line: None)
    assert kept.sites["3.weight"].quantizer == own.quantizer


def test_the_command_line_takes_the_words() -> None:
    options = {"quantizer": "codebook", "levels": {"conv*": 64, "fc*": 16}}
    settings = settings_from_entry("lenet-5/log-uniform", decision_options=options).build_decision()
    assert settings.quantizer == "codebook" and settings.levels == {"conv*": 64, "fc*": 16}


def test_trained_levels_of_a_codebook_keep_the_places_and_predict_better() -> None:
    """Trained quantisation (Han et al. 2016): three levels per layer, of which only the values move."""
    network, data, _ = fitted()
    how: dict[str, Any] = {"quantizer": "codebook", "levels": 3, "level_start": "linear"}
    rounded, _ = decided(**how)
    tuned, _ = decided(
        **how, fine_tune_moves="quantizer", fine_tune_epochs=4, rate_weights=(0.0,), fine_tune_learning_rate=0.01
    )
    errors = {}
    for name, decision in (("rounded", rounded), ("tuned", tuned)):
        errors[name] = pc.evaluate(pc.compress(network, decision, data=data), data)["nll_nats_per_example"]
    assert errors["tuned"] < 0.8 * errors["rounded"], errors
    for name in ("1.weight", "3.weight"):
        before, after = rounded.sites[name].integers(), tuned.sites[name].integers()
        alive = after != 0  # units that nobody reads are not trained, and go
        for level in np.unique(before[alive]):
            assert len(np.unique(after[alive & (before == level)])) == 1
        assert tuned.sites[name].quantizer != rounded.sites[name].quantizer


@pytest.mark.parametrize("quantizer", ["uniform", "per_channel", "codebook", "int4_per_channel"])
def test_numbers_of_a_quantizer_learned_with_the_weights_reach_the_file(quantizer: str) -> None:
    network, data, _ = fitted()
    how: dict[str, Any] = {"quantizer": quantizer, "fine_tune_epochs": 2, "rate_weights": (0.5,)}
    start = decided(**how | {"fine_tune_epochs": 0})[0].sites["1.weight"].quantizer
    decision, _ = decided(**how, fine_tune_moves="both", stage_tolerance_points=5.0)
    found = decision.sites["1.weight"].quantizer
    assert found is not None
    assert type(found) is type(start) and found != start
    file = pc.compress(network, decision, data=data)
    assert type(file.network.tensors["1.weight"].quantizer) is type(stored_as(found))
    assert pc.evaluate(file, data)["error_after_percent"] < 9


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "moves levels or steps, and quantizer='power_of_two' has none: take uniform, per_channel, int8"),
        ({"quantizer": "uniform", "fine_tune_epochs": 0}, "asks for training, and fine_tune_epochs=0 for none"),
        ({"quantizer": "codebook"}, r"leaves every weight its place, .* give rate_weights=\(0\.0,\), found \(0\.5, 1"),
    ],
)
def test_quantizers_that_cannot_be_trained_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DecisionError, match=f"fine_tune_moves='quantizer' {sentence}"):
        pc.DecisionSettings(fine_tune_moves="quantizer", **settings)


@cache
def narrow() -> tuple[nn.Module, pc.DataSet, pc.Posterior]:
    """Two narrow hidden layers, in which errors of rounding add up; made once."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 10)]
        network, data = nn.Sequential(nn.Flatten(), *layers), pc.data.load("digits")
        model = pc.BayesianNetwork(network, pc.models.Normal(scale=1.0), pc.models.Categorical())
        posterior = pc.fit(model, data, pc.inference.MAP(epochs=20, batch_size=64, learning_rate=0.01), seed=0)
    return network, data, posterior


@pytest.mark.parametrize("range_by", ["min_max", "least_squares"])
@pytest.mark.parametrize("quantizer", ["int4", "int4_per_channel"])
def test_trained_through_four_bits_beat_those_after_training(quantizer: str, range_by: str) -> None:
    """Straight-through training of what four bits and a zero point hold, by the decoded files."""
    network, data, posterior = narrow()
    found: dict[int, dict[str, Any]] = {}
    for epochs in (0, 6):
        settings = pc.DecisionSettings(
            quantizer=quantizer, range_by=range_by, refine=False, fine_tune_epochs=epochs, rate_weights=(0.0,)
        )
        decision = pc.decide(posterior, network, data, settings, say=lambda line: None)
        for name in ("1.weight", "3.weight", "5.weight"):
            site = decision.sites[name]
            assert isinstance(site.quantizer, Affine) and site.bits.max() == 4
            assert len(np.unique(site.integers())) > 8 and (np.ptp(site.integers(), axis=1) < 16).all()
        found[epochs] = pc.evaluate(pc.compress(network, decision, data=data), data)
    for key, share in (("error_after_percent", 1.0), ("nll_nats_per_example", 0.95)):
        assert found[6][key] < share * found[0][key], found


def test_deep_compression_goes_the_whole_road() -> None:
    """Pruned and retrained, k-means from a linear start, trained levels, and the paper's size above the file's."""
    network, data, _ = narrow()
    method = pc.inference.MagnitudePruning(
        epochs=16, batch_size=64, learning_rate=0.01, sparsity={"1.*": 0.7, "3.*": 0.4}, cuts=2, first=0.3, last=0.6
    )
    posterior = pc.fit(pc.BayesianNetwork(network, {}, pc.models.Categorical()), data, method, seed=0)
    settings = pc.DecisionSettings(
        quantizer="codebook", levels=16, level_start="linear", fine_tune_moves="quantizer", fine_tune_epochs=3,
        rate_weights=(0.0,),
    )  # fmt: skip
    decision = pc.decide(posterior, network, data, settings, say=lambda line: None)
    for name, share in {"1.weight": 0.3, "3.weight": 0.6, "5.weight": 1.0}.items():
        stored = decision.sites[name].stored()
        assert np.count_nonzero(stored) <= round(share * stored.size)
        assert 8 < len(np.unique(stored[stored != 0])) <= 16
    file, sizes = pc.compress(network, decision, data=data), deep_compression_bytes(decision)
    assert pc.evaluate(file, data)["error_after_percent"] < 10
    assert sizes.pruned > sizes.quantised > sizes.huffman > len(file)


@pytest.mark.parametrize("quantizer", ["power_of_two", "uniform"])
def test_the_file_s_own_prices_make_it_shorter(quantizer: str) -> None:
    network, data, _ = fitted()
    how: dict[str, Any] = {
        "quantizer": quantizer,
        "fine_tune_epochs": 6,
        "stage_tolerance_points": 100.0,
        "fine_tune_learning_rate": 4e-3,
    }
    how |= {"fine_tune_moves": "both"} if quantizer == "uniform" else {}
    found = {}
    for weight in (0.0, 3.0):
        decision, _ = decided(**how, fine_tune_rate="code", rate_weights=(weight,), lower_stages=0)
        file = pc.compress(network, decision, data=data)
        found[weight] = len(file)
        assert pc.evaluate(file, data)["error_after_percent"] < 9
    assert found[3.0] < 0.85 * found[0.0], found


@pytest.mark.parametrize("quantizer", ["codebook", "float32"])
def test_prices_of_integers_are_refused_where_there_are_none(quantizer: str) -> None:
    with pytest.raises(DecisionError, match=f"fine_tune_rate='code' asks what .* quantizer='{quantizer}' stores none"):
        pc.DecisionSettings(fine_tune_rate="code", quantizer=quantizer)


def test_prices_of_integers_are_refused_for_levels_that_the_method_gives() -> None:
    network, data, posterior = fitted()
    pairs = dict(posterior.parameters)
    levels = Codebook((-0.3, 0.3))
    pairs["1.weight"] = replace(pairs["1.weight"], quantizer=levels)
    settings = pc.DecisionSettings(fine_tune_rate="code", fine_tune_epochs=1, snr=0.5)
    with pytest.raises(DecisionError, match=r"what is stored of '1\.weight' are levels of a codebook: take fine_tune"):
        pc.decide(replace(posterior, parameters=pairs), network, data, settings, say=lambda line: None)


def test_a_share_that_is_averaged_is_one() -> None:
    with pytest.raises(DecisionError, match=r"fine_tune_averaging is the share of a stage's steps .* found 1\.5"):
        pc.DecisionSettings(fine_tune_averaging=1.5)
