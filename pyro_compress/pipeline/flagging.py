"""Whether to believe a posterior, from Python: its draws, the fit's history and the log joint at its draws.

posterior = pc.fit(model, data, method)        # warns in one line, posterior.flags holds the sentences
pc.diagnose(posterior, model, data)            # the same again, with the table of quantities
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pyro_compress.analysis.diagnosis import diagnostics
from pyro_compress.analysis.diagnosis.arviz_export import to_arviz
from pyro_compress.analysis.diagnosis.diagnostics import Diagnosis
from pyro_compress.analysis.diagnosis.distance import FAMILIES, distance
from pyro_compress.analysis.diagnosis.fit_flags import (
    batch_flags,
    distance_flags,
    point_flags,
    ratio_flags,
    step_flags,
    tempered_flags,
    trend_flags,
)
from pyro_compress.analysis.diagnosis.flags import importance_flags
from pyro_compress.analysis.diagnosis.psis import guide_log_density
from pyro_compress.data.generators import generator_for
from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Model
from pyro_compress.inference.log_joint.at_draws import AtDraws, at_draws, coordinates, values_of, with_buffers
from pyro_compress.inference.log_joint.curvature import MOST_DENSE, largest_curvature, newton_step
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.loop.alone import alone
from pyro_compress.inference.loop.dtypes import in_network_type
from pyro_compress.inference.loop.feed import Feed
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.generative.vae import VAE
from pyro_compress.models.program import Program
from pyro_compress.pipeline.code_diagnosis import flags_of_codes
from pyro_compress.pipeline.output_diagnosis import flags_of_outputs
from pyro_compress.pipeline.place_diagnosis import flags_of_places
from pyro_compress.posterior.draws import GUIDE_DENSITY
from pyro_compress.posterior.posterior import Flag, Posterior

MOST_DRAWS, DRAWS_OF_NETWORKS, CURVATURES = 1000, 100, 4
# batches whose gradients are compared at each of these draws
BATCHES, BATCH_SEED = 32, 20110628
# draws × examples × latent numbers that a look after a fit may cost; `diagnose` takes more
AFTER_A_FIT, WHEN_ASKED = 2**29, 2**35
# of chains of a network with hidden units: weights of exchangeable ones need not agree, so these say nothing
OF_WEIGHTS = ("r_hat", "ess")
# said in `flags`, but a person who set it for a network knows
NOT_WARNED_OF_NETWORKS = ("kl_weight", "temperature", "batch_noise")


@in_network_type
def with_flags(posterior: Posterior, model: Any, data: Any) -> Posterior:
    """The posterior with what speaks against it as `flags`."""
    found: dict[str, Any] = {}
    flags = [[flag.name, flag.sentence] for flag in _flags(posterior, model, data, found, AFTER_A_FIT)]
    numbers = {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
    statistics = {**posterior.statistics, **numbers}
    return replace(posterior, provenance={**posterior.provenance, "flags": flags}, statistics=statistics)


def flags_to_say(posterior: Posterior, model: Any) -> list[Flag]:
    """The flags but those of what a person has set for a network."""
    known = NOT_WARNED_OF_NETWORKS if isinstance(model, BayesianNetwork) else ()
    return [flag for flag in posterior.flags if flag.name not in known]


@alone()
@in_network_type
def diagnose(posterior: Posterior, model: Any, data: Any) -> Diagnosis:
    """Summary of all quantities, and everything that speaks against the posterior.

    Args:
        posterior: what `fit` returned, or a file that it was saved to and loaded from.
        model: that it was fitted to.
        data: as `fit` takes them.

    Raises:
        InferenceError: the data or the model are not those of the posterior.
    """
    found: dict[str, Any] = {}
    flags = tuple(_flags(posterior, model, data, found, WHEN_ASKED))
    if not posterior.is_distribution:
        return Diagnosis("point", 0, 0, (), flags, (), found)
    table = diagnostics.diagnose(posterior, to_arviz(posterior))
    return replace(table, flags=flags, statistics={**table.statistics, **found})


def _flags(posterior: Posterior, model: Any, data: Any, found: dict[str, Any], budget: int) -> Iterator[Flag]:
    network = isinstance(model, BayesianNetwork)
    yield from tempered_flags(posterior.provenance)
    if posterior.kind == "chains":
        yield from _chain_flags(posterior, network, found)
    elif posterior.draws is not None and posterior.draws.log_weight is not None:
        yield from importance_flags(posterior, found)
    try:
        yield from _by_log_joint(posterior, model, data, found, budget)
    except (RuntimeError, ValueError, NotImplementedError, KeyError, InferenceError) as error:
        found["not_judged"] = f"the model cannot be computed at the posterior: {error}"
    if posterior.kind != "chains":
        history: Any = posterior.provenance.get("history", ())
        if posterior.draws is None or posterior.draws.log_weight is None:
            yield from trend_flags(history, found)


def _chain_flags(posterior: Posterior, network: bool, found: dict[str, Any]) -> Iterator[Flag]:
    diagnosis = diagnostics.diagnose(posterior, to_arviz(posterior, weights=200))
    found |= {name: value for name, value in diagnosis.statistics.items() if isinstance(value, int | float)}
    exchangeable = network and diagnostics.has_hidden_units(posterior)
    for flag in diagnosis.flags:
        if not (exchangeable and flag.name in OF_WEIGHTS):
            yield flag
    if not network and diagnosis.draws * diagnosis.chains < 2 * diagnostics.LEAST_DRAWS:
        yield Flag("few_draws", f"there are {diagnosis.draws} draws: too few to see whether the chain has converged")


def _by_log_joint(posterior: Posterior, model: Any, data: Any, found: dict[str, Any], budget: int) -> Iterator[Flag]:
    if isinstance(model, BayesianNetwork) and model.has_local_sites:
        found["not_judged"] = "codes of single examples are not summed out, so the posterior's density is not known"
        if isinstance(model, VAE):
            few = {"examples": 50, "codes": 200} if budget < WHEN_ASKED else {}
            yield from flags_of_codes(posterior, model, Feed.of(model, data).drawn_once()[0], found, **few)
        return
    feed = Feed.of(model, data)
    whole: Model = model if isinstance(model, BayesianNetwork) else Program(model, feed.tensors, feed.call)
    whole = with_buffers(whole, posterior)
    if isinstance(whole, BayesianNetwork):
        yield from flags_of_outputs(posterior, whole, feed.tensors[0])
        if _by_noise_of_outputs(posterior) and not feed.drawn_anew and len(feed.tensors) > 1:
            x, y = feed.tensors[:2]
            yield from flags_of_places(posterior, whole, x, y, found)
    if feed.drawn_anew:
        found["not_judged"] = "the fit saw other inputs in every batch, of which no single log joint is the aim"
        return
    steps: Any = posterior.provenance.get("langevin_step")
    guide: Any = posterior.provenance.get("guide")
    if posterior.kind == "point":
        if not isinstance(whole, BayesianNetwork):
            yield from _point_flags(posterior, whole, feed, found)
    elif steps is not None:
        yield from _step_flags(posterior, whole, feed, steps, found)
        yield from _batch_flags(posterior, whole, feed, found)
    elif posterior.kind == "guide" and guide is not None and guide.get("local"):
        found["not_judged"] = "latent sites of single rows are not summed out, so the guide's density is not known"
    elif posterior.kind == "guide" and not posterior.is_normal:
        found["not_judged"] = "sites of the guide are gates or point estimates, not normal in unconstrained space"
    elif posterior.kind == "guide" and (guide is not None or posterior.latents):
        yield from _guide_flags(posterior, whole, feed, guide, found, budget)


def _by_noise_of_outputs(posterior: Posterior) -> bool:
    return posterior.kind == "guide" and posterior.provenance.get("estimator") == "local"


def _guide_flags(
    posterior: Posterior, model: Model, feed: Feed, guide: Mapping[str, Any] | None, found: dict[str, Any], budget: int
) -> Iterator[Flag]:
    network = isinstance(model, BayesianNetwork)
    if network and not model.is_proper:
        return
    width = sum(math.prod(site.shape) for site in model.latents())
    count = DRAWS_OF_NETWORKS if network else MOST_DRAWS
    count = min(count, budget // max(1, feed.size * width))
    if count < DRAWS_OF_NETWORKS // 2:
        return
    values = values_of(posterior, count)
    there = at_draws(model, values, feed.tensors, feed.size)
    loc, sd = _marginals(posterior, model, there, guide)
    family = "mean-field" if guide is None else guide["family"]
    finite = np.isfinite(there.u).all(1) & np.isfinite(there.gradient).all(1)
    if finite.mean() < 0.99:
        yield Flag(
            "not_converged",
            f"the log joint or its gradient is not finite at {100 * (1 - finite.mean()):.0f} % of the guide's draws: "
            "the guide reaches where the model has no density",
        )
    # with another β the guide has another aim than the posterior
    if family in FAMILIES and finite.sum() > 2 and posterior.provenance.get("kl_weight", 1.0) == 1.0:
        apart = distance(there.u[finite], there.gradient[finite], loc, sd, family)
        yield from distance_flags(apart, there.names, family, found)
    if not network and not (guide or {}).get("points"):
        density = _guide_density(posterior, values, count)
        yield from ratio_flags(there.u, there.log_density - density, there.names, found)


def _marginals(
    posterior: Posterior, model: Model, there: AtDraws, guide: Mapping[str, Any] | None
) -> tuple[np.ndarray, np.ndarray]:
    """(loc, sd) of the guide in unconstrained space, (D,) each."""
    if guide is not None and "loc" in guide:
        return np.array(guide["loc"]), np.array(guide["sd"])
    if posterior.latents:
        names = [site.name for site in model.latents()]
        loc = np.concatenate([posterior.latents[name].loc.ravel() for name in names]).astype(np.float64)
        return loc, np.concatenate([posterior.latents[name].scale.ravel() for name in names]).astype(np.float64)
    return there.u.mean(0), there.u.std(0)


def _guide_density(posterior: Posterior, values: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    if posterior.draws is None:
        return guide_log_density(posterior.latents, {name: values[name] for name in posterior.latents})
    return np.asarray(posterior.draws.statistics[GUIDE_DENSITY][0, :count], dtype=np.float64)


def _point_flags(posterior: Posterior, model: Model, feed: Feed, found: dict[str, Any]) -> Iterator[Flag]:
    log_joint = LogJoint(model, feed.size)
    if log_joint.width > MOST_DENSE:
        return
    values = {name: torch.from_numpy(site.mean) for name, site in posterior.parameters.items()}
    step = newton_step(log_joint, log_joint.unconstrained(values), feed.tensors, jacobian=False)
    shift = None if step is None else (step[0] / step[1]).numpy()
    yield from point_flags(shift, coordinates(log_joint), found)


def _step_flags(posterior: Posterior, model: Model, feed: Feed, steps: Any, found: dict[str, Any]) -> Iterator[Flag]:
    log_joint = LogJoint(model, feed.size)
    scale = torch.as_tensor(steps, dtype=torch.float32).expand(log_joint.width)
    few = _few_draws(posterior, log_joint)
    share = float(np.mean([largest_curvature(log_joint, u, feed.tensors, scale) / 4 for u in few]))
    yield from step_flags(share / (1 - share) if share < 1 else math.inf, found)


def _few_draws(posterior: Posterior, log_joint: LogJoint) -> Iterator[torch.Tensor]:
    """Some of the draws as vectors of the log joint, (D,) each."""
    values = values_of(posterior, CURVATURES)
    for index in range(len(next(iter(values.values())))):
        yield log_joint.unconstrained({name: torch.tensor(np.array(value[index])) for name, value in values.items()})


def _batch_flags(posterior: Posterior, model: Model, feed: Feed, found: dict[str, Any]) -> Iterator[Flag]:
    """From gradients of some batches at some draws: what their noise adds to the variances of the draws."""
    how: Any = posterior.provenance.get("batch_noise")
    if how is None or not feed.tensors or how["batch_size"] >= len(feed.tensors[0]):
        return
    log_joint, generator, variances = LogJoint(model, feed.size), generator_for(BATCH_SEED), []
    for u in _few_draws(posterior, log_joint):
        gradients = []
        for _ in range(BATCHES):
            rows = torch.randperm(len(feed.tensors[0]), generator=generator, device="cpu")[: how["batch_size"]]
            leaf = u.detach().clone().requires_grad_()
            value, _ = log_joint.terms(leaf, *(tensor[rows.to(tensor.device)] for tensor in feed.tensors))
            gradients.append(torch.autograd.grad(value, leaf)[0])
        variances.append(torch.stack(gradients).var(0))
    share = torch.as_tensor(how["share"]) * torch.stack(variances).mean(0)
    yield from batch_flags(float(share[log_joint.latents].mean()) - how["known"], found)
