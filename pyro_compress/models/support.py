"""Targets that a likelihood gives no probability, found before they are fitted to."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_compress.errors import DataError


def support_of(distribution: Any) -> Any:
    """The constraint that its values satisfy, or None where it declares none."""
    try:
        found = distribution.support
    except (NotImplementedError, AttributeError):
        return None
    while hasattr(found, "base_constraint"):
        found = found.base_constraint
    return found


def same_support(one: Any, other: Any) -> bool:
    """Whether two constraints are one: of those that follow from a distribution's parameters, the bounds agree too."""
    if type(one) is not type(other) or vars(one).keys() != vars(other).keys():
        return False
    pairs = ((value, vars(other)[name]) for name, value in vars(one).items())
    return all(_same(a, b) for a, b in pairs)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    return bool(one == other)


def refuse_outside(support: Any, target: Tensor, name: str, where: str) -> None:
    """Say which target is not in the support.

    Args:
        support: that constraint.
        target: (examples, ...).
        name: of the distribution.
        where: the targets are.

    Raises:
        DataError: names the distribution, the first such value and its index.
    """
    inside = support.check(target)
    if bool(inside.all()):
        return
    index = tuple(torch.nonzero(~inside)[0].tolist())
    value = target[index]
    found = f"{value.item():g}" if value.ndim == 0 else str(value.tolist())
    raise DataError(
        f"{where}: the target {found} at index {index} has no probability under the {name} likelihood, whose targets "
        f"are {_in_words(support)}; change the targets or the likelihood"
    )


def _in_words(support: Any) -> str:
    if isinstance(support, type(constraints.boolean)):
        return "0 or 1"
    if support is constraints.real:
        return "finite numbers"
    low, high = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    if low is None and high is None:
        return str(support)
    words = ["whole numbers" if support.is_discrete else "numbers"]
    strict = isinstance(support, type(constraints.positive))
    words += [] if low is None else [f"{'above' if strict else 'from'} {_number(low)}"]
    words += [] if high is None else [f"to {_number(high)}"]
    return " ".join(words)


def _number(bound: Any) -> str:
    return f"{float(bound):g}" if not isinstance(bound, Tensor) or bound.numel() == 1 else str(bound.tolist())
