"""What a teacher's outputs count for: against formulas written out, and what is refused."""

import math
from collections import OrderedDict
from itertools import pairwise
from typing import Any

import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_compress.errors import DataError, InferenceError, NetworkError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Bernoulli, Categorical, Gaussian, Poisson
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.teaching import Teaching, at_temperature, matching_weight

GENERATOR = torch.Generator().manual_seed(0)
Z = 3 * torch.randn(5, 4, generator=GENERATOR, dtype=torch.float64)
V = 3 * torch.randn(5, 4, generator=GENERATOR, dtype=torch.float64)


def soft_gradient(teaching: Teaching, likelihood: Any = None) -> torch.Tensor:
    """∂ Σ H / ∂v."""
    output = V.clone().requires_grad_()
    teaching.cross_entropy(likelihood or Categorical(), output, Z).sum().backward()
    assert output.grad is not None
    return output.grad


@pytest.mark.parametrize("temperature", [0.6, 1.0, 4.0])
def test_the_soft_term_is_the_cross_entropy_of_two_softmaxes_at_a_temperature(temperature: float) -> None:
    p, q = ((a / temperature).exp() / (a / temperature).exp().sum(1, keepdim=True) for a in (Z, V))
    found = Teaching(temperature=temperature).cross_entropy(Categorical(), V, Z)
    torch.testing.assert_close(found, -(temperature**2) * (p * q.log()).sum(1))
    # (1/T) (q − p) of Hinton, Vinyals & Dean, before the factor T²
    torch.testing.assert_close(soft_gradient(Teaching(temperature=temperature)) / temperature**2, (q - p) / temperature)


def test_at_a_high_temperature_its_gradient_is_that_of_matching_logits() -> None:
    temperature, classes = 1e4, Z.shape[1]
    gradient = soft_gradient(Teaching(temperature=temperature)) / temperature**2
    centred = (V - V.mean(1, keepdim=True)) - (Z - Z.mean(1, keepdim=True))
    torch.testing.assert_close(gradient, centred / (classes * temperature**2), rtol=2e-3, atol=1e-12)
    # what is left falls as 1/T, so this is a limit
    far = soft_gradient(Teaching(temperature=10 * temperature)) / (10 * temperature) ** 2
    errors = [float((g * classes * t**2 - centred).norm()) for g, t in ((gradient, 1e4), (far, 1e5))]
    assert 8 < errors[0] / errors[1] < 12
    # logits whose means are off are matched by the same gradient, K times as large
    matched = soft_gradient(Teaching(temperature=math.inf))
    torch.testing.assert_close(matched - matched.mean(1, keepdim=True), centred)


def test_matched_outputs_are_half_a_square() -> None:
    found = Teaching(temperature=math.inf).cross_entropy(Gaussian(), V.reshape(5, 2, 2), Z.reshape(5, 2, 2))
    torch.testing.assert_close(found, 0.5 * ((Z - V) ** 2).sum(1))


def test_the_limit_of_binary_logits_is_an_eighth_of_the_square() -> None:
    gradient = soft_gradient(Teaching(temperature=1e4), Bernoulli())
    torch.testing.assert_close(gradient, (V - Z) / 4, rtol=1e-3, atol=1e-6)


def test_means_are_compared_as_they_are() -> None:
    mean = Z.softmax(1)
    found = Teaching().cross_entropy(Categorical(), V, mean)
    torch.testing.assert_close(found, Teaching(temperature=1.0).cross_entropy(Categorical(), V, Z))


X = torch.randn(24, 3, generator=GENERATOR)
LABELS = torch.randint(4, (24,), generator=GENERATOR)
LOGITS = 2 * torch.randn(24, 4, generator=GENERATOR)


def joint(weight: float, temperature: float, at: torch.Tensor) -> torch.Tensor:
    model = BayesianNetwork(nn.Linear(3, 4, bias=False), Normal(), teacher_weight=weight, temperature=temperature)
    return LogJoint(model, 96)(at, (X, LABELS, LOGITS)).data


