"""Bayes by Backprop (Blundell et al. 2015): the complexity is sampled too, and spread over an epoch's batches.

    F_i = π_i (log q(w) − log p(w)) − Σ_{j in batch i} log p(y_j | x_j, w),   w ~ q, one for the whole batch,

with Σ_i π_i = 1 over the M batches of an epoch, so that Σ_i F_i estimates the negative ELBO whatever π is.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyro_compress.data.splits import number_of_batches
from pyro_compress.errors import InferenceError, unknown_name
from pyro_compress.inference.contract import Method, Model, left_at_defaults
from pyro_compress.inference.defaults.best_normal import left_to_choose
from pyro_compress.inference.gradient.elbo import ElboTerms, sampled
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.inference.variational.base import VariationalMethod
from pyro_compress.inference.variational.state import VariationalState
from pyro_compress.models.rows import examples_of


def blundell(batch: int, batches: int) -> float:
    """π_i = 2^{M−i} / (2^M − 1) of batch i = 1…M: the first batches carry the prior, the last ones the data.

    Computed as 2^{−i} / (1 − 2^{−M}), since 2^M is too large for M in the hundreds.
    """
    return math.ldexp(1.0, -batch) / (1.0 - math.ldexp(1.0, -batches))


def uniform(batch: int, batches: int) -> float:
    """π_i = 1/M (Graves 2011)."""
    return 1.0 / batches


COSTS: Mapping[str, Callable[[int, int], float]] = {"blundell": blundell, "uniform": uniform}


@dataclass(frozen=True)
class BayesByBackprop(VariationalMethod):
    """Bayes by Backprop: Monte Carlo KL, one weight sample per batch, minibatch weights of the complexity.

    A step descends M F_i, on the scale of SVI's objective, so the mean over an epoch is the tempered negative ELBO.

    Args:
        epochs, batch_size, learning_rate, optimizer, schedule, rate_warmup, accumulate, clip, rates, kl_weight,
            kl_warmup, particles, averaging:
            as of `SVI`.
        complexity_cost: π: 'uniform', 1/M, or 'blundell', halved from batch to batch.  The latter is published, with
            plain gradient descent; steps of Adam do not grow with the gradient, so that a complexity which nearly all
            falls on the first few batches of an epoch moves the posterior that often only.
    """

    kl_warmup: float = 0.0
    complexity_cost: str = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.complexity_cost not in COSTS:
            raise InferenceError(unknown_name("complexity cost", self.complexity_cost, COSTS))

    def for_model(self, model: Model, feed: Feed) -> Method:
        """`BestNormal` with independent numbers for a Pyro model, where nothing was set."""
        if not left_at_defaults(self, ("draws", "compile")):
            return self
        return left_to_choose(model, feed, self.draws, independent=True) or self

    def terms(self, state: VariationalState, batch: Batch) -> ElboTerms:
        """The ELBO's terms at one weight sample: log q − log p stands for the complexity."""
        return self.estimated(state, batch, None, sampled)

    def weights(self, state: VariationalState, batch: Batch, beta: float) -> tuple[float, float]:
        """Those of M F_i, with β before the complexity."""
        # a model without data comes as one batch
        batches = number_of_batches(state.held, self.examples_per_step)
        share = COSTS[self.complexity_cost](1 + state.steps_done % batches, batches)
        # `terms.data` is N/n Σ log p: a smaller last batch counts as the examples that it has
        examples = examples_of(batch) / state.held if state.held else 1.0
        return batches * examples, beta * batches * share
