"""What is refused from a network's modules alone, by whoever takes a network."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

from pyro_compress import compress
from pyro_compress.analysis import prune
from pyro_compress.errors import NetworkError
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.checking import check_network
from pyro_compress.models.module_calls import calls_noted
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def changed(change: Callable[[nn.Sequential], Any]) -> nn.Module:
    network = plain()
    found = change(network)
    return found if isinstance(found, nn.Module) else network


def replaced(target: nn.Module, name: str = "forward") -> None:
    before = getattr(target, name)
    setattr(target, name, lambda x: 2 * before(x))


NETWORKS: dict[str, tuple[Callable[..., Any], str]] = {
    "half": (lambda n: n.half(), "parameter 0.weight is torch.float16, expected torch.float32"),
    "bfloat16": (lambda n: n[2].bfloat16() and None, "parameter 2.weight is torch.bfloat16"),
    "double": (lambda n: n.double(), "parameter 0.weight is torch.float64"),
    "complex": (lambda n: nn.Linear(4, 3, dtype=torch.complex64), "parameter weight is torch.complex64"),
    "double buffer": (
        lambda n: n.register_buffer("shift", torch.zeros(3).double()),
        "buffer shift is torch.float64, expected torch.float32",
    ),
    "lazy": (lambda n: nn.Sequential(nn.LazyLinear(5), nn.Tanh()), "parameter 0.weight is not initialised"),
    "meta": (lambda n: n.to("meta"), "parameter 0.weight is not initialised"),
    "sparse": (
        lambda n: setattr(n[0], "weight", nn.Parameter(torch.eye(5, 4).to_sparse())),
        "parameter 0.weight is a tensor of the kind torch.sparse_coo, expected a plain dense one",
    ),
    "weight norm": (lambda n: weight_norm(n[0]) and None, "module '0' (Linear) computes its weight"),
    "spectral norm": (lambda n: spectral_norm(n[2]) and None, "module '2' (Linear) computes its weight"),
    "parametrization": (
        lambda n: parametrizations.orthogonal(n[0]) and None,
        "module '0' (ParametrizedLinear) computes its weight (parametrization, weight norm or torch pruning)",
    ),
    "scripted": (torch.jit.script, "the network (RecursiveScriptModule) is scripted or traced by torch.jit"),
    "traced": (lambda n: torch.jit.trace(n, torch.zeros(2, 4)), "is scripted or traced by torch.jit"),
    "scripted layer": (
        lambda n: nn.Sequential(torch.jit.script(n[0]), n[1]),
        "module '0' (RecursiveScriptModule) is scripted or traced by torch.jit",
    ),
    "data parallel": (nn.DataParallel, "the network (DataParallel) is a wrapper around a network: give the one inside"),
    "compiled": (lambda n: torch.compile(n, backend="eager"), "give the one inside, `network._orig_mod`"),
    "compiled layer": (
        lambda n: nn.Sequential(*[torch.compile(n[0], backend="eager"), n[1]]),
        "module '0' (OptimizedModule) is a wrapper around a network: give the one inside, `network.0._orig_mod`",
    ),
    "averaged": (AveragedModel, "give the one inside, `network.module`"),
    "forward of a layer": (lambda n: replaced(n[0]), "module '0' (Linear) has a forward of its own on the instance"),
    "forward of all": (replaced, "the network (Sequential) has a forward of its own on the instance"),
    "call of a layer": (lambda n: replaced(n[0], "_call_impl"), "has a _call_impl of its own on the instance"),
    "forward hook": (
        lambda n: n[1].register_forward_hook(lambda module, x, y: 2 * y),
        "module '1' (Tanh) has forward hooks, whose effect cannot be described: remove them first",
    ),
    "forward hook of all": (
        lambda n: n.register_forward_pre_hook(lambda module, x: None),
        "the network (Sequential) has forward hooks",
    ),
    "backward hook": (
        lambda n: n[0].register_full_backward_hook(lambda module, x, y: None),
        "module '0' (Linear) has backward hooks",
    ),
    "gradient hook": (
        lambda n: n[0].weight.register_hook(lambda gradient: 0 * gradient),
        "parameter 0.weight has hooks on its gradient, which a fit does not run",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
def test_all_who_take_a_network_refuse_it(name: str) -> None:
    change, sentence = NETWORKS[name]
    network = changed(change)
    for take in (lambda: BayesianNetwork(network, Normal()), lambda: trace(network, (4,))):
        with pytest.raises(NetworkError, match=re.escape(sentence)):
            take()


@contextmanager
def everywhere(register: Any, hook: Any) -> Iterator[None]:
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("register", "what"),
    [
        (nn.modules.module.register_module_forward_hook, "forward hooks"),
        (nn.modules.module.register_module_forward_pre_hook, "forward hooks"),
        (nn.modules.module.register_module_full_backward_hook, "backward hooks"),
    ],
)
def test_hooks_for_all_modules_are_refused(register: Any, what: str) -> None:
    with (
        everywhere(register, lambda *arguments: None),
        pytest.raises(NetworkError, match=f"{what} for all modules are registered with torch"),
    ):
        check_network(plain())
    check_network(plain())


def test_only_modules_are_networks() -> None:
    with pytest.raises(NetworkError, match=r"the network is a function, expected a torch\.nn\.Module"):
        BayesianNetwork(lambda x: x, Normal())  # type: ignore[arg-type]


def test_compress_refuses_what_runs_beside_the_forward_pass() -> None:
    network = plain()
    sites = {
        name: ParameterPosterior(value.detach().numpy(), np.zeros(tuple(value.shape), np.float32), "point")
        for name, value in network.named_parameters()
    }
    decision = prune(Posterior(sites), snr=0)
    compress(network, decision, (4,))
    network[0].register_forward_hook(lambda module, x, y: 2 * y)
    with pytest.raises(NetworkError, match=r"module '0' \(Linear\) has forward hooks"):
        compress(network, decision, (4,))


def test_modules_made_by_torch_fx_are_taken() -> None:
    network = torch.fx.symbolic_trace(plain())
    assert trace(network, (4,)) == trace(plain(), (4,))
    BayesianNetwork(network, Normal())


def test_compiling_in_place_is_no_wrapper() -> None:
    network = plain()
    network.compile(backend="eager")
    BayesianNetwork(network, Normal())


def test_calls_are_noted_of_one_thread_and_are_no_hooks_of_the_user() -> None:
    """Fits in other threads look at which modules run, while this one makes a network's model."""
    network, noted = nn.Sequential(nn.Linear(2, 2)), list[nn.Module]()
    with calls_noted(lambda module, *_: noted.append(module)):
        check_network(network)
        thread = threading.Thread(target=lambda: network(torch.zeros(1, 2)))
        thread.start()
        thread.join()
        assert noted == []
        network(torch.zeros(1, 2))
    assert noted == [network[0], network]
    handle = nn.modules.module.register_module_forward_hook(lambda *call: None)
    try:
        with pytest.raises(NetworkError, match="forward hooks for all modules are registered with torch"):
            check_network(network)
    finally:
        handle.remove()
    check_network(network)
