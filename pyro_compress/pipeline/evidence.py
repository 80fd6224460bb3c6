"""Model evidence, log p(y) = log ∫ p(y | θ) p(θ) dθ, from Python.

    pc.evidence(model, data, method="importance")

All works on unconstrained u and the log joint with its Jacobian, log p(y, u).  q is the normal distribution over u that
maximises the ELBO (`newton_guides.py`).

    elbo            E_q[log p(y, u) − log q(u)]                  a lower bound; exact where the posterior is normal
    laplace         log p(y, û) + D/2 log 2π − ½ log |H|         at the mode û, H = −∇² log p(y, u)
                                                                 (Tierney & Kadane 1986)
    importance      log 1/S Σ_s p(y, u_s) / t(u_s),  u_s ~ t     t is Student's with 5 degrees of freedom, at q's mean
                                                                 and scale: heavier tails than q (Geweke 1989)
    bridge          between q and draws of NUTS                  (Meng & Wong 1996), `analysis/diagnosis/evidence.py`
    annealed        from the prior to the posterior              (Neal 2001), `inference/independent/annealing.py`
    harmonic-mean   of the likelihood at draws of NUTS           a warning example, that says so
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.distributions import Chi2, MultivariateNormal

from pyro_compress.analysis.diagnosis.evidence import Evidence, bridge, harmonic_mean, importance_weighted
from pyro_compress.errors import InferenceError, PosteriorWarning, listed, warn
from pyro_compress.inference.defaults.best_normal import best_start
from pyro_compress.inference.guides.newton_guides import REFUSED, fixed_noise, guide_at, polished
from pyro_compress.inference.independent.annealing import annealed_log_weights
from pyro_compress.inference.log_joint.curvature import precision_at
from pyro_compress.inference.log_joint.tempered import Tempered
from pyro_compress.inference.log_joint.whole_data import WholeData
from pyro_compress.inference.loop.alone import alone
from pyro_compress.inference.loop.feed import Feed
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.program import Program
from pyro_compress.pipeline.fitting import fit

DEGREES_OF_FREEDOM = 5.0
ITERATIONS, NEWTON_STEPS = 500, 10
CHAINS, WARMUP = 4, 500
# draws worth fewer than so many say little of the tails, and their standard error less
FEWEST = 50


@alone()
def evidence(
    model: Callable[..., Any], data: Any, method: str = "importance", draws: int = 4000, seed: int = 0
) -> Evidence:
    """Estimate log p(y) of a Pyro model, or of a small BayesianNetwork.

    Args:
        model: with continuous sites, up to 200 latent numbers, and a prior for all that is not data.
        data: as `fit` takes them; all training examples.
        method: a name of the head of this module.
        draws: S, at least 8: weighted draws, of bridge from either side, of `CHAINS` chains together.
        seed: of the draws.

    Warns:
        PosteriorWarning: the same as `warning` of what is returned.

    Raises:
        InferenceError: another method; data of which N are not given once each; what has no prior that integrates to
            one; a model whose log joint cannot be had at many points; no draw has any weight; for Laplace's, no mode at
            which H is positive definite.
    """
    if method not in METHODS:
        raise InferenceError(f"evidence: method must be one of {', '.join(METHODS)}; found {method!r}")
    if draws < 8:
        raise InferenceError(f"evidence: draws must be at least 8, found {draws}")
    feed = Feed.of(model, data)
    if feed.drawn_anew:
        raise InferenceError(
            f"evidence: {feed.name}: examples that are others in every batch, or a teacher's answers to them, are no "
            "observations: give the data without augmentation, dynamic binarisation and teacher"
        )
    if feed.in_batches and feed.size != feed.held:
        raise InferenceError(
            f"evidence: {feed.name}: N is {feed.size:,} and {feed.held:,} examples are given, and ln p(y) is that of "
            "what is there: give every example of the data once, without N"
        )
    if isinstance(model, BayesianNetwork):
        _refuse_network(model, feed)
        model, data = _program_of(model), feed.tensors
    program = Program(model, feed.tensors, feed.call)
    if program.free.trains:
        raise InferenceError(
            f"evidence: {program.name} trains {', '.join(program.free_values())}, which have no prior to integrate "
            "over: give them one with pyro.sample"
        )
    reweighted = program.reweighted()
    if reweighted:
        raise InferenceError(
            f"evidence: the prior of {', '.join(reweighted)} is scaled or masked in {program.name} and does not "
            "integrate to one, so that ln p(y) has no value: leave poutine.scale and poutine.mask to what is observed"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = METHODS[method](_Question(program, feed, data, draws, seed))
    found = replace(found, method=method)
    if found.warning is not None:
        warn(f"evidence by {method}: {found.warning}", PosteriorWarning)
    return found


@dataclass(frozen=True)
class _Question:
    """What `evidence` was asked, with the model as a program."""

    program: Program
    feed: Feed
    data: Any
    draws: int
    seed: int

    def whole(self) -> WholeData:
        return WholeData(self.program, self.feed.tensors, self.feed.size)

    def best_normal(self, whole: WholeData) -> MultivariateNormal:
        """q."""
        start = best_start(whole, self.program, self.feed.tensors, self.seed)
        noise = fixed_noise(whole.points, len(start.mean), self.seed)
        guide = guide_at(whole.values, noise, start.mean, start.root)
        guide = polished(whole.values, noise, guide, False, ITERATIONS)
        return MultivariateNormal(guide.mean, scale_tril=torch.linalg.cholesky(guide.root @ guide.root.T))

    def posterior(self, whole: WholeData) -> tuple[Tensor, tuple[int, int], str | None]:
        """(u at all draws of NUTS, (chain, draw), what speaks against them)."""
        precision = "double" if whole.is_double else "single"
        method = NUTS(
            chains=CHAINS, warmup=WARMUP, draws=self.draws // CHAINS, precision=precision, mass="dense", compile="never"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PosteriorWarning)
            found = fit(self.program.function, self.data, method, seed=self.seed)
        assert found.draws is not None
        parts = []
        for site in whole.log_joint.sites:
            value = torch.from_numpy(np.array(found.draws.site(site.name), dtype=np.float64)).flatten(0, 1)
            parts.append((value if site.transform is None else site.transform.inv(value)).reshape(len(value), -1))
        said = next((f"of its draws: {flag.sentence}" for flag in found.flags), None)
        return torch.cat(parts, 1), (CHAINS, found.draws.count), said


def _elbo(asked: _Question) -> Evidence:
    whole = asked.whole()
    q = asked.best_normal(whole)
    u = q.sample((asked.draws,))
    ratio = _log_joint(whole, u) - q.log_prob(u)
    return Evidence(float(ratio.mean()), float(ratio.std()) / math.sqrt(asked.draws), math.nan, asked.draws, "")


def _importance(asked: _Question) -> Evidence:
    whole = asked.whole()
    q = asked.best_normal(whole)
    freedom = torch.tensor(DEGREES_OF_FREEDOM, dtype=torch.float64)
    spread = (Chi2(freedom).sample((asked.draws,)) / freedom).rsqrt()
    standard = spread[:, None] * torch.randn(asked.draws, len(q.mean), dtype=torch.float64)
    log_weight = _log_joint(whole, q.mean + standard @ q.scale_tril.T) - _student_density(standard, q.scale_tril)
    return _weighted(log_weight, asked)


def _annealed(asked: _Question) -> Evidence:
    whole = Tempered(asked.program, asked.feed.tensors, asked.feed.size)
    return _weighted(annealed_log_weights(whole, asked.draws), asked)


def _weighted(log_weight: Tensor, asked: _Question) -> Evidence:
    value, error, effective = importance_weighted(log_weight.numpy())
    few = f"{asked.draws:,} draws are worth {effective:.0f} without weights: take more draws, or another method"
    return Evidence(value, error, effective, asked.draws, "", few if effective < FEWEST else None)


def _bridge(asked: _Question) -> Evidence:
    whole = asked.whole()
    q = asked.best_normal(whole)
    u, shape, said = asked.posterior(whole)
    proposed = q.sample((len(u),))
    at_posterior, at_proposal = (_log_joint(whole, at) - q.log_prob(at) for at in (u, proposed))
    value, error, effective = bridge(at_posterior.reshape(shape).numpy(), at_proposal.numpy())
    return Evidence(value, error, effective, len(u), "", said)


def _harmonic_mean(asked: _Question) -> Evidence:
    whole = asked.whole()
    u, shape, _ = asked.posterior(whole)
    data = torch.cat([whole(rows).data for rows in u.split(whole.points)])
    value, error, effective = harmonic_mean(data.reshape(shape).numpy())
    return Evidence(
        value,
        error,
        effective,
        len(u),
        "",
        "the variance of 1 / p(y | θ) is infinite in nearly all models, its estimates are too high and their standard "
        'error means nothing: use method="bridge" or "annealed"',
    )


def _laplace(asked: _Question) -> Evidence:
    whole = asked.whole()

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        height, gradient = whole.values(torch.from_numpy(point)[None])
        if not (math.isfinite(float(height)) and bool(torch.isfinite(gradient).all())):
            return REFUSED, np.zeros(len(point))
        return -float(height), -gradient[0].numpy()

    start = asked.best_normal(whole).mean.numpy()
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS, "maxcor": 20})
    mode, width = torch.from_numpy(np.array(found.x)), len(start)
    for _ in range(NEWTON_STEPS):
        precision, gradient = precision_at(whole.log_joint, mode.to(whole.log_joint.dtype), whole.batch, jacobian=True)
        factor, failed = torch.linalg.cholesky_ex(precision)
        if bool(failed):
            raise InferenceError(
                "evidence: the log joint is not curved downwards in every direction where its ascent ended, so that "
                'Laplace\'s method has no normal distribution there: use method="importance"'
            )
        height = float(_log_joint(whole, mode[None]))
        further = mode + torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        if not float(_log_joint(whole, further[None])) > height:
            break
        mode = further
    value = height + width / 2 * math.log(2 * math.pi) - float(factor.diagonal().log().sum())
    return Evidence(value, math.nan, math.nan, 0, "")


def _student_density(standard: Tensor, root: Tensor) -> Tensor:
    """(S,) log density of mean + root · standard, of multivariate Student's t."""
    width, nu = standard.shape[1], DEGREES_OF_FREEDOM
    constant = math.lgamma((nu + width) / 2) - math.lgamma(nu / 2) - width / 2 * math.log(nu * math.pi)
    tail = (nu + width) / 2 * torch.log1p(standard.square().sum(1) / nu)
    return constant - root.diagonal().log().sum() - tail


