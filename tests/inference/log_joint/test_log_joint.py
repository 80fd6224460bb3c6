"""The flat log joint: closed forms, Pyro's own value, scaling, temperature, transforms, chains."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.mcmc.util import initialize_model
from torch import nn

from pyro_compress.errors import InferenceError
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.program import Program

GENERATOR = torch.Generator().manual_seed(5)
X = torch.randn(12, 3, generator=GENERATOR)
Y = torch.randn(12, 2, generator=GENERATOR)


def regression() -> BayesianNetwork:
    return BayesianNetwork(nn.Linear(3, 2), {"weight": Normal(scale=0.7)}, Gaussian(noise=0.5))


def constrained_model(x: torch.Tensor, y: torch.Tensor) -> None:
    scale = pyro.sample("scale", dist.Gamma(2.0, 3.0))
    share = pyro.sample("share", dist.Beta(2.0, 3.0).expand([2]).to_event(1))
    mix = pyro.sample("mix", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ mix + share.sum(), scale), obs=y)


def test_the_log_joint_of_a_network_is_the_closed_form() -> None:
    model, size, temperature = regression(), 48, 0.5
    log_joint = LogJoint(model, size, temperature=temperature)
    flat = torch.randn(8, generator=GENERATOR)
    weight, bias = flat[:6].reshape(2, 3), flat[6:]
    prior = dist.Normal(0.0, 0.7).log_prob(weight).sum()
    data = size / 12 * dist.Normal(X @ weight.T + bias, 0.5).log_prob(Y).sum()
    found = log_joint(flat[None], (X, Y))
    assert float(found.data[0]) == pytest.approx(float(data), rel=1e-5)
    assert float(found.prior[0]) == pytest.approx(float(prior), rel=1e-5)
    assert float(found.log_joint[0]) == pytest.approx(float(data + prior) / temperature, rel=1e-5)
    residual = Y - X @ weight.T - bias
    expected = (size / 12 * residual.T @ X / 0.25 - weight / 0.49) / temperature
    torch.testing.assert_close(found.gradient[0, :6].reshape(2, 3), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        found.gradient[0, 6:], size / 12 * residual.sum(0) / 0.25 / temperature, rtol=1e-4, atol=1e-3
    )
    assert log_joint.latents == slice(0, 6)  # the bias has no prior


@pytest.mark.parametrize("model", [regression(), constrained_model], ids=["network", "constrained"])
def test_chains_replays_and_eager_runs_agree(model: object) -> None:
    y = Y if isinstance(model, BayesianNetwork) else Y[:, 0]
    program = model if isinstance(model, BayesianNetwork) else Program(model, (X, y))  # type: ignore[arg-type]
    traced, eager = LogJoint(program, 24), LogJoint(program, 24, replay=False)
    flat = torch.randn(3, traced.width, generator=GENERATOR)
    together = traced(flat, (X, y))
    for chain in range(3):
        for log_joint in (traced, eager):
            alone = log_joint(flat[chain : chain + 1], (X, y))
            torch.testing.assert_close(alone.log_joint[0], together.log_joint[chain], rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(alone.gradient[0], together.gradient[chain], rtol=1e-4, atol=1e-4)
    step = 1e-3 * torch.randn(traced.width, generator=GENERATOR)
    moved = traced(torch.stack([flat[0] + step, flat[0] - step]), (X, y)).log_joint
    assert float(moved[0] - moved[1]) == pytest.approx(2 * float(together.gradient[0] @ step), rel=0.02, abs=0.01)


def test_constrained_sites_are_transformed_as_pyro_does() -> None:
    program = Program(constrained_model, (X, Y[:, 0]))
    log_joint = LogJoint(program, 12)
    initial, potential, _, _ = initialize_model(constrained_model, (X, Y[:, 0]), initial_params=None)
    flat = torch.cat([initial[site.name].reshape(-1) for site in log_joint.sites])
    found = log_joint(flat[None], (X, Y[:, 0]))
    assert float(found.log_joint[0]) == pytest.approx(-float(potential(initial)), rel=1e-5)
    values = log_joint.constrained(flat)
    assert float(values["mix"].sum()) == pytest.approx(1.0)
    torch.testing.assert_close(log_joint.unconstrained(values), flat, rtol=1e-4, atol=1e-4)


def test_temperature_leaves_the_jacobian_alone() -> None:
    def model() -> None:
        pyro.sample("s", dist.Gamma(3.0, 1.0))

    flat = torch.tensor([[0.3]])
    hot = LogJoint(Program(model, ()), 0, temperature=2.0)(flat, ())
    expected = dist.Gamma(3.0, 1.0).log_prob(flat.exp()) / 2.0 + 0.3
    assert float(hot.log_joint[0]) == pytest.approx(float(expected), rel=1e-5)


def test_a_batch_of_a_program_counts_as_all_the_data() -> None:
    y = Y[:, 0]
    program = Program(constrained_model, (X, y))
    whole, part = LogJoint(program, 12), LogJoint(program, 36)
    flat = torch.randn(1, whole.width, generator=GENERATOR)
    assert float(part(flat, (X, y)).data[0]) == pytest.approx(3 * float(whole(flat, (X, y)).data[0]), rel=1e-5)
    assert float(part(flat, (X, y)).prior[0]) == pytest.approx(float(whole(flat, (X, y)).prior[0]), rel=1e-5)


def test_a_model_that_takes_size_scales_itself() -> None:
    def model(x: torch.Tensor, size: int) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", size, subsample=torch.arange(len(x))):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    x = Y[:, 0]
    found = LogJoint(Program(model, (x,)), 120)(torch.zeros(1, 1), (x,))
    assert float(found.data[0]) == pytest.approx(10 * float(dist.Normal(0.0, 1.0).log_prob(x).sum()), rel=1e-5)


def test_pointwise_log_likelihoods_sum_to_the_data_term() -> None:
    for model, y in ((regression(), Y), (Program(constrained_model, (X, Y[:, 0])), Y[:, 0])):
        log_joint = LogJoint(model, 12)
        flat = torch.randn(log_joint.width, generator=GENERATOR)
        each, _ = log_joint.apart(flat, X, y)
        assert each.shape == (12,)
        assert float(each.sum()) == pytest.approx(float(log_joint(flat[None], (X, y)).data[0]), rel=1e-4)


def test_networks_start_at_their_present_parameters() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    for prior in (Normal(), GroupHorseshoe(tau=1e-3)):
        model = BayesianNetwork(network, prior, Gaussian(noise=0.5))
        log_joint = LogJoint(model, 12)
        values = log_joint.constrained(log_joint.start())
        for name, parameter in network.named_parameters():
            found = values.get(name, values.get(f"{name}.unscaled"))
            assert found is not None
            if name in values:
                torch.testing.assert_close(found, parameter.detach())
        assert math.isfinite(float(log_joint(log_joint.start()[None], (X, Y)).log_joint[0]))


def test_networks_run_as_they_predict() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    network(X)
    model = BayesianNetwork(network, Normal(), Gaussian(noise=0.5))
    log_joint = LogJoint(model, 12)
    before = model.network[1].running_mean.clone()  # type: ignore[index]
    found = log_joint(log_joint.start().expand(2, -1), (X, Y))
    assert torch.equal(before, model.network[1].running_mean)  # type: ignore[index]
    with torch.no_grad():
        exact = torch.distributions.Normal(network.eval()(X), 0.5).log_prob(Y).sum()
    torch.testing.assert_close(found.data, exact.expand(2))


def test_what_cannot_be_sampled_is_refused() -> None:
    def discrete() -> None:
        pyro.sample("k", dist.Bernoulli(0.5))

    def no_plate(x: torch.Tensor) -> None:
        pyro.sample("x", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0).expand([12]).to_event(1), obs=x)

    def local(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    x = Y[:, 0]
    with pytest.raises(InferenceError, match="latent site 'k' is discrete"):
        LogJoint(Program(discrete, ()), 0)
    with pytest.raises(InferenceError, match="observed site 'x' is in no plate of the batch's 12 examples"):
        log_joint = LogJoint(Program(no_plate, (x,)), 24)
        log_joint(torch.zeros(1, 1), (x,))
    with pytest.raises(InferenceError, match="latent site 'z' is drawn per example"):
        LogJoint(Program(local, (x,)), 24)(torch.zeros(1, 12), (x,))
    assert LogJoint(Program(local, (x,)), 12)(torch.zeros(1, 12), (x,)).gradient.shape == (1, 12)
    with pytest.raises(InferenceError, match="no latent site"):
        Program(lambda: None, ())
    improper = BayesianNetwork(nn.Linear(3, 2), LogUniform(low=0.0), Gaussian(noise=0.5))
    with pytest.raises(InferenceError, match="the prior of weight is improper"):
        LogJoint(improper, 12)
    with pytest.raises(InferenceError, match="temperature must be positive"):
        LogJoint(regression(), 12, temperature=0.0)
    pyro.clear_param_store()


def test_a_model_that_branches_on_values_runs_eagerly_and_says_so() -> None:
    def model() -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        if float(m) > 0:
            pyro.sample("x", dist.Normal(m, 1.0), obs=torch.tensor(1.0))
        else:
            pyro.sample("x", dist.Normal(m, 2.0), obs=torch.tensor(1.0))

    log_joint = LogJoint(Program(model, ()), 0)
    with pytest.warns(UserWarning, match="cannot be traced and runs eagerly"):
        found = log_joint(torch.tensor([[0.5]]), ())
    assert float(found.data[0]) == pytest.approx(float(dist.Normal(0.5, 1.0).log_prob(torch.tensor(1.0))))
