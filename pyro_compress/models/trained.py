"""What a user's program trains, apart from the user's own objects: these stay as they are, and so does Pyro's store.

A program trains what Pyro would train: `pyro.param`s, and the parameters of modules that it hands to `pyro.module` or
holds as a `PyroModule`; where the program is a module, or a method of one, all parameters of that module as well that
ask for gradients.  Of these, those that what it computes depends on.  Copies are trained, and for the time of a call
they take the place of the originals.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from pyro_compress.errors import InferenceError
from pyro_compress.models.module_calls import calls_noted
from pyro_compress.models.names import attribute_name
from pyro_compress.models.sites import log_prob, refuse_outside

# where a module holds a tensor: in which dict of its own, and by which name
Place = tuple[dict[str, Any], str]
# between the name of a module that `pyro.module` was given and that of a parameter
DIVIDER = "$$$"


def module_behind(function: Callable[..., Any]) -> nn.Module | None:
    """The module that a program is, or is a method of."""
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


class Trained(nn.Module):
    """Copies of what a program trains, as parameters of this module, and of buffers that it moves.

    Args:
        function: the program.
        run: the same on its data, without arguments: is run to see what it declares.
        name: what messages call it.

    Raises:
        InferenceError: it uses a parameter that it declares in a way that no copy can stand for.
    """

    def __init__(self, function: Callable[..., Any], run: Callable[[], Any], name: str) -> None:
        super().__init__()
        self._name = name
        self.constraints: dict[str, Any] = {}
        self._attributes: dict[str, str] = {}
        self._places: dict[str, list[Place]] = {}
        self._buffer_places: dict[str, Place] = {}
        seen = _Declarations(module_behind(function))
        with seen, torch.enable_grad():
            trace = poutine.trace(run).get_trace()
            modules, tensors = seen.modules(), seen.tensors()
            used = _used(trace, tensors, name)
        for label, tensor in tensors.items():
            if label in seen.constraints:
                self._add(label, transform_to(seen.constraints[label]).inv(tensor))
                self.constraints[label] = seen.constraints[label]
            elif label in used:
                self._places[label] = _places(modules, tensor)
                if not self._places[label] and label not in seen.announced:
                    raise InferenceError(
                        f"{name} uses the parameter '{label}' without a call of the module that holds it: call the "
                        "module where it is used"
                    )
                if not self._places[label]:
                    # a pyro.param that was given an nn.Parameter
                    self.constraints[label] = constraints.real
                self._add(label, tensor)
        if self.trains:
            self._keep_buffers(run, modules)

    def _add(self, label: str, value: Tensor) -> None:
        self._attributes[label] = attribute_name(label)
        self.register_parameter(self._attributes[label], nn.Parameter(value.detach().clone()))

    def _keep_buffers(self, run: Callable[[], Any], modules: list[nn.Module]) -> None:
        """Copies of the buffers that a run moves, such as running statistics; the originals are put back."""
        places: list[Place] = [(m._buffers, name) for m in modules for name, b in m._buffers.items() if b is not None]
        before = [held[local].clone() for held, local in places]
        with self.in_place(), torch.no_grad():
            run()
        for (held, local), former in zip(places, before, strict=True):
            if not torch.equal(held[local], former):
                held[local].copy_(former)
                attribute = f"buffer{len(self._buffer_places)}"
                self.register_buffer(attribute, former)
                self._buffer_places[attribute] = (held, local)

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return bool(self._attributes)

    def values(self) -> dict[str, Tensor]:
        """By name, in the space in which the program declares them."""
        raw = {label: getattr(self, attribute) for label, attribute in self._attributes.items()}
        return {n: transform_to(self.constraints[n])(v) if n in self.constraints else v for n, v in raw.items()}

    def take(self, values: Mapping[str, Any]) -> None:
        """Set those that are named, to values in the program's space."""
        with torch.no_grad():
            for label in self._attributes.keys() & values.keys():
                own: Tensor = getattr(self, self._attributes[label])
                value = torch.tensor(values[label], dtype=own.dtype)
                own.copy_(transform_to(self.constraints[label]).inv(value) if label in self.constraints else value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the copies stand where the program looks for its parameters."""
        if not self.trains:
            yield
            return
        values = self.values()
        copies = [(place, values[label]) for label, places in self._places.items() for place in places]
        copies += [(place, getattr(self, attribute)) for attribute, place in self._buffer_places.items()]
        before = [held[local] for (held, local), _ in copies]
        try:
            for (held, local), value in copies:
                held[local] = value
            with _Given({label: values[label] for label in self.constraints}, self._name):
                yield
        finally:
            for ((held, local), _), former in zip(copies, before, strict=True):
                held[local] = former


class _Own(Messenger):
    """Answers `pyro.param` in the place of Pyro's store; what modules register there goes into one that is empty."""

    def __enter__(self) -> Any:
        self._scope = pyro.get_param_store().scope()
        self._scope.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._scope.__exit__(*error)

    def _pyro_param(self, msg: Any) -> None:
        start = msg["args"][1] if len(msg["args"]) > 1 else None
        if DIVIDER in msg["name"] or isinstance(start, nn.Parameter):
            msg["value"] = self.of_module(msg["name"], msg["args"][1])
        elif start is not None or msg["name"] not in pyro.get_param_store():
            # a PyroModule registers its PyroParams itself
            msg["value"] = self.own_value(msg["name"], start, msg["kwargs"].get("constraint"))

    def of_module(self, name: str, value: Tensor) -> Tensor:
        """Of a parameter that lies in a module as `value`."""
        return value

    def own_value(self, name: str, start: Any, constraint: Any) -> Tensor:
        """Of a `pyro.param`; `start` is what it starts from, a function that makes it, or None."""
        raise NotImplementedError


class _Given(_Own):
    """Values of what is trained."""

    def __init__(self, values: Mapping[str, Tensor], program: str) -> None:
        super().__init__()
        self.values, self.program = values, program

    def of_module(self, name: str, value: Tensor) -> Tensor:
        return self.values.get(name, value)

    def own_value(self, name: str, start: Any, constraint: Any) -> Tensor:
        if name not in self.values:
            raise InferenceError(
                f"{self.program} declares pyro.param '{name}' in some runs and not in others: declare it always, and "
                "use it where it is needed"
            )
        return self.values[name]


class _Declarations(_Own):
    """Notes what a program declares as trained, in one run.

    Args:
        owner: the module that the program is, or is a method of.

    Attributes:
        constraints: of every `pyro.param`.
        announced: what was registered as lying in a module.
    """

    def __init__(self, owner: nn.Module | None) -> None:
        super().__init__()
        self.owner, self.constraints = owner, dict[str, Any]()
        self._own: dict[str, Tensor] = {}
        self.announced: dict[str, Tensor] = {}
        self._called: list[nn.Module] = []

    def __enter__(self) -> Any:
        self._noting = calls_noted(lambda module, _: self._called.append(module), before=True)
        self._noting.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._noting.__exit__(*error)

    def of_module(self, name: str, value: Tensor) -> Tensor:
        self.announced[name] = value
        return value

    def own_value(self, name: str, start: Any, constraint: Any) -> Tensor:
        if name not in self._own:
            if start is None:
                raise InferenceError(f"pyro.param '{name}' is read before a value to start from was given")
            value = start() if callable(start) and not isinstance(start, Tensor) else start
            self._own[name] = torch.as_tensor(value).detach().clone().requires_grad_()
            self.constraints[name] = constraint or constraints.real
        return self._own[name]

    def modules(self) -> list[nn.Module]:
        """All that the program may look into."""
        roots = [*([] if self.owner is None else [self.owner]), *self._called]
        return list({id(module): module for root in roots for module in root.modules()}.values())

    def tensors(self) -> dict[str, Tensor]:
        """What is declared, by name; of modules the tensors themselves.

        Raises:
            InferenceError: two have one name.
        """
        named: list[tuple[str, Tensor]] = []
        if self.owner is not None:
            named += [(n, p) for n, p in self.owner.named_parameters() if p.requires_grad]
        named += [(n.replace(DIVIDER, "."), p) for n, p in self.announced.items() if p.requires_grad]
        for module in self.modules():
            if isinstance(module, PyroModule):
                # PyroParams, which a module announces by their constrained values
                kept = ((local, f"{local}_unconstrained") for local in module._pyro_params)
                named += [(f"{module._pyro_name}.{n}".lstrip("."), getattr(module, raw)) for n, raw in kept]
        found: dict[str, Tensor] = {}
        known: set[int] = set()
        for label, tensor in (*named, *self._own.items()):
            if id(tensor) in known:
                continue
            if label in found:
                raise InferenceError(f"two parameters are called '{label}': give modules and pyro.params other names")
            found[label] = tensor
            known.add(id(tensor))
        return found


def _used(trace: Any, tensors: Mapping[str, Tensor], name: str) -> list[str]:
    """Names of those that a site's value or density depends on; `name` is the program's.

    Raises:
        InferenceError: an observation that its distribution cannot have.
    """
    total = torch.zeros(())
    for site in trace.nodes.values():
        if site["type"] == "sample" and not site_is_subsample(site):
            try:
                total = total + log_prob(site).sum()
            except ValueError:
                refuse_outside(site, name)
                raise
            total = total + site["value"].sum() if site["value"].is_floating_point() else total
    if not tensors or not total.requires_grad:
        return []
    gradients = torch.autograd.grad(total, list(tensors.values()), allow_unused=True)
    return [name for name, gradient in zip(tensors, gradients, strict=True) if gradient is not None]


def _places(modules: list[nn.Module], tensor: Tensor) -> list[Place]:
    """Everywhere that modules hold a tensor: several may share one."""
    held = (module._parameters for module in modules)
    return [(parameters, local) for parameters in held for local, value in parameters.items() if value is tensor]
