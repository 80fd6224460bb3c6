"""Hyper-parameters of priors that are learned as point estimates: a codebook, the scales and weights of a mixture.

A prior declares them; the model holds one tensor for each, in unconstrained space, and a prior reads the present values
from its parameter: `parameter.hyper["scale"]`.  What is learned maximises what a method maximises: the evidence lower
bound (empirical Bayes), or the joint density.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import biject_to, constraints

from pyro_compress.errors import PriorError
from pyro_compress.models.names import attribute_name
from pyro_compress.models.parameters import Parameter


@dataclass(frozen=True, eq=False)
class Hyperparameter:
    """One learned tensor of a prior.

    Attributes:
        name: by which the prior reads it.
        start: its value before the first step; the shape must not follow that of the parameter, which may lose units.
        constraint: that it keeps, such as `constraints.positive` or `constraints.simplex`.
        role: a learning rate's name, see `VariationalMethod`: 'hyper', 'weight', 'scale' or 'other'.
        prior: a distribution of the value, whose log density is learned with it; None is flat.
    """

    name: str
    start: torch.Tensor
    constraint: Any = constraints.real
    role: str = "hyper"
    prior: Any = None


class Hyperparameters(PyroModule):
    """All of a model, by full name: 'fc.weight.NAME' for one of a parameter, 'RULE.NAME' for one shared by a prior's.

    RULE is 'prior', or the first pattern that stands for that prior.

    Attributes:
        declared: by full name.
        unconstrained: what is trained.
    """

    def __init__(self) -> None:
        super().__init__("hyper")
        self.declared: dict[str, Hyperparameter] = {}
        self.unconstrained = PyroModule("unconstrained")

    def add(self, name: str, declared: Hyperparameter) -> None:
        """Start one.

        Raises:
            PriorError: there is one of that name, or its start is not finite or outside its constraint.
        """
        if name in self.declared:
            raise PriorError(f"hyper-parameter '{name}' is declared twice: give each a name of its own")
        start = torch.as_tensor(declared.start).detach().to(torch.get_default_dtype())
        free = biject_to(declared.constraint).inv(start)
        if not bool(torch.isfinite(free).all()):
            raise PriorError(
                f"hyper-parameter '{name}' starts at {start.tolist()}, which is not inside {declared.constraint}"
            )
        self.declared[name] = declared
        setattr(self.unconstrained, attribute_name(name), nn.Parameter(free.clone()))

    def value(self, name: str) -> torch.Tensor:
        """The present value, which gradients flow through."""
        found: torch.Tensor = biject_to(self.declared[name].constraint)(self.tensor(name))
        return found

    def tensor(self, name: str) -> torch.Tensor:
        """The trained tensor."""
        found: torch.Tensor = getattr(self.unconstrained, attribute_name(name))
        return found

    def values(self) -> dict[str, torch.Tensor]:
        """All present values by full name."""
        return {name: self.value(name) for name in self.declared}

    def complexity_nats(self) -> dict[str, torch.Tensor]:
        """−ln p of the present value of each that has a density, by full name."""
        priors = ((name, one.prior) for name, one in self.declared.items() if one.prior is not None)
        return {name: -prior.log_prob(self.value(name)).sum() for name, prior in priors}

    def place(self, values: Mapping[str, Any]) -> None:
        """Go on from these values, by full name.

        Raises:
            PriorError: a name that is not there.
        """
        for name, value in values.items():
            if name not in self.declared:
                raise PriorError(f"there is no hyper-parameter '{name}': the priors have {', '.join(self.declared)}")
            tensor = self.tensor(name)
            with torch.no_grad():
                tensor.copy_(biject_to(self.declared[name].constraint).inv(torch.as_tensor(value).to(tensor)))


class Present(Mapping[str, torch.Tensor]):
    """What a prior reads: the present values, by its own names.

    Args:
        held: where they are.
        names: full names by the prior's own.
    """

    def __init__(self, held: Hyperparameters, names: Mapping[str, str]) -> None:
        self._held, self._names = held, dict(names)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._held.value(self._names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def with_hyperparameters(
    covered: Sequence[tuple[Parameter, Any]], values: Mapping[str, torch.Tensor], rules: Mapping[str, Any]
) -> tuple[Hyperparameters, tuple[tuple[Parameter, Any], ...]]:
    """What the priors declare, and their parameters, which read it.

    Args:
        covered: parameters and the prior of each.
        values: of the network's parameters, which the priors start from.
        rules: priors by what people call them.
    """
    held, pairs = Hyperparameters(), []
    shared: dict[int, dict[str, str]] = {}
    for rule, prior in rules.items():
        own = [(parameter, values[parameter.name].detach()) for parameter, other in covered if other is prior]
        if id(prior) in shared or not own:
            continue
        names = shared[id(prior)] = {}
        for one in prior.shared_hyperparameters(own):
            names[one.name] = f"{rule}.{one.name}"
            held.add(names[one.name], one)
    for parameter, prior in covered:
        names = dict(shared[id(prior)])
        for one in prior.hyperparameters(parameter, values[parameter.name].detach()):
            if one.name in names:
                raise PriorError(f"hyper-parameter '{one.name}' is declared twice: give each a name of its own")
            names[one.name] = f"{parameter.name}.{one.name}"
            held.add(names[one.name], one)
        pairs.append((replace(parameter, hyper=Present(held, names)) if names else parameter, prior))
    return held, tuple(pairs)
