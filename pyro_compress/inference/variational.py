"""What variational methods share: guide and optimizer, the KL weight and its warm-up, the step, the posterior."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from pyro.poutine.messenger import Messenger

from pyro_compress.errors import InferenceError, unknown_name
from pyro_compress.inference.contract import Batch, Info, Model
from pyro_compress.inference.elbo import Divergence, ElboTerms, elbo_terms
from pyro_compress.inference.from_draws import posterior_from_draws
from pyro_compress.inference.guides import Guide
from pyro_compress.inference.iid_draws import check_draws, number_of_draws
from pyro_compress.inference.joint_guides import JointGuide, MeanField
from pyro_compress.inference.optimisation import (
    GradientMethod,
    GradientState,
    as_array,
    buffer_arrays,
    build_optimizer,
    refuse_non_finite,
)
from pyro_compress.inference.particles import side_by_side
from pyro_compress.inference.score_function import Baseline, ScoreTerms
from pyro_compress.inference.traced_terms import TracedTerms, weighted
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.priors.base import GroupStatistic, Moments
from pyro_compress.posterior import Groups, Latent, ParameterPosterior, Posterior

MOMENTS = "exact marginals of the guide; of its draws where a value is transformed, or a product of sites"
RATES: Mapping[str, float] = {"weight": 1.0, "scale": 5.0, "other": 1.0, "log_variance": 3.0, "free": 1.0}


@dataclass(frozen=True)
class VariationalMethod(GradientMethod):
    """Descends the negative ELBO, with the guide that the priors declare unless a subclass builds another.

    Args:
        epochs, batch_size, learning_rate, optimizer, schedule, clip: see `GradientMethod`.
        rates: multipliers of the base rate for 'weight', 'scale', 'other', 'log_variance' and 'free' parameters;
            those not named keep their default.
        kl_weight: β.
        kl_warmup: share of the run over which β rises linearly from 0.
        particles: ELBO estimates averaged per step.
        averaging: share of the steps, the last ones, whose parameters are averaged for the posterior.
        draws: with a guide over all sites at once, draws that the posterior carries; None is 1,000, or as many as
            256 MiB hold.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    kl_weight: float = 1.0
    kl_warmup: float = 0.25
    particles: int = 1
    averaging: float = 0.0
    draws: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.rates:
            if name not in RATES:
                raise InferenceError(unknown_name("learning rate", name, RATES))
        if self.kl_weight < 0 or self.kl_warmup < 0 or self.particles < 1:
            raise InferenceError(
                f"{type(self).__name__} needs kl_weight ≥ 0, kl_warmup ≥ 0 and at least 1 particle; found "
                f"kl_weight={self.kl_weight}, kl_warmup={self.kl_warmup}, particles={self.particles}"
            )
        if not 0 <= self.averaging <= 1:
            raise InferenceError(
                f"averaging is the share of the steps that is averaged, from 0 to 1; found {self.averaging}"
            )
        check_draws(self.draws, type(self).__name__)

    def build_guide(self, model: Model) -> Guide | JointGuide:
        """The guide of a fresh state: what the priors declare, or mean field for a model without such priors."""
        return Guide(model) if isinstance(model, BayesianNetwork) else MeanField(model)

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> "VariationalState":
        guide, rates = self.build_guide(model), {**RATES, **self.rates}
        groups = [*guide.parameter_groups(rates)]
        free = list(model.free.parameters())
        if free:
            groups.append({"params": free, "multiplier": rates["free"]})
        optimizer = build_optimizer(self.optimizer, groups, self.learning_rate)
        held = size if held is None else held
        return VariationalState(model, guide, optimizer, size, self.steps(held), held, seed)

    def beta(self, state: "VariationalState") -> float:
        """β of the next step."""
        return self.kl_weight * (min(1.0, state.progress / self.kl_warmup) if self.kl_warmup > 0 else 1.0)

    def weights(self, state: "VariationalState", batch: Batch, beta: float) -> tuple[float, float]:
        """Of data and complexity in what the next step descends: over an epoch, the tempered negative ELBO."""
        return 1.0, beta

    def objective(self, state: "VariationalState", batch: Batch, terms: ElboTerms, beta: float) -> torch.Tensor:
        """What the next step descends, total nats."""
        return weighted(terms, *self.weights(state, batch, beta), 1.0)

    def step(self, state: "VariationalState", batch: Batch) -> Info:
        beta = self.beta(state)
        rate = self.begin(state)
        data = complexity = 0.0
        weights = self.weights(state, batch, beta)
        # per example, so that clipping and any optimizer see a scale that does not depend on N
        estimates = 1 if self.side_by_side(state) else self.particles
        total = float(state.size * estimates)
        for _ in range(estimates):
            terms = self.one_estimate(state, batch, weights, total)
            data += float(terms.data.detach()) / estimates
            complexity += float(terms.complexity.detach()) / estimates
            if isinstance(terms, ScoreTerms):
                # after its gradient: a baseline must not know the sample that it is taken from
                state.baseline = state.baseline.after(terms)
        self.finish(state)
        self.average(state)
        return Info(data, complexity, beta, rate)

    def average(self, state: "VariationalState") -> None:
        """Polyak-Ruppert averaging: the mean of the last iterates takes the place of the very last one."""
        taken = state.steps_done - state.steps_planned + round(self.averaging * state.steps_planned)
        if taken < 1 or state.steps_done > state.steps_planned:
            return
        trained = [parameter.detach() for parameter in state.trained()]
        if taken == 1:
            state.averages = [tensor.clone() for tensor in trained]
        torch._foreach_lerp_(state.averages, trained, 1 / taken)
        if state.steps_done == state.steps_planned:
            torch._foreach_copy_(trained, state.averages)

    def one_estimate(
        self, state: "VariationalState", batch: Batch, weights: tuple[float, float], total: float
    ) -> ElboTerms:
        """One estimate of the terms, and the gradient of the objective from it."""
        if self.traceable(state):
            if state.traced is None:
                state.traced = TracedTerms(state.modules, lambda batch: self.terms(state, batch))
            found = state.traced.descend(batch, weights, total)
            if found is not None:
                loss, terms = found
                refuse_non_finite(loss, self.where(state), {**terms.by_site, "y": terms.data})
                return terms
        terms = self.estimate(state, batch)
        self.descend(state, weighted(terms, *weights, total), {**terms.by_site, "y": terms.data})
        return terms

    def traceable(self, state: "VariationalState") -> bool:
        """Whether a step does the same at every call but for the noise, and moves no buffers."""
        return next(state.model.network.buffers(), None) is None

    def side_by_side(self, state: "VariationalState") -> bool:
        """Whether `terms` is the mean over all particles."""
        return self.particles > 1 and isinstance(state.guide, JointGuide) and self.traceable(state)

    @abstractmethod
    def terms(self, state: "VariationalState", batch: Batch) -> ElboTerms:
        """One estimate of the ELBO's terms on a batch, of all particles if they are `side_by_side`."""

    def estimated(
        self, state: "VariationalState", batch: Batch, handler: Messenger | None, divergence: Divergence | None
    ) -> ElboTerms:
        """The ELBO's terms with that handler around the guide, or the mean over particles that are side by side."""
        # `.forward`, not a call: a PyroModule that is called registers its parameters in the global store
        model, guide = state.model.forward, state.guide.forward

        def estimate(handler: Messenger | None) -> ElboTerms:
            return elbo_terms(model, guide, handler, *batch, size=state.size, divergence=divergence)

        if not self.side_by_side(state):
            return estimate(handler)
        assert isinstance(state.guide, JointGuide)
        return side_by_side(estimate, state.guide.distribution().rsample((self.particles,)))

    def draw(self, state: "VariationalState") -> Posterior:
        model, guide = state.model, state.guide
        if isinstance(guide, Guide):
            assert isinstance(model, BayesianNetwork)
            return posterior_from_guide(model, guide)
        count = number_of_draws(self.draws, guide.width)
        posterior = posterior_from_draws(model, guide.draws(model, count, state.seed), "iid")
        # exact where a parameter is a site itself; what is made of sites keeps the moments of the draws
        exact = _exact_moments(model, guide)
        parameters = {name: exact.get(name, found) for name, found in posterior.parameters.items()}
        return replace(posterior, parameters=parameters, provenance={"moments": MOMENTS})

    def look(self, state: "VariationalState") -> Posterior:
        if isinstance(state.guide, Guide):
            return self.draw(state)
        if isinstance(state.model, BayesianNetwork):
            return Posterior(parameter_moments(state.model, state.guide.moments()), {}, buffer_arrays(state.model))
        return Posterior(_exact_moments(state.model, state.guide))


