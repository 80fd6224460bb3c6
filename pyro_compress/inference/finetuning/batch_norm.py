"""Batch-norm statistics after weights have changed.

A running mean and variance are those of a layer's inputs over all examples that are looked at, pooled exactly over
pieces of any size (Chan, Golub & LeVeque 1983):

    n = n₁ + n₂,   m = m₁ + (m₂ − m₁) n₂/n,   M = M₁ + M₂ + (m₂ − m₁)² n₁n₂/n,   variance M / (n − 1), as torch has it

The inputs of the second batch norm depend on the statistics of the first.  A first pass normalises every piece by its
own mean and variance, as training does; every pass after it by the statistics of the pass before, as the network that
is shipped does.  After k passes the first k layers are exact, so after as many passes as there are layers nothing
depends on the pieces any more; as a rule the statistics stand still long before.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.generators import generator_for
from pyro_compress.data.splits import SPLIT_SEED, batch_sizes, stratified_split
from pyro_compress.data.untouched import Untouched
from pyro_compress.errors import DataError, InferenceError
from pyro_compress.inference.loop.alone import own

# passes end where no statistic moves by more of what a layer divides by
STILL = 1e-3


def reestimate_batch_norm(
    network: nn.Module, data: DataSet, batch_size: int = 256, examples: int = 10_000, passes: int | None = None
) -> None:
    """Replace running means and variances by those over training examples, in place; see the head of this module.

    Pruning and rounding shift every layer's input, so statistics gathered before them are wrong afterwards.
    A network without running statistics is left alone; one with them is left in evaluation mode.

    Args:
        network: with any of torch's batch norms.
        data: of whose training part all examples are looked at, or so many, each class its share; changed as in
            training where they are augmented, since the layers behind were trained on what that shows them.
        batch_size: most examples per pass; pieces are of even size, their examples drawn at random.
        examples: most of them.
        passes: most of them; by default as many as there are layers.

    Raises:
        DataError: a layer sees one number per channel in all, which has no variance.
    """
    norms = {n: m for n, m in network.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}
    if not norms:
        return
    network.eval()
    rows, untouched = _rows(data, examples), Untouched()
    pieces = rows.tensor_split(-(-len(rows) // batch_size))
    with torch.no_grad():
        for done in range(len(norms) if passes is None else min(passes, len(norms))):
            with _gathered(norms, by_piece=done == 0) as found:
                for number, piece in enumerate(pieces):
                    at = piece.to(data.train_x.device)
                    x, _ = data.drawn(own(data.train_x)[at], data.train_y[at], SPLIT_SEED, number)
                    untouched(network, x)
            if not _replace(norms, found, len(pieces)) and done > 0:
                break


def refuse_batches_of_one(network: nn.Module, x: Tensor, batch_size: int, ranks: int = 1) -> None:
    """Say so, before the first step, where a batch norm would have to normalise a single example in training.

    Args:
        network: left as it is.
        x: training inputs.
        batch_size: asked for.
        ranks: that share every batch.

    Raises:
        InferenceError: names the layer and the batch size.
    """
    least = min(max(1, size // ranks) for size in set(batch_sizes(len(x), batch_size)))
    if least > 1 or not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return
    entered: list[str] = []
    tried = copy.deepcopy(network).cpu().train()
    for name, module in tried.named_modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(lambda module, inputs, name=name: entered.append(name))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            tried(own(x[:1]).cpu().clone())
    except ValueError as error:
        if not entered or "more than 1 value per channel" not in str(error):
            raise
        share = f" dealt out to {ranks} ranks" if ranks > 1 else ""
        raise InferenceError(
            f"batch norm '{entered[-1]}' would have to normalise a single example: batches of {batch_size} from "
            f"{len(x)} examples{share}; take a larger batch_size, or give more examples"
        ) from error


def _rows(data: DataSet, most: int) -> Tensor:
    """Which examples, in an order that depends on their number alone."""
    held = len(data.train_x)
    chosen = torch.arange(held, device="cpu")
    if held > most:
        _, chosen = stratified_split(data.train_y, most, SPLIT_SEED)
    return chosen[torch.randperm(len(chosen), generator=generator_for(SPLIT_SEED, len(chosen)), device="cpu")]


class _Moments:
    """Count, mean and sum of squares around it of one layer's inputs, by channel, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pool with those of `x`, (n, channels, ...), whose mean and biased variance are returned."""
        count = x.numel() // x.shape[1]
        axes = [axis for axis in range(x.ndim) if axis != 1]
        # in two passes: a fourth of the time of torch.var_mean over axes that don't lie side by side
        centre = x.mean(axes, keepdim=True)
        mean, variance = centre.flatten().double(), (x - centre).square_().mean(axes).double()
        total, shift = self.count + count, mean - self.mean
        self.squares = self.squares + variance * count + shift.square() * (self.count * count / total)
        self.mean, self.count = self.mean + shift * (count / total), total
        return mean, variance


@contextmanager
def _gathered(norms: dict[str, _BatchNorm], by_piece: bool) -> Iterator[dict[str, _Moments]]:
    """Within it the layers note what they see, and with `by_piece` normalise it by its own moments."""
    found = {name: _Moments() for name in norms}
    hooks = []

    def note(moments: _Moments) -> object:
        def hook(module: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
            mean, variance = moments.add(inputs[0])
            if by_piece:
                _write(module, mean, variance)

        return hook

    try:
        hooks = [norm.register_forward_pre_hook(note(found[name])) for name, norm in norms.items()]  # type: ignore[arg-type]
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _replace(norms: dict[str, _BatchNorm], found: dict[str, _Moments], pieces: int) -> bool:
    """Write what was found into the layers; whether any statistic has moved."""
    moved = False
    for name, norm in norms.items():
        moments = found[name]
        if moments.count == 0:  # the network does not run it
            continue
        if moments.count == 1:
            raise DataError(f"batch norm '{name}' sees one number per channel in all the data: it has no variance")
        assert isinstance(moments.mean, Tensor) and isinstance(moments.squares, Tensor)
        variance = moments.squares / (moments.count - 1)
        assert norm.running_mean is not None and norm.running_var is not None
        # what the layer divides by: a channel that never varies would else move by rounding errors for ever
        scale = (variance + norm.eps).sqrt()
        shift = (norm.running_mean.double() - moments.mean).abs() / scale
        spread = ((norm.running_var.double() + norm.eps).sqrt() / scale - 1).abs()
        moved = moved or bool((shift > STILL).any() or (spread > STILL).any())
        _write(norm, moments.mean, variance)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(pieces)
    return moved


def _write(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
