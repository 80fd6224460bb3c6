"""Whether a network, its likelihood and the data go together: looked at before the first step, as before a file.

What would end in torch's own errors, or in a wrong result, is refused.  A network that can be fitted, but has no
layers that a file can hold (attention with a bias of its own, control flow), is fitted, and its file said to hold
weights alone.
"""

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_compress.data.asking import asked
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.sources import WHOLE_NUMBERS
from pyro_compress.errors import DataError, NetworkError, UnstorableError, UnstorableWarning, warn
from pyro_compress.inference.loop.feed import Feed
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.checking import check_network, check_numbers
from pyro_compress.models.likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Likelihood
from pyro_compress.models.module_calls import calls_noted
from pyro_compress.models.probing import BATCH, FEW, are_rows, first_line
from pyro_compress.models.tracing.tracer import trace

# of parameters, until the outputs are taken for probabilities
_DRAWS = 16
_CHECKPOINTING = (
    "the network computes a part of itself again in the backward pass (torch.utils.checkpoint), where it holds other "
    "values than those that are fitted: switch checkpointing off"
)


def check_fit(model: BayesianNetwork, feed: Feed) -> None:
    """Refuse a network that cannot be fitted to these data; see the head of this module.

    Args:
        model: is left as it is: copies of its network are run.
        feed: inputs and targets, where the model is.

    Raises:
        NetworkError: what `trace` refuses, other than for the sake of the file.
        DataError: targets that do not go with the network's outputs.
    """
    x = feed.tensors[0]
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            part, shape = model.stored_part(tuple(x.shape[1:]))
            trace(copy.deepcopy(part), shape)
            if part is not model.network:
                _check_rows(model, x)
        except UnstorableError as error:
            _check_rows(model, x)
            said = f"the network is fitted, and a file will hold its weights alone, to be put into the module: {error}"
            warn(said, UnstorableWarning)
        output, taught = _training_output(copy.deepcopy(model), _few(x, BATCH))
        for training in (True, False):
            _refuse_probabilities(copy.deepcopy(model), _few(x, BATCH), training)
    _check_outputs(model, output, taught, feed)


def check_before_copying(model: BayesianNetwork) -> None:
    """What can be told from the network's modules and numbers alone."""
    check_network(model.network)
    check_numbers(model.network)


def check_classes(data: DataSet | Feed, output_shape: tuple[int, ...], what: str, likelihood: Categorical) -> None:
    """Refuse data whose targets are neither class labels nor probabilities, or of more classes than `what` has outputs.

    Args:
        data: with the targets.
        output_shape: of one example.
        what: has these outputs, for the message.
        likelihood: says which axis is that of the classes.

    Raises:
        DataError: says both numbers, or the shapes of outputs and targets with positions.
    """
    targets = data.train_y if isinstance(data, DataSet) else data.tensors[1]
    if data.classes is None:
        if targets.ndim > 1 and tuple(targets.shape[1:]) == output_shape:
            likelihood.check_teacher(targets, data.name)
            return
        raise DataError(
            f"{data.name} has no class labels, which the categorical likelihood needs: give --likelihood, or "
            f"likelihood= from Python; class probabilities, one per output, would have the shape {output_shape}"
        )
    if len(output_shape) > 1 and targets.ndim > 1:
        _check_positions(tuple(targets.shape[1:]), output_shape, f"{what} returns", data.name, likelihood)
    if len(output_shape) != targets.ndim or output_shape[0 if likelihood.class_axis == 1 else -1] < len(data.classes):
        each = "" if targets.ndim == 1 else f", and labels of shape {tuple(targets.shape[1:])} per example"
        raise DataError(
            f"{what} returns outputs of shape {output_shape}, {data.name} has {len(data.classes)} classes{each}"
        )


def check_targets(likelihood: Likelihood, output: Tensor, target: Tensor, name: str) -> None:
    """Refuse targets that do not go with outputs of these examples.

    Raises:
        DataError: says the shapes, or that the targets are whole numbers, where these are taken for class labels.
    """
    whole = not target.is_floating_point() and not isinstance(likelihood, Categorical)
    try:
        likelihood.check(output, target)
    except DataError as error:
        raise DataError(f"{error}; {WHOLE_NUMBERS}" if whole else str(error)) from error
    if whole and isinstance(likelihood, Bernoulli | ContinuousBernoulli):
        raise DataError(
            f"{name}: targets are whole numbers, which are class labels, and the likelihood "
            f"{type(likelihood).__name__} takes real ones, zeros and ones too: give y.float()"
        )


def _check_positions(
    positions: tuple[int, ...], output_shape: tuple[int, ...], what: str, name: str, likelihood: Categorical
) -> None:
    """Say which axis is taken for that of the classes, and if the other one would do."""
    first, last = output_shape[1:], output_shape[:-1]
    expected, other = (first, last) if likelihood.class_axis == 1 else (last, first)
    if positions == expected:
        return
    remedy = "reshape the targets or change the network's last layer"
    if positions == other:
        remedy = f"take the likelihood with class_axis={-likelihood.class_axis}"
    raise DataError(
        f"{what} outputs of shape {output_shape} per example, which with class_axis={likelihood.class_axis} go with "
        f"labels of shape {expected}, {name} has {positions}: {remedy}"
    )


def _few(x: Tensor, count: int) -> Tensor:
    """The first examples, over again where there are fewer."""
    return x[torch.arange(count, device=x.device) % len(x)]


