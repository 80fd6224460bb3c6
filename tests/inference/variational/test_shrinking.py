"""Shrinking while training: what leaves, what stays, and that decisions speak of the whole network."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import biject_to, constraints

from pyro_compress.errors import InferenceError, PriorError
from pyro_compress.inference.fit import EpochRecord, fit
from pyro_compress.inference.gradient.elbo import elbo_terms
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.from_guide import parameter_moments
from pyro_compress.inference.guides.local_reparameterization import LocalReparameterization
from pyro_compress.inference.variational.recorded_step import TracedTerms
from pyro_compress.inference.variational.shrinking import ShrinkingNetwork, complexity_nats
from pyro_compress.inference.variational.state import VariationalState
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.models.names import attribute_name
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Moments, Prior, product_moments
from pyro_compress.models.priors.group_log_uniform import GroupLogUniform
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.l0 import L0
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys, standard_normal
from pyro_compress.models.priors.structured_bayesian_pruning import StructuredBayesianPruning
from pyro_compress.posterior.criterion import Criterion
from pyro_compress.posterior.posterior import Posterior
from tests.models.test_narrowing import BRANCHED, Written

EXAMPLES = 60
# what is switched off, and the first two axes of the weights that are left
REMOVED: dict[str, tuple[dict[str, tuple[int, list[int]]], dict[str, tuple[int, ...]]]] = {
    # channel 1 of the sum leaves with both of its sides and its weight; channel 2 has one of them left
    "residual": (
        {
            "depthwise__weight": (0, [3, 4]),
            "outer__weight": (0, [1, 2]),
            "shortcut__weight": (0, [1]),
            "squeeze__weight": (1, [1]),
            "excite__weight": (0, [1]),
            "head__weight": (1, [1]),
        },
        {"stem": (6, 2), "inner": (3, 6), "depthwise": (3, 1), "outer": (6, 3), "shortcut": (6, 6), "head": (3, 6)},
    ),
    # filter 0 is read behind the concatenation alone, and filter 2 by the second layer alone
    "concatenated": (
        {"second__weight": (0, [0]), "up__weight": (1, [3]), "last__weight": (0, [0, 4])},
        {"first": (5, 2), "second": (5, 5), "up": (5, 3), "last": (3, 8)},
    ),
}
PRIORS = [GroupHorseshoe(), GroupNormalJeffreys(), GroupLogUniform(), LogUniform(), StructuredBayesianPruning(), L0()]


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 3)
    )


def model(prior: Prior) -> BayesianNetwork:
    return BayesianNetwork(network(), prior, Categorical())


def examples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(EXAMPLES, 1, 6, 6, generator=generator)
    return x, (3 * x[:, 0, :3, :3].mean((1, 2))).long().clamp(max=2)


def started(prior: Prior, **options: Any) -> tuple[SVI, VariationalState]:
    """A state whose first filter, some inputs of the dense layers and one unit are off."""
    method = SVI(epochs=20, batch_size=20, kl_warmup=0.0, **options)
    state = method.init(model(prior), EXAMPLES, 0)
    method.step(state, tuple(part[:20] for part in examples()))
    switch_off(state)
    return method, state


OFF = {"0__weight": (0, [0]), "4__weight": (1, [1, 5, 9, 20]), "6__weight": (1, [2, 3])}


def switch_off(state: VariationalState, off: Mapping[str, tuple[int, list[int]]] = OFF) -> None:
    """By what each prior's statistic looks at, with means that would matter."""
    with torch.no_grad():
        for name, (axis, entries) in off.items():
            spread, loc = state.guide.log_variance, state.guide.loc
            if hasattr(spread, f"{name}__theta"):
                getattr(spread, f"{name}__theta")[entries] = 8.0
            elif hasattr(loc, f"{name}__z") and not isinstance(getattr(spread, f"{name}__z"), nn.Parameter):
                getattr(loc, f"{name}__z")[entries] = -4.6
            elif hasattr(spread, f"{name}__z_a"):
                getattr(spread, f"{name}__z_a")[entries] = 3.0
            elif hasattr(spread, f"{name}__z"):
                getattr(spread, f"{name}__z")[entries] = 3.0
            else:
                getattr(spread, name).index_fill_(axis, torch.tensor(entries), 8.0)