class VariationalState(GradientState):
    """The guide and the model's point-estimated parameters are what is trained; the baseline is of score functions.

    `averages` are running means of what is trained, once there are any.

    Args:
        model, optimizer, size, steps_planned: see `GradientState`.
        guide: of the model.
        held: examples that an epoch passes over.
        seed: of the run.
    """

    def __init__(
        self,
        model: Model,
        guide: Guide | JointGuide,
        optimizer: torch.optim.Optimizer,
        size: int,
        steps_planned: int,
        held: int,
        seed: int,
    ) -> None:
        super().__init__(model, {"guide": guide, "free": model.free}, optimizer, size, steps_planned)
        self.guide, self.held, self.seed = guide, held, seed
        self.baseline = Baseline()
        self.averages: list[torch.Tensor] = []
        self.traced: TracedTerms | None = None

    def capture(self) -> dict[str, Any]:
        averages = [tensor.clone() for tensor in self.averages]
        return {**super().capture(), "baseline": asdict(self.baseline), "averages": averages}

    def restore(self, captured: dict[str, Any]) -> None:
        super().restore(captured)
        self.baseline = Baseline(**captured["baseline"])
        self.averages = [tensor.clone() for tensor in captured["averages"]]


def _exact_moments(model: Model, guide: JointGuide) -> dict[str, ParameterPosterior]:
    """Of every parameter that is a site of the guide, in the space that the guide is normal in."""
    moments = guide.moments()
    if isinstance(model, BayesianNetwork):
        return {name: found for name, found in parameter_moments(model, moments).items() if name in guide.sites}
    return {
        name: ParameterPosterior(as_array(found.mean), as_array(found.variance), "site")
        for name, found in moments.items()
        if guide.sites[name].transform is None
    }


def posterior_from_guide(model: BayesianNetwork, guide: Guide) -> Posterior:
    """Closed-form posterior: the moments of every parameter and the guide of every site."""
    with torch.no_grad():
        sites = guide.moments()
        parameters = parameter_moments(model, sites)
    latents = {name: _latent(site) for name, site in sites.items()}
    return Posterior(parameters, latents, buffer_arrays(model), kind="iid")


def parameter_moments(model: BayesianNetwork, sites: Mapping[str, Moments]) -> dict[str, ParameterPosterior]:
    """Moments of every parameter of the network, in its order, from those of the latent sites."""
    parameters = {}
    for parameter, prior in model.parameters_covered:
        mean, variance = prior.weight_moments(parameter, sites)
        groups = _groups(parameter.group_axis, prior.group_statistic(parameter, sites))
        parameters[parameter.name] = ParameterPosterior(
            as_array(mean), as_array(variance), type(prior).__name__, groups
        )
    for name, value in model.free_values().items():
        value_array = as_array(value)
        parameters[name] = ParameterPosterior(value_array, 0 * value_array, "point")
    return {name: parameters[name] for name, _ in model.network.named_parameters()}


def _latent(site: Moments) -> Latent:
    family = "lognormal" if site.family == "lognormal" else "normal"
    return Latent(family, as_array(site.mean), as_array(site.variance.sqrt()))


def _groups(axis: int | None, statistic: GroupStatistic | None) -> Groups | None:
    if statistic is None or axis is None:
        return None
    return Groups(axis, statistic.name, as_array(statistic.value), statistic.threshold, as_array(statistic.scale))
