"""Guides of the user's own: Pyro's ELBO, closed-form posteriors, local latent sites in batches, what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoGuideList,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoNormal,
)
from pyro.nn import PyroModule, PyroParam
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributions import constraints

import pyro_compress as pc
from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.program import Program
from pyro_compress.posterior.posterior import Posterior

PIXELS, CODES = 64, 3
DIGITS = torch.tensor(load_digits().data, dtype=torch.float64) / 16


class VAE(nn.Module):
    """As Pyro's tutorial has it, with `size` for the plate of all the data."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(CODES, 16), nn.Tanh(), nn.Linear(16, PIXELS))
        self.encoder = nn.Sequential(nn.Linear(PIXELS, 16), nn.Tanh(), nn.Linear(16, 2 * CODES))

    def rows(self, x: Tensor, size: int | None) -> Any:
        if size is None:
            return pyro.plate("data", len(x))
        return pyro.plate("data", size, subsample=torch.arange(len(x)))

    def model(self, x: Tensor, whole: int | None = None) -> None:
        with self.rows(x, whole):
            z = pyro.sample("z", dist.Normal(x.new_zeros(CODES), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.3).to_event(1), obs=x)

    def guide(self, x: Tensor, whole: int | None = None) -> None:
        with self.rows(x, whole):
            mean, log_sd = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_sd.exp()).to_event(1))


@pytest.fixture
def vae() -> Iterator[VAE]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield VAE()
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def store_stays_empty() -> Iterator[None]:
    pyro.clear_param_store()
    yield
    assert not dict(pyro.get_param_store())


@pytest.mark.parametrize("rows", [len(DIGITS), 50])
def test_the_elbo_is_that_of_pyro_on_the_same_noise(vae: VAE, rows: int) -> None:
    # n < N is Pyro's plate with a subsample
    method = SVI(guide=vae.guide, batch_size=50)
    state = method.init(Program(vae.model, (DIGITS,)), len(DIGITS), seed=0)
    batch = DIGITS[:rows]
    torch.manual_seed(1)
    terms = method.terms(state, (batch,))
    torch.manual_seed(1)
    expected = Trace_ELBO().loss(vae.model, vae.guide, batch, len(DIGITS))
    assert float(terms.objective(1.0).detach()) == pytest.approx(expected, rel=1e-12)


def test_gradients_of_the_elbo_are_those_of_pyro(vae: VAE) -> None:
    method = SVI(guide=vae.guide, batch_size=50)
    state = method.init(Program(vae.model, (DIGITS,)), len(DIGITS), seed=0)
    torch.manual_seed(1)
    method.terms(state, (DIGITS[:50],)).objective(1.0).backward()
    torch.manual_seed(1)
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, DIGITS[:50], len(DIGITS)).backward()
    found = {**dict(state.model.free.named_parameters()), **dict(state.guide.trained.named_parameters())}
    for name, parameter in vae.named_parameters():
        torch.testing.assert_close(found[name.replace(".", "__")].grad, parameter.grad)


def test_a_vae_is_fitted_in_batches_and_leaves_the_users_modules_alone(vae: VAE) -> None:
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    method = SVI(epochs=8, batch_size=128, learning_rate=1e-2, kl_warmup=0.0, guide=vae.guide)
    found = pc.fit(vae.model, DIGITS, method)
    history: Any = found.provenance["history"]
    first, last = (record["data_nats"] - record["complexity_nats"] for record in (history[0], history[-1]))
    assert last > first + 10 * len(DIGITS)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    # local sites stay out; the decoder is a point estimate, and what the guide trained stands beside it
    assert set(found.parameters) == {f"decoder.{name}" for name, _ in vae.decoder.named_parameters()}
    assert all(parameter.is_point for parameter in found.parameters.values())
    assert set(found.guide) == {f"encoder.{name}" for name, _ in vae.encoder.named_parameters()}
    assert found.draws is None and found.kind == "guide"
    trained = {name: torch.from_numpy(p.mean) for name, p in found.parameters.items()}
    trained |= {name: torch.from_numpy(value) for name, value in found.guide.items()}
    vae.load_state_dict(trained)
    loss = Trace_ELBO().loss(vae.model, vae.guide, DIGITS)
    assert -loss == pytest.approx(last, rel=0.02)


