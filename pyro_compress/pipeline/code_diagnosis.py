"""What a VAE's encoder is held against: importance weights of codes, at the posterior mean of all parameters."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pyro_compress.analysis.diagnosis.code_flags import code_flags
from pyro_compress.data.generators import generator_for, noise_of
from pyro_compress.models.generative.activity import active_units
from pyro_compress.models.generative.bounds import log_weights
from pyro_compress.models.generative.vae import VAE
from pyro_compress.posterior.posterior import Flag, Posterior

# codes that are decoded at once
ROWS = 20_000
SEED = 20180210


def flags_of_codes(
    posterior: Posterior,
    model: VAE,
    x: torch.Tensor,
    found: dict[str, Any],
    *,
    examples: int = 100,
    codes: int = 1000,
) -> Iterator[Flag]:
    """The flags of `analysis.diagnosis.code_flags`, of some examples drawn from these with a seed of its own.

    Args:
        posterior: of the model; its means are looked at.
        model: whose network is put into evaluation mode.
        x: inputs, (examples, ...), as the fit saw them.
        found: takes the numbers.
        examples: most of them.
        codes: K, drawn for each.
    """
    values = {name: value.to(x.device) for name, value in model.values_at(posterior).items()}
    chosen = torch.randperm(len(x), generator=generator_for(SEED), device="cpu")[:examples].to(x.device)
    active = active_units(model, values, x[chosen], threshold=_least_variance(model))
    with torch.no_grad(), noise_of(SEED, x.device):
        weights = [log_weights(model, values, part, None, codes) for part in x[chosen].split(max(1, ROWS // codes))]
    yield from code_flags(torch.cat(weights, 1).cpu().numpy(), active.cpu().numpy(), found)


def in_words(found: Mapping[str, Any]) -> str:
    """The numbers of `flags_of_codes` for people."""
    said = f"codes: {found['active_code_numbers']} of {found['code_numbers']} numbers vary from example to example"
    if "codes_gap_nats" in found:
        said += (
            f"; at {found['codes_looked_at']} examples the ELBO lies {found['codes_gap_nats']:.2g} nats below the "
            f"bound of many codes, and Pareto k-hat of the codes is above 0.7 for {found['codes_far_percent']:.0f} %"
        )
    return said


def _least_variance(model: VAE) -> float:
    """A hundredth of the variance that a number of a code has under the prior."""
    with noise_of(SEED, torch.device("cpu")):
        return 0.01 * float(model.codes.prior().sample(torch.Size([2000])).var(0).mean())
