"""The evidence lower bound from two traces, in total nats.

    ELBO = (N/n) Σ_i log p(y_i | x_i, w) − KL(q(w) ‖ p(w)),   w ~ q

Pyro's own ELBO classes evaluate log-probabilities at every site, which lazy values do not have; here the latent
sites contribute their closed-form KL where one is registered and a one-sample estimate elsewhere.  A test holds
the value equal to Pyro's `TraceMeanField_ELBO`.  A guide over several sites at once draws them at an auxiliary site
and hands them on as `Delta`s that carry the change of variables, as Pyro's autoguides do.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine.messenger import Messenger
from torch.distributions import Independent

from pyro_compress.models.kl import kl_nats


@dataclass(frozen=True)
class ElboTerms:
    """Total nats over the data set: ELBO = data − complexity.

    Attributes:
        data: (N/n) Σ log-likelihood of the batch; negative for discrete targets.
        complexity: KL(q ‖ p).
        by_site: complexity per latent site.
    """

    data: torch.Tensor
    complexity: torch.Tensor
    by_site: dict[str, torch.Tensor]

    def objective(self, kl_weight: float) -> torch.Tensor:
        """Tempered negative ELBO, −data + β · complexity, to be minimised."""
        return kl_weight * self.complexity - self.data


# (q, p, value that the guide drew) -> total nats that a latent site adds to the complexity
Divergence = Callable[[Any, Any, Any], torch.Tensor]


def elbo_terms(
    model: Any,
    guide: Any,
    handler: Messenger | None,
    *args: Any,
    divergence: Divergence | None = None,
    **kwargs: Any,
) -> ElboTerms:
    """One estimate of the ELBO.

    Args:
        model: any Pyro model whose latent sites the guide covers.
        guide: its guide.
        handler: effect handler around the guide, such as `LocalReparameterization()`, or None.
        divergence: `closed_form` (the default) or `sampled`.
        *args, **kwargs: given to both.
    """
    guide_trace, model_trace = guide_and_model_traces(model, guide, handler, *args, **kwargs)
    return terms_from_traces(model_trace, guide_trace, divergence or closed_form)


def guide_and_model_traces(
    model: Any, guide: Any, handler: Messenger | None, *args: Any, **kwargs: Any
) -> tuple[Any, Any]:
    """The guide's trace under `handler`, and the model's with the guide's values."""
    with ExitStack() as stack:
        if handler is not None:
            stack.enter_context(handler)
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    return guide_trace, poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)


def terms_from_traces(model_trace: Any, guide_trace: Any, divergence: Divergence) -> ElboTerms:
    """Split the two traces into data and complexity nats."""
    data = torch.zeros(())
    by_site: dict[str, torch.Tensor] = {}
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample":
            continue
        if site["is_observed"]:
            data = data + site["scale"] * site["fn"].log_prob(site["value"]).sum()
        elif name in guide_trace.nodes:
            q = guide_trace.nodes[name]
            by_site[name] = site["scale"] * divergence(q["fn"], site["fn"], q["value"])
    for name, site in guide_trace.nodes.items():
        if site["type"] == "sample" and site["infer"].get("is_auxiliary"):
            by_site[name] = divergence(site["fn"], None, site["value"])
    complexity = sum(by_site.values(), torch.zeros(()))
    return ElboTerms(data, complexity, by_site)


def closed_form(q: Any, p: Any, value: Any) -> torch.Tensor:
    """KL(q ‖ p) where one is registered, else −H(q) − log p at a sample; −H(q) where there is no p."""
    if p is None:
        return -entropy_nats(q)
    if is_delta(q):
        return sampled(q, p, value)
    try:
        return kl_nats(q, p)
    except NotImplementedError:
        # −H(q) in closed form and only log p sampled: less variance than log q − log p
        return -entropy_nats(q) - p.log_prob(q.rsample()).sum()


def sampled(q: Any, p: Any, value: torch.Tensor) -> torch.Tensor:
    """log q − log p at the value that the guide drew."""
    log_q: torch.Tensor = q.log_prob(value).sum()
    return log_q if p is None else log_q - p.log_prob(value).sum()


def entropy_nats(distribution: Any) -> torch.Tensor:
    """Total entropy over all elements."""
    total: torch.Tensor = base_of(distribution).entropy().sum()
    return total


def is_delta(distribution: Any) -> bool:
    """Whether it is a value that was made of other draws."""
    return isinstance(base_of(distribution), Delta)


def base_of(distribution: Any) -> Any:
    """The distribution of single elements."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution
