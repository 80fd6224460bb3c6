"""What a method cannot do, said before its first step: several ranks, changed images, models of some kinds."""

from typing import Any

import torch

from pyro_compress.data.dataset import DataSet
from pyro_compress.errors import InferenceError, listed
from pyro_compress.inference.contract import Method, MinibatchMethod
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.precision import BFLOAT16, SINGLE
from pyro_compress.models.program import Program


def refuse_unscaled(method: Method, count: int, device: torch.device) -> None:
    """Say what a method that descends no gradients, or a device, cannot do.

    Raises:
        InferenceError: several ranks, or a device that is not the CPU.
    """
    if count > 1 and device.type == "mps":
        raise InferenceError("PyTorch has no engine for ranks on mps: leave out torchrun, or use --device cpu")
    if method.scales or (count == 1 and device.type == "cpu"):
        return
    name = type(method).__name__
    if count > 1:
        raise InferenceError(
            f"{name} does not run on {count} ranks: its chains move side by side in one process; start it without "
            "torchrun, or use a method that descends gradients, such as SVI"
        )
    raise InferenceError(f"{name} runs on the CPU only: leave out --device, or use a method such as SVI")


def refuse_drawn_anew(method: Method, data: Any, name: str) -> None:
    """Say what a method cannot do that takes all examples as they are; `name` is what the user calls it.

    Raises:
        InferenceError: names the data and the method.
    """
    anew = isinstance(data, DataSet) and (data.drawn_anew or data.ask is not None)
    if anew and not isinstance(method, MinibatchMethod):
        raise InferenceError(
            f"{data.name}: {name} takes all examples as they are, and augmentation, dynamic "
            "binarisation or a teacher that is asked about them makes others of them in every batch: leave it out, or "
            "use a method in batches such as SVI(epochs=...) or SGLD(...)"
        )


def refuse_model(method: Method, model: Any) -> None:
    """Say what a method cannot do with a model: infer codes of single examples, or run all of it in less than float32.

    Raises:
        InferenceError: names the model, and the method or the precision.
    """
    coded = isinstance(model, BayesianNetwork) and model.has_local_sites
    if coded and not method.draws_local_sites:
        raise InferenceError(
            f"a {type(model).__name__} has a latent code per example, which its encoder infers and "
            f"{type(method).__name__} does not: use SVI(...) or BayesByBackprop(...)"
        )
    if getattr(method, "precision", SINGLE) == BFLOAT16 and (coded or not isinstance(model, BayesianNetwork)):
        raise InferenceError(
            f"a {type(model).__name__} is fitted in single precision, and precision='{BFLOAT16}' is for the products "
            "and convolutions of a network from inputs to outputs: leave it out"
        )


def refuse_parameters(method: Method, model: Program) -> None:
    """Say what a method cannot do that has no gradient step for what a Pyro model trains.

    Raises:
        InferenceError: names the parameters.
    """
    if model.free.trains and not method.trains_parameters:
        names = list(model.free_values())
        raise InferenceError(
            f"the model {model.name} trains parameters beside its latent sites ({listed(names)}), which "
            f"{type(method).__name__} does not: use SVI(...) or MAP(...), give them priors, or make them constants "
            "(requires_grad_(False))"
        )
