"""`decide` on draws: moments within one mode, what to store chosen on validation, notes in the decision."""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.modes.alignment import rename_all
from pyro_compress.analysis.modes.symmetries import hidden_spaces
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.errors import DecisionError
from pyro_compress.models.likelihoods import Categorical, Gaussian
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.pipeline.decision_settings import DecisionSettings
from pyro_compress.pipeline.search import decide, without_draws
from pyro_compress.pipeline.validation import Judge, nothing_pruned
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior
from tests.analysis.modes.symmetric_networks import any_renamings

COUNT = 24
SETTINGS = {"snr": 2.0, "c": 1.0, "fine_tune_epochs": 0}


def classes(norm: bool = False) -> tuple[nn.Module, DataSet]:
    """A network whose weights are right for three linear classes, and the data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        layers: list[tuple[str, nn.Module]] = [("a", nn.Linear(6, 10)), *([("n", nn.BatchNorm1d(10))] if norm else [])]
        network = nn.Sequential(OrderedDict([*layers, ("f", nn.ReLU()), ("b", nn.Linear(10, 3))]))
        x = torch.randn(700, 6)
        y = x[:, :3].argmax(1)
        optimizer = torch.optim.Adam(network.parameters(), 0.03)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[:400]), y[:400]).backward()
            optimizer.step()
    parts = ((x[:400], y[:400]), (x[400:550], y[400:550]), (x[550:], y[550:]))
    return network.eval(), as_data(parts[0], validation=parts[1], test=parts[2], name="thirds", classes=3)


def sampled(network: nn.Module, chains: list[np.ndarray], lp: np.ndarray) -> Posterior:
    names = {name: tuple(p.shape) for name, p in network.named_parameters()}
    draws = Draws(np.stack(chains).astype(np.float32), names, None, {"lp": lp})
    sites = {
        n: ParameterPosterior(m.astype(np.float32), v.astype(np.float32), "Normal")
        for n, (m, v) in draws.moments().items()
    }
    buffers = {n: b.numpy().copy() for n, b in network.named_buffers() if b.is_floating_point()}
    return Posterior(sites, {}, buffers, "chains", {"method": "SGLD()"}, draws=draws)


def centre_of(network: nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in network.parameters()]).astype(np.float64)


def chain_of(network: nn.Module, spread: float = 0.05, seed: int = 0) -> np.ndarray:
    centre = centre_of(network)
    return centre + spread * np.random.default_rng(seed).standard_normal((COUNT, centre.size))


def copy_of(network: nn.Module, chain: np.ndarray, data: DataSet, seed: int) -> np.ndarray:
    """The chain with its units renamed."""
    architecture = trace(network, data.input_shape)
    spaces, generator = hidden_spaces(architecture), np.random.default_rng(seed)
    names = any_renamings(architecture, generator)
    shapes = [(name, tuple(p.shape)) for name, p in network.named_parameters()]

    def renamed(row: np.ndarray) -> np.ndarray:
        parts = np.split(row, np.cumsum([int(np.prod(shape)) for _, shape in shapes])[:-1])
        tensors: Mapping[str, np.ndarray] = {n: part.reshape(s) for (n, s), part in zip(shapes, parts, strict=True)}
        return np.concatenate([array.ravel() for array in rename_all(spaces, names, tensors).values()])

    return np.stack([renamed(row) for row in chain])


def saved(decision: Decision, path: Path) -> bytes:
    decision.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("norm", [False, True], ids=["dense", "batch norm"])
def test_renamed_copies_of_a_chain_give_one_decision(norm: bool, tmp_path: Path) -> None:
    network, data = classes(norm)
    chain, lp = chain_of(network), np.random.default_rng(1).standard_normal(COUNT)
    found = []
    for chains in ([chain] * 3, [copy_of(network, chain, data, seed) for seed in (1, 2, 3)]):
        posterior = sampled(network, chains, np.stack([lp] * 3))
        decision = decide(posterior, network, data, DecisionSettings(**SETTINGS))  # type: ignore[arg-type]
        found.append(saved(decision, tmp_path / "decision.safetensors"))
        errors = Judge(network, data, Categorical()).errors(decision)
        assert errors.mean() < 0.1
        assert {k: decision.made_by[k] for k in ("moments", "aligned_by")} == {
            "moments": "aligned",
            "aligned_by": "chain",
        }
    assert found[0] == found[1]


def test_the_mean_is_stored_where_the_best_draw_has_more_errors_and_the_other_way_round() -> None:
    network, data = classes()
    good, bad = chain_of(network), chain_of(network)
    bad[5] = np.random.default_rng(3).standard_normal(bad.shape[1])
    lp = np.zeros((1, COUNT))
    lp[0, 5] = 1.0
    lines: list[str] = []
    mean = without_draws(
        sampled(network, [bad], lp), network, data, Categorical(), DecisionSettings(), say=lines.append
    )
    assert mean.provenance["moments"]["stored"] == "mean"  # type: ignore[index]
    assert lines[0] == "moments of draws: all chains, units aligned by chain"
    assert "stored is the mean" in lines[1]
    # the other draws are spread so far that their mean is no good
    wide = chain_of(network, spread=20.0)
    wide[5] = good[5]
    best = without_draws(sampled(network, [wide], lp), network, data, Categorical(), DecisionSettings(align_by="chain"))
    assert best.provenance["moments"]["stored"] == "best draw"  # type: ignore[index]
    judge = Judge(network, data, Categorical())
    assert judge.errors(nothing_pruned(best)).mean() < 0.1
    decision = decide(best, network, data, DecisionSettings(snr=0.0, c=1e-7, fine_tune_epochs=0))
    assert decision.made_by["stored"] == "best draw"
    assert judge.errors(decision).mean() < 0.1
    assert decision.sites["b.bias"].value == pytest.approx(good[5][-3:], abs=1e-6)


def test_what_is_stored_and_how_it_is_aligned_can_be_given() -> None:
    network, data = classes()
    chain = chain_of(network)
    posterior = sampled(network, [chain, chain[::-1]], np.stack([np.arange(COUNT), np.arange(COUNT)]) * 1.0)
    settings = DecisionSettings(stored="best-draw", moments="one-chain", align_by="draw")
    found = without_draws(posterior, network, data, Categorical(), settings)
    noted = found.provenance["moments"]
    assert isinstance(noted, dict)
    assert (noted["moments"], noted["aligned_by"], noted["stored"]) == ("one-chain", "draw", "best draw")
    np.testing.assert_allclose(found.parameters["b.bias"].to_store, chain[-1, -3:], rtol=1e-6)
    without = Posterior(posterior.parameters, kind="iid", draws=Draws(posterior.draws.flat, posterior.draws.shapes))  # type: ignore[union-attr]
    with pytest.raises(DecisionError, match="noted no log joint, so no draw is the best one"):
        without_draws(without, network, data, Categorical(), settings)
    with pytest.raises(DecisionError, match="stored is one of auto, mean, best-draw, found 'median'"):
        DecisionSettings(stored="median")


def test_batch_norm_statistics_are_gathered_again() -> None:
    network, data = classes(norm=True)
    posterior = sampled(network, [copy_of(network, chain_of(network), data, 4)], np.zeros((1, COUNT)))
    found = without_draws(posterior, network, data, Categorical(), DecisionSettings())
    assert not np.allclose(found.buffers["n.running_mean"], posterior.buffers["n.running_mean"], atol=0.05)
    assert Judge(network, data, Categorical()).errors(nothing_pruned(found)).mean() < 0.1


def test_a_posterior_without_draws_is_left_as_it_is() -> None:
    network, data = classes()
    posterior = Posterior(sampled(network, [chain_of(network)], np.zeros((1, COUNT))).parameters)
    assert without_draws(posterior, network, data, Categorical(), DecisionSettings()) is posterior


def shifted(network: nn.Module, factor: float) -> Posterior:
    """A fit that has left the network's weights by a factor."""
    sites = {}
    for name, parameter in network.named_parameters():
        mean = factor * parameter.detach().numpy().copy()
        weight = parameter.ndim > 1
        sites[name] = ParameterPosterior(mean, np.full_like(mean, 1e-4 * weight), "Normal" if weight else "point")
    return Posterior(sites)