def _check_rows(model: BayesianNetwork, x: Tensor) -> None:
    """What `trace` looks at in networks that it can describe: few examples give the rows that more of them give."""
    network, x = copy.deepcopy(model.network).eval(), _few(x, BATCH)
    whole = _run(network, x)
    is_random = not torch.equal(whole, _run(network, x))
    for few in FEW:
        part = _run(network, x[:few])
        if not (part.shape == whole[:few].shape if is_random else are_rows(part, whole)):
            raise NetworkError(
                f"{type(network).__name__} returns shape {tuple(part.shape)} for a batch of {few} and "
                f"{tuple(whole.shape)} for one of {BATCH}, or mixes examples: what becomes of one example may not "
                "depend on the others (flatten(1) in place of squeeze(), for example)"
            )


def _run(network: torch.nn.Module, x: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            found = network(x.clone())
    except Exception as error:
        shape = f"a batch of {len(x)} examples of shape {tuple(x.shape[1:])}"
        raise NetworkError(f"the network does not accept {shape}: {first_line(error)}") from error
    return _one_tensor(network, found)


def _one_tensor(network: torch.nn.Module, found: object) -> Tensor:
    if not isinstance(found, Tensor) or not found.ndim:
        kind = "a number" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise NetworkError(f"{type(network).__name__} returns {kind}, expected one tensor with a row per example")
    return found


def _training_output(model: BayesianNetwork, x: Tensor) -> tuple[Tensor, Tensor]:
    """`outputs` as it is fitted, with values in place of its parameters; refuses those that do not matter."""
    network = model.network.train()
    values = {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}
    try:
        found, taught = model.outputs(values, x.clone())
        output = _one_tensor(network, found)
    except NetworkError:
        raise
    except Exception as error:
        raise NetworkError(
            f"the network does not accept {len(x)} examples of shape {tuple(x.shape[1:])} in training mode: "
            f"{first_line(error)}"
        ) from error
    _check_used(values, model.reached(values, x, output))
    return output.detach(), taught.detach()


def _check_used(values: Mapping[str, Tensor], output: Tensor) -> None:
    found: tuple[Tensor | None, ...] = (None,) * len(values)
    again: list[torch.nn.Module] = []
    if output.requires_grad:
        try:
            with calls_noted(lambda module, given: again.append(module), before=True):
                found = torch.autograd.grad(output.sum(), list(values.values()), allow_unused=True)
        except RuntimeError as error:
            # torch's advice is to checkpoint in another way
            if "checkpoint" in str(error):
                raise NetworkError(_CHECKPOINTING) from error
            raise NetworkError(f"the network has no gradient: {first_line(error)}") from error
    if again:
        raise NetworkError(_CHECKPOINTING)
    for name, gradient in zip(values, found, strict=True):
        if gradient is None:
            raise NetworkError(f"parameter {name} is not used by the forward pass: remove its module from the network")


def _refuse_probabilities(model: BayesianNetwork, x: Tensor, training: bool) -> None:
    """Where the likelihood makes probabilities of the network's outputs, in either mode; `model` is a copy."""
    network, likelihood = model.network.train(training), model.likelihood
    mode = "training" if training else "evaluation"

    def output(values: Mapping[str, Tensor]) -> Tensor:
        try:
            with torch.no_grad():
                return _one_tensor(network, model.outputs(values, x.clone())[0])
        except NetworkError:
            raise
        except Exception as error:
            raise NetworkError(
                f"the network does not accept {len(x)} examples of shape {tuple(x.shape[1:])} in {mode} mode: "
                f"{first_line(error)}"
            ) from error

    own = {name: value.detach() for name, value in network.named_parameters()}
    if isinstance(likelihood, Categorical) and _sums_to_one(output(own), likelihood):
        raise NetworkError(
            f"{type(network).__name__} returns probabilities in {mode} mode: let the network return the logits, the "
            "likelihood applies the softmax"
        )
    if not isinstance(likelihood, Bernoulli | ContinuousBernoulli) or not _in_unit_interval(output(own)):
        return
    # logits of a few examples may lie there by chance, and under parameters of any size they do not
    found = [output(_drawn_like(own)) for _ in range(_DRAWS)]
    if all(map(_in_unit_interval, found)) and any(bool((each != each.flatten()[0]).any()) for each in found):
        raise NetworkError(
            f"{type(network).__name__} returns numbers from 0 to 1 alone in {mode} mode, as a sigmoid does: let the "
            f"network return the logits, the likelihood {type(likelihood).__name__} applies the sigmoid"
        )


def _sums_to_one(output: Tensor, likelihood: Categorical) -> bool:
    if output.ndim < 2:
        return False
    total = output.sum(likelihood.axis_of(output))
    return bool((output >= 0).all()) and torch.allclose(total, torch.ones_like(total), atol=1e-5)


def _in_unit_interval(output: Tensor) -> bool:
    return bool(((output >= 0) & (output <= 1)).all())


def _drawn_like(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Random numbers in place of parameters, such that every layer makes its inputs larger."""
    return {
        name: torch.randn_like(value) * (3 / math.sqrt(value[0].numel()) if value.ndim > 1 else 3)
        for name, value in values.items()
    }


def _check_outputs(model: BayesianNetwork, output: Tensor, taught: Tensor, feed: Feed) -> None:
    name = type(model.network).__name__
    if isinstance(model.likelihood, Categorical):
        check_classes(feed, tuple(output.shape[1:]), f"network {name}", model.likelihood)
    check_targets(model.likelihood, output, _few(feed.tensors[1], len(output)), feed.name)
    teachers = feed.tensors[2:]
    if feed.ask is not None:
        teachers = (asked(feed.ask, _few(feed.tensors[0], len(output))),)
    for teacher in teachers:
        model.teaching.check(model.likelihood, taught, teacher, feed.name)