@pytest.mark.parametrize("stop", [2, 3])
def test_a_fit_goes_on_bit_for_bit(vae: VAE, tmp_path: Path, stop: int) -> None:
    # batch norm in the encoder has running statistics, which move
    vae.encoder = nn.Sequential(nn.Linear(PIXELS, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2 * CODES))
    method = SVI(epochs=4, batch_size=300, guide=vae.guide, averaging=0.5)
    whole = fit(vae.model, DIGITS, method)
    checkpoint = tmp_path / "checkpoint.pt"

    def leave(record: Any, state: Any) -> None:
        if record.epoch + 1 == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(vae.model, DIGITS, method, checkpoint=checkpoint, callbacks=[leave])
    resumed = fit(vae.model, DIGITS, method, checkpoint=checkpoint, resume=True)
    for name, value in whole.guide.items():
        np.testing.assert_array_equal(resumed.guide[name], value)
    for name, parameter in whole.parameters.items():
        np.testing.assert_array_equal(resumed.parameters[name].mean, parameter.mean)


def test_a_posterior_keeps_what_a_guide_has_trained_in_its_file(vae: VAE, tmp_path: Path) -> None:
    found = fit(vae.model, DIGITS, SVI(epochs=1, batch_size=900, guide=vae.guide))
    found.save(tmp_path / "posterior.safetensors")
    loaded = Posterior.load(tmp_path / "posterior.safetensors")
    assert loaded.guide.keys() == found.guide.keys()
    np.testing.assert_array_equal(loaded.guide["encoder.0.bias"], found.guide["encoder.0.bias"])


# ---- against closed forms

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(40, 2, generator=GENERATOR) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])
Y = X @ torch.tensor([1.0, -0.5]) + torch.randn(40, generator=GENERATOR)
PRECISION = torch.eye(2) + X.T @ X
COVARIANCE = torch.linalg.inv(PRECISION)
MEAN = COVARIANCE @ X.T @ Y


def regression(x: Tensor, y: Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, 1.0), obs=y)


