"""Families of closed-form guides as a posterior holds them: how each is sampled, and its density if it has one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import expit, log_ndtr, ndtr, ndtri

# ln of the interval on which truncated log-normal scales lie (Neklyudov et al. 2017)
LOW, HIGH = -20.0, 0.0
# temperature and stretch of hard-concrete gates (Louizos et al. 2018)
BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1


class Sampler(Protocol):
    """(loc, scale, count, generator) -> draws, (count, *shape)."""

    def __call__(
        self, loc: np.ndarray, scale: np.ndarray, count: int, generator: np.random.Generator
    ) -> np.ndarray: ...


class LogDensity(Protocol):
    """(loc, scale, x) -> elementwise ln q(x), float64."""

    def __call__(self, loc: np.ndarray, scale: np.ndarray, x: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class LatentFamily:
    """What a family of guides is to an analysis.

    Attributes:
        sample: independent draws.
        log_density: ln q(x) in nats; None where q has atoms, as point estimates and gates have.
        is_normal: whether x, or ln x, is N(loc, scale²).
    """

    sample: Sampler
    log_density: LogDensity | None = None
    is_normal: bool = False


def _normal(loc: np.ndarray, scale: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    return loc + scale * generator.standard_normal((count, *loc.shape))


def _normal_density(loc: np.ndarray, scale: np.ndarray, x: np.ndarray) -> np.ndarray:
    return -0.5 * np.square((x - loc) / scale) - np.log(scale) - 0.5 * np.log(2 * np.pi)


def _lognormal(loc: np.ndarray, scale: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    return np.exp(_normal(loc, scale, count, generator))


def _lognormal_density(loc: np.ndarray, scale: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _normal_density(loc, scale, np.log(x)) - np.log(x)


def _edges(loc: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    loc, scale = loc.astype(np.float64), scale.astype(np.float64)
    return (LOW - loc) / scale, (HIGH - loc) / scale


def _truncated_lognormal(loc: np.ndarray, scale: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    low, high = (ndtr(edge) for edge in _edges(loc, scale))
    uniform = generator.random((count, *loc.shape))
    return np.exp(np.clip(loc + scale * ndtri(low + uniform * (high - low)), LOW, HIGH))


def _truncated_lognormal_density(loc: np.ndarray, scale: np.ndarray, x: np.ndarray) -> np.ndarray:
    low, high = (log_ndtr(edge) for edge in _edges(loc, scale))
    return _lognormal_density(loc, scale, x) - high - np.log1p(-np.exp(low - high))


def _bernoulli(loc: np.ndarray, scale: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    return (generator.random((count, *loc.shape)) < expit(loc)).astype(np.float64)


def _hard_concrete(loc: np.ndarray, scale: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    soft = expit((generator.logistic(size=(count, *loc.shape)) + loc) / BETA)
    return np.clip(soft * (ZETA - GAMMA) + GAMMA, 0, 1)


def _point(loc: np.ndarray, scale: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    return np.broadcast_to(loc, (count, *loc.shape))


FAMILIES: Mapping[str, LatentFamily] = {
    "normal": LatentFamily(_normal, _normal_density, is_normal=True),
    "lognormal": LatentFamily(_lognormal, _lognormal_density, is_normal=True),
    "truncated-lognormal": LatentFamily(_truncated_lognormal, _truncated_lognormal_density),
    "point": LatentFamily(_point),
    "bernoulli": LatentFamily(_bernoulli),
    "hard-concrete": LatentFamily(_hard_concrete),
}
