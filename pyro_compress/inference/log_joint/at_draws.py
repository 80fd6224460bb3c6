"""The log joint and its gradient at draws of a posterior, in unconstrained space; many draws at once."""

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pyro_compress.inference.contract import Model
from pyro_compress.inference.log_joint.log_joint import Evaluation, LogJoint
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.failures import FAILURES
from pyro_compress.posterior.posterior import Posterior

# draws × examples that are looked at in one call
AT_ONCE = 2**20


@dataclass(frozen=True)
class AtDraws:
    """float64 each.

    Attributes:
        names: of every coordinate, (D,).
        u: draws in unconstrained space, (S, D).
        gradient: of log p(y, u) with the Jacobian of the change of variables, (S, D).
        log_density: log p(y, θ) in the space in which the model declares its sites, (S,).
    """

    names: tuple[str, ...]
    u: np.ndarray
    gradient: np.ndarray
    log_density: np.ndarray


def at_draws(
    model: Model, values: Mapping[str, np.ndarray], batch: Batch, size: int, *, jacobian: bool = True
) -> AtDraws:
    """See the head of this module; rows whose values or log joint are not finite keep their NaN or infinity.

    Args:
        model: of the draws.
        values: (S, *shape) by site, of every latent site; of point-estimated parameters as well.
        batch: all the data.
        size: N.
        jacobian: whether the density of which gradients are taken holds log |dθ/du|, as that of u does.
    """
    log_joint = LogJoint(model, size)
    given = {site.name: torch.from_numpy(np.array(values[site.name], dtype=np.float32)) for site in log_joint.sites}
    if log_joint.dependent:
        count = len(given[log_joint.sites[0].name])
        u = torch.stack([log_joint.unconstrained({name: v[row] for name, v in given.items()}) for row in range(count)])
    else:
        raw = [site.transform.inv(given[site.name]) if site.transform else given[site.name] for site in log_joint.sites]
        u = torch.cat([part.reshape(len(part), -1) for part in raw], 1)
    if _convolves(model):
        # many networks side by side are convolutions of as many groups, which takes several times as long
        log_joint.alone = True
    elif len(u) > 2:
        see_whether_alone(log_joint, u[:2], batch)
    found = [at_points(log_joint, rows, batch) for rows in u.split(max(1, AT_ONCE // max(1, size)))]
    gradient = torch.cat([one.gradient for one in found]).double()
    density = torch.cat([one.data + one.prior for one in found]).double()
    if not jacobian:
        gradient = gradient - jacobian_gradient(log_joint, u).double()
    latent = log_joint.latents
    return AtDraws(coordinates(log_joint), *(t.numpy() for t in (u.double()[:, latent], gradient[:, latent], density)))


def _convolves(model: Model) -> bool:
    network = model.network if isinstance(model, BayesianNetwork) else nn.Identity()
    return any(isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d) for module in network.modules())


def coordinates(log_joint: LogJoint) -> tuple[str, ...]:
    """'site' or 'site[index]' of every latent number in unconstrained space."""
    found: list[str] = []
    for site in log_joint.sites:
        if site.where.start < log_joint.latents.stop:
            places = np.ndindex(*site.unconstrained)
            found += [f"{site.name}[{','.join(map(str, place))}]" if place else site.name for place in places]
    return tuple(found)


def values_of(posterior: Posterior, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """(S, *shape) by site: the first `count` independent draws, as many of a sampler's evenly spaced, or of a guide."""
    draws = posterior.draws
    if draws is None:
        found = posterior.sample_latents(count, seed)
    else:
        chosen = np.unique(np.linspace(0, draws.chains * draws.count - 1, count).round().astype(int))
        if posterior.kind != "chains":
            chosen = np.arange(min(count, draws.chains * draws.count))
        places = np.unravel_index(chosen, (draws.chains, draws.count))
        found = {name: np.asarray(draws.site(name)[places]) for name in draws.shapes}
    count = len(next(iter(found.values())))
    points = {name: site.mean for name, site in posterior.parameters.items() if name not in found}
    return found | {name: np.broadcast_to(mean, (count, *mean.shape)) for name, mean in points.items()}


def with_buffers(model: Model, posterior: Posterior) -> Model:
    """A copy that runs as it does after training, with the posterior's statistics of batch norm.

    A `Program` holds copies of what it trains already: it takes the posterior's values.
    """
    if not isinstance(model, BayesianNetwork):
        model.free.take({name: site.mean for name, site in posterior.parameters.items()})
        model.free.requires_grad_(False)
        return model
    model = copy.deepcopy(model)
    model.hyper.place(posterior.hyperparameters)
    model.hyper.requires_grad_(False)
    model.network.eval()
    for name, buffer in model.network.named_buffers():
        if name in posterior.buffers:
            buffer.copy_(torch.from_numpy(np.array(posterior.buffers[name])))
    return model


def see_whether_alone(log_joint: LogJoint, u: Tensor, batch: Batch) -> Evaluation:
    """Two points (2, D), after which `log_joint.alone` holds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Evaluation(*log_joint.evaluate(u, *batch))


def at_points(log_joint: LogJoint, u: Tensor, batch: Batch) -> Evaluation:
    """The log joint at many points, (S, D): side by side, or one after the other where the model cannot be batched.

    `see_whether_alone` has been called: a record of many points one after the other is as long as they are many.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not log_joint.alone:
            try:
                return log_joint(u, batch)
            except FAILURES:
                if len(u) == 1:
                    nowhere = torch.full((1,), -math.inf)
                    return Evaluation(nowhere, torch.full_like(u, math.nan), nowhere, nowhere)
                # a matrix that cannot be factorised at one of the points, which has no probability then
                return _joined([at_points(log_joint, row[None], batch) for row in u])
            except RuntimeError:
                if not log_joint.replay:
                    raise
                # constants of single precision among numbers of double, which a record may join wrongly
                log_joint.run_eagerly()
                return at_points(log_joint, u, batch)
        return _joined([log_joint(row[None], batch) for row in u])


def _joined(each: Sequence[Evaluation]) -> Evaluation:
    columns = zip(*((one.log_joint, one.gradient, one.data, one.prior) for one in each), strict=True)
    return Evaluation(*(torch.cat(column) for column in columns))


def jacobian_gradient(log_joint: LogJoint, u: Tensor) -> Tensor:
    """Of log |dθ/du| at (S, D)."""
    leaf = u.clone().requires_grad_()
    total = torch.zeros(())
    for site in log_joint.sites:
        if site.transform is not None:
            raw = leaf[:, site.where].reshape(len(u), *site.unconstrained)
            total = total + site.transform.log_abs_det_jacobian(raw, site.transform(raw)).sum()
    if not total.requires_grad:
        return torch.zeros_like(u)
    return torch.autograd.grad(total, leaf)[0]