def checked(method: SVI, state: VariationalState, times: int = 2) -> None:
    for _ in range(times):
        method.between_rounds(state)


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
def test_what_was_off_twice_leaves_guide_optimizer_and_network(prior: Prior) -> None:
    method, state = started(prior, shrink=True)
    trained = sum(p.numel() for p in state.trained())
    checked(method, state, 1)
    assert state.whole is not None and state.whole.left is None
    checked(method, state, 1)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.model.network.named_parameters()}
    # filter 0 takes inputs 0 to 3 of the dense layer with it
    assert shapes["0.weight"] == (5, 1, 3, 3)
    assert shapes["4.weight"] == (6, 17) and shapes["6.weight"] == (3, 6)
    assert sum(p.numel() for p in state.trained()) < trained
    held = [vector for group in state.optimizer.param_groups for vector in group["params"]]
    assert sum(vector.numel() for vector in held) == sum(p.numel() for p in state.trained())
    method.step(state, tuple(part[:20] for part in examples()))
    assert method.draw(state).parameters["4.weight"].mean.shape == (8, 24)


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
def test_the_whole_computes_what_is_left_does(prior: Prior) -> None:
    method, state = started(prior, shrink=True)
    checked(method, state)
    posterior, x = method.draw(state), examples()[0]
    values = {name: torch.from_numpy(site.mean) for name, site in posterior.parameters.items()}
    whole = BayesianNetwork(network(), prior, Categorical())
    assert isinstance(state.model, BayesianNetwork)
    left = parameter_moments(state.model, state.guide.moments())
    with torch.no_grad():
        expected = state.model.call_network({n: torch.from_numpy(s.mean) for n, s in left.items()}, x)
        torch.testing.assert_close(whole.call_network(values, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
@pytest.mark.parametrize("kind", BRANCHED)
def test_networks_with_branches_shrink_too(kind: str, prior: Prior) -> None:
    """Channels behind a sum leave with those that they are added to, and what is left computes the same."""
    torch.manual_seed(5)
    whole = BRANCHED[kind]()
    x, y = torch.rand(EXAMPLES, 2, 8, 8), torch.arange(EXAMPLES) % 3
    method = SVI(epochs=20, batch_size=20, kl_warmup=0.0, shrink=True)
    state = method.init(BayesianNetwork(whole, prior, Categorical()), EXAMPLES, 0)
    method.step(state, (x[:20], y[:20]))
    off, sizes = REMOVED[kind]
    switch_off(state, off)
    checked(method, state)
    assert state.whole is not None and state.whole.left is not None
    shapes = {name: tuple(tensor.shape) for name, tensor in state.model.network.named_parameters()}
    assert {name: shapes[f"{name}.weight"][:2] for name in sizes} == sizes
    assert isinstance(state.model, BayesianNetwork)
    posterior, left = method.draw(state), parameter_moments(state.model, state.guide.moments())
    model = BayesianNetwork(whole, prior, Categorical())
    with torch.no_grad():
        for name, buffer in posterior.buffers.items():
            model.network.get_buffer(name).copy_(torch.from_numpy(buffer))
        model.network.eval()
        state.model.network.eval()
        expected = state.model.call_network({n: torch.from_numpy(s.mean) for n, s in left.items()}, x)
        made = model.call_network({n: torch.from_numpy(s.mean) for n, s in posterior.parameters.items()}, x)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    state.model.network.train()
    method.step(state, (x[:20], y[:20]))


def stays_whole(network: nn.Module, x: torch.Tensor, shrink: bool | None, sentence: str) -> None:
    """That a network cannot shrink, which is an error where it was asked for."""
    method = SVI(epochs=3, batch_size=5, kl_warmup=0.0, shrink=shrink)
    state = method.init(BayesianNetwork(network, LogUniform(), Categorical()), 5, 0)
    method.step(state, (x, torch.tensor([0, 1, 2, 0, 1])))
    if shrink:
        with pytest.raises(InferenceError, match=sentence):
            method.between_rounds(state)
    else:
        method.between_rounds(state)
    assert isinstance(state.whole, ShrinkingNetwork) and state.whole.left is None


@pytest.mark.parametrize("shrink", [None, True])
def test_a_forward_pass_with_sizes_goes_on_whole_and_says_so(shrink: bool | None) -> None:
    with pytest.warns(UserWarning, match="sizes are written into it"):
        stays_whole(Written("view"), torch.rand(5, 1, 6, 6), shrink, "without sizes written into its forward pass")


def test_a_filter_that_goes_leaves_its_constant_in_the_next_bias() -> None:
    method, state = started(GroupHorseshoe(), shrink=True)
    with torch.no_grad():
        state.model.free_values()["0.bias"][0] = 2.0
    before, x = method.draw(state), examples()[0]
    checked(method, state)
    after = method.draw(state)
    weight = before.parameters["4.weight"].mean.copy()
    weight[:, [1, 5, 9, 20]] = 0.0
    taken = 2.0 * weight[:, :4].sum(1)
    difference = after.parameters["4.bias"].mean - before.parameters["4.bias"].mean
    kept = difference != -before.parameters["4.bias"].mean
    np.testing.assert_allclose(difference[kept], taken[kept], rtol=1e-5)
    assert kept.sum() == 6 and len(x) == EXAMPLES


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
def test_the_complexity_goes_on_from_where_it_was(prior: Prior) -> None:
    method, state = started(prior, shrink=True)
    checked(method, state)
    assert state.whole is not None
    assert isinstance(state.model, BayesianNetwork) and isinstance(state.guide, DeclaredGuide)
    whole = complexity_nats(state.whole.model, state.whole.guide)
    assert whole == pytest.approx(complexity_nats(state.model, state.guide) + state.left_nats, rel=1e-6)
    batch = tuple(part[:20] for part in examples())
    with torch.no_grad():
        terms = elbo_terms(state.model.forward, state.guide.forward, LocalReparameterization(), *batch, size=EXAMPLES)
    assert method.step(state, batch).complexity_nats == pytest.approx(float(terms.complexity) + state.left_nats)


def fitted(method: SVI, prior: Prior, **options: Any) -> Posterior:
    return fit(model(prior), examples(), method, seed=2, **options)


def switched_off(record: EpochRecord, state: Any) -> None:
    if record.epoch == 3:
        switch_off(state)


def assert_same(first: Posterior, second: Posterior) -> None:
    for name, site in first.parameters.items():
        assert np.array_equal(site.mean, second.parameters[name].mean), name
        assert np.array_equal(site.variance, second.parameters[name].variance), name
    assert first.statistics["complexity_nats"] == second.statistics["complexity_nats"]


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
def test_where_nothing_goes_nothing_changes(prior: Prior) -> None:
    method: dict[str, Any] = {"epochs": 3, "batch_size": 20, "kl_warmup": 0.0}
    assert_same(fitted(SVI(shrink=True, **method), prior), fitted(SVI(shrink=False, **method), prior))


@pytest.mark.parametrize(
    ("compile", "compiled", "spared", "done", "pays"),
    [
        ("auto", True, 10**6, 0, True),  # 128,000 examples, 10⁶ multiply-adds each: 12.8 seconds against 10
        ("auto", True, 10**6, 400, False),  # and 7.7
        ("auto", True, 7 * 10**5, 0, False),
        ("auto", False, 1, 999, True),  # only recorded, not compiled
        ("always", True, 1, 999, True),
    ],
)
def test_compiled_steps_are_exchanged_where_what_is_left_of_the_run_pays(
    compile: str, compiled: bool, spared: int, done: int, pays: bool
) -> None:
    method, state = started(GroupHorseshoe())
    method = dataclasses.replace(method, batch_size=128, compile=compile)
    state.compiled, state.steps_planned, state.steps_done = compiled, 1000, done
    state.traced = TracedTerms(state.modules.values(), state.flat, lambda batch: method.terms(state, batch))
    state.traced.compiling_seconds = 10.0
    assert method.pays(state, spared) == pays


def test_what_does_not_pay_stays() -> None:
    method, state = started(GroupHorseshoe())
    checked(method, state, 1)
    state.compiled, state.steps_planned = True, state.steps_done
    state.traced = TracedTerms(state.modules.values(), state.flat, lambda batch: method.terms(state, batch))
    checked(method, state, 2)
    assert state.whole is not None and state.whole.left is None
    state.compiled = False
    checked(method, state, 1)
    assert state.whole.left is not None


@pytest.mark.parametrize("prior", [GroupHorseshoe(), L0()], ids=lambda prior: type(prior).__name__)
def test_a_run_that_shrank_resumes_bit_for_bit(prior: Prior, tmp_path: Path) -> None:
    class InterruptedByTestError(Exception):
        pass

    def stop(record: EpochRecord, state: Any) -> None:
        switched_off(record, state)
        if record.epoch == 6:
            assert state.whole.left is not None
            raise InterruptedByTestError

    method, path = SVI(epochs=9, batch_size=16), tmp_path / "checkpoint.pt"
    straight = fitted(method, prior, callbacks=[switched_off])
    with pytest.raises(InterruptedByTestError):
        fitted(method, prior, checkpoint=path, callbacks=[stop])
    assert_same(fitted(method, prior, checkpoint=path, resume=True), straight)


def test_it_is_on_where_priors_say_what_is_off() -> None:
    for prior, expected in ((GroupHorseshoe(), True), (LogUniform(), True), (Normal(), False)):
        state = SVI().init(model(prior), EXAMPLES, 0)
        assert SVI(kl_warmup=0.0).may_shrink(state) is expected
        assert not SVI(kl_warmup=0.5).may_shrink(state)  # only once the KL has its full weight
        assert not SVI(kl_warmup=0.0, shrink=False).may_shrink(state)
        assert not SVI(kl_warmup=0.0, optimizer="adafactor").may_shrink(state)


@pytest.mark.parametrize("shrink", [None, True])
def test_a_network_that_cannot_shrink_goes_on_whole_and_says_so_if_asked(shrink: bool | None) -> None:
    grouped = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 3))
    stays_whole(grouped, torch.rand(5, 2, 4, 4), shrink, "shrink=True needs a network of dense layers")


