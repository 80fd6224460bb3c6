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
    base_of,
    closed_kl,
    entropy_nats,
    guide_and_model_traces,
    is_delta,
    sampled,
    terms_from_traces,
)
from pyro_compress.models.sites import log_prob, weighted_total


class ScoreFunction(Messenger):
    """Replaces samples by copies through which no gradient reaches the guide."""

    def _pyro_sample(self, message: Any) -> None:
        if message["is_observed"] or message["done"] or site_is_subsample(message) or is_delta(message["fn"]):
            return
        # gradients end here, and what asks for one depends on the sample
        message["value"] = message["fn"].sample().detach().requires_grad_()
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


def score_terms(model: Any, guide: Any, baseline: Baseline, *args: Any, **kwargs: Any) -> ScoreTerms:
    """The ELBO's terms with gradients by the score function.

    Values are those of `elbo_terms`, and closed-form KLs keep their exact gradient.

    Args:
        model, guide: as for `elbo_terms`.
        baseline: b, made of other samples than this one.
        *args, **kwargs: given to both.
    """
    guide_trace, model_trace = guide_and_model_traces(model, guide, ScoreFunction(), *args, **kwargs)
    decided = torch.zeros(())

    def divergence(q: Any, p: Any) -> torch.Tensor:
        nonlocal decided
        nats, by_sample = _nats_and_decided(q, p)
        decided = decided + by_sample.detach()
        return nats

    terms = terms_from_traces(model_trace, guide_trace, divergence)
    sites = guide_trace.nodes.values()
    drawn = [s for s in sites if s["type"] == "sample" and not site_is_subsample(s) and not is_delta(s["fn"])]
    # of what was drawn: no scale and no mask changes with which density
    log_q = sum((log_prob(site, site["value"].detach()).sum() for site in drawn), torch.zeros(()))
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
