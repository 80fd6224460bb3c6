"""Stochastic variational inference with the guides that the priors declare, or one of the user's own.

    minimise  −(N/n) Σ_i E_q log p(y_i | x_i, w) + β KL(q(w) ‖ p(w))

β = 1 is Bayes; every result records the β that was used (Hoffman et al. 2013; Kingma & Welling 2014).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyro_compress.errors import InferenceError, SharedDrawsWarning, unknown_name, warn
from pyro_compress.inference.contract import Info, Method, Model, left_at_defaults
from pyro_compress.inference.defaults.best_normal import left_to_choose
from pyro_compress.inference.gradient.elbo import Divergence, ElboTerms, closed_form, sampled
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.falling_back import said, sites_drawn_once
from pyro_compress.inference.guides.flipout import Flipout
from pyro_compress.inference.guides.guide import Guide
from pyro_compress.inference.guides.joint import FullRank, LowRank, sticking_the_landing
from pyro_compress.inference.guides.local_reparameterization import LocalReparameterization
from pyro_compress.inference.guides.user import UserGuide
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.inference.speed.flat_parameters import is_elementwise
from pyro_compress.inference.variational.base import VariationalMethod
from pyro_compress.inference.variational.codes import importance_weighted_terms, with_free_bits
from pyro_compress.inference.variational.score_function import Baseline, ScoreFunction, score_terms
from pyro_compress.inference.variational.state import VariationalState
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.generative.vae import VAE
from pyro_compress.posterior.posterior import Posterior

# effect handler around the guide by the estimator's name; the score function has an ELBO of its own
HANDLERS: Mapping[str, type[LocalReparameterization] | None] = {
    "local": LocalReparameterization,
    "shared": None,
    "flipout": Flipout,
    "score": None,
}
GUIDES = ("declared", "full-rank", "low-rank")
ENTROPIES = ("sampled", "exact")


@dataclass(frozen=True)
class SVI(VariationalMethod):
    """Stochastic variational inference.

    Args:
        epochs: passes over the training data.
        batch_size: examples per pass.
        rate_warmup, accumulate: a rise of the rate before the schedule, and passes per step, see `GradientMethod`.
        learning_rate: base rate of the optimizer.  Where nothing but the guide is set, a Pyro model is fitted by
            Newton's method in place of this and the two before (`inference.defaults.best_normal`).
        optimizer: name of a torch optimizer ('adam' is fused) or a callable (groups, lr=...).
        schedule: of the rate: 'hold-then-linear', 'linear', 'cosine', 'constant' or a function of progress in [0, 1].
        clip: largest norm of the gradient of the objective per example, or None.
        precision: of the network's products and convolutions, 'single' or 'bfloat16'.
        rates: multipliers of the base rate by role: 'weight' 1, 'scale' 5, 'log_variance' 3, 'free' 1 (point
            estimates), 'hyper' 1 (of priors), 'guide' 1 (parameters of a guide of your own), 'other' 1; those not named
            stay.
        kl_weight: β.
        kl_warmup: share of the run over which β rises linearly from 0.
        particles: estimates of the ELBO averaged per step.
        averaging: share of the steps, the last ones, whose parameters are averaged for the posterior.
        draws: of a guide that has no closed form, how many the posterior carries; None is 1,000, or as many as 256 MiB
            hold.
        compile: 'never', 'always', or 'auto': once the steps that are left pay for it.
        estimator: 'local' (local reparameterization), 'flipout' (one weight sample per batch, signs per example),
            'shared' (one weight sample per batch) or 'score' (score function: no gradient through samples).  None
            is 'local' with the declared guide and 'shared' with the others, which allow for that and 'score' alone, and
            so do likelihoods that are no product over examples, of which noise per example is no draw of the weights.
        baseline: with 'score', whether running means over the steps before are subtracted.
        guide: 'declared' (what the priors declare, sites and weights independent), 'full-rank' or 'low-rank': one
            normal over all latent numbers, log-normal sites on a log scale.  A model that is no `BayesianNetwork`
            declares nothing: its sites are independent normals in unconstrained space.  Or, for a Pyro model, a guide
            of your own: a callable or module that is called with what the model is called with, or an `AutoGuide`, its
            class or an instance; log q is then taken at the draw, as in Pyro's `Trace_ELBO`, and by the score function
            at sites that have no other gradient.
        rank: of 'low-rank'; None is 10, or as many as there are latent numbers.
        shrink: whether units that the posterior has switched off leave the network while it is trained, see
            `inference.variational.shrinking`.  None: where priors say what is off (group priors, log-uniform) and the
            network can.
        entropy: of a guide over all sites: 'sampled', with gradients through the sample alone, which have no noise left
            where the guide is the posterior, or 'exact', which has less where no member of the family comes near it.
            Of a guide of your own: 'exact' takes KLs in closed form where there is one.
        code_samples: K, codes drawn per example of a VAE; above 1 the importance-weighted bound takes the place of the
            ELBO, with one draw of the weights per batch (`inference.variational.codes`); its codes have no KL of their
            own, so that β is of the weights alone.
        free_bits: λ, nats below which the KL of no number of a VAE's code counts less (Kingma et al. 2016).
    """

    estimator: str | None = None
    baseline: bool = True
    guide: str | Callable[..., Any] = "declared"
    rank: int | None = None
    shrink: bool | None = None
    entropy: str = "sampled"
    code_samples: int = 1
    free_bits: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.estimator is not None and self.estimator not in HANDLERS:
            raise InferenceError(unknown_name("estimator", self.estimator, HANDLERS))
        if isinstance(self.guide, str) and self.guide not in GUIDES:
            raise InferenceError(unknown_name("guide", self.guide, GUIDES))
        if self.entropy not in ENTROPIES:
            raise InferenceError(unknown_name("entropy", self.entropy, ENTROPIES))
        if self.guide != "declared" and self.estimator in ("local", "flipout"):
            raise InferenceError(
                f"estimator '{self.estimator}' needs independent weights, which guide '{self._guide_name}' does not "
                "have: use 'shared' or 'score'"
            )
        if self.shrink and (self.guide != "declared" or not is_elementwise(self.optimizer)):
            raise InferenceError(
                "shrink=True needs the declared guide and an optimizer by name that treats every number by itself, "
                f"such as 'adam'; found guide='{self._guide_name}', optimizer={self.optimizer!r}"
            )
        if self.rank is not None and self.rank < 1:
            raise InferenceError(f"the rank of a low-rank guide must be at least 1, found rank={self.rank}")
        self._check_codes()

    def _check_codes(self) -> None:
        if self.code_samples < 1 or not 0 <= self.free_bits < math.inf:
            raise InferenceError(
                f"SVI needs code_samples of at least 1 and free_bits ≥ 0, found code_samples={self.code_samples}, "
                f"free_bits={self.free_bits}"
            )
        if self.code_samples == 1:
            return
        if self.estimator not in (None, "shared"):
            raise InferenceError(
                f"an importance-weighted bound has one draw of the weights for all codes, and estimator "
                f"'{self.estimator}' draws others for each: leave it out, or take code_samples=1"
            )
        if self.free_bits:
            raise InferenceError(
                "an importance-weighted bound has no KL of codes, of which some bits could be free: take "
                f"code_samples=1 or free_bits=0, found code_samples={self.code_samples}, free_bits={self.free_bits}"
            )

    def for_model(self, model: Model, feed: Feed) -> Method:
        """`BestNormal` for a Pyro model, where nothing but the guide was set."""
        mine = ("guide", "draws", "compile", "rank", "shrink")
        if self.guide not in ("declared", "full-rank") or not left_at_defaults(self, mine):
            return self
        independent = None if self.guide == "declared" else False
        return left_to_choose(model, feed, self.draws, independent=independent) or self

    @property
    def _guide_name(self) -> str:
        return self.guide if isinstance(self.guide, str) else getattr(self.guide, "__name__", type(self.guide).__name__)

    def _estimator(self, model: Model, guide: Guide) -> str:
        """The one that was asked for, else what serves guide and likelihood."""
        if self.estimator is not None:
            return self.estimator
        return "local" if isinstance(guide, DeclaredGuide) and not _couples_examples(model) else "shared"

    def build_guide(self, model: Model) -> Guide:
        if self.estimator in ("local", "flipout") and isinstance(model, BayesianNetwork) and _couples_examples(model):
            raise InferenceError(
                f"estimator '{self.estimator}' has noise of its own for every example, and "
                f"{type(model.likelihood).__name__}'s likelihood is no product over examples, so that it takes one "
                "draw of the weights for all: leave the estimator out, or use 'shared'"
            )
        if self.estimator == "score" and isinstance(model, BayesianNetwork) and model.has_local_sites:
            raise InferenceError(
                f"estimator 'score' takes no codes of single examples, as a {type(model).__name__} has: leave it out"
            )
        if (self.code_samples > 1 or self.free_bits) and not isinstance(model, VAE):
            raise InferenceError(
                f"code_samples and free_bits are of the codes of a VAE, which a {type(model).__name__} has not: leave "
                "them out"
            )
        if not isinstance(self.guide, str):
            return self._user_guide(model, self.guide)
        if self.guide == "full-rank":
            return FullRank(model)
        return LowRank(model, self.rank) if self.guide == "low-rank" else super().build_guide(model)

    def _user_guide(self, model: Model, function: Callable[..., Any]) -> UserGuide:
        if isinstance(model, BayesianNetwork):
            raise InferenceError(
                "a BayesianNetwork's guide is what its priors declare: SVI takes 'declared', 'full-rank' or 'low-rank' "
                "there, and a guide of your own for Pyro models"
            )
        guide = UserGuide(model, function)
        if guide.sites.scored and self.estimator == "shared":
            raise InferenceError(
                f"the guide {guide.name} draws from distributions without a gradient through the sample, which "
                "estimator 'shared' needs: leave the estimator out, or use 'score'"
            )
        if self.entropy == "exact" and guide.sites.order != tuple(model.sites):
            raise InferenceError(
                f"entropy='exact' takes KLs site by site, and needs a guide that draws them in the model's order "
                f"({', '.join(model.sites)}): found {', '.join(guide.sites.order)}"
            )
        return guide

    def may_shrink(self, state: VariationalState) -> bool:
        if self.shrink is False or not isinstance(state.guide, DeclaredGuide) or not is_elementwise(self.optimizer):
            return False
        # averages are of tensors that keep their shapes
        if state.progress < self.kl_warmup or state.averages:
            return False
        return self.shrink or any(prior.criterion is not None for _, prior in state.model.parameters_covered)

    def refuse_shrinking(self) -> None:
        if self.shrink:
            raise InferenceError(
                "shrink=True needs a network of dense layers, convolutions (of one group, or depthwise), batch norms "
                "and what treats every entry alike, without frozen parameters and without sizes written into its "
                "forward pass, and priors that say along which axes their sites run: leave shrink out"
            )

    def traceable(self, state: VariationalState) -> bool:
        # a score function's baseline moves
        scored = isinstance(state.guide, UserGuide) and state.guide.sites.scored
        return self.estimator != "score" and not scored and super().traceable(state)

    def draw(self, state: VariationalState) -> Posterior:
        found, estimator = super().draw(state), self._estimator(state.model, state.guide)
        return replace(found, provenance={**found.provenance, "estimator": estimator})

    def step(self, state: VariationalState, batch: Batch) -> Info:
        if state.shared is None:
            state.shared = self._find_shared(state, batch)
        return super().step(state, batch)

    def _find_shared(self, state: VariationalState, batch: Batch) -> frozenset[str]:
        """The sites that the estimator cannot serve; a fit says once which weights are drawn once."""
        estimator = self._estimator(state.model, state.guide)
        handler = HANDLERS[estimator]
        model, declared = state.model, isinstance(state.guide, DeclaredGuide)
        if handler is None or not declared or not isinstance(model, BayesianNetwork) or self.code_samples > 1:
            return frozenset()
        shared, names = sites_drawn_once(model, state.guide, handler, batch)
        if names and not state.steps_done and state.ranks.first:
            warn(f"{type(self).__name__}: {said(names, estimator)}", SharedDrawsWarning)
        return shared

    def terms(self, state: VariationalState, batch: Batch) -> ElboTerms:
        """One estimate of the ELBO's terms on a batch."""
        declared, users = isinstance(state.guide, DeclaredGuide), isinstance(state.guide, UserGuide)
        estimator = self._estimator(state.model, state.guide)
        if estimator == "score" or (users and state.guide.sites.scored):
            baseline = state.baseline if self.baseline else Baseline()
            scored = ScoreFunction(everywhere=estimator == "score")
            model, guide, size = state.model.forward, state.guide.forward, state.size
            terms = score_terms(model, guide, baseline, *batch, size=size, handler=scored, independent=not users)
            return terms.with_complexity(state.model.hyper.complexity_nats())
        handler = HANDLERS[estimator]
        exact = declared or self.entropy == "exact"
        divergence: Divergence = closed_form if exact else sampled if users else sticking_the_landing
        if self.code_samples > 1:
            return importance_weighted_terms(state, batch, self.code_samples, divergence)
        if self.free_bits:
            divergence = with_free_bits(divergence, self.free_bits)
        fine = isinstance(state.model, BayesianNetwork) and not state.model.likelihood.counts_errors
        around = None if handler is None else handler(state.shared or (), fine=fine)
        return self.estimated(state, batch, around, divergence)


def _couples_examples(model: Model) -> bool:
    return isinstance(model, BayesianNetwork) and not model.likelihood.factorises
