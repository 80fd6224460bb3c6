"""Learned hyper-parameters of priors, against closed forms; what is recorded, saved, shared and narrowed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints

from pyro_compress.errors import InferenceError, PosteriorWarning, PriorError
from pyro_compress.inference.fit import EpochRecord, fit
from pyro_compress.inference.gradient.elbo import elbo_terms
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.results.predictive import posterior_predictive
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.inference.variational import base, recorded_step
from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.variational.recorded_step import TracedTerms
from pyro_compress.inference.variational.shrinking import Removal, ShrinkingNetwork
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.hyperparameters import Hyperparameter
from pyro_compress.models.likelihoods import Categorical, Gaussian
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Moments, Prior
from pyro_compress.models.priors.normal import Normal
from pyro_compress.posterior.posterior import Posterior


@dataclass(frozen=True)
class LearnedScale(Prior):
    """w ~ N(0, s²) with s of each tensor learned (empirical Bayes), or one s for all of them."""

    shared: bool = False
    start: float = 1.0
    covers_biases: ClassVar[bool] = True

    def hyperparameters(self, parameter: Parameter, value: torch.Tensor) -> tuple[Hyperparameter, ...]:
        return () if self.shared else (self._scale(self.start),)

    def shared_hyperparameters(self, covered: Sequence[tuple[Parameter, torch.Tensor]]) -> tuple[Hyperparameter, ...]:
        everything = torch.cat([value.reshape(-1) for _, value in covered])
        return (self._scale(float(everything.square().mean().sqrt())),) if self.shared else ()

    def _scale(self, start: float) -> Hyperparameter:
        return Hyperparameter("scale", torch.tensor(start), constraints.positive)

    def sample(self, parameter: Parameter) -> Any:
        prior = dist.Normal(torch.zeros(()), parameter.hyper["scale"]).expand(parameter.shape)
        return pyro.sample(parameter.name, prior.to_event(len(parameter.shape)))

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        return (LatentSite(parameter.name, "normal", parameter.shape, value, -4.0, "weight"),)

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        return sites[parameter.name].mean, sites[parameter.name].variance


@dataclass(frozen=True)
class LearnedMean(LearnedScale):
    """w ~ N(m, 0.3²) with m learned; the weight is made of a standardised site, so it depends on m itself."""

    def _scale(self, start: float) -> Hyperparameter:
        return Hyperparameter("mean", torch.tensor(start - 1.0))

    def sample(self, parameter: Parameter) -> Any:
        prior = dist.Normal(torch.zeros(()), 0.3).expand(parameter.shape).to_event(len(parameter.shape))
        return parameter.hyper["mean"] + pyro.sample(f"{parameter.name}.e", prior)

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        return (LatentSite(f"{parameter.name}.e", "normal", parameter.shape, value, -4.0, "weight"),)

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        e = sites[f"{parameter.name}.e"]
        return parameter.hyper["mean"].detach() + e.mean, e.variance


# orthogonal inputs, XᵀX = n: ŵ_j ~ N(0, s² + σ²/n) independently, so the evidence is largest at s² = mean ŵ² − σ²/n,
# and the posterior has independent weights, which is what the declared guide has
N, WIDTH, NOISE = 64, 32, 1.0
_BASIS = torch.linalg.qr(torch.randn(N, WIDTH, generator=torch.Generator().manual_seed(0)))[0] * math.sqrt(N)
_SLOPES = 0.2 + 0.6 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
_TARGETS = (_BASIS @ _SLOPES + NOISE * torch.randn(N, generator=torch.Generator().manual_seed(2)))[:, None]
ESTIMATES = (_BASIS.T @ _TARGETS)[:, 0] / N
DATA = (_BASIS, _TARGETS)


def line(prior: Any) -> BayesianNetwork:
    torch.manual_seed(0)
    return BayesianNetwork(nn.Sequential(nn.Linear(WIDTH, 1, bias=False)), prior, Gaussian(noise=NOISE))


@pytest.mark.parametrize(
    ("method", "within"),
    [
        (SVI(epochs=1200, batch_size=N, learning_rate=0.02, kl_warmup=0.0, shrink=False), 0.02),
        (SVI(epochs=1200, batch_size=N, learning_rate=0.02, kl_warmup=0.0, guide="full-rank"), 0.05),
        (BayesByBackprop(epochs=1200, batch_size=N, learning_rate=0.02), 0.05),
    ],
    ids=["svi", "full-rank", "bayes-by-backprop"],
)
def test_the_scale_of_a_conjugate_regression_is_where_its_evidence_is_largest(method: Any, within: float) -> None:
    best = float((ESTIMATES.square().mean() - NOISE**2 / N).sqrt())
    found = fit(line(LearnedScale(start=3.0)), DATA, method, seed=0)
    assert list(found.hyperparameters) == ["0.weight.scale"]
    assert float(found.hyperparameters["0.weight.scale"]) == pytest.approx(best, rel=within)
    # the weights shrink by s² / (s² + σ²/n)
    shrunk = best**2 / (best**2 + NOISE**2 / N) * ESTIMATES
    np.testing.assert_allclose(found.parameters["0.weight"].mean[0], shrunk, atol=0.06)


def test_map_goes_to_the_mode_in_hyper_parameters_too() -> None:
    """Of w = m + e, e ~ N(0, 0.3²): for given m e_j is shrunk from ŵ_j − m, so the best m is the mean of ŵ."""
    method = MAP(epochs=800, batch_size=N, learning_rate=0.02)
    found = fit(line(LearnedMean()), DATA, method, seed=0)
    mean = float(ESTIMATES.mean())
    assert float(found.hyperparameters["0.weight.mean"]) == pytest.approx(mean, abs=2e-3)
    share = 0.3**2 / (0.3**2 + NOISE**2 / N)
    np.testing.assert_allclose(found.parameters["0.weight"].mean[0], mean + share * (ESTIMATES - mean), atol=5e-3)


def test_the_gradient_of_the_kl_is_that_of_the_closed_form() -> None:
    model = line(LearnedScale(start=0.7))
    guide = DeclaredGuide(model)
    elbo_terms(model.forward, guide.forward, None, *DATA).complexity.backward()
    mean, scale = guide.location_and_scale("0.weight")
    # d/du Σ [ln s + (μ² + σ²) / 2s²] with s = eᵘ
    expected = (1.0 - (mean.square() + scale.square()) / 0.7**2).sum().detach()
    torch.testing.assert_close(model.hyper.tensor("0.weight.scale").grad, expected)


def digits_like() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 1).long()


def classifier(prior: Any) -> BayesianNetwork:
    torch.manual_seed(3)
    return BayesianNetwork(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), prior, Categorical())


def fitted(prior: Any, method: Any = None, **options: Any) -> Posterior:
    return fit(classifier(prior), digits_like(), method or SVI(epochs=6, batch_size=20), seed=2, **options)


def assert_same(first: Posterior, second: Posterior) -> None:
    assert first.hyperparameters.keys() == second.hyperparameters.keys()
    for name, value in first.hyperparameters.items():
        np.testing.assert_array_equal(value, second.hyperparameters[name])
    for name, site in first.parameters.items():
        np.testing.assert_array_equal(site.mean, second.parameters[name].mean)


@pytest.mark.parametrize("prior", [LearnedScale(), LearnedMean(shared=True)], ids=["scale", "mean"])
def test_recorded_steps_move_hyper_parameters_as_the_program_does(prior: Prior, monkeypatch: Any) -> None:
    """Nothing of them is a constant of the recording: not in the replayed graph, nor where constants are folded."""
    found = {}
    for calls in (2, 10**6):
        for module in (recorded_step, base):
            monkeypatch.setattr(module, "TRACE_AFTER", calls)
        found[calls] = fitted(prior, SVI(epochs=12, batch_size=20, learning_rate=0.05, kl_warmup=0.0))
    assert_same(*found.values())
    for name, value in found[2].hyperparameters.items():
        assert abs(float(value) - float(classifier(prior).hyper.value(name).detach())) > 0.05
    method = SVI(batch_size=20, kl_warmup=0.0)
    state = method.init(classifier(prior), 60, 0)
    batch = tuple(part[:20] for part in digits_like())
    traced = TracedTerms(state.modules.values(), state.flat, lambda one: method.terms(state, one), state.model)
    folded = traced._traced(batch, exact=False)
    assert folded is not None
    with torch.no_grad():
        for vector in state.flat.vectors:
            vector.whole.add_(0.3)
    for buffer in folded.noise:
        buffer.normal_(generator=torch.Generator().manual_seed(0))
    whole = [vector.whole.detach() for vector in state.flat.vectors]
    complexity = folded.graph(*whole, *torch.ones(3), *batch, *folded.noise)[2]
    expected = method.terms(state, batch).complexity
    torch.testing.assert_close(complexity, expected.detach(), rtol=1e-4, atol=1e-4)


def test_a_shared_one_starts_from_all_weights_and_learns_from_all_layers() -> None:
    model = classifier({"*.weight": LearnedScale(shared=True), "*.bias": LearnedScale(shared=True)})
    weights = [value for name, value in model.network.named_parameters() if name.endswith("weight")]
    expected = torch.cat([value.detach().reshape(-1) for value in weights]).square().mean().sqrt()
    assert list(model.hyper.declared) == ["*.weight.scale", "*.bias.scale"]
    torch.testing.assert_close(model.hyper.value("*.weight.scale").detach(), expected)
    guide = DeclaredGuide(model)
    elbo_terms(model.forward, guide.forward, None, *digits_like()).complexity.backward()
    total = torch.zeros(())
    for name in ("0.weight", "2.weight"):
        mean, scale = guide.location_and_scale(name)
        total = total + (1.0 - (mean.square() + scale.square()) / expected**2).sum().detach()
    torch.testing.assert_close(model.hyper.tensor("*.weight.scale").grad, total)
    assert list(classifier(LearnedScale(shared=True)).hyper.declared) == ["prior.scale"]
    one = LearnedScale(shared=True)
    assert list(classifier({"0.weight": one, "2.weight": one}).hyper.declared) == ["0.weight.scale"]


def test_a_run_goes_on_from_its_checkpoint_and_its_posterior_holds_them(tmp_path: Path) -> None:
    class InterruptedByTestError(Exception):
        pass

    def stop(record: EpochRecord, state: Any) -> None:
        if record.epoch == 2:
            raise InterruptedByTestError

    path, prior = tmp_path / "checkpoint.pt", LearnedScale()
    for method in (SVI(epochs=5, batch_size=20, averaging=0.4), MAP(epochs=5, batch_size=20)):
        path.unlink(missing_ok=True)
        straight = fitted(prior, method)
        with pytest.raises(InterruptedByTestError):
            fitted(prior, method, checkpoint=path, callbacks=[stop])
        assert_same(fitted(prior, method, checkpoint=path, resume=True), straight)
        straight.save(tmp_path / "posterior.safetensors")
        assert_same(Posterior.load(tmp_path / "posterior.safetensors"), straight)


def test_rates_follow_roles() -> None:
    start = {name: float(value.detach()) for name, value in classifier(LearnedScale()).hyper.values().items()}
    still = fitted(LearnedScale(), SVI(epochs=3, batch_size=20, rates={"hyper": 0.0}))
    moved = fitted(LearnedScale(), SVI(epochs=3, batch_size=20))
    for name, value in start.items():
        assert float(still.hyperparameters[name]) == pytest.approx(value, abs=1e-6)
        assert abs(float(moved.hyperparameters[name]) - value) > 1e-3
    with pytest.raises(InferenceError, match="unknown learning rate 'hyperparameters'"):
        SVI(rates={"hyperparameters": 0.1})


def test_samplers_take_them_as_they_are_and_say_so() -> None:
    method = SGLD(epochs=2, batch_size=20)
    with pytest.warns(PosteriorWarning, match=r"SGLD does not learn the hyper-parameters 0.weight.scale, .*model.at\("):
        found = fitted(LearnedScale(start=0.25), method)
    assert {float(value) for value in found.hyperparameters.values()} == {0.25}
    fixed = fit(classifier(Normal(scale=0.25)), digits_like(), method, seed=2)
    for name, site in fixed.parameters.items():
        np.testing.assert_allclose(found.parameters[name].mean, site.mean, rtol=1e-4, atol=1e-5)


def test_predictions_are_made_with_what_was_learned() -> None:
    model = classifier(LearnedMean())
    found = fit(model, digits_like(), SVI(epochs=30, batch_size=20, learning_rate=0.05, kl_weight=0.05), seed=0)
    x = digits_like()[0]
    drawn = posterior_predictive(model.at(found.hyperparameters), found, x, draws=40, seed=1)
    again = posterior_predictive(model, found, x, draws=40, seed=1)
    np.testing.assert_allclose(drawn.mean, again.mean)
    stale = replace(found, hyperparameters={name: value + 1.0 for name, value in found.hyperparameters.items()})
    assert np.abs(posterior_predictive(model, stale, x, draws=40, seed=1).mean - again.mean).max() > 0.05


def test_a_narrower_network_goes_on_learning_them() -> None:
    model = classifier(LearnedScale(shared=True))
    shrinking = ShrinkingNetwork(model, DeclaredGuide(model), (6,))
    with torch.no_grad():
        model.hyper.tensor("prior.scale").fill_(0.4)
    assert shrinking.architecture is not None
    sizes = [shape[0] for shape in shrinking.architecture.shapes()]
    kept = [np.arange(size) > 0 if size == 5 else np.ones(size, dtype=bool) for size in sizes]
    left = shrinking.narrow(Removal(kept, {}, 1))
    assert left.guide.sites["0.weight"].shape == (4, 6)
    assert float(left.model.hyper.tensor("prior.scale").detach()) == pytest.approx(0.4)
    with torch.no_grad():
        left.model.hyper.tensor("prior.scale").fill_(0.9)
    shrinking.write_back()
    assert float(model.hyper.tensor("prior.scale").detach()) == pytest.approx(0.9)


def test_what_cannot_be_declared_is_refused() -> None:
    with pytest.raises(PriorError, match=r"'0.weight.scale' starts at -1.0, which is not inside GreaterThan"):
        classifier(LearnedScale(start=-1.0))

    class Twice(LearnedScale):
        def hyperparameters(self, parameter: Parameter, value: torch.Tensor) -> tuple[Hyperparameter, ...]:
            return (self._scale(1.0), self._scale(2.0))

    with pytest.raises(PriorError, match="hyper-parameter 'scale' is declared twice"):
        classifier(Twice())
    with pytest.raises(PriorError, match=r"there is no hyper-parameter 'mean': the priors have 0.weight.scale"):
        classifier(LearnedScale()).at({"mean": 1.0})
