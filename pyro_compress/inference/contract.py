"""The one contract that every inference method keeps: init, step, draw, with a State that can be resumed.

    state = method.init(model, size, seed, held)  # size = N; held = examples in memory, N if not given
    info  = method.step(state, batch)             # advances the state; Info is what a human watches
    posterior = method.draw(state)                # what the method believes now

`rounds` and `batches` say what `fit` feeds it: epochs of shuffled batches, or all the data once per transition.

Constructors bind hyper-parameters; a step takes the state and a batch and nothing else.  State is what the next
step needs; `capture` and `restore` carry it through a file bit for bit.  docs/adding-a-method.md is the guide.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from pyro_compress.config.keyword_options import check_options
from pyro_compress.data.splits import number_of_batches
from pyro_compress.errors import InferenceError
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.inference.loop.processes import Ranks
from pyro_compress.inference.loop.watching import Watcher
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.program import Program
from pyro_compress.posterior.posterior import Posterior

Model = BayesianNetwork | Program


class DefaultInt(int):
    """A setting that was left at its default, so that a method may choose another by the model; given, it stands."""


class DefaultFloat(float):
    """As `DefaultInt`."""


def left_at_defaults(method: "Method", but_for: Iterable[str] = ()) -> bool:
    """Whether no setting of a method was given, but for those named."""
    left: Any = type(method)()
    for name in {one.name for one in fields(left)} - set(but_for):
        given, default = getattr(method, name), getattr(left, name)
        may_choose = isinstance(default, DefaultInt | DefaultFloat)
        if given != default or (may_choose and not isinstance(given, type(default))):
            return False
    return True


@dataclass(frozen=True)
class Info:
    """What one step reports, in total nats over the data set.

    Attributes:
        data_nats: expected log-likelihood of the whole data set, estimated from the batch.
        complexity_nats: KL(q ‖ p), or −log prior for a point estimate.
        kl_weight: β that was in force.
        learning_rate: base learning rate, or step size, that was in force.
        extra: what else a sampler tells, such as 'acceptance_rate' and 'diverging'; means over chains.
    """

    data_nats: float
    complexity_nats: float
    kl_weight: float
    learning_rate: float
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def elbo_nats(self) -> float:
        """data − complexity, whatever β was: comparable between runs."""
        return self.data_nats - self.complexity_nats


class State(ABC):
    """What the next step needs.

    Attributes:
        steps_done: steps taken so far.
    """

    steps_done: int

    def check_recordings_again(self) -> None:
        """Told where others may have changed what the model reads: what was recorded of it may no longer hold."""
        return

    def keep_in(self, folder: Path) -> None:
        """Told before the first step where large results may lie; `folder` outlives the process."""
        return

    def join(self, ranks: Ranks) -> None:
        """Told before the first step which processes share the batches; only for methods that scale."""
        return

    def reseed(self, seed: int) -> None:
        """Told before the first step that this rank draws its noise from a stream of its own."""
        return

    def capture_of_rank(self) -> dict[str, Any]:
        """What of the state differs between ranks, as `capture` gives all of it."""
        return {}

    def restore_of_rank(self, captured: dict[str, Any]) -> None:
        """Take over what `capture_of_rank` gave, after `restore`."""
        return

    def watched_by(self, watcher: Watcher) -> None:
        """Told before the first step who wants to see every chain as it goes; a method without chains has none."""
        return

    @abstractmethod
    def capture(self) -> dict[str, Any]:
        """Copies of tensors, numbers and nested dicts of them: enough to go on bit for bit (weights_only reads it)."""

    @abstractmethod
    def restore(self, captured: dict[str, Any]) -> None:
        """Take over what `capture` gave."""


class Method(ABC):
    """Base of all inference methods."""

    round_name: ClassVar[str] = "epoch"
    # whether a step averages its gradient over ranks and can run on another device than the CPU
    scales: ClassVar[bool] = False
    # whether a network runs as in training: dropout on, batch norm by the batch; samplers run it as it predicts
    trains_network: ClassVar[bool] = True
    # whether it trains what a model declares beside its latent sites: parameters, hyper-parameters of priors
    trains_parameters: ClassVar[bool] = False
    # whether it runs the guide that a network's model has for latent sites of single examples, such as a VAE's codes
    draws_local_sites: ClassVar[bool] = False
    # what data − complexity is
    objective_name: ClassVar[str] = "ELBO"

    def __post_init__(self) -> None:
        """Called once a dataclass has its fields: options of another type than declared are refused."""
        check_options(self, InferenceError)

    @property
    @abstractmethod
    def rounds(self) -> int:
        """How often `fit` goes round: after each it validates, writes a checkpoint and tells its callbacks."""

    @abstractmethod
    def batches(self, feed: Feed, seed: int, round: int) -> Iterator[Batch]:
        """What one round feeds to `step`; depends on the arguments alone."""

    @abstractmethod
    def init(self, model: Any, size: int, seed: int, held: int | None = None) -> State:
        """A fresh state, started at the network's present parameters.

        Args:
            model: a BayesianNetwork or, for methods that take any Pyro model, a `Program`; is trained in place where
                it has point-estimated parameters or buffers; `fit` gives a copy.
            size: N, number of examples that the likelihood is scaled to.
            seed: of the run; `fit` has seeded torch's generator with it already.
            held: number of examples that an epoch passes over where that is less than N.
        """

    @abstractmethod
    def step(self, state: Any, batch: Batch) -> Info:
        """One update from one batch.

        Raises:
            InferenceError: the objective is not finite; names the site.
        """

    def for_model(self, model: Any, feed: Feed) -> "Method":
        """What runs in this method's place on that model and those data: itself, unless it was left to choose."""
        return self

    def finished(self, state: Any) -> bool:
        """Asked before every round: whether there is nothing left to do."""
        return False

    def between_rounds(self, state: Any) -> None:
        """Told after every round but the last, before the checkpoint is written."""
        return

    @abstractmethod
    def draw(self, state: Any) -> Posterior:
        """The posterior as it stands."""

    def draw_for_validation(self, state: Any) -> Posterior:
        """What validation looks at after every round: `draw`, or something cheaper."""
        return self.draw(state)


@dataclass(frozen=True)
class MinibatchMethod(Method):
    """A method that sees a batch at a time; a round is an epoch.

    Args:
        epochs: passes over the training data.
        batch_size: examples per step.
    """

    epochs: int = DefaultInt(60)
    batch_size: int = DefaultInt(128)

    @property
    def rounds(self) -> int:
        # a plain number: what is kept of a run is read back by whoever knows no type of ours
        return int(self.epochs)

    def batches(self, feed: Feed, seed: int, round: int) -> Iterator[Batch]:
        return feed.batches(self.examples_per_step, seed, round)

    @property
    def examples_per_step(self) -> int:
        """Of all passes of a step together."""
        return self.batch_size

    def steps(self, examples: int) -> int:
        """Steps of the whole run over that many examples."""
        return self.epochs * number_of_batches(examples, self.examples_per_step)
