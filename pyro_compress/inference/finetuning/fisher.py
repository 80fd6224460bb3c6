"""The diagonal of the Fisher information at a point: how much every weight matters there, by the data.

    F_j = Σ_i E_{y ~ p(y | x_i, w)} (∂ ln p(y | x_i, w) / ∂w_j)²

½ F_j δ² is, to second order, what moving weight j alone by δ costs in nats over the data.  The posterior variance says
the same of where the fit ended; after training on a grid the network is elsewhere.

Where y has few values the sum over them is taken as one gradient of Σ_y r_y √p(y) ln p(y), r_y = ±1 at random, whose
square has that mean; else y is drawn once per example.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pyro_compress.data.generators import generator_for, noise_of
from pyro_compress.inference.loop.alone import alone
from pyro_compress.models.likelihoods import Likelihood

# gradients of single examples that are held at once
NUMBERS_AT_ONCE = 2**25
EXAMPLES_AT_ONCE = 256


@alone()
def diagonal_fisher(
    network: nn.Module, x: Tensor, likelihood: Likelihood, size: int, *, examples: int = 5000, seed: int = 0
) -> dict[str, Tensor]:
    """F of every parameter, by name and in its shape, in nats over `size` examples.

    Args:
        network: is run as it predicts, and left as it is.
        x: inputs, (n, *input_shape); p(y | x) is the network's own, so no targets are asked for.
        likelihood: p(y | output).
        size: N; the mean over the examples that are looked at, times this.
        examples: how many of the inputs are looked at, drawn without replacement.
        seed: of that draw, of y and of r.
    """
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    buffers = {name: value.detach() for name, value in network.named_buffers()}
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    width = sum(value.numel() for value in parameters.values())
    chosen = torch.randperm(len(x), generator=generator_for(seed), device="cpu")[:examples].to(x.device)

    def along(parameters: dict[str, Tensor], one: Tensor, direction: Tensor) -> Tensor:
        output = functional_call(network, (parameters, buffers), (one[None],))
        return (output[0] * direction).sum()

    of_each = vmap(grad(along), in_dims=(None, 0, 0))
    was_training = network.training
    network.eval()
    with noise_of(seed, x.device):
        for rows in chosen.split(max(1, min(EXAMPLES_AT_ONCE, NUMBERS_AT_ONCE // max(1, width)))):
            gradients = of_each(parameters, x[rows], _score(network, x[rows], likelihood))
            for name, found in gradients.items():
                total[name] += found.square().sum(0)
    network.train(was_training)
    return {name: value * (size / len(chosen)) for name, value in total.items()}


def _score(network: nn.Module, x: Tensor, likelihood: Likelihood) -> Tensor:
    """By outputs, a random vector per example whose outer product has the Fisher information of the output as mean."""
    with torch.no_grad():
        output = network(x)
    output = output.detach().requires_grad_()
    with torch.enable_grad():
        distribution = likelihood.distribution(output)
        if distribution.has_enumerate_support:
            log_p = distribution.log_prob(distribution.enumerate_support())
            signs = 2 * torch.randint(0, 2, log_p.shape, device=log_p.device) - 1
            objective = (signs * log_p.detach().exp().sqrt() * log_p).sum()
        else:
            objective = distribution.log_prob(distribution.sample()).sum()
    return torch.autograd.grad(objective, output)[0]
