"""Fine-tuning on the grid: the values that a decision stores, re-fitted where they will be stored.

    minimise over θ   −Σ_i log p(y_i | x_i, Q(θ)) + γ Σ_j ln(|θ_j| + Δ/2),    Q(θ) = Δ · round(θ / Δ)

Q may also have a step for each output channel, or take the nearest level of a codebook, Δ then being the smallest
distance between its levels (`network/quantizers.py`).  An affine one also clips, and what it clips has no gradient.

The second term is −ln p of the truncated log-uniform prior on a grid of step Δ, so this is the MAP estimate under
that prior restricted to what the file can hold; γ trades nats of fit against code length.  Gradients pass straight
through Q (Bengio et al. 2013).  Weights that the decision pruned stay zero.

With `prices` what the file's own code asks for each integer takes its place, γ Σ_j ℓ_j(θ_j) in nats (`code_prices.py`),
asked for anew before every epoch.

With a teacher, y_i is replaced by E[y | x_i, D] of the posterior predictive: the one network that is stored then learns
what the whole posterior says, and not the training labels by heart (Korattikara et al. 2015).  Where the data come with
a teacher, an example counts as in the fit, by labels and teacher (`models.teaching`).  With noise, the network is run
at Q(θ) + σ ε, so that weights stay where the data leave them room.

The numbers of Q itself, its levels or steps, can be trained beside θ or instead of it (`learned_quantizers.py`).  With
steps the second term is then Σ_j ln(|θ_j| / Δ + ½), which coarser ones lower; with levels it keeps the Δ of the start.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from pyro_compress.data.asking import Ask, asked
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.splits import batches, number_of_batches
from pyro_compress.errors import DataError, NetworkError
from pyro_compress.inference.finetuning.batch_norm import refuse_batches_of_one
from pyro_compress.inference.finetuning.code_prices import CodePrices, slope_of
from pyro_compress.inference.finetuning.learned_quantizers import LearnedQuantizer, LearnedSteps
from pyro_compress.inference.finetuning.rounding import Rounding
from pyro_compress.inference.gradient.gradient_method import linear, refuse_non_finite
from pyro_compress.inference.loop.alone import alone
from pyro_compress.inference.loop.averaging import average_last
from pyro_compress.inference.loop.devices import on_device, seed_generators
from pyro_compress.inference.loop.dtypes import default_dtype
from pyro_compress.inference.loop.processes import Ranks
from pyro_compress.models.likelihoods import Likelihood
from pyro_compress.models.precision import SINGLE, called, networks_in
from pyro_compress.models.teaching import Teaching
from pyro_compress.network.quantizers import Quantizer

Prices = Callable[[Mapping[str, torch.Tensor]], Mapping[str, CodePrices]]


@dataclass(frozen=True, eq=False)
class GridSite:
    """One parameter tensor of shape S on its grid.

    Attributes:
        value: float, S: where fine-tuning starts.
        kept: bool, S: False stays zero for ever.
        quantizer: Q, or None for a tensor that is stored as float32.
        noise: float, S: σ of the noise that training adds to what is kept, or None.
        learned: takes the place of `quantizer`, at which it starts, where Q is trained: `fine_tune` moves its numbers.
    """

    value: torch.Tensor
    kept: torch.Tensor
    quantizer: Quantizer | None
    noise: torch.Tensor | None = None
    learned: LearnedQuantizer | None = None

    def quantised(self, value: torch.Tensor) -> torch.Tensor:
        """Q(value), zero where not kept."""
        rounding = self.learned or self._rounding
        return (value if rounding is None else rounding(value)) * self.kept

    def straight(self, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """∂L/∂θ of ∂L/∂Q(θ); where Q is learned its numbers get their gradient too."""
        if self.learned is not None:
            return self.learned.backward(value, gradient * self.kept)
        return gradient if self._rounding is None else self._rounding.straight(value, gradient)

    @property
    def moves(self) -> bool:
        """Whether θ is trained: not where weights keep their places in a quantizer that is learned."""
        return self.learned is None or self.learned.assigned is None

    def tuned(self, value: torch.Tensor) -> torch.Tensor:
        """The values to return for θ, zero where not kept."""
        return value * self.kept if self.moves else self.quantised(value)

    @cached_property
    def _rounding(self) -> Rounding | None:
        return None if self.quantizer is None else Rounding.of(self.quantizer, self.value)

    def add_rate(
        self, value: torch.Tensor, gradient: torch.Tensor, weight: float, prices: CodePrices | None = None
    ) -> None:
        """Add `weight` times the derivative of the length of the code to a gradient of θ.

        The length is ln(|θ| / Δ + ½), or what `prices` say.  Where Δ is trained its gradient gets its share too.
        """
        if isinstance(self.learned, LearnedSteps) and self.moves:
            gradient.add_(self.learned.rate_backward(value, self.kept, weight, prices))
        elif self._rounding is not None:
            spacing = self._rounding.spacing
            gradient.add_(torch.sign(value) * slope_of(value, spacing, prices), alpha=weight)

    def noisy(self, value: torch.Tensor) -> torch.Tensor:
        """Q(value) + σ ε, zero where not kept."""
        quantised = self.quantised(value)
        return quantised if self.noise is None else quantised + self.noise * torch.randn_like(value) * self.kept


@alone()
@default_dtype(torch.float32)
def fine_tune(
    network: nn.Module,
    sites: Mapping[str, GridSite],
    data: DataSet,
    likelihood: Likelihood,
    *,
    epochs: int,
    rate_weight: float,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    precision: str = SINGLE,
    averaging: float = 0.0,
    prices: Prices | None = None,
    seed: int = 0,
    teacher: torch.Tensor | Ask | None = None,
    teaching: Teaching | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, torch.Tensor]:
    """Fine-tune every site on its grid, on the device of the data; ranks that have been joined share every batch.

    Args:
        network: module whose parameters are overwritten during the call; give a copy.
        sites: by dotted parameter name; parameters not named stay as they are, and so do frozen ones.  Quantizers that
            are learned are overwritten too.
        data: training part only is used.
        likelihood: p(y | output).
        epochs: passes over the training data; the learning rate falls linearly to zero.
        rate_weight: γ, in nats of the whole data set per nat of code.
        batch_size, learning_rate: of Adam.
        precision: of products and convolutions, see `models.precision`.
        averaging: share of the steps, the last ones, whose θ, and numbers of quantizers that are learned, are averaged;
            what is returned is the mean, and what is stored is its rounding.
        prices: of integers in the file, given θ by name, for the sites that have some; asked before every epoch.  None
            takes the log-uniform prior's.
        seed: decides the batches, the noise of dropout layers and that of the sites.
        teacher: means of y to learn in place of the targets, (training examples, ...), of the posterior predictive; or
            what gives them of a batch.
        teaching: how the teacher counts that the data come with; None where it does not, and where `teacher` is given.
        progress: called with the number of finished epochs.

    Raises:
        DataError: the means that `teacher` holds are of images that augmentation changes.
        InferenceError: the loss is not finite; says the epoch.
            Also a batch norm that would see one example.
        NetworkError: parameters that were made in inference mode, which torch lets nobody overwrite.

    Returns:
        The fine-tuned values before rounding, by name; round them with the site's grid, or with what has been learned
        in its place.
    """
    teaching = Teaching(weight=1.0) if teacher is not None else teaching
    if isinstance(teacher, torch.Tensor) and data.drawn_anew:
        raise DataError(
            f"{data.name}: the teacher's means are of the training images as they are, and these are changed in every "
            "batch: give what says them of a batch, or leave out the augmentation"
        )
    shown = (data.ask or data.train_teacher) if teacher is None else teacher
    training = _Training.started(network, sites, likelihood, rate_weight / data.N, teaching, precision)
    hidden, trained = training.hidden, training.trained()
    optimizer = torch.optim.Adam(trained, lr=learning_rate, fused=True)
    steps = epochs * number_of_batches(len(data.train_x), batch_size)
    averages: list[torch.Tensor] = []
    done, ranks, device = 0, Ranks.here(), data.train_x.device
    refuse_batches_of_one(network, data.train_x, batch_size, ranks.count)
    ranks.send_from_first(trained)
    network.train()
    with on_device(device):
        seed_generators(ranks.stream(seed), device)  # the network may have dropout
        outputs: list[torch.Tensor] = []
        if teaching is not None and isinstance(shown, torch.Tensor):
            outputs.append(shown.to(device))
        ask = None if teaching is None or isinstance(shown, torch.Tensor) else shown
        rows = torch.arange(len(data.train_x), device=device)
        for epoch in range(epochs):
            if prices is not None and rate_weight > 0:
                training.prices.update(prices(hidden))
            order = batches(data.train_x, rows, batch_size, seed + 7919, epoch)
            for number, (x, chosen) in enumerate(order):
                x, y = data.drawn(x, data.train_y[chosen], seed + 7919, epoch, number)
                with ranks.together(trained, network.buffers()):
                    x, batch = ranks.share_of(x), [ranks.share_of(y)]
                    batch += [ranks.share_of(each[chosen]) for each in outputs]
                    if ask is not None:
                        batch.append(asked(ask, x, seed + 7919, epoch, number, ranks.rank))
                    training.backward(x, batch, epoch)
                    ranks.average(trained, network.buffers())
                optimizer.param_groups[0]["lr"] = learning_rate * linear(done / steps)
                optimizer.step()
                done += 1
                average_last(averages, trained, done=done, planned=steps, share=averaging)
            if progress is not None:
                progress(epoch + 1)
    training.place({name: site.quantised(hidden[name]) for name, site in sites.items()})
    network.eval()
    return {name: sites[name].tuned(value) for name, value in hidden.items()}


@dataclass(frozen=True, eq=False)
class _Training:
    """What a step of fine-tuning touches.

    Attributes:
        network, sites, likelihood: as for `fine_tune`.
        parameters: of the network, which hold Q(θ) + σ ε while it runs.
        hidden: θ, by name.
        penalty: γ / N, of the loss per example.
        teaching: how a teacher counts, or None.
        precision: of the network.
        prices: of integers, by name, as they are now.
    """

    network: nn.Module
    sites: Mapping[str, GridSite]
    likelihood: Likelihood
    parameters: Mapping[str, nn.Parameter]
    hidden: Mapping[str, torch.Tensor]
    penalty: float
    teaching: Teaching | None
    precision: str
    prices: dict[str, CodePrices] = field(default_factory=dict)

    @staticmethod
    def started(
        network: nn.Module,
        sites: Mapping[str, GridSite],
        likelihood: Likelihood,
        penalty: float,
        teaching: Teaching | None,
        precision: str,
    ) -> "_Training":
        """θ at the sites' values, which it takes from parameters that torch may overwrite."""
        parameters = dict(network.named_parameters())
        for name, parameter in parameters.items():
            if parameter.is_inference():
                raise NetworkError(f"parameter '{name}' was made in inference mode and cannot be trained: give a copy")
        # laid out as the parameters are, whose gradients a fused optimizer pairs with them number by number in memory
        hidden = {name: torch.empty_like(parameters[name]).detach() for name in sites}
        for name, site in sites.items():
            hidden[name].copy_(site.value.detach() * site.kept)
        return _Training(network, sites, likelihood, parameters, hidden, penalty, teaching, precision)

    def trained(self) -> list[torch.Tensor]:
        """What the optimizer moves: θ, and the numbers of quantizers that are learned."""
        moving = [value for name, value in self.hidden.items() if self.sites[name].moves]
        return moving + [site.learned.numbers for site in self.sites.values() if site.learned is not None]

    def backward(self, x: torch.Tensor, targets: Sequence[torch.Tensor], epoch: int) -> None:
        """Gradients of θ on a batch: straight through Q, plus that of the code length, where it is kept.

        `targets` are y, and what a teacher says where there is one.
        """
        self.place({name: site.noisy(self.hidden[name]) for name, site in self.sites.items()})
        self.network.zero_grad(set_to_none=True)
        with networks_in(self.precision):
            output = called(lambda: self.network(x), x.device)
        loss = self._loss(output, *targets)
        refuse_non_finite(loss, f"fine-tuning on the grid, epoch {epoch}", {})
        loss.backward()
        for name, site in self.sites.items():
            gradient, value = self.parameters[name].grad, self.hidden[name]
            # a batch need not pass through every layer
            gradient = site.straight(value, torch.zeros_like(value) if gradient is None else gradient)
            if self.penalty > 0:
                site.add_rate(value, gradient, self.penalty, self.prices.get(name))
            value.grad = gradient.mul_(site.kept)

    def place(self, values: Mapping[str, torch.Tensor]) -> None:
        """Write values into the network's parameters."""
        with torch.no_grad():
            for name, value in values.items():
                self.parameters[name].copy_(value)

    def _loss(self, output: torch.Tensor, y: torch.Tensor, teacher: torch.Tensor | None = None) -> torch.Tensor:
        """Nats per example."""
        if teacher is None or self.teaching is None:
            return self._of_targets(output, y)
        taught = self.teaching.cross_entropy(self.likelihood, output, teacher).mean()
        weight = self.teaching.weight
        return taught if weight == 1 else (1 - weight) * self._of_targets(output, y) + weight * taught

    def _of_targets(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.likelihood.check(output, y)
        return -self.likelihood.log_prob(output, y).sum() / len(y)
