"""What a fit runs over: tensors that are a model's arguments, in batches or as a whole."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from pyro_compress.data.asking import Ask, asked
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.data.generators import generator_for
from pyro_compress.data.labels import UNLABELLED
from pyro_compress.data.sources import as_numbers
from pyro_compress.data.splits import batch_sizes
from pyro_compress.data.strata import LabelledShare
from pyro_compress.errors import DataError, InferenceError
from pyro_compress.inference.loop.alone import own
from pyro_compress.inference.loop.inputs import refuse_inputs
from pyro_compress.inference.loop.processes import Ranks
from pyro_compress.inference.loop.targets import refuse_targets
from pyro_compress.models.arguments import Arguments
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.generative.semi_supervised import SemiSupervisedVAE, refuse_teacher
from pyro_compress.models.generative.vae import VAE
from pyro_compress.models.rows import examples_of

Batch = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Feed:
    """The arguments of a model, all examples of them.

    Attributes:
        tensors: one per argument; a BayesianNetwork takes inputs and targets.
        size: N, number of examples that the likelihood is scaled to.
        name: of the data.
        validation: inputs and targets held out, or None.
        classes: names of those that the targets count; None where they are no labels, or nobody said.
        ranks: that share every batch.
        may_split: raises an InferenceError where the rows of the arguments may not come apart; None where they may.
        call: what else a Pyro model is called with, or None.
        draw: makes inputs and targets of a batch of them, which are others each time; None where they stay as they are.
        ask: a teacher of such inputs, whose outputs are one more argument; or None.
        labelled: share of every batch that has labels, with the weights v of its examples as one more argument; None
            where examples are taken as they come.
    """

    tensors: Batch
    size: int
    name: str
    validation: Batch | None = None
    classes: tuple[str, ...] | None = None
    ranks: Ranks = field(default_factory=Ranks, compare=False, repr=False)
    may_split: Callable[[], object] | None = field(default=None, compare=False, repr=False)
    call: Arguments | None = None
    draw: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None
    ask: Ask | None = None
    labelled: LabelledShare | None = None

    @staticmethod
    def of(model: Any, data: Any) -> "Feed":
        """What `fit` was given, as a model takes it.

        Args:
            model: a BayesianNetwork, or any Pyro model.
            data: for networks what `data.examples.as_data` takes; for other models a DataSet, or their arguments: a
                tuple, or a dict by name.  See `Arguments` for what of these is data.

        Raises:
            DataError: none of those.
        """
        labelled = None
        if isinstance(model, VAE):
            data = _reconstructed(data)
        if isinstance(model, BayesianNetwork):
            takes_some = isinstance(model, SemiSupervisedVAE)
            data = data if isinstance(data, DataSet) else as_data(data, partly_labelled=takes_some)
            if data.partly_labelled and not takes_some:
                raise DataError(
                    f"{data.name}: labels are missing, which a SemiSupervisedVAE takes and a {type(model).__name__} "
                    "does not: give data.labelled()"
                )
            if isinstance(model, SemiSupervisedVAE):
                labelled = model.labelled
                refuse_teacher(data.train_teacher, data.ask)
            refuse_inputs(model, data)
            refuse_targets(model, data)
            if data.augmentation is not None and model.has_local_sites:
                raise DataError(
                    f"{data.name}: a {type(model).__name__} reconstructs its inputs, and augmentation would change "
                    "them and not the targets: leave it out"
                )
        if isinstance(data, DataSet):
            held = (own(data.validation_x), own(data.validation_y)) if len(data.validation_x) else None
            more = () if data.train_teacher is None else (own(data.train_teacher),)
            tensors = (own(data.train_x), own(data.train_y), *more)
            return Feed(
                tensors,
                data.N,
                data.name,
                held,
                data.classes,
                draw=data.drawn if data.drawn_anew else None,
                ask=data.ask,
                labelled=labelled,
            )
        given, call = Arguments.taken_apart(data)
        tensors = tuple(own(tensor) for tensor in given)
        # without data N counts as 1, so that an objective per example is the whole one
        return Feed(tensors, max(1, examples_of(tensors)), "user data", call=call)

    def on(self, device: torch.device, ranks: Ranks) -> "Feed":
        """The same on a device, shared by ranks."""
        validation = self.validation and tuple(part.to(device) for part in self.validation)
        tensors = tuple(part.to(device) for part in self.tensors)
        return replace(self, tensors=tensors, validation=validation, ranks=ranks)

    @property
    def drawn_anew(self) -> bool:
        """Whether batches are others each time: their inputs are, or a teacher is asked about them."""
        return self.draw is not None or self.ask is not None

    @property
    def held(self) -> int:
        """Number of examples in memory: those of an epoch."""
        return examples_of(self.tensors)

    @property
    def in_batches(self) -> int:
        """Number of examples that batches are taken from; 0 where the arguments come as a whole."""
        return self.held if self.can_batch else 0

    @property
    def can_batch(self) -> bool:
        """Whether all arguments have the same number of examples along their first axis."""
        return bool(self.tensors) and all(part.ndim and len(part) == self.held for part in self.tensors)

    def batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """One epoch of shuffled batches, of each this rank's share; the order depends on (seed, epoch) alone.

        What comes as a whole keeps the order that it was given in: a batch that holds everything, on one rank, and
        arguments that are no examples side by side.

        Raises:
            InferenceError: the rows of a Pyro model's arguments may not come apart.
        """
        if batch_size < 1:
            raise InferenceError(f"the batch size is {batch_size}; it must be at least 1")
        sizes = batch_sizes(self.held, batch_size)
        whole = not self.can_batch or len(sizes) == 1
        if whole and (not self.can_batch or self.ranks.count == 1 or not self._splits()):
            self.ranks.take_whole()
            return iter((self._drawn(self.tensors, seed, epoch, 0),))
        if self.may_split is not None:
            self.may_split()
        shares = (self.ranks.share_of(chosen) for chosen in self._order(sizes, generator_for(seed, epoch)))
        batches = (tuple(part[chosen] for part in self.tensors) for chosen in shares)
        drawn = (self._drawn(batch, seed, epoch, number) for number, batch in enumerate(batches))
        if self.labelled is None:
            return drawn
        known, weights = int((self.tensors[1] != UNLABELLED).sum()), self.labelled.weights
        return ((*batch, weights(batch[1], size, known, self.held)) for batch, size in zip(drawn, sizes, strict=True))

    def _order(self, sizes: Sequence[int], generator: torch.Generator) -> Iterable[torch.Tensor]:
        if self.labelled is not None:
            return self.labelled.batches(self.tensors[1], sizes, generator)
        order = torch.randperm(self.held, generator=generator, device="cpu")
        return order.to(self.tensors[0].device).split(sizes)

    def _drawn(self, batch: Batch, seed: int, epoch: int, number: int) -> Batch:
        stream = (seed, epoch, number, self.ranks.rank)
        if self.draw is not None:
            batch = (*self.draw(*batch[:2], *stream), *batch[2:])
        return batch if self.ask is None else (*batch, asked(self.ask, batch[0], *stream))

    def drawn_once(self) -> Batch:
        """All examples, as one epoch may have them, and no teacher asked."""
        return replace(self, ask=None)._drawn(self.tensors, 0, 0, 0)

    def _splits(self) -> bool:
        """Whether ranks may have a share each of what is one batch."""
        try:
            if self.may_split is not None:
                self.may_split()
        except InferenceError:
            return False
        return True


def _reconstructed(data: Any) -> Any:
    """Inputs alone as their own targets.

    Raises:
        DataError: a DataSet whose targets are class labels.
    """
    if isinstance(data, torch.Tensor | np.ndarray):
        x = as_numbers(data, "user data: train")
        return as_data((x, x.flatten(1)))
    if isinstance(data, DataSet) and data.classes is not None:
        raise DataError(
            f"{data.name}: the targets are class labels, and a VAE's are its inputs: give data.reconstructing()"
        )
    return data
