"""Each likelihood's density, mean and error against the formula written out."""

import math
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine

from pyro_compress.errors import DataError
from pyro_compress.models.likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Gaussian, Likelihood, Poisson

OUTPUT = torch.tensor([[0.3, -1.2], [2.0, 0.5], [-0.7, 1.1]])


def test_categorical() -> None:
    target = torch.tensor([1, 0, 0])
    log_prob = Categorical().distribution(OUTPUT).log_prob(target)
    expected = OUTPUT[range(3), target] - torch.log(OUTPUT.exp().sum(1))
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(Categorical().mean(OUTPUT), OUTPUT.exp() / OUTPUT.exp().sum(1, keepdim=True))
    assert Categorical().error(OUTPUT, target).tolist() == [1.0, 0.0, 1.0]


def test_bernoulli() -> None:
    target = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    probability = 1 / (1 + torch.exp(-OUTPUT))
    expected = (target * probability.log() + (1 - target) * (1 - probability).log()).sum(1)
    torch.testing.assert_close(Bernoulli().distribution(OUTPUT).log_prob(target), expected)
    torch.testing.assert_close(Bernoulli().mean(OUTPUT), probability)
    assert Bernoulli().error(OUTPUT, target).tolist() == [0.0, 1.0, 0.5]


def test_soft_targets_of_a_bernoulli_count_with_their_cross_entropy() -> None:
    share, likelihood = torch.tensor([[0.3, 0.0], [0.8, 0.55], [1.0, 0.4]]), Bernoulli(soft_targets=True)
    probability = 1 / (1 + torch.exp(-OUTPUT))
    expected = (share * probability.log() + (1 - share) * (1 - probability).log()).sum(1)
    torch.testing.assert_close(likelihood.log_prob(OUTPUT, share), expected)
    torch.testing.assert_close(likelihood.cross_entropy(OUTPUT, share), -expected)
    likelihood.check_support(OUTPUT, share, "targets")
    with pytest.raises(DataError, match=r"targets: the target 0\.3 at index \(0, 0\) .* whose targets are 0 or 1"):
        Bernoulli().check_support(OUTPUT, share, "targets")
    with pytest.raises(DataError, match=r"the target 1\.5 at index .* numbers from 0 to 1"):
        likelihood.check_support(OUTPUT, torch.tensor([[0.5, 1.5]]), "targets")


def test_continuous_bernoulli_by_integrals_over_targets() -> None:
    output = torch.tensor([[0.0, 1e-3, 0.04], [0.06, -0.3, 1.7], [-4.0, 9.0, 12.0]]).double()
    y = (torch.arange(200_000).double() + 0.5) / 200_000
    shape = torch.exp(output[..., None] * y)
    density = shape / shape.mean(-1, keepdim=True)
    mean, square = (density * y).mean(-1), (density * y**2).mean(-1)
    likelihood = ContinuousBernoulli()
    torch.testing.assert_close(likelihood.mean(output), mean, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(likelihood.variance(output), square - mean**2, rtol=1e-5, atol=1e-8)
    entropy = -(density * density.log()).mean(-1).sum(-1)
    torch.testing.assert_close(likelihood.entropy(mean), entropy, rtol=1e-4, atol=1e-6)
    target = torch.tensor([[0.0, 0.3, 1.0], [0.5, 0.9, 0.1], [0.2, 1.0, 0.7]]).double()
    expected = (output * target - shape.mean(-1).log()).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(output, target), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(likelihood.error(output, target), (mean - target).square().mean(1))
    # an image's pixels are one event, and single precision is enough
    found = likelihood.log_prob(output.float().reshape(3, 1, 3), target.float().reshape(3, 1, 3))
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-3)


def test_means_of_a_continuous_bernoulli_are_turned_into_logits_up_to_the_ends() -> None:
    likelihood = ContinuousBernoulli()
    mean = torch.tensor([1e-3, 0.02, 0.3, 0.49999, 0.5, 0.6, 0.95, 0.999]).double()
    torch.testing.assert_close(likelihood.mean(likelihood.link(mean)), mean, rtol=1e-9, atol=1e-9)
    with pytest.raises(DataError, match="ContinuousBernoulli"):
        likelihood.check_support(OUTPUT, torch.tensor([[0.5, 1.5]]), "targets")


def test_poisson() -> None:
    target = torch.tensor([[1.0, 0.0], [5.0, 2.0], [0.0, 3.0]])
    expected = (target * OUTPUT - OUTPUT.exp() - torch.lgamma(target + 1)).sum(1)
    torch.testing.assert_close(Poisson().distribution(OUTPUT).log_prob(target), expected)
    torch.testing.assert_close(Poisson().mean(OUTPUT), OUTPUT.exp())
    torch.testing.assert_close(Poisson().error(OUTPUT, target), (OUTPUT.exp() - target).square().mean(1))


