"""Points at which a model cannot be computed: they have no probability, and are no reason to stop a run.

A covariance that cannot be factorised, a parameter outside a distribution's support, a logarithm of a negative number:
torch, Pyro and Python raise where another model gives NaN.
"""

import torch

_LINEAR_ALGEBRA: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
FAILURES = (_LINEAR_ALGEBRA, ValueError, ArithmeticError)


def described(error: BaseException) -> str:
    """What was raised, in one line."""
    text = " ".join(str(error).split())
    name = type(error).__name__.lstrip("_")
    return f"{name}: {text[:200]}" if text else name


def is_of_a_point(error: BaseException) -> bool:
    """Whether what was raised is about numbers, and not about a mistake such as a shape."""
    about = ("support", "constraint", "domain", "nan", "inf", "positive", "singular")
    return not isinstance(error, ValueError) or any(word in str(error).lower() for word in about)
