"""Whether an encoder's posteriors of single codes are those of the decoder's: k-hat and bounds of every example."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pyro_compress.analysis.diagnosis.psis import K_HAT_LIMIT, psis_k_hat
from pyro_compress.posterior.posterior import Flag

MOST_FAR = 0.5  # of the examples


def code_flags(log_weights: np.ndarray, active: np.ndarray, found: dict[str, Any]) -> Iterator[Flag]:
    """What importance weights w_k = p(x | z_k) p(z_k) / q(z_k | x) say of q(z | x), and which numbers of codes matter.

    The mean of ln w_k is the ELBO of an example, ln of their mean a bound above it that tends to ln p(x): what lies
    between is KL(q(z | x) ‖ p(z | x)) once K is large (Burda, Grosse & Salakhutdinov 2016).  k-hat of the weights says
    whether their mean can be trusted (Yao et al. 2018).

    Args:
        log_weights: ln w_k of codes drawn from the encoder's posterior, (K, examples).
        active: of every number of a code, whether it varies from example to example.
        found: takes the numbers.
    """
    active = np.asarray(active, dtype=bool)
    found |= {"code_numbers": int(active.size), "active_code_numbers": int(active.sum())}
    if not active.any():
        yield Flag(
            "codes_collapsed",
            "no number of the codes says anything of its example: the decoder does without them; let the KL rise more "
            "slowly (kl_warmup) or leave some of it free (SVI(free_bits=...))",
        )
    usable = np.isfinite(log_weights).all(0)
    if not usable.any():
        yield Flag("codes_pareto_k", "importance weights of the codes overflow: the encoder has run away")
        return
    weights = np.asarray(log_weights, dtype=np.float64)[:, usable]
    gap = np.logaddexp.reduce(weights, 0) - np.log(len(weights)) - weights.mean(0)
    far = float(np.mean([psis_k_hat(column) > K_HAT_LIMIT for column in weights.T]))
    found |= {"codes_gap_nats": float(gap.mean()), "codes_far_percent": 100 * far, "codes_looked_at": len(weights.T)}
    if far > MOST_FAR:
        yield Flag(
            "codes_pareto_k",
            f"the encoder's posterior is far from that of the codes for {100 * far:.0f} % of {len(weights.T)} examples "
            f"(Pareto k-hat above {K_HAT_LIMIT:g}), and the ELBO {gap.mean():.3g} nats below the bound of "
            f"{len(weights):,} codes: ln p(x) by importance weights cannot be trusted; give a larger encoder, more "
            "epochs, or SVI(code_samples=...)",
        )
