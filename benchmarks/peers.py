"""One training step of other Bayesian layer libraries, on the same network and batch; extra `peers`.

Each is used as its own documentation shows, with Adam (fused where it is torch's) and closed-form or sampled KL as the
library has it.  A library that is not installed, or does not run with the versions at hand, is left out and named.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import Step

Batch = tuple[Tensor, Tensor]
SIZE = 55_000


def replaced(
    network: nn.Module, dense: Callable[[nn.Linear], nn.Module], conv: Callable[[nn.Conv2d], nn.Module]
) -> nn.Module:
    """The network with every dense layer and convolution made Bayesian."""
    for name, child in network.named_children():
        if isinstance(child, nn.Linear):
            setattr(network, name, dense(child))
        elif isinstance(child, nn.Conv2d):
            setattr(network, name, conv(child))
        else:
            replaced(child, dense, conv)
    return network


def _stepper(network: nn.Module, batch: Batch, kl: Callable[[nn.Module], Tensor]) -> Step:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    x, y = batch

    def step() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x), y) + kl(network) / SIZE
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def torchbnn_step(network: nn.Module, batch: Batch, estimator: str) -> Step:
    """Weights sampled once per batch."""
    import torchbnn

    prior = {"prior_mu": 0.0, "prior_sigma": 1.0}
    made = replaced(
        network,
        lambda old: torchbnn.BayesLinear(in_features=old.in_features, out_features=old.out_features, **prior),
        lambda old: torchbnn.BayesConv2d(
            in_channels=old.in_channels, out_channels=old.out_channels, kernel_size=old.kernel_size, **prior
        ),
    )
    return _stepper(made, batch, torchbnn.BKLLoss(reduction="sum"))


def bayesian_torch_step(network: nn.Module, batch: Batch, estimator: str) -> Step:
    """Weights sampled once per batch, or flipout."""
    import bayesian_torch.layers as layers

    kind = "Flipout" if estimator == "flipout" else "Reparameterization"

    def quiet(layer: Any) -> nn.Module:
        layer.dnn_to_bnn_flag = True  # the output alone; the KL is asked for below
        return layer

    made = replaced(
        network,
        lambda old: quiet(getattr(layers, f"Linear{kind}")(old.in_features, old.out_features)),
        lambda old: quiet(getattr(layers, f"Conv2d{kind}")(old.in_channels, old.out_channels, old.kernel_size[0])),
    )

    def kl(model: nn.Module) -> Tensor:
        layers_with_kl: list[Any] = [module for module in model.modules() if hasattr(module, "kl_loss")]
        return torch.stack([layer.kl_loss() for layer in layers_with_kl]).sum()

    return _stepper(made, batch, kl)


def blitz_step(network: nn.Module, batch: Batch, estimator: str) -> Step:
    """Weights sampled once per batch, KL sampled."""
    from blitz.modules import BayesianConv2d, BayesianLinear

    made = replaced(
        network,
        lambda old: BayesianLinear(old.in_features, old.out_features),
        lambda old: BayesianConv2d(old.in_channels, old.out_channels, kernel_size=old.kernel_size),
    )

    def kl(model: nn.Module) -> Tensor:
        layers = [m for m in model.modules() if isinstance(m, BayesianConv2d | BayesianLinear)]
        return sum((m.log_variational_posterior - m.log_prior for m in layers), torch.zeros(()))

    return _stepper(made, batch, kl)


def posteriors_step(network: nn.Module, batch: Batch, estimator: str) -> Step:
    """Diagonal variational inference on the functional network."""
    import posteriors
    import torchopt

    values = dict(network.named_parameters())

    def log_posterior(parameters: dict[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        x, y = batch
        output = torch.func.functional_call(network, parameters, (x,))
        prior = sum((value.square().sum() for value in parameters.values()), torch.zeros(()))
        return -F.cross_entropy(output, y) - 0.5 * prior / SIZE, output

    transform = posteriors.vi.diag.build(log_posterior, torchopt.adam(lr=1e-3), temperature=1 / SIZE, init_log_sds=-4.5)
    held = [transform.init(values)]

    def step() -> None:
        found = transform.update(held[0], batch)
        held[0] = found[0] if isinstance(found, tuple) else found

    return step


def tyxe_step(network: nn.Module, batch: Batch, estimator: str) -> Step:
    """Local reparameterization, or weights sampled once per batch, by Pyro's own SVI."""
    import functools

    import pyro
    import pyro.distributions as dist
    import tyxe
    from pyro.optim import Adam  # type: ignore[attr-defined]

    # Pyro 1.9 has this no more, and TyXe 0.0.2 asks for it
    old: Any = pyro.util
    old.deep_getattr = lambda found, name: functools.reduce(getattr, name.split("."), found)
    pyro.clear_param_store()
    guide = functools.partial(tyxe.guides.AutoNormal, init_scale=math.exp(-4.5))
    bnn = tyxe.VariationalBNN(
        network, tyxe.priors.IIDPrior(dist.Normal(0.0, 1.0)), tyxe.likelihoods.Categorical(SIZE), guide
    )
    loss = pyro.infer.TraceMeanField_ELBO()
    svi = pyro.infer.SVI(bnn.model, bnn.guide, Adam({"lr": 1e-3}), loss)

    def step() -> None:
        if estimator == "local":
            with tyxe.poutine.local_reparameterization():
                svi.step(*batch)
        else:
            svi.step(*batch)

    return step


PEERS: dict[str, tuple[Callable[[nn.Module, Batch, str], Step], tuple[str, ...]]] = {
    "torchbnn": (torchbnn_step, ("shared",)),
    "bayesian-torch": (bayesian_torch_step, ("shared", "flipout")),
    "blitz": (blitz_step, ("shared",)),
    "posteriors": (posteriors_step, ("shared",)),
    "TyXe": (tyxe_step, ("local", "shared")),
}


def peer_steps(factory: Callable[[], nn.Module], batch: Batch, estimator: str) -> Iterator[tuple[str, Step | str]]:
    """(name, step) of every library with that estimator, or (name, why it does not run)."""
    for name, (build, estimators) in PEERS.items():
        if estimator not in estimators:
            continue
        try:
            step = build(factory(), batch, estimator)
            step()
            yield name, step
        except Exception as error:
            yield name, f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