@pytest.mark.parametrize("options", [{"guide": "low-rank"}, {"optimizer": "adafactor"}])
def test_what_shrinking_needs(options: dict[str, Any]) -> None:
    with pytest.raises(InferenceError, match="shrink=True needs the declared guide and an optimizer by name"):
        SVI(shrink=True, **options)


@dataclasses.dataclass(frozen=True)
class OutputScaled(Prior):
    """w_ij = z_i t w̃_ij with a z per output unit and a t made of sites that run along no axis of the weight."""

    elementwise: ClassVar[bool] = False
    declared: bool = True

    @property
    def criterion(self) -> Criterion:
        return Criterion("log_alpha", "weight", 3.0)

    def sample(self, parameter: Parameter) -> Any:
        units = parameter.shape[:1]
        z = pyro.sample(f"{parameter.name}.z", dist.LogNormal(0.0, 1.0).expand(units).to_event(1))
        t = pyro.sample(f"{parameter.name}.t", dist.Beta(2.0, 2.0).expand((8,)).to_event(1))
        unscaled = pyro.sample(f"{parameter.name}.unscaled", standard_normal(parameter.shape))
        return unscaled * z.log().exp().unsqueeze(1) * t.mean()

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        units, name = parameter.shape[:1], parameter.name
        along: dict[str, Any] = {"z": (0,), "t": (None,), "unscaled": (0, 1)} if self.declared else {}
        to_unit = biject_to(constraints.unit_interval)
        return (
            LatentSite(f"{name}.z", "lognormal", units, torch.zeros(()), -4.0, "scale", axes=along.get("z")),
            LatentSite(
                f"{name}.t",
                "transformed",
                torch.Size((8,)),
                torch.zeros(()),
                -4.0,
                transform=to_unit,
                axes=along.get("t"),
            ),
            LatentSite(
                f"{name}.unscaled", "normal", parameter.shape, value, -9.0, "weight", axes=along.get("unscaled")
            ),
        )

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        z, t, unscaled = (sites[f"{parameter.name}.{part}"] for part in ("z", "t", "unscaled"))
        log = z.mean + t.mean.mean().log()
        return product_moments(unscaled, log.exp().unsqueeze(1), torch.zeros(()))


