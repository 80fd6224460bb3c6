"""Runs on a device: without a GPU, torch's fake tensors say whether an operation mixes devices."""

import copy
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pyro_compress.errors import InferenceError
from pyro_compress.inference.abilities import refuse_unscaled
from pyro_compress.inference.contract import Method
from pyro_compress.inference.gradient.gradient_method import GradientMethod
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.loop.devices import device_named, on_device, random_state
from pyro_compress.inference.point.dropout import Dropout
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.speed import flat_parameters
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.inference.variational import shrinking
from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.variational.shrinking import Removal, ShrinkingNetwork
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models import bayesian, narrowing
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Categorical, Gaussian, Likelihood
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.registry import PRIORS

GPU = torch.device("cuda")
METHODS: dict[str, tuple[GradientMethod, str]] = {
    "local, horseshoe": (SVI(), "group-horseshoe"),
    "local, normal-Jeffreys": (SVI(), "group-normal-jeffreys"),
    "local, log-uniform": (SVI(), "log-uniform"),
    "flipout": (SVI(estimator="flipout"), "normal"),
    "shared": (SVI(estimator="shared"), "scale-mixture"),
    "score": (SVI(estimator="score"), "normal"),
    "full-rank": (SVI(guide="full-rank"), "normal"),
    "low-rank": (SVI(guide="low-rank", rank=2), "normal"),
    "bbb": (BayesByBackprop(), "scale-mixture"),
    "map": (MAP(), "normal"),
    "dropout": (Dropout(), "normal"),
}


