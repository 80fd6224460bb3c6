"""A decision made to fit: the finest file of at most N bytes, or the smallest that errs at most so much on validation.

All search the price of a bit λ (`artifact.writing.rate_distortion`).  Size falls and error rises with λ, but not at
every small step.  A target is searched by bisection of ln λ, and the best of all that were tried is taken.  Without a
target prices are tried from the largest down, and the first that the judge accepts is taken: on few validation examples
a bisection stops at the first small price that happens to change an answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.artifact.writing.encode_weights import encode_weights
from pyro_compress.artifact.writing.rate_distortion import refinement
from pyro_compress.errors import DecisionError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.stored import StoredNetwork
from pyro_compress.network.unlayered import Unlayered
from pyro_compress.pipeline.kinds import stored
from pyro_compress.posterior.error_unit import PERCENT, ErrorUnit

LEAST_PRICE, LARGEST_PRICE = 2.0**-10, 2.0**6
# the search ends at a file that falls short of what was asked for by this share, or by so many bytes
NEAR, NEAR_BYTES = 0.01, 16
HALVINGS = 9
PRICE_LADDER = tuple(2.0 ** (half / 2) for half in range(6, -13, -1))
# of a curvature at a point, which is flatter along single weights than a posterior of all of them
POINT_LADDER = tuple(2.0 ** (half / 2) for half in range(0, -25, -1))


@dataclass(frozen=True, eq=False)
class Tried:
    """A decision at one price, the length of its file, and its validation error where that was asked for."""

    decision: Decision
    file_bytes: int
    error: float = 0.0


def to_bytes(
    architecture: Architecture | Unlayered,
    decision: Decision,
    target_bytes: int,
    *,
    complete: Callable[[Decision], Decision] = lambda decision: decision,
    say: Callable[[str], None] = lambda line: None,
    keep_deviations: bool = False,
) -> Decision:
    """The decision refined at the lowest price at which its file has at most `target_bytes`.

    Args:
        architecture: of the original network, or what stands in its place where there is none.
        decision: what would be stored without a target; returned as it is if its file is small enough.
        target_bytes: N.
        complete: what else a refined decision needs, such as batch-norm statistics of its own.
        say: told one line per price.
        keep_deviations: files keep the posterior's standard deviations, which count.

    Raises:
        DecisionError: no price makes the file small enough; says the smallest size that was reached.
    """
    trial = _trial(architecture, decision, complete, keep_deviations)

    def at(price: float) -> Tried:
        tried = trial(price)
        say(f"λ = {price:.4g} nats per bit: {tried.file_bytes:,} bytes")
        return tried

    found = at(0.0)
    if found.file_bytes <= target_bytes:
        return decision
    smallest = at(LARGEST_PRICE)
    if smallest.file_bytes > target_bytes:
        least = min(found.file_bytes, smallest.file_bytes)
        raise DecisionError(
            f"a file of {target_bytes:,} bytes is out of reach: the smallest that this decision gives has {least:,}, "
            f"its weights all but gone; ask for more, or fit with a sparser prior"
        )
    kept = _search(smallest, at, lambda tried: tried.file_bytes <= target_bytes, _nearly(target_bytes))
    fitting = [tried for tried in kept if tried.file_bytes <= target_bytes]
    best = max(fitting, key=lambda tried: tried.file_bytes)
    return best.decision.with_sites({}, target_bytes=target_bytes)


def to_error(
    architecture: Architecture | Unlayered,
    decision: Decision,
    target: float,
    error_of: Callable[[Decision], float],
    *,
    unit: ErrorUnit = PERCENT,
    complete: Callable[[Decision], Decision] = lambda decision: decision,
    say: Callable[[str], None] = lambda line: None,
    keep_deviations: bool = False,
) -> Decision:
    """The refined decision with the smallest file among those of at most `target` validation error.

    Args:
        architecture, decision, complete, say, keep_deviations: as for `to_bytes`.
        target: E in `unit`, from 0 to 100 for classes.
        error_of: what a decision stores has on validation data, in `unit`.
        unit: of the errors.

    Raises:
        DecisionError: the decision itself has a larger error; says both.
    """
    trial = _trial(architecture, decision, complete, keep_deviations)

    def at(price: float) -> Tried:
        tried = trial(price)
        error = error_of(tried.decision)
        say(f"λ = {price:.4g} nats per bit: {tried.file_bytes:,} bytes, {unit.shown(error)} validation error")
        return Tried(tried.decision, tried.file_bytes, error)

    found = at(0.0)
    if found.error > target:
        raise DecisionError(
            f"the decision itself has {unit.shown(found.error)} validation error, more than the "
            f"{target:g} {unit.sign} asked for: ask for more, or make a decision that stores more"
        )
    largest = at(LARGEST_PRICE)
    kept = [found, *_search(largest, at, lambda tried: tried.error > target, lambda tried: False)]
    fitting = [tried for tried in kept if tried.error <= target]
    best = min(fitting, key=lambda tried: tried.file_bytes)
    return best.decision.with_sites({}, **{unit.key("target_error"): target, unit.key("validation_error"): best.error})


def smallest_accepted(
    architecture: Architecture | Unlayered,
    decision: Decision,
    accepts: Callable[[Decision], bool],
    *,
    complete: Callable[[Decision], Decision] = lambda decision: decision,
    curvature: Mapping[str, np.ndarray] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Decision:
    """The decision refined at the largest price of a ladder that is accepted, or as it is where that saves no byte.

    Args:
        architecture, decision, complete: as for `to_bytes`.
        curvature: of `rate_distortion.refine`.
        accepts: whether what a decision stores is good enough, on validation data.
        say: told one line.
    """
    trial = _trial(architecture, decision, complete, keep_deviations=False, curvature=curvature)
    before = trial(0.0).file_bytes
    for price in PRICE_LADDER if curvature is None else POINT_LADDER:
        tried = trial(price)
        if tried.file_bytes < before and accepts(tried.decision):
            say(f"λ = {price:.3g} nats per bit: {tried.file_bytes:,} bytes in place of {before:,}")
            return tried.decision
    say(f"no price of a bit is accepted that makes the file smaller than {before:,} bytes")
    return decision.with_sites({}, price_nats_per_bit=0.0)


def _trial(
    architecture: Architecture | Unlayered,
    decision: Decision,
    complete: Callable[[Decision], Decision],
    keep_deviations: bool,
    curvature: Mapping[str, np.ndarray] | None = None,
) -> Callable[[float], Tried]:
    refined_at = refinement(architecture, decision, curvature)

    def at(price: float) -> Tried:
        refined = complete(refined_at(price)) if price else decision
        held = stored(architecture, refined, keep_deviations=keep_deviations)
        return Tried(refined, len(encode(held) if isinstance(held, StoredNetwork) else encode_weights(held)))

    return at


def _nearly(target_bytes: int) -> Callable[[Tried], bool]:
    return lambda tried: 0 <= target_bytes - tried.file_bytes <= max(NEAR * target_bytes, NEAR_BYTES)


def _search(
    largest: Tried, at: Callable[[float], Tried], too_dear: Callable[[Tried], bool], enough: Callable[[Tried], bool]
) -> list[Tried]:
    """What was tried between the least and the largest price; a price that is `too_dear` is the next upper bound."""
    low, high, tried = LEAST_PRICE, LARGEST_PRICE, [largest]
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        tried.append(at(middle))
        if enough(tried[-1]):
            break
        low, high = (low, middle) if too_dear(tried[-1]) else (middle, high)
    return tried
