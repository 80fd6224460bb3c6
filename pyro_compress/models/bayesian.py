"""A network, priors over its parameters and a likelihood: one Pyro model.

    w_p ~ prior_p                      for every covered parameter p
    y_i ~ likelihood(network(x_i; w))  for i in a plate of N examples, of which n are seen: scaled by N/n

With outputs t_i of a teacher, means of the likelihood such as class probabilities, an example counts with

    (1 − λ) log p(y_i | x_i, w) − λ H(t_i, network(x_i; w))

where H is the likelihood's cross-entropy; of a teacher's logits it is that at a temperature (`models.teaching`).  The
plate is the one place where the data's scale enters, so every log joint is a total over the data set.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

from pyro_compress.data.splits import EXAMPLES_PER_PASS
from pyro_compress.data.untouched import Untouched
from pyro_compress.errors import InferenceError, NetworkError, PriorError
from pyro_compress.models.checking import check_network
from pyro_compress.models.coverage import Coverage
from pyro_compress.models.held import HoldsNetwork
from pyro_compress.models.hyperparameters import with_hyperparameters
from pyro_compress.models.layouts import filters_last
from pyro_compress.models.likelihoods import LIKELIHOODS, Categorical, Likelihood
from pyro_compress.models.module_calls import refuse_unknown_module, with_output_of
from pyro_compress.models.names import attribute_name, refuse_names
from pyro_compress.models.parameters import Parameter, other_names, parameters_of, refuse_shared_memory, slots_of
from pyro_compress.models.precision import called
from pyro_compress.models.priors.base import LatentSite, Prior
from pyro_compress.models.priors.registry import PRIORS
from pyro_compress.models.teaching import Teaching
from pyro_compress.network.name_patterns import by_pattern, matches
from pyro_compress.posterior.posterior import Posterior

# where a recurrent module of torch keeps its parameters as the last call found them
_FOUND = ("_flat_weights", "_flat_weight_refs")


class BayesianNetwork(HoldsNetwork):
    """A Pyro model `model(x, y=None, teacher=None, size=None)` over a copy of `network`.

    Parameters that no prior covers (biases, normalisation) are learned as point estimates: a flat prior.  Frozen ones
    (requires_grad=False) are constants: no prior covers them, and no method moves them.

    Args:
        network: any module; it is copied and not touched.
        prior: one prior for all weights of dense layers, convolutions, recurrent layers, attention and embeddings (and
            biases, if it is that kind of prior), or a mapping from name patterns such as 'conv*.weight' to priors.  A
            name, such as 'log-uniform', stands for the prior as it comes.
        likelihood: p(y | output), or its name, such as 'poisson'; categorical if not given.
        teacher_weight: λ, from 0 to 1; matters where data come with a teacher's outputs, as the next two do.
        temperature: T > 0, at which outputs (logits) of the teacher are compared, `math.inf` to match them; None where
            it hands over means of the likelihood.
        hint: dotted name of the network's module whose output is held against the teacher's, in place of the
            network's own.

    Raises:
        NetworkError: see `models.checking.check_network`; `fit` looks at the forward pass too.
        PriorError: a pattern that matches no parameter, two patterns that match one, or a prior that cannot
            cover what it matches; a name that is not registered.
        RunError: a likelihood's name that is not registered.
        NetworkError: two parameters share memory, one has the name of the likelihood's sites, or all are frozen.
        InferenceError: a teacher's weight, temperature or hint that there cannot be, see `models.teaching.Teaching`.

    Class attributes:
        covered: what the names of parameters begin with that priors may cover.
        has_local_sites: whether there are latent sites of single examples, which `local_guide` draws.
    """

    covered: ClassVar[str] = ""
    has_local_sites: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        prior: Prior | str | Mapping[str, Prior | str],
        likelihood: Likelihood | str | None = None,
        teacher_weight: float = 0.5,
        temperature: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__()
        self.teaching = Teaching(teacher_weight, temperature, hint)
        check_network(network)
        named = LIKELIHOODS.build(likelihood) if isinstance(likelihood, str) else likelihood
        self.likelihood = named or Categorical()
        self.teaching.check_likelihood(self.likelihood)
        if hint is not None:
            refuse_unknown_module(network, hint)
        refuse_all_frozen(network, also_inferred=bool(self.likelihood.latents()))
        # of the original: a copy of parameters that share memory shares nothing
        self.prior = _priors(prior)
        rules = {"prior": self.prior} if isinstance(self.prior, Prior) else self.prior
        self.hyper, self.parameters_covered = with_hyperparameters(
            assign_priors(network, self.prior, self.covered), dict(network.named_parameters()), rules
        )
        # its values are replaced at every call, `free` holds those that are learned
        self.hold(copy.deepcopy(network))
        self._untouched = Untouched()
        own = ("data", "y", "teacher", *(site.name for site in self.likelihood.latents()))
        refuse_names((name for name, _ in self.network.named_parameters()), own)
        covered = {parameter.name for parameter, _ in self.parameters_covered}
        self.free = PyroModule("free")
        self._free_names: dict[str, str] = {}
        for name, tensor in self.network.named_parameters():
            if name not in covered and tensor.requires_grad:
                self._free_names[name] = attribute_name(name)
                setattr(self.free, attribute_name(name), nn.Parameter(tensor.detach().clone()))
        self._slots = slots_of(self.network)
        self._recurrent = [module for module in self.network.modules() if isinstance(module, nn.RNNBase)]

    def held_elsewhere(self) -> frozenset[str]:
        return frozenset(self._free_names)

    @property
    def is_proper(self) -> bool:
        """Whether every prior integrates to one."""
        return all(prior.is_proper for _, prior in self.parameters_covered)

    @property
    def coverage(self) -> Coverage:
        """How many of the network's numbers have a prior, and which parameters are point estimates."""
        parameters = dict(self.network.named_parameters())
        covered = {parameter.name for parameter, _ in self.parameters_covered}
        norms = {parameter.name for parameter in parameters_of(self.network) if parameter.kind == "norm"}
        free = sorted(self._free_names, key=lambda name: -parameters[name].numel())
        return Coverage(
            sum(parameters[name].numel() for name in covered),
            sum(value.numel() for value in parameters.values()),
            tuple(free),
            tuple(name for name in free if name not in norms and sum(n > 1 for n in parameters[name].shape) > 1),
        )

    def forward(
        self,
        x: torch.Tensor,
        y: torch.Tensor | None = None,
        teacher: torch.Tensor | None = None,
        *,
        size: int | None = None,
        free: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        """The generative program.

        Args:
            x: inputs, (n, *input shape).
            y: targets, (n, ...), or None to draw them.
            teacher: means of the likelihood, or with a temperature outputs, of a teacher; None where there is none.
            size: N, number of examples in the whole data set; n if not given.
            free: values of the parameters that no prior covers; the present ones if not given.

        Returns:
            The network's output, (n, ...).
        """
        return self.observe(self.sample_weights(free), x, y, teacher, size=size)

    def observe(
        self,
        values: Mapping[str, Any],
        x: torch.Tensor,
        y: torch.Tensor | None = None,
        teacher: torch.Tensor | None = None,
        *,
        size: int | None = None,
    ) -> torch.Tensor:
        """The second half of the program: y given the network's parameters; arguments as for `forward`."""
        latent, teaching = self.likelihood.sample_latents(), self.teaching
        output, taught = self.outputs(values, x)
        with self.rows(x, size):
            if teacher is None:
                self.likelihood.observe(output, y, latent)
                return output
            if teaching.weight < 1:
                with poutine.scale(scale=1 - teaching.weight):
                    self.likelihood.observe(output, y, latent)
            pyro.factor("teacher", -teaching.weight * teaching.cross_entropy(self.likelihood, taught, teacher, latent))
        return output

    def local_guide(self, x: torch.Tensor, *targets: torch.Tensor, size: int | None = None) -> None:
        """The guide's sample statements for latent sites of single examples, arguments as for `forward`: none here."""
        return

    def bounded(self, *args: Any, **kwargs: Any) -> Any:
        """The program whose evidence variational methods bound, called as `forward`, which it is here.

        A model that sums some of its latent sites out says here how.
        """
        return self.forward(*args, **kwargs)

    def bounded_guide(self, *args: Any, **kwargs: Any) -> None:
        """What `local_guide` is to `forward`, for `bounded`."""
        self.local_guide(*args, **kwargs)

    def see(self, x: torch.Tensor, y: torch.Tensor, *more: torch.Tensor) -> None:
        """Told of all training examples before the first step of a fit."""
        return

    def own_settings(self) -> dict[str, str]:
        """What settles a model of this kind, by name, beside network, prior, likelihood and teaching."""
        return {}

    def reached(self, values: Mapping[str, Any], x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """A tensor that every parameter has a part in; `output` is the network's."""
        return output

    def rows(self, x: torch.Tensor, size: int | None) -> Any:
        """The plate of N examples of which x holds some.

        Raises:
            InferenceError: it holds not all of them, and the likelihood is no product over examples.
        """
        total = len(x) if size is None else size
        if total != len(x) and not self.likelihood.factorises:
            raise InferenceError(
                f"{type(self.likelihood).__name__}'s likelihood is no product over examples, so {len(x)} of {total} "
                f"have another one: see all the data at once (batch_size={total}, one process), or take the likelihood "
                "'piecewise-exponential', which is a product"
            )
        # `subsample` is given: without it the plate would permute N indices at every call
        return pyro.plate("data", total, subsample=torch.arange(len(x)))

    def stored_part(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        """What a file holds of the network, and the shape of one example of what that takes."""
        return self.network, input_shape

    def outputs(self, values: Mapping[str, Any], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's output, and what of it a teacher's is held against: the same, or that of the hint."""
        if self.teaching.hint is None:
            output = self.call_network(values, x)
            return output, output
        return with_output_of(self.network, self.teaching.hint, lambda: self.call_network(values, x))

    def errors(
        self, values: Mapping[str, Any], x: torch.Tensor, y: torch.Tensor, *, chunk: int = EXAMPLES_PER_PASS
    ) -> torch.Tensor:
        """Per-example errors (`likelihood.error`) of the network in evaluation mode, (examples,): what validation sees.

        Args:
            values: of the network's parameters.
            x, y: inputs and targets; all else that training sees does not matter.
            chunk: examples per pass; all of them where the likelihood is no product over examples.
        """
        self.network.eval()
        chunk, values = chunk if self.likelihood.factorises else len(x), filters_last(self.network, values)
        with torch.no_grad():
            pairs = zip(x.split(chunk), y.split(chunk), strict=True)
            return torch.cat([self.likelihood.error(self.call_network(values, part), target) for part, target in pairs])

    def sample_weights(self, free: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run every prior's sample statements; adds the point-estimated parameters, or `free` in their place."""
        values = {parameter.name: prior.sample(parameter) for parameter, prior in self.parameters_covered}
        return values | (self.free_values() if free is None else dict(free))

    def free_values(self) -> dict[str, torch.Tensor]:
        """The point-estimated parameters by their dotted name."""
        return {name: getattr(self.free, attribute) for name, attribute in self._free_names.items()}

    def at(self, hyperparameters: Mapping[str, Any]) -> "BayesianNetwork":
        """A copy whose priors have these hyper-parameters, such as `posterior.hyperparameters`."""
        model = copy.deepcopy(self)
        model.hyper.place(hyperparameters)
        return model

    def values_at(self, posterior: Posterior) -> dict[str, torch.Tensor]:
        """What a posterior has for the mean of every parameter, by name, and all else that `errors` takes."""
        return {name: torch.from_numpy(site.mean) for name, site in posterior.parameters.items()}

    def frozen_values(self) -> dict[str, torch.Tensor]:
        """The parameters that stay as they are given, by their dotted name: the network holds them itself."""
        return {name: value.detach() for name, value in self.network.named_parameters() if not value.requires_grad}

    def latents(self) -> tuple[LatentSite, ...]:
        """Every latent site with its guide family, started at the network's present values."""
        values = dict(self.network.named_parameters())
        sites = [
            site
            for parameter, prior in self.parameters_covered
            for site in prior.latents(parameter, values[parameter.name].detach())
        ]
        return (*sites, *self.likelihood.latents())

    def call_network(self, values: Mapping[str, Any], x: torch.Tensor) -> torch.Tensor:
        """The network's output with `values`, tensors or lazy values, in place of its parameters."""
        with self._placed(values):
            return called(lambda: self._untouched(self.network, x, mode=self.network.training), x.device)

    @contextmanager
    def _placed(self, values: Mapping[str, Any]) -> Iterator[None]:
        # torch.func.functional_call refuses lazy values; a module only looks its parameters up by attribute
        held: dict[nn.Module, dict[str, Any]] = {}
        # recurrent modules look theirs up at every call, keep what they found in a list, and on GPUs move it elsewhere
        found = {module: {n: module.__dict__[n] for n in _FOUND} for module in self._recurrent}
        try:
            for recurrent in found:
                recurrent.__dict__["flatten_parameters"] = _stay
            for name, value in values.items():
                for module, local in self._slots[name]:
                    held.setdefault(module, dict(module._parameters))
                    del module._parameters[local]
                    module.__dict__[local] = value
            yield
        finally:
            for module, parameters in held.items():
                for local in parameters.keys() - module._parameters.keys():
                    del module.__dict__[local]
                # in their order, also where some of them were left in place
                module._parameters.clear()
                module._parameters.update(parameters)
            for recurrent, lists in found.items():
                del recurrent.__dict__["flatten_parameters"]
                recurrent.__dict__.update(lists)


def _priors(given: Prior | str | Mapping[str, Prior | str]) -> Prior | dict[str, Prior]:
    """With priors in the place of their names."""
    if isinstance(given, Mapping):
        return {pattern: PRIORS.build(rule) if isinstance(rule, str) else rule for pattern, rule in given.items()}
    return PRIORS.build(given) if isinstance(given, str) else given


def assign_priors(
    network: nn.Module, prior: Prior | Mapping[str, Prior], covered: str = ""
) -> tuple[tuple[Parameter, Prior], ...]:
    """Which prior covers which parameter; see `BayesianNetwork` for the rules and errors.

    Args:
        network, prior: see there.
        covered: what names begin with that a prior may cover.
    """
    refuse_shared_memory(network)
    everywhere = parameters_of(network)
    parameters = tuple(parameter for parameter in everywhere if parameter.name.startswith(covered))
    others = other_names(network)
    for name, first in others.items():
        if name.startswith(covered) != first.startswith(covered):
            raise NetworkError(
                f"{first} and {name} are one parameter, and priors and files are of '{covered}*' alone: let the parts "
                "have parameters of their own"
            )
    if isinstance(prior, Mapping):
        _refuse_other_names(prior, [parameter.name for parameter in everywhere], others)
        _refuse_outside(prior, [parameter.name for parameter in everywhere], covered)
    frozen = {name for name, value in network.named_parameters() if not value.requires_grad}
    if isinstance(prior, Prior):
        chosen = [
            (parameter, prior)
            for parameter in parameters
            if (parameter.group_axis is not None or prior.covers_biases) and parameter.name not in frozen
        ]
        if not chosen:
            besides = " besides those that are frozen (requires_grad=False)" if frozen else ""
            own = [
                parameter.name for parameter in parameters if parameter.name not in frozen and len(parameter.shape) > 1
            ]
            named = f": name parameters of your own, as in prior={{'{own[0]}': ...}}" if own else ""
            raise PriorError(
                f"the network has no weight of a layer{besides} for {type(prior).__name__} to cover{named}"
            )
    else:
        chosen = _by_patterns(parameters, prior, frozen)
    for parameter, rule in chosen:
        rule.check(parameter)
    return tuple(chosen)


def _refuse_outside(rules: Mapping[str, Prior], names: list[str], covered: str) -> None:
    for pattern, matched in matches("prior", rules, names, "parameter", PriorError).items():
        outside = [name for name in matched if not name.startswith(covered)]
        if outside:
            raise PriorError(
                f"prior: '{pattern}' matches {outside[0]}, and priors cover '{covered}*' alone, the part that files "
                "hold: the others are point estimates"
            )


def _refuse_other_names(rules: Mapping[str, Prior], names: list[str], others: Mapping[str, str]) -> None:
    for pattern in rules:
        meant = [name for name in others if fnmatchcase(name, pattern)]
        if meant and not any(fnmatchcase(name, pattern) for name in names):
            raise PriorError(
                f"prior: '{pattern}' matches {meant[0]}, which is one parameter with {others[meant[0]]}: name that"
            )


def _by_patterns(
    parameters: tuple[Parameter, ...], rules: Mapping[str, Prior], frozen: set[str]
) -> list[tuple[Parameter, Prior]]:
    names = [parameter.name for parameter in parameters]
    for pattern, matched in matches("prior", rules, names, "parameter", PriorError).items():
        if frozen.issuperset(matched):
            raise PriorError(
                f"prior: '{pattern}' matches {', '.join(matched)} alone, which is frozen (requires_grad=False) and "
                "stays as it is: leave the rule out, or call requires_grad_(True)"
            )
    free = {parameter.name: parameter for parameter in parameters if parameter.name not in frozen}
    chosen = by_pattern("prior", rules, free, "parameter", PriorError)
    return [(parameter, chosen[name]) for name, parameter in free.items() if name in chosen]


def refuse_all_frozen(network: nn.Module, *, also_inferred: bool) -> None:
    """Refuse a network of which nothing is left to infer.

    Raises:
        NetworkError: all parameters are frozen, and nothing else is inferred.
    """
    parameters = [*network.parameters()]
    if parameters and not also_inferred and not any(parameter.requires_grad for parameter in parameters):
        raise NetworkError(
            "every parameter of the network is frozen (requires_grad=False), so there is nothing to infer: call "
            "network.requires_grad_(True)"
        )


def _stay() -> None:
    """In place of `flatten_parameters`, which would take tensors out of the vectors that they are views of."""