def _log_joint(whole: WholeData, u: Tensor) -> Tensor:
    """(S,) at (S, D); no probability where the model cannot be computed."""
    parts = [whole.values(rows)[0] for rows in u.split(whole.points)]
    return torch.cat(parts).nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)


def _refuse_network(model: BayesianNetwork, feed: Feed) -> None:
    """Say why the likelihood and the priors of a network do not make a joint density of weights and targets.

    Raises:
        InferenceError: parameters without a prior, an improper or a learned one, codes, a teacher.
    """
    if model.has_local_sites:
        raise InferenceError(
            f"evidence: a {type(model).__name__} has a latent code per example: pc.models.log_likelihood(...) "
            "estimates its likelihood at given weights"
        )
    if names := list(model.free_values()):
        raise InferenceError(
            f"evidence: {listed(names)} {'has' if len(names) == 1 else 'have'} no prior to integrate "
            "over: name one, as in prior={'*.weight': ..., '*.bias': Normal()}, or take a prior that covers biases, "
            "such as Normal()"
        )
    if not model.is_proper:
        raise InferenceError("evidence: a prior is improper, so that p(y) is no number: take a proper one")
    if model.hyper.declared:
        raise InferenceError(
            f"evidence: the prior learns {', '.join(model.hyper.declared)}, which have no prior to integrate over: "
            "take a prior without learned hyper-parameters"
        )
    if len(feed.tensors) != 2:
        raise InferenceError("evidence: a teacher's outputs are no observations: give inputs and targets alone")


def _program_of(model: BayesianNetwork) -> Callable[..., Any]:
    """The network as any Pyro model, as it predicts."""
    model.network.eval()

    def network(x: Tensor, y: Tensor) -> Any:
        return model.forward(x, y)

    return network


METHODS: dict[str, Callable[[_Question], Evidence]] = {
    "elbo": _elbo,
    "laplace": _laplace,
    "importance": _importance,
    "bridge": _bridge,
    "annealed": _annealed,
    "harmonic-mean": _harmonic_mean,
}