@pytest.mark.parametrize("temperature", [4.0, math.inf])
@pytest.mark.parametrize("weight", [0.0, 0.7, 1.0])
def test_the_log_joint_holds_both_terms_by_their_weights_and_n(weight: float, temperature: float) -> None:
    at = torch.randn(2, 12, generator=GENERATOR)
    outputs = torch.einsum("nd,ckd->cnk", X, at.reshape(2, 4, 3))
    own = -nn.functional.cross_entropy(outputs.permute(0, 2, 1), LABELS.expand(2, -1), reduction="none")
    if math.isinf(temperature):
        soft = 0.5 * (LOGITS - outputs).square().sum(-1)
    else:
        p, log_q = (LOGITS / temperature).softmax(-1), (outputs / temperature).log_softmax(-1)
        soft = -(temperature**2) * (p * log_q).sum(-1)
    expected = 96 / 24 * ((1 - weight) * own - weight * soft).sum(-1)
    torch.testing.assert_close(joint(weight, temperature, at), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    "method",
    [
        SVI(epochs=300, batch_size=24, learning_rate=0.05, kl_weight=1e-4),
        MAP(epochs=300, batch_size=24, learning_rate=0.05),
        SGLD(epochs=400, batch_size=24, a=0.02),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_student_that_can_matches_its_teacher_whatever_the_labels(method: Any) -> None:
    torch.manual_seed(0)
    teacher = nn.Linear(3, 4)
    with torch.no_grad():
        logits = teacher(X)
    model = BayesianNetwork(nn.Linear(3, 4), Normal(scale=30.0), teacher_weight=1.0, temperature=3.0)
    found = fit(model, (X, LABELS, logits), method)
    weight, bias = (torch.from_numpy(found.parameters[name].mean) for name in ("weight", "bias"))
    learned = X @ weight.T + bias
    centred = [part - part.mean(1, keepdim=True) for part in (learned, logits)]
    assert float((centred[0] - centred[1]).abs().mean()) < 0.35


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))


def test_a_hint_is_held_against_the_output_of_a_module() -> None:
    torch.manual_seed(1)
    hidden = torch.randn(24, 6, generator=GENERATOR).mul(0.4)
    model = BayesianNetwork(two_layers(), {}, teacher_weight=0.25, temperature=math.inf, hint="1")
    values = {name: value.detach() for name, value in model.network.named_parameters()}
    output, taught = model.outputs(values, X)
    torch.testing.assert_close(taught, two_layers()[:2](X))
    torch.testing.assert_close(output, two_layers()(X))
    assert not model.network.get_submodule("1")._forward_hooks
    # taught alone but for a trace of the labels, the hidden units become the teacher's where they can
    inputs = nn.Sequential(nn.Linear(3, 6), nn.Tanh())
    with torch.no_grad():
        hidden = inputs(X)
    taught_alone = BayesianNetwork(two_layers(), {}, teacher_weight=0.99, temperature=math.inf, hint="1")
    found = fit(taught_alone, (X, LABELS, hidden), MAP(epochs=400, batch_size=24, learning_rate=0.03))
    first = torch.from_numpy(found.parameters["0.weight"].mean), torch.from_numpy(found.parameters["0.bias"].mean)
    assert float(((X @ first[0].T + first[1]).tanh() - hidden).square().mean()) < 2e-3


ALPHA, TEMPERATURE = 0.5, 4.0


@pytest.mark.parametrize("averaged", [True, False])
def test_an_autoencoder_learns_by_cross_entropy_and_the_square_of_its_codes_errors(averaged: bool) -> None:
    torch.manual_seed(2)
    pixels, numbers = 12, 5
    network = nn.Sequential(OrderedDict(encoder=nn.Linear(pixels, numbers), decoder=nn.Linear(numbers, pixels)))
    x, codes = torch.rand(7, pixels), torch.randn(7, numbers)
    weight = matching_weight(ALPHA, TEMPERATURE, numbers, pixels if averaged else 1)
    model = BayesianNetwork(
        network, {}, Bernoulli(soft_targets=True), teacher_weight=weight, temperature=math.inf, hint="encoder"
    )
    trace = poutine.trace(model.forward).get_trace(x, x, codes, size=70)
    found = torch.as_tensor(-trace.log_prob_sum()) / 70 / (1 - weight) / (pixels if averaged else 1)

    bce = nn.functional.binary_cross_entropy_with_logits(network(x), x) * (1 if averaged else pixels)
    expected = bce + ALPHA * nn.functional.mse_loss(network.get_submodule("encoder")(x), codes) * TEMPERATURE**2
    torch.testing.assert_close(found, expected)
    expected.backward()
    gradients = torch.autograd.grad(found, [*model.free_values().values()])
    for (name, parameter), gradient in zip(network.named_parameters(), gradients, strict=True):
        assert name in model.free_values()
        torch.testing.assert_close(gradient, parameter.grad)


def test_the_weight_of_codes_is_that_of_both_losses() -> None:
    # 0.5 · 4² = 8 times a mean over 128 is ½ · ⅛ of a sum
    assert matching_weight(0.5, 4.0, 128) == pytest.approx(1 / 9)
    assert matching_weight(0.5, 4.0, 128, 784) == pytest.approx(98 / 99)
    assert matching_weight(0.0, 4.0, 128) == 0.0
    with pytest.raises(InferenceError, match=r"matching_weight takes alpha >= 0, .* found -1, 4\.0, 128 and 1"):
        matching_weight(-1, 4.0, 128)