def square_model(prior: Prior) -> BayesianNetwork:
    torch.manual_seed(3)
    return BayesianNetwork(
        nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)), prior, Categorical()
    )


def test_sites_are_cut_along_the_axes_that_they_declare_and_not_by_their_lengths() -> None:
    model = square_model(OutputScaled())
    guide = DeclaredGuide(model)
    with torch.no_grad():
        for name in ("2.weight.z", "2.weight.t"):
            getattr(guide.loc, attribute_name(name)).copy_(torch.arange(8.0) / 8)
        spread = getattr(guide.log_variance, attribute_name("2.weight.unscaled"))
        spread[:, [0, 3]] = 9.0
        getattr(guide.log_variance, attribute_name("4.weight.unscaled"))[:, 5] = 9.0
    shrinking = ShrinkingNetwork(model, guide, (8,))
    parameters = parameter_moments(model, guide.moments())
    removal = shrinking.find_removal(parameters) or shrinking.find_removal(parameters)
    assert removal is not None
    left = shrinking.narrow(removal)
    outputs, inputs = [0, 1, 2, 3, 4, 6, 7], [1, 2, 4, 5, 6, 7]
    assert left.guide.sites["2.weight.unscaled"].shape == (7, 6)
    assert getattr(left.guide.loc, attribute_name("2.weight.z")).tolist() == [place / 8 for place in outputs]
    assert getattr(left.guide.loc, attribute_name("2.weight.t")).tolist() == [place / 8 for place in range(8)]
    before = dict(model.network.named_parameters())["2.weight"].detach()[np.ix_(outputs, inputs)]
    torch.testing.assert_close(getattr(left.guide.loc, attribute_name("2.weight.unscaled")).detach(), before)
    assert getattr(guide.loc, attribute_name("2.weight.unscaled"))[5].abs().max() == 0.0
    # what is left out takes its own complexity along
    whole = complexity_nats(model, guide)
    assert np.isfinite(whole) and shrinking.left_nats != 0.0


def test_a_network_whose_sites_run_along_unknown_axes_keeps_its_shape() -> None:
    method = SVI(epochs=2, batch_size=20, kl_warmup=0.0)
    x = torch.rand(40, 8, generator=torch.Generator().manual_seed(1))
    data = (x, (3 * x.mean(1)).long())
    assert (
        ShrinkingNetwork(
            square_model(OutputScaled(declared=False)), DeclaredGuide(square_model(OutputScaled())), (8,)
        ).architecture
        is None
    )
    with pytest.raises(InferenceError, match="priors that say along which axes their sites run"):
        fit(square_model(OutputScaled(declared=False)), data, dataclasses.replace(method, shrink=True))
    site = LatentSite("w.z", "normal", torch.Size((4,)), torch.zeros(()), 0.0, axes=(1,))
    with pytest.raises(PriorError, match=r"site 'w.z' of shape \(4,\) says that its axes run along \(1,\) of 'w'"):
        site.axes_of(Parameter("w", torch.Size((4, 3)), "linear"))
