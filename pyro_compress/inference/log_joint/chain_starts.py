"""Where chains start: at values that are given, or drawn again until the log joint and its gradient are finite."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.inference.log_joint.determinism import refuse_random
from pyro_compress.inference.log_joint.log_joint import Evaluation, LogJoint
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.failures import FAILURES
from pyro_compress.posterior.posterior import Posterior

# a chain's starts: so many near the network's parameters or around zero, then as many from the prior
TRIES = 50

Start = Mapping[str, Any] | Posterior | None


def start_positions(log_joint: LogJoint, chains: int, spread: float, start: Start = None) -> Tensor:
    """(chain, D) to start from.

    A network's chains start at its present parameters plus N(0, spread²); those of any other model are uniform on
    (−2, 2) in unconstrained space, as Stan and Pyro start them.  A value that is given for a site takes the place of
    that: with N(0, spread²) added in unconstrained space if there is one for all chains, and as it is if there is one
    for each.

    Args:
        log_joint: of the model.
        chains: how many.
        spread: sd.
        start: values by site, *shape or (chain, *shape), or a posterior, of which every chain takes a draw.

    Raises:
        InferenceError: a site that the model does not have, or a value of another shape or outside the support.
    """
    if isinstance(log_joint.model, BayesianNetwork):
        here = log_joint.start().expand(chains, -1)
        found = here + spread * torch.randn(here.shape)
    else:
        found = torch.empty(chains, log_joint.width).uniform_(-2.0, 2.0)
    if start is None:
        return found
    values, alike = _values(log_joint, chains, start)
    found = torch.stack([log_joint.placed(row, {n: v[c] for n, v in values.items()}) for c, row in enumerate(found)])
    for site in log_joint.sites:
        if site.name in alike:
            found[:, site.where] += spread * torch.randn(chains, site.where.stop - site.where.start)
    return found


def finite_starts(
    log_joint: LogJoint, position: Tensor, batch: Batch, spread: float, start: Start, method: str, *, exact: bool
) -> Tensor:
    """Positions to start from, (chain, D), at which the log joint and its gradient are finite, and no random numbers.

    Args:
        log_joint: of the model.
        position: (chain, D), what `start_positions` gave; rows are drawn again where that is needed.
        batch: the data, or the first batch of it.
        spread, start: see `start_positions`.
        method: what messages call the sampler.
        exact: see `refuse_random`.

    Raises:
        InferenceError: no such start was found, or the log joint is random.
    """
    position = position.to(log_joint.dtype)
    for attempt in range(2 * TRIES + 1):
        found = log_joint.at(position, batch)
        bad = ~_finite(found)
        if not bool(bad.any()):
            break
        if attempt == 2 * TRIES:
            _give_up(log_joint, found, method, start is not None)
        drawn = start_positions(log_joint, len(position), spread, start).to(position.dtype)
        if attempt >= TRIES and start is None:
            drawn = torch.stack([_from_prior(log_joint, row, batch) for row in drawn])
        position = torch.where(bad[:, None], drawn, position)
    refuse_random(log_joint.model, lambda: log_joint.trace_at(position[0], batch), method, exact=exact)
    return position


def _finite(found: Evaluation) -> Tensor:
    return torch.isfinite(found.log_joint) & torch.isfinite(found.gradient).all(1)


def _give_up(log_joint: LogJoint, found: Evaluation, method: str, given: bool) -> None:
    chain = int(torch.nonzero(~_finite(found))[0])
    if log_joint.failure is not None:
        what = f"the model cannot be computed for chain {chain} ({log_joint.failure})"
    elif not bool(torch.isfinite(found.log_joint[chain])):
        culprit = "the log prior" if bool(torch.isfinite(found.data[chain])) else "the log-likelihood"
        what = f"the log joint of chain {chain} is {float(found.log_joint[chain])}, {culprit} first"
    else:
        what = f"the gradient of chain {chain} is not finite"
    where = "near the given start" if given else "around the usual start and from the prior"
    raise InferenceError(
        f"at the start: {what}; {2 * TRIES} points {where} were tried; give values that have a probability, as in "
        f"{method}(start={{'{log_joint.sites[0].name}': ...}}), or look at the model's scales and supports"
    )


def _from_prior(log_joint: LogJoint, otherwise: Tensor, batch: Batch) -> Tensor:
    """(D,) of a draw from the prior; `otherwise` where the model gives none."""
    model = log_joint.model
    if isinstance(model, BayesianNetwork):
        return otherwise
    try:
        with torch.no_grad():
            trace = poutine.trace(model.forward).get_trace(*batch, size=log_joint.size)
            values: dict[str, Any] = {site.name: trace.nodes[site.name]["value"] for site in log_joint.sites}
            return log_joint.placed(otherwise, values)
    except (*FAILURES, InferenceError):
        return otherwise


def _values(
    log_joint: LogJoint, chains: int, start: Mapping[str, Any] | Posterior
) -> tuple[dict[str, Tensor], set[str]]:
    """Values by site, (chain, *shape), and the sites of which one value was given for all chains."""
    known = {site.name: site for site in log_joint.sites}
    if isinstance(start, Posterior):
        start = {name: value for name, value in _of_posterior(start, chains).items() if name in known}
        if not start:
            raise InferenceError(
                f"the posterior that chains are to start from has no site of this model ({', '.join(known)}): give one "
                "that was fitted to it"
            )
    found, alike = {}, set()
    for name, given in start.items():
        if name not in known:
            raise InferenceError(f"start names '{name}', and the sites of the model are {', '.join(known)}")
        value, shape = torch.as_tensor(given).to(log_joint.dtype), tuple(known[name].shape)
        if tuple(value.shape) == shape:
            alike.add(name)
            value = value.expand(chains, *shape)
        elif tuple(value.shape) != (chains, *shape):
            raise InferenceError(
                f"the start of '{name}' has the shape {tuple(value.shape)}, expected {shape}, or {(chains, *shape)} "
                "with one value for every chain"
            )
        found[name] = value
    return found, alike


def _of_posterior(posterior: Posterior, chains: int) -> dict[str, Any]:
    if not posterior.is_distribution:
        own = {name: latent.loc for name, latent in posterior.latents.items()}
        return own | {name: site.mean for name, site in posterior.parameters.items()}
    return dict(posterior.sample_latents(chains, 0))