def test_probabilities_at_a_temperature_are_their_powers() -> None:
    p = Z.softmax(1)
    for temperature in (0.6, 1.0, 4.0):
        power = p ** (1 / temperature)
        torch.testing.assert_close(at_temperature(p, temperature), power / power.sum(1, keepdim=True))
        torch.testing.assert_close(at_temperature(p, temperature), (Z / temperature).softmax(1))
        torch.testing.assert_close(at_temperature(7 * p.T, temperature, dim=0), at_temperature(p, temperature).T)
    # sharper without end: at last the largest alone
    ladder = [Categorical().entropy(at_temperature(p, temperature)) for temperature in (0.05, 0.6, 1.0, 4.0, 1e6)]
    assert all(bool((low < high).all()) for low, high in pairwise(ladder))
    torch.testing.assert_close(ladder[-1], torch.full_like(ladder[-1], math.log(4)))
    torch.testing.assert_close(at_temperature(p, 1e-3).argmax(1), p.argmax(1))
    # what was impossible stays so, and a pixel is a pair
    black = torch.tensor([0.0, 0.2, 0.5, 1.0]).double()
    pair = at_temperature(torch.stack([black, 1 - black]), 0.6, dim=0)
    torch.testing.assert_close(pair[0], (black.logit() / 0.6).sigmoid())


@pytest.mark.parametrize(
    ("values", "temperature", "message"),
    [
        ([0.5, 0.5], 0.0, r"above 0 and finite, found 0\.0"),
        ([0.5, -0.5], 0.6, "along dimension -1 are at least 0"),
        ([0.0, 0.0], 0.6, "not all of them 0"),
    ],
)
def test_what_has_no_temperature_is_refused(values: list[float], temperature: float, message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        at_temperature(torch.tensor(values), temperature)


def test_units_that_a_hint_names_do_not_leave_while_they_are_trained() -> None:
    hidden = torch.zeros(24, 6)
    model = BayesianNetwork(two_layers(), GroupHorseshoe(), teacher_weight=0.5, temperature=math.inf, hint="1")
    found = fit(model, (X, LABELS, hidden), SVI(epochs=6, batch_size=24, learning_rate=0.05, kl_weight=5.0))
    assert found.parameters["0.weight"].mean.shape == (6, 3)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"teacher_weight": -0.1}, InferenceError, r"a share from 0 to 1, found -0\.1"),
        ({"temperature": 0.0}, InferenceError, r"above 0, or inf to match them, found 0\.0"),
        ({"temperature": "hot"}, InferenceError, "temperature"),
        ({"hint": "0"}, InferenceError, "hint='0': a hidden output has no distribution to soften"),
        ({"hint": "first", "temperature": math.inf}, NetworkError, "unknown module 'first': known are 0, 1, 2"),
        ({"hint": "0", "temperature": math.inf, "teacher_weight": 1.0}, InferenceError, "without a gradient"),
        ({"likelihood": Gaussian(), "temperature": 4.0}, InferenceError, "of the Gaussian likelihood are no logits"),
        ({"likelihood": Poisson(), "temperature": 4.0}, InferenceError, "of the Poisson likelihood are no logits"),
    ],
)
def test_teaching_that_there_cannot_be_is_refused(keywords: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        BayesianNetwork(two_layers(), {}, **keywords)


@pytest.mark.parametrize(
    ("keywords", "teacher", "message"),
    [
        ({"temperature": 4.0}, LOGITS.softmax(1), r"are probabilities, and temperature=4\.0 takes logits"),
        ({"temperature": 4.0}, LOGITS[:, :3], r"the shape \(3,\) per example, expected that of the student's outputs"),
        ({"temperature": math.inf, "hint": "1"}, LOGITS, r"expected that of the output of the student's '1', \(6,\)"),
        ({}, LOGITS, "is no distribution over classes"),
    ],
)
def test_a_teacher_that_does_not_go_with_the_student_is_refused(
    keywords: dict[str, Any], teacher: torch.Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fit(BayesianNetwork(two_layers(), {}, **keywords), (X, LABELS, teacher), MAP(epochs=1))


def test_a_module_that_is_not_called_is_no_hint() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 4), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = BayesianNetwork(Idle(), {}, temperature=math.inf, hint="idle")
    with pytest.raises(NetworkError, match="'idle' names a module that the forward pass does not call"):
        fit(model, (X, LABELS, LOGITS), MAP(epochs=1))


def test_a_noise_that_is_inferred_takes_no_teacher() -> None:
    x = torch.randn(40, 1, generator=torch.Generator().manual_seed(0))
    model = BayesianNetwork(nn.Linear(1, 1), Normal(), Gaussian(), teacher_weight=0.5)
    with pytest.raises(DataError, match=r"not how far they spread, from which Gaussian would infer its noise: give it"):
        fit(model, (x, 2 * x, 2 * x), MAP(epochs=1))
    matched = BayesianNetwork(nn.Linear(1, 1), Normal(), Gaussian(), teacher_weight=0.5, temperature=math.inf)
    fit(matched, (x, 2 * x, 2 * x), MAP(epochs=1))
