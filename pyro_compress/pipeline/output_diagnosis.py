"""Whether what a posterior leaves of a network still looks at its input."""

from collections.abc import Iterator

import numpy as np
import torch

from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.posterior.posterior import Flag, Posterior

EXAMPLES = 100
# of the largest output
SAME = 1e-5


def flags_of_outputs(posterior: Posterior, trained: BayesianNetwork, x: torch.Tensor) -> Iterator[Flag]:
    """A flag where training examples all get the same output once what the posterior calls noise is zero.

    Args:
        posterior: of a network without latent sites of single rows.
        trained: the network as it runs after training, `at_draws.with_buffers`.
        x: training inputs, of which the first are looked at.
    """
    x = x[:EXAMPLES]
    left = {name: np.where(site.on(), site.mean, np.float32(0)) for name, site in posterior.parameters.items()}
    # of samplers in double precision too, as a network is float32
    values = {name: torch.from_numpy(value).to(x.device, torch.float32) for name, value in left.items()}
    with torch.no_grad():
        outputs = trained.call_network(values, x)
    if len(outputs) > 1 and bool((outputs - outputs[:1]).abs().max() <= SAME * outputs.abs().max()):
        pruned = any(site.criterion is not None for site in posterior.parameters.values())
        of_what = "without the weights that the posterior calls noise" if pruned else "at the posterior mean"
        yield Flag(
            "constant_output",
            f"{of_what}, the network gives one output whatever its input is: the prior has won over the data; start "
            "from a trained network (pretrain_epochs, or its weights), give more epochs, or a lower kl_weight",
        )
