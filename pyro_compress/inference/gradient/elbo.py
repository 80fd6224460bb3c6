"""The evidence lower bound from two traces, in total nats.

    ELBO = (N/n) Σ_i log p(y_i | x_i, w) − KL(q(w) ‖ p(w)),   w ~ q

Pyro's own ELBO classes evaluate log-probabilities at every site, which lazy values do not have; here the latent
sites contribute their closed-form KL where one is registered and a one-sample estimate elsewhere.  A test holds
the value equal to Pyro's `TraceMeanField_ELBO`.  A guide over several sites at once draws them at an auxiliary site
and hands them on as `Delta`s that carry the change of variables, as Pyro's autoguides do.

What `poutine.scale`, `poutine.mask` and plates ask for counts as in Pyro's `Trace_ELBO`: with s_p of a latent site in
the model and s_q of it in the guide, it adds E_q [s_q log q − s_p log p].
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch.distributions import kl_divergence

from pyro_compress.errors import InferenceError
from pyro_compress.models.kl import base_of, kl_nats
from pyro_compress.models.sites import log_prob, refuse_other_sites, weighted_total


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

    def with_complexity(self, nats: Mapping[str, torch.Tensor]) -> Self:
        """With more complexities, by name, such as those of hyper-parameters."""
        if not nats:
            return self
        total = self.complexity + sum(nats.values(), torch.zeros(()))
        return replace(self, complexity=total, by_site={**self.by_site, **nats})


# (latent site of the guide's trace, the same of the model's or None) -> total nats that it adds to the complexity
Divergence = Callable[[Any, Any], torch.Tensor]


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
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    drawn = {name for name, site in guide_trace.nodes.items() if site["type"] == "sample" and not is_auxiliary(site)}
    refuse_other_sites(model_trace, drawn)
    return guide_trace, model_trace


def terms_from_traces(model_trace: Any, guide_trace: Any, divergence: Divergence) -> ElboTerms:
    """Split the two traces into data and complexity nats."""
    data = torch.zeros(())
    by_site: dict[str, torch.Tensor] = {}
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        if site["is_observed"]:
            data = data + weighted_total(site, log_prob(site))
        else:
            by_site[name] = divergence(guide_trace.nodes[name], site)
    for name, site in guide_trace.nodes.items():
        if site["type"] == "sample" and is_auxiliary(site):
            by_site[name] = divergence(site, None)
    complexity = sum(by_site.values(), torch.zeros(()))
    return ElboTerms(data, complexity, by_site)


def closed_form(q: Any, p: Any) -> torch.Tensor:
    """KL(q ‖ p) where one is registered, else −H(q) − log p at a sample; −H(q) where there is no p."""
    if p is None:
        return -entropy_nats(q)
    if is_delta(q["fn"]):
        return sampled(q, p)
    closed = closed_kl(q, p)
    if closed is not None:
        return closed
    # −H(q) in closed form and only log p sampled: less variance than log q − log p
    return -entropy_nats(q) - weighted_total(p, log_prob(p, q["fn"].rsample()))


def sampled(q: Any, p: Any) -> torch.Tensor:
    """log q − log p at the value that the guide drew.

    Raises:
        InferenceError: the prior says with `sampled_complexity = False` that it counts as a divergence alone.
    """
    if p is not None and not getattr(base_of(p["fn"]), "sampled_complexity", True):
        raise InferenceError(
            f"site '{q['name']}': its prior, {type(base_of(p['fn'])).__name__}, makes a point estimate of the guide's "
            "own parameters and has no complexity at a sample: take --inference svi with its default estimator"
        )
    log_q = weighted_total(q, log_prob(q))
    return log_q if p is None else log_q - weighted_total(p, log_prob(p, q["value"]))


def closed_kl(q: Any, p: Any) -> torch.Tensor | None:
    """E_q [s_q log q − s_p log p] in closed form: s KL(q ‖ p) where both scales are s; None without a closed form."""
    numbers = isinstance(q["scale"], int | float) and isinstance(p["scale"], int | float)
    same = numbers and q["mask"] is None and p["mask"] is None
    try:
        if same and q["scale"] == p["scale"]:
            total = kl_nats(q["fn"], p["fn"])
            return total if p["scale"] == 1 else p["scale"] * total
        cross = _per_place(p["fn"], kl_divergence(base_of(q["fn"]), base_of(p["fn"])) + base_of(q["fn"]).entropy())
        return weighted_total(p, cross) - entropy_nats(q)
    except NotImplementedError:
        return None


def entropy_nats(q: Any) -> torch.Tensor:
    """Entropy of a guide's site over all its places, scaled and masked as the guide asks for."""
    return weighted_total(q, _per_place(q["fn"], base_of(q["fn"]).entropy()))


def _per_place(distribution: Any, elements: torch.Tensor) -> torch.Tensor:
    """Numbers of single elements, summed to the batch shape of a distribution."""
    within = len(distribution.event_shape) - len(base_of(distribution).event_shape)
    return elements.sum(tuple(range(-within, 0))) if within else elements


def is_auxiliary(site: Any) -> bool:
    """Whether a guide draws it to make other values of it."""
    return bool(site["infer"].get("is_auxiliary"))


def is_delta(distribution: Any) -> bool:
    """Whether it is a value that was made of other draws."""
    return isinstance(base_of(distribution), Delta)
