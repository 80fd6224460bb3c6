"""What variational methods share: guide and optimizer, the KL weight and its warm-up, the step, the posterior."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from pyro.poutine.messenger import Messenger

from pyro_compress.data.splits import batch_sizes
from pyro_compress.errors import InferenceError, unknown_name
from pyro_compress.inference.contract import Info, Model
from pyro_compress.inference.gradient.elbo import Divergence, ElboTerms, elbo_terms
from pyro_compress.inference.gradient.gradient_method import (
    GradientMethod,
    buffer_arrays,
    build_optimizer,
    check_rates,
    hyperparameter_groups,
    refuse_non_finite,
    warmed_up,
)
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.from_guide import exact_moments, parameter_moments, posterior_from_guide
from pyro_compress.inference.guides.guide import Guide
from pyro_compress.inference.guides.joint import JointGuide, MeanField, described
from pyro_compress.inference.guides.user import UserGuide
from pyro_compress.inference.loop.averaging import average_last
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.inference.results.from_draws import point_estimates, posterior_from_draws
from pyro_compress.inference.results.iid_draws import check_draws, number_of_draws
from pyro_compress.inference.speed.compiled_adam import Adam
from pyro_compress.inference.speed.flat_parameters import FlatParameters, is_elementwise
from pyro_compress.inference.speed.normal_stream import DrawnFrom
from pyro_compress.inference.speed.recording import is_unrolled
from pyro_compress.inference.variational.particles import side_by_side
from pyro_compress.inference.variational.recorded_step import TRACE_AFTER, TracedTerms, weighted
from pyro_compress.inference.variational.score_function import ScoreTerms
from pyro_compress.inference.variational.shrinking import ShrinkingNetwork
from pyro_compress.inference.variational.state import VariationalState
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.precision import SINGLE
from pyro_compress.models.rows import examples_of
from pyro_compress.posterior.posterior import Posterior

MOMENTS = "exact marginals of the guide; of its draws where a value is transformed, or a product of sites"
COMPILE = ("auto", "always", "never")
RATES: Mapping[str, float] = {
    "weight": 1.0,
    "scale": 5.0,
    "other": 1.0,
    "log_variance": 3.0,
    "free": 1.0,
    "guide": 1.0,
    "hyper": 1.0,
}


@dataclass(frozen=True)
class VariationalMethod(GradientMethod):
    """Descends the negative ELBO, with the guide that the priors declare unless a subclass builds another.

    Args:
        epochs, batch_size, learning_rate, optimizer, schedule, rate_warmup, accumulate, clip, precision: see
            `GradientMethod`.
        rates: multipliers of the base rate for 'weight', 'scale', 'other', 'log_variance' and 'free' parameters (the
            last are the model's own, point-estimated), for hyper-parameters of priors, 'hyper', and for those of a
            'guide' of the user's own; those not named keep their default.
        kl_weight: β.
        kl_warmup: share of the run over which β rises linearly from 0.
        particles: ELBO estimates averaged per step.
        averaging: share of the steps, the last ones, whose parameters are averaged for the posterior.
        draws: with a guide over all sites at once, draws that the posterior carries; None is 1,000, or as many as
            256 MiB hold.
        compile: 'never', 'always', or 'auto': once the steps that are left pay for it.
    """

    draws_local_sites: ClassVar[bool] = True

    rates: Mapping[str, float] = field(default_factory=dict)
    kl_weight: float = 1.0
    kl_warmup: float = 0.25
    particles: int = 1
    averaging: float = 0.0
    draws: int | None = None
    compile: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rates(self.rates, RATES)
        if not 0 <= self.kl_weight < math.inf or self.kl_warmup < 0 or self.particles < 1:
            raise InferenceError(
                f"{type(self).__name__} needs kl_weight ≥ 0, kl_warmup ≥ 0 and at least 1 particle; found "
                f"kl_weight={self.kl_weight}, kl_warmup={self.kl_warmup}, particles={self.particles}"
            )

        if self.compile not in COMPILE:
            raise InferenceError(unknown_name("compile", self.compile, COMPILE))
        if self.compile == "always" and self.precision != SINGLE:
            raise InferenceError(f"steps in {self.precision} are not compiled: leave out compile='always' or precision")
        if not 0 <= self.averaging <= 1:
            raise InferenceError(
                f"averaging is the share of the steps that is averaged, from 0 to 1; found {self.averaging}"
            )
        check_draws(self.draws, type(self).__name__)

    def build_guide(self, model: Model) -> Guide:
        """The guide of a fresh state: what the priors declare, or mean field for a model without such priors."""
        return DeclaredGuide(model) if isinstance(model, BayesianNetwork) else MeanField(model)

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> VariationalState:
        guide = self.build_guide(model)
        held = size if held is None else held
        state = VariationalState(model, guide, self.build_optimizer, size, self.steps(held), held, seed)
        state.compiled = self.compile == "always"
        return state

    def build_optimizer(self, model: Model, guide: Guide) -> tuple[FlatParameters, torch.optim.Optimizer]:
        """The vectors that guide and point estimates are moved into, and a fresh optimizer over them."""
        rates = {**RATES, **self.rates}
        groups = [*guide.parameter_groups(rates)]
        groups += hyperparameter_groups(model, rates)
        free = [*model.free.parameters()]
        if free:
            groups.append({"params": free, "multiplier": rates["free"]})
        flat = FlatParameters(groups, is_elementwise(self.optimizer))
        return flat, build_optimizer(self.optimizer, flat.groups(), self.learning_rate)

    def beta(self, state: VariationalState) -> float:
        """β of the next step."""
        return warmed_up(self.kl_weight, state.progress, self.kl_warmup)

    def weights(self, state: VariationalState, batch: Batch, beta: float) -> tuple[float, float]:
        """Of data and complexity in what the next step descends: over an epoch, the tempered negative ELBO."""
        return 1.0, beta

    def objective(self, state: VariationalState, batch: Batch, terms: ElboTerms, beta: float) -> torch.Tensor:
        """What the next step descends, total nats."""
        return weighted(terms, *self.weights(state, batch, beta), 1.0)

    def step(self, state: VariationalState, batch: Batch) -> Info:
        beta = self.beta(state)
        rate = self.begin(state)
        state.input_shape = tuple(batch[0].shape[1:]) if batch else ()
        data = complexity = 0.0
        weights = self.weights(state, batch, beta)
        # per example, so that clipping and any optimizer see a scale that does not depend on N
        estimates = 1 if self.side_by_side(state) else self.particles
        total = float(state.size * estimates)
        for part, share in self.passes(state, batch) * estimates:
            terms = self.one_estimate(state, part, (share * weights[0], share * weights[1]), total)
            data += share * float(terms.data.detach()) / estimates
            complexity += share * float(terms.complexity.detach()) / estimates
            if isinstance(terms, ScoreTerms):
                # after its gradient: a baseline must not know the sample that it is taken from
                state.baseline = state.baseline.after(terms)
        self.finish(state)
        self.average(state)
        return Info(data, complexity + state.left_nats, beta, rate)

    def average(self, state: VariationalState) -> None:
        """Polyak-Ruppert averaging: the mean of the last iterates takes the place of the very last one."""
        done, planned = state.steps_done, state.steps_planned
        if average_last(state.averages, state.trained(), done=done, planned=planned, share=self.averaging):
            # a mean of numbers at a bound may be rounded beyond it
            state.project()

    def one_estimate(
        self, state: VariationalState, batch: Batch, weights: tuple[float, float], total: float
    ) -> ElboTerms:
        """One estimate of the terms, and the gradient of the objective from it."""
        if self.traceable(state):
            # the last batch of an epoch may be of another size and comes too seldom to pay for being compiled
            usual = state.ranks.share_size(batch_sizes(state.held, self.batch_size)[0])
            whole = not state.held or examples_of(batch) == usual
            often = whole and state.steps_done >= TRACE_AFTER
            recorded, compile_it = self.recorded(state), state.compiled and whole
            adam = state.adam() if compile_it and self.may_move_at_once(state) else None
            found = recorded.descend(
                batch, weights, total, state.noise, at_once=often, compile_it=compile_it, adam=adam
            )
            if found is not None:
                state.has_moved = found.moved
                refuse_non_finite(found.loss, self.where(state), {**found.terms.by_site, "y": found.terms.data})
                return found.terms
        with DrawnFrom(state.noise):
            terms = self.estimate(state, batch)
        self.descend(state, weighted(terms, *weights, total), {**terms.by_site, "y": terms.data})
        return terms

    def recorded(self, state: VariationalState) -> TracedTerms:
        """The recorded step; decides whether to compile it."""
        if state.traced is None:
            state.traced = TracedTerms(
                state.modules.values(),
                state.flat,
                lambda batch: self.terms(state, batch),
                (state.model, state.guide),
                state.project,
            )
        if self.compile == "auto" and not state.compiled:
            state.compiled = state.traced.is_worth_compiling(state.steps_planned - state.steps_done)
        return state.traced

    def may_move_at_once(self, state: VariationalState) -> bool:
        """Whether nothing comes between the gradient of one estimate and the step of Adam."""
        alone = self.clip is None and self.accumulate == 1 and state.ranks.count == 1
        alone = alone and (self.particles == 1 or self.side_by_side(state))
        return alone and Adam.is_plain(state.optimizer)

    def move(self, state: VariationalState) -> None:
        if not state.has_moved:
            super().move(state)
        state.has_moved = False

    def traceable(self, state: VariationalState) -> bool:
        """Whether a step does the same at every call, but for noise and batch statistics, and is worth a recording."""
        alike = not state.has_buffers and self.precision == SINGLE
        return alike and not is_unrolled(state.model)

    def side_by_side(self, state: VariationalState) -> bool:
        """Whether `terms` is the mean over all particles."""
        # noise of local sites would be the same for all particles
        local = isinstance(state.model, BayesianNetwork) and state.model.has_local_sites
        return self.particles > 1 and isinstance(state.guide, JointGuide) and self.traceable(state) and not local

    @abstractmethod
    def terms(self, state: VariationalState, batch: Batch) -> ElboTerms:
        """One estimate of the ELBO's terms on a batch, of all particles if they are `side_by_side`."""

    def estimated(
        self, state: VariationalState, batch: Batch, handler: Messenger | None, divergence: Divergence | None
    ) -> ElboTerms:
        """The ELBO's terms with that handler around the guide, or the mean over particles that are side by side."""

        def guide(*args: Any, **kwargs: Any) -> None:
            # `.forward`, not a call: a PyroModule that is called registers its parameters in the global store
            state.guide.forward(*args, **kwargs)
            if isinstance(state.model, BayesianNetwork):
                state.model.bounded_guide(*args, **kwargs)

        model = state.model.bounded if isinstance(state.model, BayesianNetwork) else state.model.forward

        def estimate(handler: Messenger | None) -> ElboTerms:
            terms = elbo_terms(model, guide, handler, *batch, size=state.size, divergence=divergence)
            return terms.with_complexity(state.model.hyper.complexity_nats())

        if not self.side_by_side(state):
            return estimate(handler)
        assert isinstance(state.guide, JointGuide)
        return side_by_side(estimate, state.guide.distribution().rsample((self.particles,)))

    def draw(self, state: VariationalState) -> Posterior:
        model, guide = state.whole_pair()
        if isinstance(guide, DeclaredGuide) and guide.is_closed_form:
            assert isinstance(model, BayesianNetwork)
            return posterior_from_guide(model, guide)
        count = number_of_draws(self.draws, guide.width)
        if isinstance(guide, UserGuide):
            return guide.posterior(count, state.seed)
        posterior = posterior_from_draws(model, guide.draws(model, count, state.seed), "guide")
        # exact where there is a closed form; what is made of other sites keeps the moments of the draws
        exact = exact_moments(model, guide)
        parameters = {name: exact.get(name, found) for name, found in posterior.parameters.items()}
        parameters |= point_estimates(model)
        family = described(guide) if isinstance(guide, JointGuide) else {}
        return replace(posterior, parameters=parameters, provenance={"moments": MOMENTS, **family})

    def between_rounds(self, state: VariationalState) -> None:
        if not self.may_shrink(state):
            return
        assert isinstance(state.model, BayesianNetwork) and isinstance(state.guide, DeclaredGuide)
        if state.whole is None:
            state.whole = ShrinkingNetwork(state.model, state.guide, state.input_shape)
            if state.whole.architecture is None:
                self.refuse_shrinking()
        whole, former, flat = state.whole, state.optimizer, state.flat
        whole.write_back()
        leaving = whole.find_removal(parameter_moments(whole.model, whole.guide.moments()))
        # one answer for all ranks: shares of unequal size may have been compiled on one of them only
        if leaving is not None and state.ranks.from_first(lambda: self.pays(state, leaving.multiply_adds_spared)):
            remembered = whole.spread(flat.parts(former))
            state.go_on_with(whole.narrow(leaving))
            state.flat.remember(state.optimizer, whole.cut(remembered), former)

    def may_shrink(self, state: VariationalState) -> bool:
        """Whether what is switched off leaves the tensors."""
        return False

    def pays(self, state: VariationalState, multiply_adds: int) -> bool:
        """Whether the steps that are left pay for compiling one that spares so many multiply-adds per example."""
        if self.compile == "always" or not state.compiled or state.traced is None:
            return True
        examples = self.examples_per_step * (state.steps_planned - state.steps_done) / state.ranks.count
        return state.traced.is_worth_compiling_anew(examples * multiply_adds)

    def refuse_shrinking(self) -> None:
        """Told that the network cannot shrink."""
        return

    def draw_for_validation(self, state: VariationalState) -> Posterior:
        if isinstance(state.guide, DeclaredGuide) and state.guide.is_closed_form:
            return self.draw(state)
        if isinstance(state.model, BayesianNetwork):
            return Posterior(parameter_moments(state.model, state.guide.moments()), {}, buffer_arrays(state.model))
        return Posterior(exact_moments(state.model, state.guide) | point_estimates(state.model))
