"""Plain gradient descent on one value per parameter: maximum a posteriori, the degenerate case of inference.

    minimise over w   −(N/n) Σ_i log p(y_i | x_i, w) − β log p(w)

With momentum SGD and a normal prior this is SGD with weight decay; β is 1 unless said otherwise.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import nn

from pyro_compress.errors import InferenceError, PosteriorWarning, warn
from pyro_compress.inference.contract import Info, Method, Model, left_at_defaults
from pyro_compress.inference.defaults.mode import left_to_find
from pyro_compress.inference.gradient.elbo import ElboTerms
from pyro_compress.inference.gradient.gradient_method import (
    GradientMethod,
    GradientState,
    as_array,
    buffer_arrays,
    build_optimizer,
    check_rates,
    hyperparameter_groups,
    warmed_up,
)
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.inference.results.from_draws import point_estimates
from pyro_compress.inference.results.judged import with_all_stored
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.names import attribute_name, dotted_name
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Prior
from pyro_compress.models.sites import refuse_other_sites
from pyro_compress.posterior.posterior import Latent, ParameterPosterior, Posterior

ROLES = ("weight", "scale", "other", "free", "hyper")
Covered = tuple[tuple[Parameter, Prior], ...]


@dataclass(frozen=True)
class MAP(GradientMethod):
    """One value per parameter, by gradient descent.

    A prior enters with the density of its sites: that of the weight for `Normal`, `ScaleMixture` and the truncated
    `LogUniform`; of a prior with several sites, such as a weight and its unknown scale, all are estimated at the mode
    of their joint density (which may have none: where weights and their scale vanish together).  Improper priors have
    no density, and that of the group priors grows without bound as their scales vanish (`Prior.has_mode`): those count
    as flat, with a warning, so with them alone this is maximum likelihood and the complexity that is reported is 0
    nats.  A latent of the likelihood, such as an unknown noise scale, is estimated too.  Of any other Pyro model every
    latent site is, and the parameters that it trains beside them.  Every density is that in the site's own space (no
    Jacobian enters).  Hyper-parameters that a prior declares go to where they make that density largest, which has to
    be bounded in them too.  What was flat, and what was joint, stands in the provenance as 'priors'.

    Args:
        epochs, batch_size, learning_rate, optimizer, schedule, rate_warmup, accumulate, clip: as of `SVI`.
        rates: multipliers of the base rate, 1 where not named: 'weight' (parameters with a prior), 'scale' and 'other'
            (other sites by the role that their prior gives them), 'free' (parameters without a prior) and 'hyper'.
        kl_weight: β, the weight of −log p(w) and of the densities of hyper-parameters.
        kl_warmup: share of the run over which β rises linearly from 0.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    kl_weight: float = 1.0
    kl_warmup: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rates(self.rates, ROLES)
        if not 0 <= self.kl_weight < math.inf:
            raise InferenceError(f"kl_weight must be finite and not negative, found {self.kl_weight}")
        if not 0 <= self.kl_warmup <= 1:
            raise InferenceError(f"kl_warmup is a share of the run, from 0 to 1, found {self.kl_warmup}")

    def for_model(self, model: Model, feed: Feed) -> Method:
        """`Mode` for a Pyro model, where nothing was set."""
        return (left_at_defaults(self) and left_to_find(model, feed)) or self

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> "PointState":
        points = PointEstimates(model)
        if points.kinds.flat:
            names = ", ".join(parameter.name for parameter, _ in points.kinds.flat)
            warn(
                f"{type(self).__name__} takes the prior of {names} as flat: it is improper, or its density grows "
                "without bound as scales vanish, so that it has no mode; use SVI(...) to have it count",
                PosteriorWarning,
            )
        free = [] if isinstance(model, BayesianNetwork) else [*model.free.parameters()]
        groups = [
            *points.parameter_groups(self.rates),
            {"params": free, "multiplier": self.rates.get("free", 1.0)},
            *hyperparameter_groups(model, self.rates),
        ]
        optimizer = build_optimizer(self.optimizer, groups, self.learning_rate)
        return PointState(model, points, optimizer, size, self.steps(size if held is None else held))

    def step(self, state: "PointState", batch: Batch) -> Info:
        rate, beta = self.begin(state), warmed_up(self.kl_weight, state.progress, self.kl_warmup)
        data = complexity = 0.0
        for part, share in self.passes(state, batch):
            terms = self.estimate(state, part)
            self.descend(state, share * terms.objective(beta) / state.size, {**terms.by_site, "y": terms.data})
            data += share * float(terms.data.detach())
            complexity += share * float(terms.complexity.detach())
        self.finish(state)
        return Info(data, complexity, beta, rate)

    def terms(self, state: "PointState", batch: Batch) -> ElboTerms:
        """Log-likelihood and −log prior at the present values, total nats; by site."""
        model, weights, latents = state.model, self.weights(state), state.points.latents()

        def program() -> None:
            if not isinstance(model, BayesianNetwork):
                model.forward(*batch, size=state.size)
                return
            for parameter, prior in state.points.kinds.single:
                prior.sample(parameter)
            made = {parameter.name: prior.sample(parameter) for parameter, prior in state.points.kinds.joint}
            x, *targets = batch
            model.observe(weights | made, x, *targets, size=state.size)

        at = weights | latents
        trace = poutine.trace(poutine.condition(program, data=at)).get_trace()
        trace.compute_log_prob()
        refuse_other_sites(trace, latents)
        data, by_site = torch.zeros(()), {}
        for name in trace.observation_nodes:
            log_prob = trace.nodes[name]["log_prob_sum"]
            if name in at:
                by_site[name] = -log_prob
            else:
                data = data + log_prob
        terms = ElboTerms(data, sum(by_site.values(), torch.zeros(())), by_site)
        return terms.with_complexity(model.hyper.complexity_nats())

    def weights(self, state: "PointState") -> dict[str, torch.Tensor]:
        """What the network runs at and the prior counts at, by name: all but what priors make of several sites."""
        return state.points.unmade_weights()

    def draw(self, state: "PointState") -> Posterior:
        found = state.points.weights() if isinstance(state.model, BayesianNetwork) else state.points.latents()
        frozen = state.points.frozen
        parameters = {n: ParameterPosterior.point(as_array(value), frozen=n in frozen) for n, value in found.items()}
        parameters |= point_estimates(state.model)
        parameters = with_all_stored(parameters, state.points.kinds.all, found)
        return Posterior(parameters, _own(state), buffer_arrays(state.model), kind="point", provenance=self.said(state))

    def said(self, state: "PointState") -> dict[str, Any]:
        """Of priors, for the provenance, where there is more to say than that each has its density at the weight."""
        lists = {"flat": state.points.kinds.flat, "joint mode of all sites": state.points.kinds.joint}
        found = {key: [parameter.name for parameter, _ in held] for key, held in lists.items() if held}
        return {"priors": found} if found else {}


