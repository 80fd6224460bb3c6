"""Whether a model's log joint is a function: random layers and subsamples make it another number at every evaluation.

A sampler that compares log joints would compare noise.  So the model is run twice at one point, under two states of
torch's generator, and what differs is named: a plate that subsamples, the first module whose output differs although
its inputs do not, or the site whose log density does.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Model
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.module_calls import calls_noted

# sums of the same floats may be taken in another order
TOLERANCE = 1e-6


@dataclass
class Run:
    """What one evaluation left behind.

    Attributes:
        sites: log density by site, a float64 sum.
        subsamples: the indices that each plate drew.
        calls: (module, inputs, output) of every call of a module, in order.
    """

    sites: dict[str, float] = field(default_factory=dict)
    subsamples: dict[str, Tensor] = field(default_factory=dict)
    calls: list[tuple[nn.Module, Any, Any]] = field(default_factory=list)


def refuse_random(model: Model, evaluate: Callable[[], Any], method: str, *, exact: bool = True) -> None:
    """Stop before the first step where the log joint is not a function of the position.

    Args:
        model: that is sampled.
        evaluate: runs it at one point where it has a probability, and gives its trace with log densities.
        method: what messages call the sampler.
        exact: False of samplers that take gradients of subsamples; those that plates draw are then no fault.

    Raises:
        InferenceError: names the plate, the module or the site that is random, or the batch norm that normalises by
            the batch.
    """
    first, second = (_run(evaluate, seed) for seed in (1, 2))
    _refuse_batch_statistics(model, first, method, exact)
    drawn = [name for name, chosen in first.subsamples.items() if not torch.equal(chosen, second.subsamples[name])]
    if drawn and not exact:
        return
    if drawn:
        raise InferenceError(
            f"{method} needs the same log joint at every evaluation, and the plate '{drawn[0]}' draws a subsample each "
            "time: leave out its subsample_size, or use a method that takes batches, such as SGLD(...)"
        )
    differing = [name for name in first.sites if not _same(first.sites[name], second.sites.get(name))]
    if not differing and first.sites.keys() == second.sites.keys():
        return
    culprit = _module(model, first, second)
    site = differing[0] if differing else next(iter(first.sites.keys() ^ second.sites.keys()))
    what = f"the log density of site '{site}' is random" + ("" if culprit is None else f", since {culprit} is")
    raise InferenceError(
        f"{method} needs the same log joint at every evaluation, and {what}: take the noise out, put the module in "
        "evaluation mode, or make what it draws a sample site"
    )


def _run(evaluate: Callable[[], Any], seed: int) -> Run:
    found = Run()
    with torch.random.fork_rng(devices=[]), torch.no_grad(), calls_noted(lambda *call: found.calls.append(call)):
        torch.default_generator.manual_seed(seed)  # and not those of devices
        trace = evaluate()
    for name, node in trace.nodes.items():
        if node["type"] != "sample":
            continue
        if site_is_subsample(node):
            found.subsamples[name] = torch.as_tensor(node["value"])
        else:
            found.sites[name] = float(node["log_prob_sum"].double())
    return found


def _same(one: float, other: float | None) -> bool:
    if other is None:
        return False
    return one == other or abs(one - other) <= TOLERANCE * abs(one) or (one != one and other != other)


def _module(model: Model, first: Run, second: Run) -> str | None:
    """The innermost module whose output differs first, though what it was given does not."""
    for (module, given, made), (other, given_too, made_too) in zip(first.calls, second.calls, strict=False):
        if module is not other:
            return None
        if _equal(given, given_too) and not _equal(made, made_too):
            return _called(model, module)
    return None


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(torch.equal(one, other))
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    return True


def _called(model: Model, module: nn.Module) -> str:
    network = model.network if isinstance(model, BayesianNetwork) else getattr(model, "function", None)
    if isinstance(network, nn.Module):
        for name, known in network.named_modules():
            if known is module and name:
                return f"module '{name}' ({type(module).__name__})"
    return f"module {type(module).__name__}"


def _refuse_batch_statistics(model: Model, run: Run, method: str, exact: bool) -> None:
    for module, _, _ in run.calls:
        if not isinstance(module, _BatchNorm):
            continue
        if module.running_mean is None:
            what = "keeps no running statistics and normalises by whatever batch it sees: make it with them"
        elif module.training:
            what = "is in training mode and normalises by whatever batch it sees: call .eval()"
        elif exact and _is_fresh(module):
            what = "has running statistics that no data have touched: pass the training data through the network"
        else:
            continue
        raise InferenceError(
            f"{method} runs batch norm as predictions do, with its running statistics fixed, and "
            f"{_called(model, module)} {what} first, or fold it into the layer before it"
        )


def _is_fresh(norm: _BatchNorm) -> bool:
    mean, variance, seen = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if mean is None or variance is None or (seen is not None and int(seen) > 0):
        return False
    return bool((mean == 0).all()) and bool((variance == 1).all())