def test_a_collapsed_fit_is_held_against_what_it_started_from_and_said() -> None:
    network, data = classes()
    lines, settings = list[str](), DecisionSettings(fine_tune_epochs=0)
    decision = decide(shifted(network, 0.0), network, data, settings, say=lines.append)
    warned = [line for line in lines if line.startswith("warning: the fit ended ")]
    assert len(warned) == 1 and "points worse on validation than the network given that it started from" in warned[0]
    assert str(decision.made_by["worse_than_start"]) in warned[0] and decision.made_by["reference"] == "network given"
    assert decision.made_by["snr"] == 0.0  # nothing is as good as the start, so no single weight is pruned
    assert "the same answer to every input" in str(decision.made_by["no_better_than_one_answer"])
    assert any(str(decision.made_by["no_better_than_one_answer"]) in line for line in lines)
    evidence = decision.made_by["validation"]
    assert isinstance(evidence, dict) and evidence["examples"] == 150
    assert evidence["newly_wrong"] - evidence["newly_right"] == round(1.5 * evidence["rise_points"]) > 60
    assert evidence["upper_points_90"] > evidence["rise_points"] and not evidence["within_tolerance"]
    assert lines[-1].startswith("nothing was within the tolerance of 0.2 points: the best is +")
    with (
        pytest.warns(UserWarning, match="the fit ended .* points worse on validation than the network given"),
        pytest.warns(UserWarning, match="no better than the same answer to every input"),
    ):
        decide(shifted(network, 0.0), network, data, settings)


