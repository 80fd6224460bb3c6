"""Optimizers, schedules, rates and clipping, as SVI and MAP use them."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.errors import InferenceError
from pyro_compress.inference.gradient.gradient_method import SCHEDULES, build_optimizer, schedule_named
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.variational.base import RATES
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform

STEPPABLE = ["Adafactor", "Adadelta", "Adagrad", "Adam", "adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop"]


def model() -> BayesianNetwork:
    torch.manual_seed(0)
    return BayesianNetwork(nn.Linear(4, 3), GroupHorseshoe(), Gaussian())


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(8, 4), torch.randn(8, 3)


@pytest.mark.parametrize("name", [*STEPPABLE, "Rprop", "SGD", "sgd"])
@pytest.mark.parametrize("kind", [SVI, MAP])
def test_any_torch_optimizer_by_name(name: str, kind: Any) -> None:
    method = kind(epochs=2, batch_size=8, optimizer=name)
    state = method.init(model(), 8, 0)
    before = [parameter.detach().clone() for parameter in state.trained()]
    assert type(state.optimizer).__name__.lower() == name.lower()
    torch.manual_seed(2)
    for _ in range(3):
        method.step(state, batch())
    assert all(not torch.equal(a, b) for a, b in zip(before, state.trained(), strict=True))


def test_optimizer_can_be_a_callable() -> None:
    method = SVI(optimizer=lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.7))
    optimizer = method.init(model(), 8, 0).optimizer
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(group["momentum"] == 0.7 for group in optimizer.param_groups)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: build_optimizer("adamx", [], 0.1),
            r"unknown optimizer 'adamx': known are .*adam,.*Did you mean 'adam",
        ),
        (lambda: build_optimizer("LBFGS", [], 0.1), "unknown optimizer 'LBFGS'"),
        (lambda: SVI(schedule="liner"), r"unknown learning-rate schedule 'liner'.*Did you mean 'linear'\?"),
        (
            lambda: SVI(estimator="locale"),
            r"unknown estimator 'locale': known are flipout, local, score, shared\. Did you mean 'local'",
        ),
        (lambda: SVI(rates={"scales": 2.0}), r"unknown learning rate 'scales': known are .*Did you mean 'scale'\?"),
        (lambda: SVI(epochs=0), r"SVI needs epochs .*found epochs=0, batch_size=128"),
        (lambda: MAP(learning_rate=-1.0), r"MAP needs .*learning_rate > 0; found .*learning_rate=-1\.0"),
        (lambda: SVI(kl_weight=-0.1), r"kl_weight ≥ 0.*found kl_weight=-0\.1"),
        (lambda: SVI(particles=0), r"at least 1 particle.*particles=0"),
        (lambda: SVI(averaging=1.5), r"averaging is the share of the steps .* from 0 to 1; found 1\.5"),
        (lambda: SVI(entropy="exat"), r"unknown entropy 'exat': known are exact, sampled\. Did you mean 'exact'\?"),
        (
            lambda: SVI(optimizer="muon").init(model(), 8, 0),
            "optimizer 'muon' cannot train these parameters: Muon only supports 2D",
        ),
    ],
)
def test_settings_without_meaning_are_refused(make: Any, text: str) -> None:
    with pytest.raises(InferenceError, match=text):
        make()


def rates_of(method: SVI) -> dict[str, float]:
    state = method.init(model(), 8, 0)
    names = {id(parameter): name for module in state.modules.values() for name, parameter in module.named_parameters()}
    rates = {id(vector): group["lr"] for group in state.optimizer.param_groups for vector in group["params"]}
    found = {names[id(p.parameter)]: rates[id(v.whole)] for v in state.flat.vectors for p in v.places}
    assert set(found) == set(names.values())
    return found


def test_every_group_has_its_rate() -> None:
    found = rates_of(SVI(learning_rate=0.1, rates={"scale": 2.0, "free": 0.5}))
    assert found["loc.weight__unscaled"] == pytest.approx(0.1)
    assert found["log_variance.weight__unscaled"] == pytest.approx(0.1 * RATES["log_variance"])
    assert found["loc.weight__z_a"] == pytest.approx(0.2)
    assert found["log_variance.weight__s_b"] == pytest.approx(0.2 * RATES["log_variance"])
    assert found["bias"] == pytest.approx(0.05)
    assert rates_of(SVI(learning_rate=0.1))["loc.weight__z_a"] == pytest.approx(0.1 * RATES["scale"])


def test_schedule_scales_every_group() -> None:
    method = SVI(epochs=4, batch_size=8, learning_rate=0.1, schedule="linear", rates={"scale": 2.0})
    state = method.init(model(), 8, 0)
    torch.manual_seed(2)
    infos = [method.step(state, batch()) for _ in range(6)]
    # after the four planned steps the rate stays zero, it never changes sign
    assert [info.learning_rate for info in infos] == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.0, 0.0])
    assert all(group["lr"] == 0.0 for group in state.optimizer.param_groups)
    assert state.steps_done == 6


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_start_at_one_and_stay_in_the_unit_interval(name: str) -> None:
    factors = [schedule_named(name)(step / 10) for step in range(11)]
    assert factors[0] == 1.0
    assert all(0.0 <= factor <= 1.0 for factor in factors)
    assert factors[-1] == (1.0 if name == "constant" else 0.0)
    assert schedule_named("hold-then-linear")(0.5) == 1.0
    assert schedule_named("hold-then-linear")(0.75) == 0.5


def test_schedule_can_be_a_function() -> None:
    method = SVI(epochs=2, batch_size=8, learning_rate=0.1, schedule=lambda progress: math.exp(-progress))
    state = method.init(model(), 8, 0)
    torch.manual_seed(2)
    assert [method.step(state, batch()).learning_rate for _ in range(2)] == pytest.approx([0.1, 0.1 * math.exp(-0.5)])


@pytest.mark.parametrize("kind", [SVI, MAP])
def test_clipping_bounds_the_whole_gradient(kind: Any) -> None:
    found = []
    for clip in (None, 1e-3):
        method = kind(epochs=1, batch_size=8, optimizer="sgd", learning_rate=1.0, schedule="constant", clip=clip)
        if kind is SVI:
            method = SVI(**{**vars(method), "rates": dict.fromkeys(RATES, 1.0)})
        network = BayesianNetwork(model().network, LogUniform(initial_log_variance=-2.0), Gaussian(noise=0.1))
        state = method.init(network, 8, 0)
        before = torch.cat([parameter.detach().clone().flatten() for parameter in state.trained()])
        torch.manual_seed(2)
        method.step(state, batch())
        after = torch.cat([parameter.detach().flatten() for parameter in state.trained()])
        found.append(after - before)
    assert float(found[1].norm()) == pytest.approx(1e-3, rel=1e-3)
    # clipped, not turned
    cosine = torch.nn.functional.cosine_similarity(found[0], found[1], dim=0)
    assert float(found[0].norm()) > 1e-2 and float(cosine) == pytest.approx(1.0, abs=1e-4)


def test_loss_is_per_example_so_rates_do_not_depend_on_n() -> None:
    found = []
    for size in (8, 8000):
        method = SVI(epochs=1, batch_size=8, optimizer="sgd", kl_weight=0.0, schedule="constant")
        state = method.init(model(), size, 0)
        torch.manual_seed(2)
        method.step(state, batch())
        found.append(torch.cat([parameter.detach().flatten() for parameter in state.trained()]))
    torch.testing.assert_close(found[0], found[1])


def test_a_cosine_after_a_linear_rise() -> None:
    method, steps = SVI(learning_rate=0.4, schedule="cosine", rate_warmup=0.25), 40
    rates = [method.rate_at(step / steps, steps) for step in range(steps)]
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    falling = [0.2 * (1 + math.cos(math.pi * (step - 10) / 30)) for step in range(10, 40)]
    assert rates[10:] == pytest.approx(falling)
    plain = SVI(learning_rate=0.4)
    assert [plain.rate_at(step / 4, 4) for step in range(4)] == [0.4, 0.4, 0.4, 0.2]
    with pytest.raises(InferenceError, match=r"rate_warmup, a share .* found rate_warmup=1\.0, accumulate=1"):
        SVI(rate_warmup=1.0)


@pytest.mark.parametrize("examples", [24, 22, 17])
def test_passes_that_make_a_step_have_the_gradient_of_all_examples(examples: int) -> None:
    torch.manual_seed(1)
    data = torch.randn(examples, 4), torch.randn(examples, 3)
    gradients, reported = [], []
    for method in (MAP(batch_size=24), MAP(batch_size=8, accumulate=3)):
        assert method.examples_per_step == 24
        state = method.init(model(), 60, 0)
        moved: list[torch.Tensor] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                state.optimizer,
                "step",
                lambda state=state, moved=moved: moved.extend(parameter.grad.clone() for parameter in state.trained()),
            )
            info = method.step(state, data)
        gradients.append(moved)
        reported.append((info.data_nats, info.complexity_nats))
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole)
    assert reported[0] == pytest.approx(reported[1])


def test_accumulated_estimates_are_that_of_the_whole_batch_on_the_same_noise() -> None:
    torch.manual_seed(3)
    data = torch.randn(20, 4), torch.randn(20, 3)
    method = SVI(batch_size=6, accumulate=4, estimator="shared", compile="never")
    state = method.init(model(), 50, 0)

    def terms(batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        torch.manual_seed(7)
        return method.terms(state, batch).objective(0.3)

    passes = method.passes(state, data)
    assert [len(part[0]) for part, _ in passes] == [6, 6, 6, 2]
    together = torch.stack([share * terms(part) for part, share in passes]).sum()
    torch.testing.assert_close(together, terms(data))


def test_an_accumulated_fit_is_that_of_large_batches() -> None:
    torch.manual_seed(4)
    x = torch.randn(50, 4)
    found = [
        pc.fit(model(), (x, x[:, :3].sin()), method, seed=0)
        for method in (MAP(epochs=3, batch_size=20), MAP(epochs=3, batch_size=5, accumulate=4))
    ]
    for name, site in found[0].parameters.items():
        np.testing.assert_allclose(site.mean, found[1].parameters[name].mean, atol=1e-5)
    with pytest.raises(InferenceError, match="takes a network's examples in parts"):
        pc.fit(lambda x: pyro.sample("y", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=x), x[:, 0],
               MAP(epochs=1, batch_size=50, accumulate=2))  # fmt: skip
