"""Annealed importance sampling from the prior (Neal 2001).

    p_β(u) ∝ p(u) p(y | u)^β,   0 = β₀ < β₁ < … < β_K = 1
    u₀ ~ p(u),   u_k ~ T_k(· | u_{k−1}), which leaves p_{β_k} as it is
    log w = Σ_k (β_k − β_{k−1}) log p(y | u_{k−1})

E w = p(y) whatever T_k are.  Here they are trajectories of Hamiltonian Monte Carlo.  A pilot of fewer particles,
resampled (Del Moral, Doucet & Jasra 2006), chooses β_k so that every step's weights vary alike (Zhou, Johansen & Aston
2016), the metric from the covariance there, and the step size from the share of accepted trajectories.  The run proper
keeps to these, so that its weights are independent and unbiased.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.inference.independent.proposals import Proposer
from pyro_compress.inference.log_joint.tempered import Tempered

# variance of one step's weights, relative to their squared mean
STEP_VARIANCE = 0.005
MOST_STEPS = 5000
PILOT, PILOT_PER_NUMBER, PILOT_MOVES = 100, 4, 2
TARGET_ACCEPTANCE, LENGTH, MOST_LEAPFROG = 0.8, 1.5, 20


@dataclass(frozen=True)
class Rung:
    """One p_β and how to move on it.

    Attributes:
        power: β.
        root: S, (D, D), with S Sᵀ about the covariance there.
        step: the largest ε, in units of S.
    """

    power: float
    root: Tensor
    step: float


@dataclass
class Particles:
    """Where they are, (count, D), and log p(y | u) there, (count,)."""

    u: Tensor
    data: Tensor


def annealed_log_weights(whole: Tempered, draws: int) -> Tensor:
    """(draws,) log w, of noise from torch's generator.

    Raises:
        InferenceError: the prior is a density that nothing draws from, or so far from the posterior that more than
            `MOST_STEPS` steps lie between them.
    """
    count = max(PILOT, PILOT_PER_NUMBER * whole.log_joint.width)
    rungs = list(_ladder(whole, _from_prior(whole, count)[0]))
    particles, log_weight = _from_prior(whole, draws)
    former = 0.0
    for rung in rungs:
        log_weight = log_weight + (rung.power - former) * particles.data
        former = rung.power
        if rung is not rungs[-1]:
            whole.at(rung.power)
            _move(whole, particles, rung)
    return log_weight


def _from_prior(whole: Tempered, count: int) -> tuple[Particles, Tensor]:
    """Draws, and the logarithm of how much each counts: 0 where the model has neither scale nor mask on its prior."""
    log_joint = whole.log_joint
    try:
        found = Proposer(whole.model, max(1, whole.size)).draw(count, whole.model.arguments)
    except NotImplementedError as error:
        raise InferenceError(
            f'evidence: the prior of {whole.model.name} is a density that nothing draws from: use method="bridge"'
        ) from error
    parts = []
    for site in log_joint.sites:
        value = found.values[site.name].double()
        parts.append((value if site.transform is None else site.transform.inv(value)).reshape(count, -1))
    u = torch.cat(parts, 1)
    if not bool(torch.isfinite(u).all()):
        raise InferenceError(
            f"evidence: a draw from the prior of {whole.model.name} lies on the edge of its support, where it has no "
            "unconstrained value: bound the site away from it"
        )
    whole.at(1.0)
    return Particles(u, _evaluated(whole, u)[2]), found.log_prior - found.log_proposal


def _ladder(whole: Tempered, particles: Particles) -> Iterator[Rung]:
    power, step = 0.0, 1.0 / particles.u.shape[1] ** 0.25
    for _ in range(MOST_STEPS):
        further = _next_power(particles.data, power)
        weight = torch.softmax((further - power) * particles.data, 0)
        root = _root(particles.u, weight)
        chosen = _resampled(weight)
        particles, power = Particles(particles.u[chosen], particles.data[chosen]), further
        if power == 1.0:
            yield Rung(power, root, step)
            return
        whole.at(power)
        for _ in range(PILOT_MOVES):
            accepted = _move(whole, particles, Rung(power, root, step))
            step = min(LENGTH, step * math.exp(0.5 * (accepted - TARGET_ACCEPTANCE)))
        yield Rung(power, root, step)
    raise InferenceError(
        f"evidence: more than {MOST_STEPS:,} steps lie between the prior of {whole.model.name} and its posterior: take "
        'a narrower prior, or method="bridge"'
    )


def _next_power(data: Tensor, power: float) -> float:
    """The β at which the weights' relative variance is `STEP_VARIANCE`, by bisection, or 1.

    Raises:
        InferenceError: no particle has any likelihood.
    """
    seen = data[torch.isfinite(data)]
    if not len(seen):
        raise InferenceError(
            f"evidence: none of {len(data):,} draws from the prior has any likelihood: check the data against the "
            "support of the likelihood"
        )

    def varies(further: float) -> bool:
        weight = torch.softmax((further - power) * seen, 0)
        return float(len(seen) * weight.square().sum()) - 1 > STEP_VARIANCE

    if not varies(1.0):
        return 1.0
    low, high = power, 1.0
    while high - low > 1e-3 * (high - power):
        middle = (low + high) / 2
        low, high = (low, middle) if varies(middle) else (middle, high)
    return high


def _root(u: Tensor, weight: Tensor) -> Tensor:
    """Of the weighted covariance, shrunk to its diagonal by as much as so many particles leave it open."""
    kept = weight > 0
    u, weight = u[kept], weight[kept]
    centred = u - weight @ u
    covariance = (weight[:, None] * centred).T @ centred
    width = len(covariance)
    share = width / (width + len(u))
    shrunk = (1 - share) * covariance + share * torch.diag(covariance.diagonal())
    return torch.linalg.cholesky(shrunk + 1e-12 * shrunk.diagonal().max() * torch.eye(width, dtype=shrunk.dtype))


def _resampled(weight: Tensor) -> Tensor:
    """Indices, systematically (Kitagawa 1996)."""
    count = len(weight)
    places = (torch.arange(count, dtype=weight.dtype) + torch.rand((), dtype=weight.dtype)) / count
    return torch.searchsorted(weight.cumsum(0), places).clamp(max=count - 1)


def _move(whole: Tempered, particles: Particles, rung: Rung) -> float:
    """One trajectory of all particles, each accepted or not; the mean probability of acceptance."""
    value, gradient, data = _evaluated(whole, particles.u)
    # a quarter of a turn: squares, of which log-likelihoods are made, forget where they began
    count = min(MOST_LEAPFROG, math.ceil(LENGTH / rung.step))
    step = min(rung.step, LENGTH / count) * (0.8 + 0.4 * float(torch.rand(())))
    momentum = torch.randn_like(particles.u)
    before = value - 0.5 * momentum.square().sum(1)
    u, slope = particles.u, gradient @ rung.root
    for _ in range(count):
        momentum = momentum + 0.5 * step * slope
        u = u + step * momentum @ rung.root.T
        value, gradient, data = _evaluated(whole, u)
        slope = gradient @ rung.root
        momentum = momentum + 0.5 * step * slope
    change = (value - 0.5 * momentum.square().sum(1) - before).nan_to_num(nan=-math.inf, neginf=-math.inf)
    accepted = torch.rand_like(change).log() < change
    particles.u = torch.where(accepted[:, None], u, particles.u)
    particles.data = torch.where(accepted, data, particles.data)
    return float(change.clamp(max=0).exp().mean())


def _evaluated(whole: Tempered, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(log p_β, its gradient, log p(y | u)); no probability where the model cannot be computed."""
    found = [whole(rows) for rows in u.tensor_split(-(-len(u) // whole.points))]
    value, data = (torch.cat([getattr(one, name) for one in found]) for name in ("log_joint", "data"))
    value, data = (part.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf) for part in (value, data))
    return value, torch.cat([one.gradient for one in found]), data
