"""Settings of every method on the targets of `accuracy_targets.py`, and how far each pair may be off.

Chains that walk side by side cost little more than one, so most runs are of many chains.  Step sizes of
stochastic-gradient samplers are shares of the narrowest variance of the target, so that their bias is known: ε = 0.2
of it makes that sd 2.6 % too large, and twice that with the noise of half batches.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch

from benchmarks.accuracy_errors import Target
from benchmarks.accuracy_targets import TARGETS_BY_NAME
from pyro_compress.inference.contract import Method
from pyro_compress.inference.registry import method_named

NETWORKS = ("linear regression", "logistic regression", "Bayesian network")


@dataclass(frozen=True)
class Budget:
    """An error is over it if it is above `mean` or `shape`, and above 4 Monte Carlo standard errors.

    Attributes:
        mean: of means, in posterior sds; 0 for exact methods.
        shape: of sds as a share, and of correlations.
        effective: draws that there must be, effectively.
        why: where a pair has a budget of its own.
    """

    mean: float = 0.0
    shape: float = 0.0
    effective: float = 100.0
    why: str = ""


def steps(target: Target, count: int) -> dict[str, Any]:
    """Fields for about that many gradient steps, on half batches where there are data."""
    per_epoch = 1 if target.data is None else math.ceil(target.size / target.batch)
    return {"epochs": count // per_epoch, "batch_size": target.batch}


def langevin(name: str, share: float, count: int = 4000, **options: Any) -> Callable[[Target], Method]:
    """Steps of `share` of the narrowest variance."""

    def build(target: Target) -> Method:
        a = share * target.narrowest * target.size
        return method_named(name, {**LONG, **steps(target, count), "a": a, **options})

    return build


LONG: Mapping[str, Any] = {"chains": 100, "draws": 400}


def preconditioned(target: Target) -> Method:
    """Its matrix is about N times the posterior's sds, so the step is in units of those."""
    a = 0.2 * math.sqrt(target.narrowest)
    return method_named("psgld", {**LONG, **steps(target, 4000), "a": a, "gamma": 0.0, "decay": 0.999})


def decreasing(target: Target) -> Method:
    """From 0.5 of the narrowest variance to a seventh of it."""
    return langevin("sgld", 0.5 * 100 ** (1 / 3), b=100.0, gamma=1 / 3)(target)


def fixed(name: str, **options: Any) -> Callable[[Target], Method]:
    """The same on every target."""
    return lambda target: method_named(name, options)


def variational(name: str, **options: Any) -> Callable[[Target], Method]:
    """All examples in every step."""
    common = {"epochs": 1500, "learning_rate": 0.02, "schedule": "linear", "kl_warmup": 0.0}
    return lambda target: method_named(name, {**common, "batch_size": target.size, **options})


METHODS: Mapping[str, Callable[[Target], Method]] = {
    "importance": fixed("importance", draws=50_000, at_once=10_000),
    "rejection": fixed("rejection", draws=1000, at_once=10_000),
    "metropolis": fixed("metropolis", chains=200, warmup=1000, draws=300, thin=10),
    "hmc": fixed("hmc", warmup=300, draws=600, compile="never"),
    "nuts": fixed("nuts", warmup=300, draws=600, compile="never"),
    "sgld": langevin("sgld", 0.2, gamma=0.0),
    "sgld, decreasing": decreasing,
    "psgld": preconditioned,
    "sghmc": langevin("sghmc", 0.02, gamma=0.0),
    "csgld": langevin("csgld", 0.4, exploration=0.1),
    "csghmc": langevin("csghmc", 0.04, exploration=0.1),
    "svi": variational("svi"),
    "svi, full-rank": variational("svi", guide="full-rank", draws=10_000),
    "svi, low-rank": variational("svi", guide="low-rank", rank=2, draws=10_000),
    "bbb": variational("bbb", particles=4),
}
VARIATIONAL = ("svi", "svi, full-rank", "svi, low-rank", "bbb")
STOCHASTIC = ("sgld", "sgld, decreasing", "psgld", "sghmc", "csgld", "csghmc")


