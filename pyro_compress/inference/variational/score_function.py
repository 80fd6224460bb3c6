"""The score-function estimator (REINFORCE, Williams 1992; black-box variational inference, Ranganath et al. 2014).

    ∇ E_q f(w) = E_q (f(w) − b) ∇ log q(w)

for whatever the sample decides: the log-likelihood, and log p(w) where a KL has no closed form.  No gradient passes
through the sample, so it serves any q with a density; the price is variance.  b may be anything that does not depend
on the sample, such as the running mean of f over the steps before.
"""

from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_compress.inference.gradient.elbo import (
    ElboTerms,
    closed_kl,
    entropy_nats,
    guide_and_model_traces,
    is_delta,
    sampled,
    terms_from_traces,
)
from pyro_compress.models.kl import base_of
from pyro_compress.models.sites import log_prob, weighted_total


class ScoreFunction(Messenger):
    """Replaces samples by copies through which no gradient reaches the guide.

    Args:
        everywhere: at all sites, or at those alone that have no other gradient.
    """

    def __init__(self, everywhere: bool = True) -> None:
        super().__init__()
        self.everywhere = everywhere

    def takes(self, site: Any) -> bool:
        """Whether a site of the guide is drawn so."""
        if site["is_observed"] or site_is_subsample(site) or is_delta(site["fn"]):
            return False
        return self.everywhere or not site["fn"].has_rsample

    def _pyro_sample(self, message: Any) -> None:
        if message["done"] or not self.takes(message):
            return
        value = message["fn"].sample().detach()
        # gradients end here, and what asks for one depends on the sample
        message["value"] = value.requires_grad_() if value.is_floating_point() else value
        message["done"] = True


@dataclass(frozen=True)
class ScoreTerms(ElboTerms):
    """Adds what a baseline is the mean of.

    Attributes:
        decided: the part of the complexity that the sample decides.
    """

    decided: torch.Tensor


@dataclass(frozen=True)
class Baseline:
    """b for either term of the ELBO, total nats: exponential running means.

    Attributes:
        data, complexity: means so far; 0 before the first step.
        steps: estimates taken over so far.
    """

    data: float = 0.0
    complexity: float = 0.0
    steps: int = 0

    def after(self, terms: ScoreTerms, keep: float = 0.9) -> "Baseline":
        """The means with one more estimate."""
        keep = keep if self.steps else 0.0
        data, decided = float(terms.data.detach()), float(terms.decided)
        return Baseline(
            keep * self.data + (1 - keep) * data, keep * self.complexity + (1 - keep) * decided, self.steps + 1
        )


def score_terms(
    model: Any,
    guide: Any,
    baseline: Baseline,
    *args: Any,
    handler: ScoreFunction | None = None,
    independent: bool = True,
    **kwargs: Any,
) -> ScoreTerms:
    """The ELBO's terms with gradients by the score function.

    Values are those of `elbo_terms`, and closed-form KLs keep their exact gradient.

    Args:
        model, guide: as for `elbo_terms`.
        baseline: b, made of other samples than this one.
        *args, **kwargs: given to both.
        handler: says at which sites of the guide; at all if not given.
        independent: whether the guide's parameters depend on nothing that it draws; else no KL is taken in closed form.
    """
    handler = handler or ScoreFunction()
    guide_trace, model_trace = guide_and_model_traces(model, guide, handler, *args, **kwargs)
    decided = torch.zeros(())

    def divergence(q: Any, p: Any) -> torch.Tensor:
        nonlocal decided
        if independent:
            nats, by_sample = _nats_and_decided(q, p)
        else:
            nats = by_sample = sampled(q, p)
        decided = decided + by_sample.detach()
        return nats

    terms = terms_from_traces(model_trace, guide_trace, divergence)
    sites = guide_trace.nodes.values()
    # of what was drawn: no scale and no mask changes with which density
    drawn = (log_prob(s, s["value"].detach()).sum() for s in sites if s["type"] == "sample" and handler.takes(s))
    log_q = sum(drawn, torch.zeros(()))
    score = log_q - log_q.detach()  # worth 0, with the gradient of log q
    data = terms.data + (terms.data.detach() - baseline.data) * score
    complexity = terms.complexity + (decided - baseline.complexity) * score
    return ScoreTerms(data, complexity, terms.by_site, decided)


def _nats_and_decided(q: Any, p: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What a site adds to the complexity, and which part of it the sample decides."""
    nothing = torch.zeros(())
    if p is None:
        return -entropy_nats(q), nothing
    if is_delta(q["fn"]):
        nats = sampled(q, p)
        return nats, nats
    closed = closed_kl(q, p)
    if closed is None:
        cross = -weighted_total(p, log_prob(p, q["value"]))
        return cross - entropy_nats(q), cross
    return closed, closed if _depends_on_others(p["fn"]) else nothing


def _depends_on_others(p: Any) -> bool:
    """Whether the prior's parameters may be made of other latent values, which ask for gradients here."""
    base = base_of(p)
    values = (getattr(base, name) for name in base.arg_constraints)
    return any(isinstance(value, torch.Tensor) and value.requires_grad for value in values)