def _own(state: "PointState") -> dict[str, Latent]:
    """The likelihood's own latent sites, such as its noise, where they ended."""
    if not isinstance(state.model, BayesianNetwork):
        return {}
    held = state.points.latents()
    values = {site.name: as_array(held[site.name]) for site in state.model.likelihood.latents()}
    return {name: Latent("point", value, np.zeros_like(value)) for name, value in values.items()}


@dataclass(frozen=True)
class Kinds:
    """How priors enter.

    Attributes:
        single: by their density at the weight, which is their only site.
        joint: by that of several sites, or of one in a space of its own, from which the weight is made.
        flat: not at all.
    """

    single: Covered
    joint: Covered
    flat: Covered

    @property
    def all(self) -> Covered:
        """However they enter."""
        return (*self.single, *self.joint, *self.flat)

    @staticmethod
    def of(covered: Covered) -> "Kinds":
        """Sort what priors cover."""
        found: dict[str, list[tuple[Parameter, Prior]]] = {"single": [], "joint": [], "flat": []}
        for parameter, prior in covered:
            sites = prior.latents(parameter, torch.zeros(parameter.shape))
            itself = [site.name for site in sites] == [parameter.name] and sites[0].to_support is None
            density = prior.is_proper and prior.has_mode
            found["flat" if not density else "single" if itself else "joint"].append((parameter, prior))
        return Kinds(**{kind: tuple(pairs) for kind, pairs in found.items()})


