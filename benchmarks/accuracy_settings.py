"""Settings of every method on the targets of `accuracy_targets.py`, and how far each pair may be off.

Every budget has a reason that was there before the run:

- Exact samplers may be off by 4 Monte Carlo standard errors, of at least 100 effective draws.
- Stochastic-gradient samplers keep what a step of finite size does.  On a normal target of variance σ² and with
  minibatch noise of variance V ≤ 1/σ² (half batches) their variances are too large by the shares

      sgld, csgld      ε / (4σ²) + ε V / 4                      with a mean step ε of 0.2 σ²: 5 % + 5 %
      sghmc, csghmc    η / (2σ² (2 − α)) + η V / (2α)           with a mean step η of 0.02 σ², α = 0.1: 0.5 % + 10 %

  σ² the narrowest variance of the target.  So sds are too large by at most 5 %.  Most targets are not normal: the
  budget is twice that, for means and correlations too.
- Approximate Metropolis errs in at most the share ε of its decisions per look that does not see all data.  Of the
  proposals that it accepts, the share a of all, at most ε (looks − 1) / a are wrong.
- A variational method may be a tenth off the best member of its family (`accuracy_guides.py`): that much an optimizer
  with noise leaves.  How far that member is from the posterior is shown, and no fault of the method.
- Centred eight schools and the funnel have a neck without end, which no step size fits and no normal follows; along it
  the ELBO's gradient is small against its noise.  There walkers and guides have the same budgets, and one that is off
  must be flagged by `diagnose`.

Chains that walk side by side cost little more than one, so most runs are of many chains.
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
from pyro_compress.inference.registry import METHODS as REGISTERED
from pyro_compress.models.bayesian import BayesianNetwork

NECKS = ("eight schools, centred", "funnel")
EXAMPLES = ("linear regression", "Gaussian mixture", "logistic regression", "Bayesian network")
VARIATIONAL = ("svi", "svi, full-rank", "svi, low-rank", "bbb")
STOCHASTIC = ("sgld", "sgld, decreasing", "psgld", "sghmc", "csgld", "csghmc")
WALKERS = ("metropolis", "hmc", "nuts", *STOCHASTIC)


@dataclass(frozen=True)
class Budget:
    """An error is over it if it is above `mean` or `shape`, and above 4 Monte Carlo standard errors.

    Attributes:
        mean: of means, in posterior sds; 0 for exact methods.
        shape: of sds as a share, and of correlations.
        effective: draws that there must be, effectively.
        why: the reason, in short.
        by_diagnosis: whether it is enough that `diagnose` flags what is off.
    """

    mean: float = 0.0
    shape: float = 0.0
    effective: float = 100.0
    why: str = ""
    by_diagnosis: bool = False


def steps(target: Target, count: int) -> dict[str, Any]:
    """Fields for about that many gradient steps, on half batches where there are data."""
    per_epoch = 1 if target.data is None else math.ceil(target.size / target.batch)
    return {"epochs": count // per_epoch, "batch_size": target.batch}


def langevin(name: str, share: float, count: int = 4000, **options: Any) -> Callable[[Target], Method]:
    """Steps of `share` of the narrowest variance."""

    def build(target: Target) -> Method:
        a = share * target.narrowest * target.size
        return REGISTERED.build(name, {**LONG, **steps(target, count), "a": a, **options})

    return build


LONG: Mapping[str, Any] = {"chains": 100, "draws": 400}
# draws weigh as much as their steps: of (cos + 1)/2 the mean is 3/4 then
CYCLE = 4 / 3


def preconditioned(count: int = 4000, **options: Any) -> Callable[[Target], Method]:
    """G_i is about N / √Λ_ii, so εG is at most 0.2 of the narrowest variance, or 0.28 with correlations of 0.9."""

    def build(target: Target) -> Method:
        a = 0.14 * math.sqrt(target.narrowest)
        own = {"a": a, "gamma": 0.0, "decay": 0.999}
        return REGISTERED.build("psgld", {**LONG, **steps(target, count), **own, **options})

    return build


def decreasing(count: int = 4000, **options: Any) -> Callable[[Target], Method]:
    """From 0.5 of the narrowest variance to 0.18 at the end of the warm-up and less after it."""
    return langevin("sgld", 0.5 * 100 ** (1 / 3), count, b=100.0, gamma=1 / 3, **options)


def fixed(name: str, **options: Any) -> Callable[[Target], Method]:
    """The same on every target."""
    return lambda target: REGISTERED.build(name, options)


def approximate(target: Target) -> Method:
    """Half of the data, and all of them where that is not enough."""
    half = math.ceil(target.size / 2)
    options = {"chains": 5, "warmup": 300, "draws": 500, "thin": 4, "error": ERROR, "batch_size": half}
    return REGISTERED.build("approximate-metropolis", options)


ERROR, ACCEPTANCE = 0.01, 0.234


def variational(name: str, **options: Any) -> Callable[[Target], Method]:
    """All examples in every step, and the mean of the last iterates.

    Particles of a guide over all sites are run side by side, and cost little more than one; others run in turn.
    """
    common = {"epochs": 3000, "learning_rate": 0.05, "schedule": "linear", "kl_warmup": 0.0, "draws": 10_000}
    common |= {"rates": {"log_variance": 1.0}, "averaging": 0.5}

    def build(target: Target) -> Method:
        declared = isinstance(target.model, BayesianNetwork) and "guide" not in options
        varying = {"batch_size": target.size, "particles": 4 if declared else 64}
        return REGISTERED.build(name, {**common, **varying, **options})

    return build


def gradient_samplers(count: int, **options: Any) -> dict[str, Callable[[Target], Method]]:
    """All of them, with that many steps."""
    return {
        "sgld": langevin("sgld", 0.2, count, gamma=0.0, **options),
        "sgld, decreasing": decreasing(count, **options),
        "psgld": preconditioned(count, **options),
        "sghmc": langevin("sghmc", 0.02, count, gamma=0.0, **options),
        # exploration is descent, which leaves a neck without end to infinity
        "csgld": langevin("csgld", CYCLE * 0.2, count, exploration=0.0, warmup=0.25, **options),
        "csghmc": langevin("csghmc", CYCLE * 0.02, count, exploration=0.0, warmup=0.25, **options),
    }


METHODS: Mapping[str, Callable[[Target], Method]] = {
    "importance": fixed("importance", draws=50_000, at_once=10_000),
    "rejection": fixed("rejection", draws=1000, at_once=10_000),
    "metropolis": fixed("metropolis", chains=200, warmup=1000, draws=300, thin=10),
    "approximate-metropolis": approximate,
    "hmc": fixed("hmc", warmup=300, draws=600, compile="never"),
    "nuts": fixed("nuts", warmup=300, draws=600, compile="never"),
    **gradient_samplers(4000),
    "svi": variational("svi"),
    "svi, full-rank": variational("svi", guide="full-rank"),
    "svi, low-rank": variational("svi", guide="low-rank", rank=2),
    "bbb": variational("bbb"),
}


def wide() -> None:
    """Proposal of importance sampling for the funnel, a little wider than it."""
    v = pyro.sample("v", dist.Normal(0.0, 3.5))
    pyro.sample("x", dist.Normal(torch.zeros(9), 1.15 * (v / 2).exp().unsqueeze(-1)).to_event(1))


# settings of single pairs, on top of the method's
CAREFUL: Mapping[str, Any] = {"warmup": 500, "draws": 1000, "target_acceptance": 0.95, "compile": "never"}
OWN: Mapping[tuple[str, str], Callable[[Target], Method]] = {
    ("importance", "funnel"): fixed("importance", draws=50_000, at_once=10_000, proposal=wide),
    # the best normals are far narrower than the funnel, and along it sampled entropies have most of their noise
    ("svi, full-rank", "funnel"): variational("svi", guide="full-rank", entropy="exact"),
    ("svi, low-rank", "funnel"): variational("svi", guide="low-rank", rank=2, entropy="exact"),
    **{(name, neck): fixed(name, **CAREFUL) for name in ("hmc", "nuts") for neck in NECKS},
    # from all over the prior, since a chain keeps to the mode that it starts near
    **{(name, "Bayesian network"): made for name, made in gradient_samplers(8000, spread=1.0).items()},
}

STEP = "twice what steps and half batches of that size do to the sds of a normal target: 5 %"
WRONG = "share of accepted proposals that may be wrong: ε / acceptance rate"
FAMILY = "a tenth from the best member of the family, not from the posterior; in a neck, what is off must be flagged"
NECK = "the target has a neck that no step size fits: what is off must be flagged"


def budget_for(name: str, target_name: str) -> Budget:
    """Of that pair."""
    if name == "approximate-metropolis":
        return Budget(ERROR / ACCEPTANCE, ERROR / ACCEPTANCE, why=WRONG)
    if name in VARIATIONAL:
        return Budget(0.1, 0.1, why=FAMILY, by_diagnosis=target_name in NECKS)
    tenth = 0.1 if name in STOCHASTIC else 0.0
    in_neck = name in WALKERS and target_name in NECKS
    return Budget(tenth, tenth, why=NECK if in_neck else STEP if tenth else "", by_diagnosis=in_neck)


def method_for(name: str, target_name: str, target: Target) -> Method:
    """The method with its settings for that target."""
    return OWN.get((name, target_name), METHODS[name])(target)


def pairs() -> list[tuple[str, str]]:
    """(method, target) of all that are run; examples are what approximate Metropolis looks at one by one."""
    return [(m, t) for t in TARGETS_BY_NAME for m in METHODS if m != "approximate-metropolis" or t in EXAMPLES]
