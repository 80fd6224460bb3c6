"""Bounds on the log-likelihood of single examples, in nats, at given weights w.

With K codes z_k ~ q(z | x) and the importance weights  w_k = p(x | z_k, w) p(z_k) / q(z_k | x):

    ELBO = E_q ln p(x | z, w) − KL(q(z | x) ‖ p(z))          (Kingma & Welling 2014)
    L_K  = E ln 1/K Σ_k w_k                                  (Burda, Grosse & Salakhutdinov 2016)

ELBO = L_1 ≤ L_K ≤ L_{K+1} ≤ ln p(x | w), to which L_K tends: with K = 5000 it is the customary estimate of that.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_compress.data.generators import noise_of
from pyro_compress.errors import NetworkError
from pyro_compress.models.likelihoods import Likelihood

if TYPE_CHECKING:
    # which takes its errors from here
    from pyro_compress.models.generative.vae import VAE


def log_weights(
    model: "VAE", values: Mapping[str, Any], x: Tensor, y: Tensor | None, samples: int, latent: Tensor | None = None
) -> Tensor:
    """ln w_k of codes that are drawn here, (samples, examples), with gradients through the codes.

    Args:
        model: whose mode, training or evaluation, is left as it is.
        values: of the parameters of encoder and decoder, by name; and of the likelihood's own latent site, such as an
            unknown noise, where it has one and `latent` is not given.  `model.values_at(posterior)` has all.
        x: inputs, (examples, ...).
        y: targets, or None for x.
        samples: K.
        latent: of the likelihood's own latent site, where it has one.

    Raises:
        NetworkError: that is given in neither.
    """
    values, latent = _with_latent(model, values, latent)
    q = model.codes.posterior(model.encode(values, x))
    z = q.rsample(torch.Size([samples]))
    likelihood = _log_likelihood(model, values, z, x, y, latent)
    return likelihood + model.codes.prior().log_prob(z) - q.log_prob(z)


def importance_weighted(weights: Tensor) -> Tensor:
    """ln 1/K Σ_k w_k, (examples,), of the logarithms of weights, (K, examples)."""
    return weights.logsumexp(0) - math.log(len(weights))


def elbo(
    model: "VAE",
    values: Mapping[str, Any],
    x: Tensor,
    y: Tensor | None = None,
    *,
    samples: int = 1,
    seed: int = 0,
    rows: int = 1000,
) -> Tensor:
    """The ELBO of every example, (examples,), with the KL of its code in closed form.

    Args:
        model, values, x, y: as of `log_weights`, with its errors; the network is put into evaluation mode.
        samples: codes per example over which ln p(x | z) is averaged.
        seed: of the codes; torch's own generator stays as it is.
        rows: codes that are decoded at once.
    """
    _refuse_none(samples)
    found, (values, latent) = [], _with_latent(model, values)
    with _evaluating(model, x, seed):
        for part, target in _parts(x, y, max(1, rows // samples)):
            q = model.codes.posterior(model.encode(values, part))
            likelihood = _log_likelihood(model, values, q.rsample(torch.Size([samples])), part, target, latent)
            found.append(likelihood.mean(0) - kl_divergence(q, model.codes.prior().expand(q.batch_shape)))
    return torch.cat(found)


def log_likelihood(
    model: "VAE",
    values: Mapping[str, Any],
    x: Tensor,
    y: Tensor | None = None,
    *,
    samples: int = 5000,
    seed: int = 0,
    rows: int = 5000,
) -> Tensor:
    """ln 1/K Σ_k w_k of every example, (examples,): in expectation the bound L_K, which is ln p(x | w) for large K.

    Args:
        model, values, x, y, seed, rows: as of `elbo`.
        samples: K.
    """
    _refuse_none(samples)
    found = []
    with _evaluating(model, x, seed):
        for part, target in _parts(x, y, max(1, rows // samples)):
            total = part.new_full((len(part),), -math.inf)
            for start in range(0, samples, rows):
                weights = log_weights(model, values, part, target, min(rows, samples - start))
                total = torch.logaddexp(total, weights.logsumexp(0))
            found.append(total - math.log(samples))
    return torch.cat(found)


def _log_likelihood(
    model: "VAE", values: Mapping[str, Any], z: Tensor, x: Tensor, y: Tensor | None, latent: Tensor | None = None
) -> Tensor:
    """ln p(x | z, w) of codes (samples, examples, *shape): (samples, examples)."""
    output = model.decode(values, z.flatten(0, 1))
    target = model.target(x, y, output[: len(x)])
    return log_prob_by_code(model.likelihood, output, target, z.shape[:2], latent)


def log_prob_by_code(
    likelihood: Likelihood, output: Tensor, target: Tensor, codes: torch.Size, latent: Tensor | None = None
) -> Tensor:
    """ln p(target | output) of several codes per example, in the shape of `codes`.

    Args:
        likelihood: p(target | output).
        output: a row per code.
        target: a row per example.
        codes: (*others, examples), as the rows of `output` follow each other.
        latent: of the likelihood's own latent site, where it has one.
    """
    likelihood.check(output[: len(target)], target)
    # one row per code: what a likelihood makes of further axes is its own
    repeated = target.expand(*codes, *target.shape[1:]).flatten(0, len(codes) - 1)
    return likelihood.log_prob(output, repeated, latent).unflatten(0, codes)


def _with_latent(
    model: "VAE", values: Mapping[str, Any], latent: Tensor | None = None
) -> tuple[Mapping[str, Any], Tensor | None]:
    """The values, and that of the likelihood's own latent site."""
    own = [site.name for site in model.likelihood.latents()]
    held = [values[name] for name in own if name in values]
    if own and latent is None and not held:
        raise NetworkError(
            f"a bound needs a value of '{own[0]}', which the {type(model.likelihood).__name__} likelihood has to be "
            f"inferred: give values=model.values_at(posterior), or '{own[0]}' among the values"
        )
    return values, latent if latent is not None or not held else held[0]


def _parts(x: Tensor, y: Tensor | None, count: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    for start in range(0, len(x), count):
        yield x[start : start + count], None if y is None else y[start : start + count]


@contextmanager
def _evaluating(model: "VAE", x: Tensor, seed: int) -> Iterator[None]:
    model.network.eval()
    with torch.no_grad(), noise_of(seed, x.device):
        yield


def _refuse_none(samples: int) -> None:
    if samples < 1:
        raise NetworkError(f"a bound takes at least one code per example, found samples={samples}")