class PointEstimates(nn.Module):
    """One trained tensor per network parameter and per latent of the likelihood, started at the present values.

    Frozen parameters stay as they are.  In place of a parameter whose prior has several sites there is one per site; of
    a model that is no network there is one per latent site.  Sites are trained in unconstrained space.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        free, present = model.free_values(), dict(model.network.named_parameters())
        self.names, self.kinds = list(present), Kinds.of(model.parameters_covered)
        self.sites: tuple[LatentSite, ...] = model.latents()
        if isinstance(model, BayesianNetwork):
            joint = ((parameter, prior, present[parameter.name].detach()) for parameter, prior in self.kinds.joint)
            of_priors = [site for parameter, prior, value in joint for site in prior.latents(parameter, value)]
            self.sites = (*model.likelihood.latents(), *of_priors)
        self.weight, self.latent = nn.Module(), nn.Module()
        self.frozen = model.frozen_values() if isinstance(model, BayesianNetwork) else {}
        made = {parameter.name for parameter, _ in self.kinds.joint}
        for name, value in present.items():
            if name not in made and name not in self.frozen:
                self.weight.register_parameter(attribute_name(name), _trained(free.get(name, value)))
        for site in self.sites:
            self.latent.register_parameter(attribute_name(site.name), _trained(site.loc.expand(site.shape)))

    def parameter_groups(self, rates: Mapping[str, float]) -> Iterator[dict[str, Any]]:
        """Optimizer groups: every trained tensor with the multiplier that `rates` has for its role."""
        covered = {parameter.name for parameter, _ in self.kinds.all}
        for attribute, value in self.weight.named_parameters():
            role = "weight" if dotted_name(attribute) in covered else "free"
            yield {"params": [value], "multiplier": rates.get(role, 1.0)}
        for site in self.sites:
            value = getattr(self.latent, attribute_name(site.name))
            yield {"params": [value], "multiplier": rates.get(site.role, 1.0)}

    def weights(self) -> dict[str, torch.Tensor]:
        """By dotted name, in the network's order."""
        found = self.unmade_weights()
        with poutine.block(), poutine.condition(data=self.latents()):
            found |= {parameter.name: prior.sample(parameter) for parameter, prior in self.kinds.joint}
        return {name: found[name] for name in self.names}

    def unmade_weights(self) -> dict[str, torch.Tensor]:
        """Those that are not made of sites."""
        trained = {dotted_name(attribute): value for attribute, value in self.weight.named_parameters()}
        return trained | self.frozen

    def latents(self) -> dict[str, torch.Tensor]:
        """By site name, in the site's own space; a log-normal one is trained by its logarithm."""
        found = {}
        for site in self.sites:
            value, transform = getattr(self.latent, attribute_name(site.name)), site.to_support
            found[site.name] = value if transform is None else transform(value)
        return found


class PointState(GradientState):
    """The points are what is trained."""

    def __init__(
        self, model: Model, points: PointEstimates, optimizer: torch.optim.Optimizer, size: int, steps_planned: int
    ) -> None:
        # a Pyro model's own parameters are trained beside them
        own = {"hyper": model.hyper} if isinstance(model, BayesianNetwork) else {"free": model.free}
        super().__init__(model, {"points": points, **own}, optimizer, size, steps_planned)
        self.points = points


def _trained(value: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone())
