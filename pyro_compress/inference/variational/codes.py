"""What may be descended in place of the ELBO where examples have codes: importance-weighted bounds, free bits."""

from typing import Any

import pyro
import torch
from torch.distributions import kl_divergence

from pyro_compress.inference.gradient.elbo import Divergence, ElboTerms, elbo_terms
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.inference.variational.state import VariationalState
from pyro_compress.models.generative.bounds import importance_weighted, log_weights
from pyro_compress.models.generative.vae import CODE, VAE
from pyro_compress.models.kl import base_of


def importance_weighted_terms(
    state: VariationalState, batch: Batch, samples: int, divergence: Divergence | None
) -> ElboTerms:
    """Data nats (N/n) Σ_i ln 1/K Σ_k w_ik, with K codes per example; the complexity is that of weights alone.

    All codes of a batch see one draw of the weights: were each decoded with weights of its own, the logarithm would
    average over these too, and what is descended would be no bound on the evidence.

    Burda, Grosse & Salakhutdinov 2016.
    """
    model = state.model
    assert isinstance(model, VAE)

    def program(x: torch.Tensor, y: torch.Tensor | None = None, *, size: int) -> None:
        values, latent = model.sample_weights(), model.likelihood.sample_latents()
        with model.rows(x, size):
            pyro.factor("y", importance_weighted(log_weights(model, values, x, y, samples, latent)))

    terms = elbo_terms(program, state.guide.forward, None, *batch, size=state.size, divergence=divergence)
    return terms.with_complexity(model.hyper.complexity_nats())


def with_free_bits(divergence: Divergence, nats: float) -> Divergence:
    """A divergence by which codes count  N Σ_j max(λ, 1/n Σ_i KL(q(z_ij | x_i) ‖ p(z_j))), λ = `nats`.

    j runs over the numbers of a code where these are independent, else a code is one group.  What is below λ has no
    gradient, so that no number of the code is switched off for the sake of its KL (Kingma et al. 2016).
    """

    def freed(q: Any, p: Any) -> torch.Tensor:
        if q["name"] != CODE:
            return divergence(q, p)
        each = kl_divergence(base_of(q["fn"]), base_of(p["fn"]))
        # the plate's scale is N/n
        counted: torch.Tensor = q["scale"] * len(each) * each.mean(0).clamp(min=nats).sum()
        return counted

    return freed
