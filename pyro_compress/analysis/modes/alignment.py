"""Renaming hidden units so that weights resemble a reference: weight matching (Ainsworth et al. 2023, Git Re-Basin).

    maximise over renamings π   Σ ⟨reference, π(weights)⟩

by coordinate descent: with all other spaces held, the best permutation of one space is a linear assignment problem, in
which the best product of sign flips has been taken for every pair of units.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from pyro_compress.analysis.modes.symmetries import Arrays, HiddenSpace, Renaming, rename
from pyro_compress.errors import InferenceError

Renamings = tuple[Renaming, ...]
# share of the present agreement by which a step must improve on it, or rounding errors would go on for ever
_LEAST_GAIN = 1e-9
_MOST_SWEEPS = 100


def rename_all(spaces: Sequence[HiddenSpace], renamings: Renamings, arrays: Arrays) -> dict[str, np.ndarray]:
    """The tensors with every space renamed; the order of the spaces doesn't matter."""
    renamed = dict(arrays)
    for space, renaming in zip(spaces, renamings, strict=True):
        renamed = rename(space, renaming, renamed)
    return renamed


def match(spaces: Sequence[HiddenSpace], reference: Arrays, weights: Arrays) -> Renamings:
    """Renamings of `weights`, one per space, that bring them closest to `reference`.

    Descends from two starts and takes the better end: spaces are matched from the first to the last by what reaches
    them, and from the last to the first by what they reach.  Neither start looks at the order in which the units of
    `weights` stand, so renamed copies of the same weights end alike.

    Args:
        spaces: of the network, see `hidden_spaces`.
        reference, weights: tensors by parameter name.

    Raises:
        InferenceError: values that are not finite.
    """
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise InferenceError(f"draws of '{name}' hold values that are not finite: units cannot be matched")
    ends = []
    for backwards in (False, True):
        renamings = _start(spaces, reference, weights, backwards)
        renamings, renamed = _descend(spaces, reference, rename_all(spaces, renamings, weights), renamings)
        ends.append((agreement(reference, renamed), renamings))
    return max(ends, key=lambda end: end[0])[1]


def agreement(left: Arrays, right: Arrays) -> float:
    """Σ ⟨left, right⟩ over the tensors that both have."""
    return float(sum(np.vdot(array, right[name]) for name, array in left.items() if name in right))


def canonical(spaces: Sequence[HiddenSpace], weights: Arrays) -> Renamings:
    """Names that depend on what the units do alone: by falling norm of what makes a unit, then of what reads it.

    Signs: factors behind the weight that makes a unit are positive, then the largest entry of that weight is, as far
    as the flips allow.  Spaces are named in order, so that the inputs of each have their names when it comes.
    """
    renamings, renamed = [], dict(weights)
    for space in spaces:
        slots = {slot.name: slot for slot in space.slots}
        made, read = (np.square(slots[n].units(renamed[n])).sum(axis=1) for n in (space.factors[0], space.factors[-1]))
        order = np.lexsort((-read, -made))
        flip = space.products()[_most_positive(space, renamed)].T
        renamings.append(Renaming(order, flip[:, order]))
        renamed = rename(space, renamings[-1], renamed)
    return tuple(renamings)


def _most_positive(space: HiddenSpace, weights: Arrays) -> np.ndarray:
    """Index into `space.products()` per unit: the one that makes the most important signs positive."""
    slots = {slot.name: slot for slot in space.slots}
    important = [*space.factors[1:-1], space.factors[0]]
    keys = np.zeros((len(space.products()), space.size), dtype=np.int64)
    for name in important:
        rows = slots[name].units(weights[name])
        largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)[:, 0]
        for key, product in zip(keys, space.products(), strict=True):
            flip = np.broadcast_to(product[:, None], (len(product), space.size))
            key *= 2
            key += largest * space.sign(name, flip) > 0
    return keys.argmax(axis=0)


def _start(spaces: Sequence[HiddenSpace], reference: Arrays, weights: Arrays, backwards: bool) -> Renamings:
    """Match space after space, each by the tensors whose other units have their names already."""
    found: dict[int, Renaming] = {}
    places = range(len(spaces))
    for place in reversed(places) if backwards else places:
        space = spaces[place]
        open_still = space.factors[0] if backwards else space.factors[-1]
        found[place] = _best(space, reference, weights, leave_out=open_still) or Renaming.identity(space)
        weights = rename(space, found[place], weights)
    return tuple(found[place] for place in places)


def _descend(
    spaces: Sequence[HiddenSpace], reference: Arrays, weights: dict[str, np.ndarray], renamings: Renamings
) -> tuple[Renamings, dict[str, np.ndarray]]:
    """Sweep over the spaces until none changes; the agreement rises with every step."""
    found = list(renamings)
    for _ in range(_MOST_SWEEPS):
        changed = False
        for place, space in enumerate(spaces):
            better = _best(space, reference, weights)
            if better is not None:
                found[place] = found[place].then(better)
                weights = rename(space, better, weights)
                changed = True
        if not changed:
            break
    return tuple(found), weights


def _best(space: HiddenSpace, reference: Arrays, weights: Arrays, leave_out: str | None = None) -> Renaming | None:
    """The renaming of one space of highest agreement; None if the present names are as good.

    Args:
        space: whose units are renamed.
        reference, weights: tensors by name.
        leave_out: a tensor that doesn't count.
    """
    products = space.products()
    gains = np.zeros((len(products), space.size, space.size))
    for slot in space.slots:
        if slot.name in reference and slot.name in weights and slot.name != leave_out:
            gain = slot.units(reference[slot.name]) @ slot.units(weights[slot.name]).T
            for total, product in zip(gains, products, strict=True):
                total += gain * space.sign(slot.name, product[:, None])[0]
    most = gains.max(axis=0)
    places, units = linear_sum_assignment(most, maximize=True)
    present = np.diagonal(gains[0])
    if most[places, units].sum() - present.sum() <= _LEAST_GAIN * np.abs(present).sum():
        return None
    return Renaming(units, products[gains[:, places, units].argmax(axis=0)].T)