def wide() -> None:
    """Proposal of importance sampling for the funnel, a little wider than it."""
    v = pyro.sample("v", dist.Normal(0.0, 3.5))
    pyro.sample("x", dist.Normal(torch.zeros(9), 1.15 * (v / 2).exp().unsqueeze(-1)).to_event(1))


# settings of single pairs, on top of the method's
CAREFUL: Mapping[str, Any] = {"warmup": 300, "draws": 600, "target_acceptance": 0.95, "compile": "never"}
OWN: Mapping[tuple[str, str], Callable[[Target], Method]] = {
    ("importance", "funnel"): fixed("importance", draws=50_000, at_once=10_000, proposal=wide),
    ("hmc", "eight schools, centred"): fixed("hmc", **CAREFUL),
    ("nuts", "eight schools, centred"): fixed("nuts", **CAREFUL),
    # the density has no maximum, so cycles must not descend without noise
    ("sgld", "eight schools, centred"): langevin("sgld", 0.2, 10_000, gamma=0.0),
    ("sgld, decreasing", "eight schools, centred"): langevin("sgld", 0.5 * 100 ** (1 / 3), 10_000, b=100.0),
    ("sghmc", "eight schools, centred"): langevin("sghmc", 0.02, 10_000, gamma=0.0),
    ("csgld", "eight schools, centred"): langevin("csgld", 0.4, 15_000, exploration=0.0),
    ("csghmc", "eight schools, centred"): langevin("csghmc", 0.015, 15_000, exploration=0.0),
    ("hmc", "funnel"): fixed("hmc", **CAREFUL),
    ("nuts", "funnel"): fixed("nuts", **CAREFUL),
}

NECK = (
    "The density has a neck that narrows without end (small τ, small v). A step that moves in the body is too long "
    "there, so chains enter it rarely and stay long: one step size for all places does not do in so many steps."
)
INDEPENDENT = (
    "Weights are independent in the guide: no correlations, and sds √(1/Λ_ii) in place of √(Λ⁻¹)_ii. Means are right."
)
ONE_MODE = (
    "The posterior has 48 modes, copies under exchange and signs of units, and is not normal in any; q is a normal."
)


def _budgets() -> dict[tuple[str, str], Budget]:
    found = {}
    for name in ("metropolis", "hmc", "nuts"):
        found[name, "eight schools, centred"] = Budget(0.5, 0.5, 20, NECK)
        found[name, "funnel"] = Budget(0.6, 0.5, 10, NECK)
    for name in STOCHASTIC:
        found[name, "eight schools, centred"] = Budget(0.8, 0.6, 20, NECK)
        found[name, "funnel"] = Budget(1.0, 0.6, 30, NECK)
    for name in ("svi", "bbb"):
        found[name, "linear regression"] = found[name, "logistic regression"] = Budget(0.1, 0.85, why=INDEPENDENT)
    for name in VARIATIONAL:
        found[name, "Bayesian network"] = Budget(0.3, 0.75, why=ONE_MODE)
    return found


BUDGETS: Mapping[tuple[str, str], Budget] = _budgets()


def method_for(name: str, target_name: str, target: Target) -> Method:
    """The method with its settings for that target."""
    return OWN.get((name, target_name), METHODS[name])(target)


def budget_for(name: str, target_name: str) -> Budget:
    """Of that pair."""
    default = Budget() if name not in VARIATIONAL + STOCHASTIC else Budget(0.1, 0.1)
    return BUDGETS.get((name, target_name), default)


def pairs() -> list[tuple[str, str]]:
    """(method, target) of all that are run; guides are of Bayesian networks."""
    return [(m, t) for t in TARGETS_BY_NAME for m in METHODS if m not in VARIATIONAL or t in NETWORKS]