def test_gaussian_with_known_noise() -> None:
    target = torch.tensor([[1.0, 0.0], [5.0, 2.0], [0.0, 3.0]])
    square = ((target - OUTPUT) / 0.4).square()
    expected = (-0.5 * square - math.log(0.4) - 0.5 * math.log(2 * math.pi)).sum(1)
    torch.testing.assert_close(Gaussian(noise=0.4).distribution(OUTPUT).log_prob(target), expected)
    assert torch.equal(Gaussian(noise=0.4).mean(OUTPUT), OUTPUT)
    torch.testing.assert_close(Gaussian(noise=0.4).error(OUTPUT, target), (OUTPUT - target).square().mean(1))
    assert Gaussian(noise=0.4).latents() == () and Gaussian(noise=0.4).sample_latents() is None


def test_gaussian_with_learned_noise_has_a_latent_site() -> None:
    likelihood = Gaussian(noise_log_mean=-1.0, noise_log_scale=0.5)
    (site,) = likelihood.latents()
    assert (site.name, site.family, site.shape, float(site.loc)) == ("noise", "lognormal", torch.Size(()), -1.0)

    def program() -> None:
        noise = likelihood.sample_latents()
        with pyro.plate("data", 3):
            likelihood.observe(OUTPUT, OUTPUT + 0.5, noise)

    sigma = torch.tensor(0.8)
    trace = poutine.trace(poutine.condition(program, data={"noise": sigma})).get_trace()
    trace.compute_log_prob()
    prior = torch.distributions.LogNormal(-1.0, 0.5).log_prob(sigma)
    torch.testing.assert_close(trace.nodes["noise"]["log_prob_sum"], prior)
    data = torch.distributions.Normal(0.0, sigma).log_prob(torch.tensor(0.5)) * OUTPUT.numel()
    torch.testing.assert_close(trace.nodes["y"]["log_prob_sum"], data)
    # where nothing is known of the noise, its prior median stands in
    assert float(likelihood.distribution(OUTPUT).base_dist.scale[0, 0]) == pytest.approx(math.exp(-1.0))


@pytest.mark.parametrize(
    ("likelihood", "target", "text"),
    [
        (Gaussian(noise=1.0), torch.zeros(3), r"Gaussian likelihood: outputs of shape \(3, 2\).*found \(3,\)"),
        (Bernoulli(), torch.zeros(3, 1), r"Bernoulli.*targets of shape \(3, 2\), found \(3, 1\)"),
        (Poisson(), torch.zeros(2), r"Poisson.*found \(2,\): reshape the targets"),
        (Categorical(), torch.zeros(3, 1).long(), r"Categorical.*targets of shape \(3,\), found \(3, 1\)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Likelihood) else "",
)
def test_targets_that_would_broadcast_are_refused(likelihood: Any, target: torch.Tensor, text: str) -> None:
    with pytest.raises(DataError, match=text):
        likelihood.error(OUTPUT, target)
    with pytest.raises(DataError, match=text):
        likelihood.observe(OUTPUT, target, None)


@pytest.mark.parametrize(
    "likelihood", [Categorical(), Bernoulli(), ContinuousBernoulli(), Poisson(), Gaussian(noise=0.3)]
)
def test_the_link_is_the_inverse_of_the_mean(likelihood: Likelihood) -> None:
    mean = likelihood.mean(OUTPUT)
    torch.testing.assert_close(likelihood.mean(likelihood.link(mean)), mean)


def test_variances_are_those_of_the_target() -> None:
    probability = OUTPUT.exp() / OUTPUT.exp().sum(1, keepdim=True)
    torch.testing.assert_close(Categorical().variance(OUTPUT), probability * (1 - probability))
    share = 1 / (1 + torch.exp(-OUTPUT))
    torch.testing.assert_close(Bernoulli().variance(OUTPUT), share * (1 - share))
    torch.testing.assert_close(Poisson().variance(OUTPUT), OUTPUT.exp())
    torch.testing.assert_close(Gaussian(noise=0.3).variance(OUTPUT), torch.full((3, 2), 0.09))
    torch.testing.assert_close(Gaussian().variance(OUTPUT, torch.tensor(0.5)), torch.full((3, 2), 0.25))


def test_entropies_of_means() -> None:
    mean = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.2, 0.8]])
    each = [math.log(2), 0.0, -0.2 * math.log(0.2) - 0.8 * math.log(0.8)]
    torch.testing.assert_close(Categorical().entropy(mean), torch.tensor(each))
    torch.testing.assert_close(Bernoulli().entropy(mean), 2 * torch.tensor(each))
    assert Poisson().entropy(mean) is None and Gaussian().entropy(mean) is None


@pytest.mark.parametrize(
    "likelihood", [Categorical(), Bernoulli(), ContinuousBernoulli(), Poisson(), Gaussian(noise=0.6)]
)
def test_cross_entropies_are_means_over_targets(likelihood: Likelihood) -> None:
    teacher, other = likelihood.distribution(OUTPUT.flip(0)), OUTPUT + 0.3 * OUTPUT.square()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        targets = teacher.sample((200_000,))
    # differences between two outputs, where what depends on the target alone falls out
    mean = likelihood.mean(OUTPUT.flip(0))
    found = likelihood.cross_entropy(OUTPUT, mean) - likelihood.cross_entropy(other, mean)
    drawn = likelihood.distribution(other).log_prob(targets) - likelihood.distribution(OUTPUT).log_prob(targets)
    torch.testing.assert_close(found, drawn.mean(0), atol=0.02, rtol=0.01)