class MeanAndScale(PyroModule):
    """Independent normals, as a PyroModule writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))
        self.scale = PyroParam(torch.full((2,), 0.3), constraint=constraints.positive)

    def forward(self, x: Tensor, y: Tensor) -> None:
        pyro.sample("weight", dist.Normal(self.loc, cast(Tensor, self.scale)).to_event(1))


def with_params(x: Tensor, y: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(2))
    scale = pyro.param("scale", lambda: torch.full((2,), 0.3), constraint=constraints.positive)
    pyro.sample("weight", dist.Normal(loc, scale).to_event(1))


LONG: dict[str, Any] = {"epochs": 500, "batch_size": 40, "learning_rate": 0.03, "kl_warmup": 0.0, "averaging": 0.5}


@pytest.mark.parametrize(
    "guide",
    [AutoNormal, AutoNormal(regression), with_params, MeanAndScale()],
    ids=["class", "instance", "function", "module"],
)
def test_a_mean_field_guide_finds_the_mean_and_the_conditional_variances(guide: Any) -> None:
    found = fit(regression, (X, Y), SVI(guide=guide, draws=4000, **LONG), seed=1).parameters["weight"]
    np.testing.assert_allclose(found.mean, MEAN, atol=0.03)
    # of the normal guides without correlations the best has the inverse of the precision's diagonal
    np.testing.assert_allclose(found.variance, 1 / PRECISION.diagonal(), rtol=0.1)


def test_a_low_rank_autoguide_finds_the_covariance() -> None:
    found = pc.fit(regression, (X, Y), SVI(guide=AutoLowRankMultivariateNormal, draws=4000, **LONG), seed=1)
    assert found.draws is not None and found.kind == "guide"
    np.testing.assert_allclose(found.parameters["weight"].mean, MEAN, atol=0.03)
    np.testing.assert_allclose(np.cov(found.draws.site("weight")[0].T), COVARIANCE, atol=0.15 * float(COVARIANCE.max()))
    assert found.statistics["pareto_k"] < 0.5 and not found.flags


def test_a_guide_far_from_the_posterior_is_flagged() -> None:
    def narrow(x: Tensor, y: Tensor) -> None:
        pyro.sample("weight", dist.Normal(pyro.param("loc", torch.zeros(2)), 0.01).to_event(1))

    with pytest.warns(pc.errors.PosteriorWarning):
        found = pc.fit(regression, (X, Y), SVI(guide=narrow, draws=400, **LONG), seed=1)
    assert "pareto_k" in {flag.name for flag in found.flags}


def test_an_autodelta_is_a_point_at_the_mode() -> None:
    found = fit(regression, (X, Y), SVI(guide=AutoDelta, **LONG), seed=1)
    assert found.kind == "point"
    np.testing.assert_allclose(found.parameters["weight"].mean, MEAN, atol=0.01)


def test_a_list_of_autoguides_is_copied_with_its_parts() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ weight + shift, 1.0), obs=y)

    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, expose=["weight"])))
    guide.append(AutoDelta(poutine.block(model, expose=["shift"])))
    found = fit(model, (X, Y), SVI(guide=guide, draws=500, **LONG), seed=1)
    ones = torch.cat([X, torch.ones(40, 1)], 1)
    mean = torch.linalg.solve(torch.eye(3) + ones.T @ ones, ones.T @ Y)
    np.testing.assert_allclose(found.parameters["weight"].mean, mean[:2], atol=0.05)
    np.testing.assert_allclose(found.parameters["shift"].mean, mean[2], atol=0.05)
    assert found.parameters["shift"].is_point and not found.parameters["weight"].is_point
    assert guide.model is model and guide[0].prototype_trace is None


# ---- local and global sites: theta ~ N(0, 2²), z_i ~ N(theta, 1), y_i ~ N(z_i, 0.5²)

ROWS = 60
OBSERVED = torch.randn(ROWS, generator=GENERATOR) * 1.2 + 0.7
THETA_VARIANCE = 1 / (0.25 + ROWS / 1.25)
THETA_MEAN = THETA_VARIANCE * float(OBSERVED.sum()) / 1.25


def two_levels(y: Tensor) -> None:
    theta = pyro.sample("theta", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(theta, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def amortised(y: Tensor) -> None:
    theta = pyro.sample(
        "theta",
        dist.Normal(
            pyro.param("loc", torch.tensor(0.0)), pyro.param("sd", torch.tensor(0.5), constraint=constraints.positive)
        ),
    )
    slope, weight = pyro.param("slope", torch.tensor(0.5)), pyro.param("weight", torch.tensor(0.5))
    sd = pyro.param("z_sd", torch.tensor(0.5), constraint=constraints.positive)
    with pyro.plate("data", len(y)):
        pyro.sample("z", dist.Normal(slope * y + weight * theta, sd))


def test_batches_of_rows_with_local_sites_give_the_posterior_of_the_global_one() -> None:
    method = SVI(
        guide=amortised, epochs=800, batch_size=20, learning_rate=0.02, kl_warmup=0.0, averaging=0.3, draws=4000
    )
    found = fit(two_levels, OBSERVED, method, seed=1)
    assert set(found.parameters) == {"theta"} and found.draws is not None
    assert found.parameters["theta"].mean == pytest.approx(THETA_MEAN, abs=0.25 * THETA_VARIANCE**0.5)
    assert found.parameters["theta"].variance == pytest.approx(THETA_VARIANCE, rel=0.25)
    # p(z | y, theta) = N(0.8 y + 0.2 theta, 0.2)
    assert found.guide["slope"] == pytest.approx(0.8, abs=0.05) and found.guide["z_sd"] ** 2 == pytest.approx(
        0.2, rel=0.1
    )


def test_local_sites_without_a_guide_that_follows_the_batch_are_refused_in_batches() -> None:
    for guide in ("declared", AutoNormal):
        with pytest.raises(InferenceError, match="latent site 'z' is drawn per example"):
            fit(two_levels, OBSERVED, SVI(guide=guide, epochs=1, batch_size=20))
    whole = fit(two_levels, OBSERVED, SVI(guide=AutoNormal, epochs=2, batch_size=ROWS, draws=10))
    assert whole.parameters["z"].mean.shape == (ROWS,)


# ---- sites without a gradient through the sample


def switched(y: Tensor) -> None:
    on = pyro.sample("on", dist.Bernoulli(0.4))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(on, 2.0), obs=y)


def switch(y: Tensor) -> None:
    pyro.sample("on", dist.Bernoulli(pyro.param("share", torch.tensor(0.5), constraint=constraints.unit_interval)))


FEW = OBSERVED[:4]


@pytest.mark.parametrize("estimator", [None, "score"])
def test_discrete_sites_are_fitted_by_the_score_function(estimator: str | None) -> None:
    odds = (
        0.4
        / 0.6
        * np.exp(float(sum(dist.Normal(1.0, 2.0).log_prob(y) - dist.Normal(0.0, 2.0).log_prob(y) for y in FEW)))
    )
    method = SVI(guide=switch, estimator=estimator, epochs=1500, learning_rate=0.02, kl_warmup=0.0, averaging=0.5)
    found = fit(switched, FEW, method, seed=1)
    assert found.guide["share"] == pytest.approx(odds / (1 + odds), abs=0.04)
    with pytest.raises(InferenceError, match="without a gradient through the sample"):
        fit(switched, FEW, SVI(guide=switch, estimator="shared"))


# ---- what is refused


def lacking(x: Tensor, y: Tensor) -> None:
    pyro.param("loc", torch.zeros(2))


def other(x: Tensor, y: Tensor) -> None:
    with_params(x, y)
    pyro.sample("extra", dist.Normal(0.0, 1.0))


def misshapen(x: Tensor, y: Tensor) -> None:
    pyro.sample("weight", dist.Normal(torch.zeros(3), 1.0).to_event(1))


def summed(x: Tensor, y: Tensor) -> None:
    with_params(x, y)
    pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel", "is_auxiliary": True})


def observing(x: Tensor, y: Tensor) -> None:
    with_params(x, y)
    pyro.factor("f", torch.tensor(1.0))


def of_no_data() -> None:
    pyro.sample("weight", dist.Normal(torch.zeros(2), 1.0).to_event(1))


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (lacking, "does not draw site 'weight'"),
        (other, "draws site 'extra', which the model regression has not"),
        (misshapen, r"draws site 'weight' in the shape \(3,\), and the model has it in \(2,\)"),
        (summed, "asks for a sum over site 'k'"),
        (observing, "observes site 'f'"),
        (of_no_data, "cannot be run on what the model regression is run on"),
        (AutoLaplaceApproximation, "AutoLaplaceApproximation trains the mode alone, and makes a normal of it when"),
        (AutoLaplaceApproximation(regression), "AutoLaplaceApproximation trains the mode alone"),
        (nn.Linear, "the class Linear is no AutoGuide"),
        ("declare", "unknown guide 'declare'"),
    ],
)
def test_guides_that_do_not_go_with_the_model_are_refused(guide: Any, message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        fit(regression, (X, Y), SVI(guide=guide, epochs=1))


def test_values_outside_the_support_are_refused() -> None:
    def model() -> None:
        pyro.sample("rate", dist.Gamma(2.0, 1.0))

    def guide() -> None:
        pyro.sample("rate", dist.Normal(-3.0, 0.1))

    with pytest.raises(InferenceError, match="draws values of site 'rate' outside of its support"):
        fit(model, None, SVI(guide=guide, epochs=1))


def test_estimators_and_entropies_that_a_guide_does_not_allow_are_refused() -> None:
    with pytest.raises(InferenceError, match="which guide 'with_params' does not have"):
        SVI(guide=with_params, estimator="local")

    def backwards(y: Tensor) -> None:
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(y, 1.0))
        pyro.sample("theta", dist.Normal(z.mean(), 1.0))

    with pytest.raises(InferenceError, match="draws them in the model's order"):
        fit(two_levels, OBSERVED, SVI(guide=backwards, entropy="exact", epochs=1))


def test_a_bayesian_network_keeps_the_guide_of_its_priors() -> None:
    model = pc.BayesianNetwork(nn.Sequential(nn.Linear(2, 1)), pc.models.Normal(), "gaussian")
    with pytest.raises(InferenceError, match="a BayesianNetwork's guide is what its priors declare"):
        fit(model, (X, Y[:, None]), SVI(guide=AutoNormal, epochs=1))


@pytest.mark.parametrize("batch", [60, 30])
def test_places_that_model_and_guide_mask_count_in_neither(batch: int) -> None:
    """μ ~ N(0, 4), z_i ~ N(μ, 1), y_i ~ N(z_i, 0.49) where a row is kept: 1/variance = ¼ + Σ kept / 1.49."""
    torch.manual_seed(0)
    keep = torch.rand(60) < 0.5
    y = 1.2 * torch.randn(60) + torch.where(keep, 2.0, -3.0)

    def model(y: Tensor, keep: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("rows", len(y)), poutine.mask(mask=keep):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Normal(z, 0.7), obs=y)

    def guide(y: Tensor, keep: Any) -> None:
        m = pyro.param("m", torch.tensor(0.0))
        s = pyro.param("s", torch.tensor(0.3), constraint=constraints.positive)
        mu = pyro.sample("mu", dist.Normal(m, s))
        precision = 1 + 1 / 0.49
        with pyro.plate("rows", len(y)), poutine.mask(mask=keep):
            pyro.sample("z", dist.Normal((mu + y / 0.49) / precision, precision**-0.5))

    method = SVI(guide=guide, epochs=15 * batch, batch_size=batch, learning_rate=0.01, averaging=0.5, kl_warmup=0.0)
    found = fit(model, (y, keep), method).guide
    precision = 0.25 + float(keep.sum()) / 1.49
    assert float(found["m"]) == pytest.approx(float(y[keep].sum()) / 1.49 / precision, abs=0.06)
    assert float(found["s"]) == pytest.approx(precision**-0.5, rel=0.15)