def test_one_answer_to_every_input_is_noticed_of_any_likelihood() -> None:
    """Errors of the best single answer are the targets' own variance, and a fit of next to none of it is said."""
    torch.manual_seed(0)
    x = torch.randn(400, 3)
    y = 2 * x[:, :1] + 5
    data = as_data((x, y), validation=100)
    network = nn.Linear(3, 1)
    judge = Judge(network, data, Gaussian())
    spread = float(data.validation_y.var(correction=0))
    for weight, said in ((0.0, True), (1e-4, True), (0.1, False), (2.0, False)):
        with torch.no_grad():
            network.weight.copy_(torch.tensor([[weight, 0.0, 0.0]]))
            network.bias.fill_(float((data.validation_y - weight * data.validation_x[:, :1]).mean()))
        posterior = shifted(network, 1.0)
        alone = judge.errors_of_one_answer(nothing_pruned(posterior))
        assert alone.mean() == pytest.approx(spread, rel=1e-5) and len(alone) == 100
        lines = list[str]()
        settings = DecisionSettings(fine_tune_epochs=0, refine=False)
        decision = decide(posterior, network, data, settings, likelihood=Gaussian(), starts={}, say=lines.append)
        assert ("no_better_than_one_answer" in decision.made_by) is said
        assert any("the same answer to every input" in line for line in lines) is said


def test_a_fit_as_good_as_its_start_is_the_reference() -> None:
    network, data = classes()
    lines, settings = list[str](), DecisionSettings(fine_tune_epochs=0)
    decision = decide(shifted(network, 1.0), network, data, settings, say=lines.append)
    assert decision.made_by["reference"] == "posterior mean" and "worse_than_start" not in decision.made_by
    assert "no_better_than_one_answer" not in decision.made_by
    assert not any(line.startswith("warning") for line in lines)
    untrained = copy.deepcopy(network)
    with torch.no_grad():
        untrained.get_parameter("a.weight").zero_()
    starts = {"pretrained network": network, "weights given": untrained}
    worse = decide(shifted(network, 0.0), untrained, data, settings, starts=starts, say=lines.append)
    assert worse.made_by["reference"] == "pretrained network"
    assert any("held against the pretrained network" in line for line in lines)