@pytest.fixture(autouse=True)
def _fake_parameters_move() -> Iterator[None]:
    """A fake parameter cannot be given another device's storage in place."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4)
    )


def one_step(method: GradientMethod, prior: Prior, likelihood: Likelihood, y: Callable[[], torch.Tensor]) -> Any:
    """Model, guide and objective on a pretended GPU, as `fit` runs them; the state.

    Gradients stay on the devices of what they are of; autograd itself would ask for the GPU's driver.
    """
    model = BayesianNetwork(network(), prior, likelihood)
    # checks of values read them, and a fake tensor has none
    with FakeTensorMode(allow_non_fake_inputs=True), pyro.validation_enabled(False):
        model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=GPU))
        with GPU:
            state: Any = method.init(model, 100, 0)
            method.begin(state)
            terms = method.terms(state, (torch.rand(6, 1, 8, 8, device=GPU), y()))
            loss = terms.objective(0.5) / state.size
    tensors = (loss, terms.data, terms.complexity, *state.trained(), *state.moving_buffers())
    assert {one.device.type for one in tensors} == {"cuda"}
    return state


@pytest.mark.parametrize("name", METHODS)
def test_a_step_stays_on_its_device(name: str) -> None:
    method, prior = METHODS[name]
    one_step(method, PRIORS.build(prior), Categorical(), lambda: torch.zeros(6, dtype=torch.long, device=GPU))


def to_gpu(module: nn.Module) -> None:
    module._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=GPU))


def without_storage(network: nn.Module) -> nn.Module:
    """A deep copy that never touches the memory that fake tensors do not have."""
    held = [*network.parameters(), *network.buffers()]
    hooks: list[Any] = [hook for module in network.modules() for hook in module._forward_pre_hooks.values()]
    held += [hook.chosen for hook in hooks]
    copies = {id(tensor): tensor.detach().clone() for tensor in held}
    memo = {id(t): nn.Parameter(copies[id(t)]) if isinstance(t, nn.Parameter) else copies[id(t)] for t in held}
    return copy.deepcopy(network, memo)


SHRINKING = ["group-horseshoe", "group-normal-jeffreys", "log-uniform"]


@pytest.mark.parametrize("name", SHRINKING)
def test_a_network_shrinks_on_its_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is decided from numbers is decided on the CPU, as `fit` does; then everything is a pretended GPU's."""
    method, shape = SVI(), (1, 8, 8)
    model = BayesianNetwork(network(), PRIORS.build(name), Categorical())
    whole = ShrinkingNetwork(model, DeclaredGuide(model), shape)
    assert whole.architecture is not None
    kept = [np.ones(size[0], dtype=bool) for size in whole.architecture.shapes()]
    # one of three filters goes, from everything between the two layers with weights
    kept[1:-1] = [np.repeat([True, False, True], len(entries) // 3) for entries in kept[1:-1]]
    leaving = Removal(kept, {"5.bias": np.ones(4)}, 1)
    # these read values or memory, and a fake tensor has none
    for module in (bayesian, narrowing):
        monkeypatch.setattr(module, "copy", SimpleNamespace(deepcopy=without_storage))
    monkeypatch.setattr(flat_parameters, "copy", SimpleNamespace(deepcopy=torch.clone))
    monkeypatch.setattr(bayesian, "check_network", lambda network: None)
    monkeypatch.setattr(shrinking, "float", lambda tensor: 1.0, raising=False)
    with FakeTensorMode(allow_non_fake_inputs=True), pyro.validation_enabled(False):
        to_gpu(model)
        to_gpu(whole.guide)
        with GPU:
            state: Any = method.init(model, 100, 0)
            state.whole = whole
            whole.guide = state.guide
            for vector in state.flat.vectors:
                of_vector = {key: torch.zeros_like(vector.whole) for key in ("exp_avg", "exp_avg_sq")}
                state.optimizer.state[vector.whole] = {**of_vector, "step": torch.zeros(())}
            former, remembered = state.optimizer, whole.spread(state.flat.parts(state.optimizer))
            state.go_on_with(whole.narrow(leaving))
            state.flat.remember(state.optimizer, whole.cut(remembered), former)
            method.begin(state)
            batch = torch.rand(6, *shape, device=GPU), torch.zeros(6, dtype=torch.long, device=GPU)
            terms = method.terms(state, batch)
            whole.write_back()
            # and once more, from what is left
            whole.spread(state.flat.parts(state.optimizer))
    assert state.model.network.get_parameter("5.weight").shape == (4, 18)
    memory = [value for held in state.optimizer.state.values() for value in held.values()]
    tensors = (terms.data, terms.complexity, *state.trained(), *state.moving_buffers(), *memory)
    assert {one.device.type for one in tensors} == {"cuda"}


@pytest.mark.parametrize("noise", [0.5, None], ids=["known noise", "learned noise"])
def test_a_likelihood_with_a_scale_stays_there_too(noise: float | None) -> None:
    one_step(SVI(), PRIORS.build("normal"), Gaussian(noise), lambda: torch.zeros(6, 4, device=GPU))


def test_what_mixes_devices_is_found() -> None:
    """The check itself: a batch left on the CPU is refused."""
    with pytest.raises(Exception, match=r"(?i)device"):
        one_step(SVI(), PRIORS.build("normal"), Categorical(), lambda: torch.zeros(6, dtype=torch.long, device="cpu"))


def test_a_device_that_is_not_there_is_one_sentence() -> None:
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(InferenceError, match=f"has no device '{missing}': use --device cpu"):
        device_named(missing)
    with pytest.raises(InferenceError, match="there is no device 'tpu': known are cpu, cuda, mps"):
        device_named("tpu")


def test_generators_are_put_back() -> None:
    before = torch.get_rng_state()
    cpu = device_named("cpu")
    with on_device(cpu):
        torch.manual_seed(5)
        first = random_state(cpu)
        torch.rand(3)
        assert not torch.equal(first, random_state(cpu))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("method", "count", "device", "sentence"),
    [
        (SGLD(), 2, "cpu", "SGLD does not run on 2 ranks: its chains move side by side in one process"),
        (SGLD(), 1, "cuda", "SGLD runs on the CPU only: leave out --device"),
        (SVI(), 2, "mps", "PyTorch has no engine for ranks on mps"),
    ],
)
def test_what_cannot_be_shared_or_moved_is_refused(method: Method, count: int, device: str, sentence: str) -> None:
    with pytest.raises(InferenceError, match=sentence):
        refuse_unscaled(method, count, torch.device(device))
