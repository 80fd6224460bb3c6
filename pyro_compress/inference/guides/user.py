"""Guides of the user's own: a function, a module or one of Pyro's autoguides, as variational methods take guides.

What it trains is held apart (`models/trained.py`), so that two fits share nothing.  Latent sites of single rows are
local where the guide draws them from the rows that it is given (an amortised guide, Kingma & Welling 2014): such rows
may come in batches, and both log p and log q of these sites are scaled by N/n.
"""

import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide, AutoLaplaceApproximation
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_compress.errors import InferenceError
from pyro_compress.inference.gradient.elbo import is_auxiliary, is_delta
from pyro_compress.inference.gradient.gradient_method import as_array
from pyro_compress.inference.loop.devices import seed_generators
from pyro_compress.inference.results.from_draws import point_estimates, posterior_from_draws
from pyro_compress.inference.results.iid_draws import draws_of_sites
from pyro_compress.models.priors.base import Moments
from pyro_compress.models.program import Program, shape_of
from pyro_compress.models.rows import Arguments, examples_of, row_dimension
from pyro_compress.models.sites import log_prob
from pyro_compress.models.trained import Trained, module_behind
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior

# rows that global sites are drawn with where the guide reads rows
ROWS_OF_DRAWS = 100


@dataclass(frozen=True)
class GuideSites:
    """What a guide draws.

    Attributes:
        local: sites of single rows, drawn from the rows; auxiliary ones included.
        points: sites of the model that have a value and no density, such as those of AutoDelta.
        scored: whether a site is drawn in a way through which no gradient passes.
        order: of the model's sites.
    """

    local: frozenset[str]
    points: frozenset[str]
    scored: bool
    order: tuple[str, ...]


class UserGuide(nn.Module):
    """q of all latent sites, as the user wrote it, called with what the model is called with.

    Args:
        program: the model; is told which of its sites are local.
        guide: a callable, a module, or an `AutoGuide`: its class, or an instance over the model.

    Raises:
        InferenceError: it cannot be run on the data, draws other sites than the model has, or other values than these
            may have; names the site.
    """

    def __init__(self, program: Program, guide: Callable[..., Any]) -> None:
        super().__init__()
        self.name = getattr(guide, "__name__", type(guide).__name__)
        # in tuples: neither is a part of what is trained here
        self._program, self._function = (program,), (_own_copy(guide, program),)
        function = self.function
        self.takes_size = "size" in _parameters_of(getattr(function, "forward", function))
        arguments = program.arguments
        owner = module_behind(function)
        if owner is not None and arguments:
            owner.to(arguments[0].device)
        if isinstance(function, AutoGuide):
            # it looks at the model at its first call, behind the back of handlers around it
            with pyro.get_param_store().scope(), torch.no_grad():
                self._seen(lambda: self._run(*arguments))
        self.trained = self._seen(lambda: Trained(function, lambda: self._run(*arguments), self.name))
        self.sites = self._sites(arguments)
        program.local = self.sites.local & program.sites.keys()

    @property
    def program(self) -> Program:
        """The model."""
        return self._program[0]

    @property
    def function(self) -> Any:
        """The copy of the user's guide that is called."""
        return self._function[0]

    def forward(self, *arguments: Tensor, size: int | None = None) -> None:
        """The sample statements on a batch; local sites count N/n times.

        Args:
            *arguments: n examples each, or none at all.
            size: N; n if not given.
        """
        count = examples_of(arguments)
        scale = 1.0 if size is None or not count or self.takes_size else size / count
        with self.trained.in_place(), _ScaleSites(self.sites.local, scale) if scale != 1.0 else nullcontext():
            self._run(*arguments, size=size)

    def _run(self, *arguments: Tensor, size: int | None = None) -> Any:
        more = {"size": examples_of(arguments) if size is None else size} if self.takes_size else {}
        return self.program.called(self.function, arguments, **more)

    def _seen(self, run: Callable[[], Any]) -> Any:
        """What a run gives; an error in the guide is told as one."""
        try:
            return run()
        except InferenceError:
            raise
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise InferenceError(
                f"the guide {self.name} cannot be run on what the model {self.program.name} is run on "
                f"({type(error).__name__}: {reason}): a guide takes the same arguments as its model"
            ) from error

    def _trace(self, arguments: Arguments, seed: int) -> Any:
        with self.trained.in_place(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return poutine.trace(self._run).get_trace(*arguments)

    def _sites(self, arguments: Arguments) -> GuideSites:
        guide, another = self._seen(lambda: [self._trace(arguments, seed) for seed in range(2)])
        drawn = {name: site for name, site in guide.nodes.items() if site["type"] == "sample"}
        drawn = {name: site for name, site in drawn.items() if not site_is_subsample(site)}
        known = self.program.sites
        self.program.leave_masked(guide)
        for name, site in drawn.items():
            if site["is_observed"]:
                raise InferenceError(f"the guide {self.name} observes site '{name}': guides draw, and observe nothing")
            if site["infer"].get("enumerate"):
                raise InferenceError(
                    f"the guide {self.name} asks for a sum over site '{name}' (infer={{'enumerate': …}}), which is not "
                    "taken: leave it out, for draws with the score function, or sum it out in the model"
                )
            if name not in known and not is_auxiliary(site):
                raise InferenceError(
                    f"the guide {self.name} draws site '{name}', which the model {self.program.name} has not: it has "
                    f"{', '.join(known)}; what a guide draws for itself needs infer={{'is_auxiliary': True}}"
                )
        for name in known:
            if name not in drawn:
                raise InferenceError(
                    f"the guide {self.name} does not draw site '{name}' of the model {self.program.name}: a guide "
                    "draws every latent site"
                )
            shape, expected = tuple(drawn[name]["value"].shape), tuple(shape_of(known[name]))
            if shape != expected:
                raise InferenceError(
                    f"the guide {self.name} draws site '{name}' in the shape {shape}, and the model has it in "
                    f"{expected}: give it the model's plates and event dimensions"
                )
        model = poutine.trace(poutine.replay(self.program.run, trace=guide))
        with torch.no_grad(), torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
            replayed = model.get_trace(*arguments)
        for name in known:
            fn: Any = replayed.nodes[name]["fn"]
            support = fn.support
            if not bool(torch.as_tensor(support.check(drawn[name]["value"])).all()):
                raise InferenceError(
                    f"the guide {self.name} draws values of site '{name}' outside of its support, {support}: draw it "
                    "from a distribution on that support"
                )
        deltas = [name for name in known if is_delta(drawn[name]["fn"])]
        points = frozenset(n for n in deltas if torch.equal(drawn[n]["value"], another.nodes[n]["value"]))
        scored = any(not site["fn"].has_rsample for site in drawn.values())
        return GuideSites(self._local(guide, replayed), points, scored, tuple(n for n in drawn if n in known))

    def _local(self, guide: Any, model: Any) -> frozenset[str]:
        """Sites in a plate over the rows whose values are as many as the rows that the guide is called with."""
        arguments, count = self.program.arguments, examples_of(self.program.arguments)
        if count < 2 or any(not part.ndim or len(part) != count for part in arguments):
            return frozenset()
        few = (count + 1) // 2
        try:
            part = self._trace(tuple(argument[:few] for argument in arguments), 0)
        except Exception:  # a guide of all rows and no other number of them
            return frozenset()
        found = set()
        for name, site in guide.nodes.items():
            if site["type"] != "sample" or site_is_subsample(site) or name not in part.nodes:
                continue
            dim = row_dimension(model.nodes.get(name, site) if name in self.program.sites else site, count)
            if dim is not None and _length(site, dim) == count and _length(part.nodes[name], dim) == few:
                found.add(name)
        return frozenset(found)

    @property
    def is_global(self) -> bool:
        """Whether no site is local."""
        return not self.sites.local

    def parameter_groups(self, rates: dict[str, float]) -> Iterator[dict[str, Any]]:
        """Optimizer groups: all that the guide trains, at the rate 'guide'."""
        if self.trained.trains:
            yield {"params": list(self.trained.parameters()), "multiplier": rates["guide"]}

    def moments(self) -> dict[str, Moments]:
        """None are known in closed form."""
        return {}

    @property
    def width(self) -> int:
        """Numbers of the sites that are not local."""
        return sum(math.prod(shape_of(self.program.sites[name])) for name in self.names)

    @property
    def names(self) -> list[str]:
        """Of the model's sites that are not local."""
        return [name for name in self.program.sites if name not in self.sites.local]

    def posterior(self, count: int, seed: int) -> Posterior:
        """Of sites that are not local, from draws; what model and guide have trained stands beside them."""
        program, names = self.program, self.names
        trained = {name: as_array(value) for name, value in self.trained.values().items()}
        points = point_estimates(program)
        said = {"guide": {"family": self.name, "local": sorted(program.local), "points": sorted(self.sites.points)}}
        if not names:
            return Posterior(points, kind="guide", provenance=said, guide=trained)
        drawn = posterior_from_draws(program, self.draws(program, count, seed), "guide")
        sites = dict(drawn.parameters)
        for name in self.sites.points & sites.keys():
            sites[name] = ParameterPosterior.point(sites[name].mean)
        if self.sites.points.issuperset(names):
            return Posterior(sites | points, kind="point", provenance=said, guide=trained)
        return Posterior(sites | points, {}, {}, "guide", {**drawn.provenance, **said}, {}, drawn.draws, trained)

    def draws(self, model: Program, count: int, seed: int) -> Draws:
        """Independent draws of the sites that are not local, one run of the guide each.

        Where there are local ones, the guide runs on the first rows (`ROWS_OF_DRAWS`).
        """
        arguments = model.arguments
        if not self.is_global:
            arguments = tuple(part[:ROWS_OF_DRAWS] for part in arguments)
        values: list[dict[str, Tensor]] = []
        densities: list[Tensor] = []
        with torch.no_grad(), torch.random.fork_rng(devices=[]), self.trained.in_place():
            seed_generators(seed, arguments[0].device if arguments else torch.device("cpu"))
            for _ in range(count):
                trace = poutine.trace(self._run).get_trace(*arguments)
                drawn = [s for n, s in trace.nodes.items() if s["type"] == "sample" and n not in self.sites.local]
                density = sum((log_prob(s).double().sum() for s in drawn if not site_is_subsample(s)), torch.zeros(()))
                values.append({name: torch.as_tensor(trace.nodes[name]["value"]).detach() for name in self.names})
                densities.append(torch.as_tensor(density))
        stacked = {name: torch.stack([one[name] for one in values]) for name in self.names}
        return draws_of_sites(model, stacked, torch.stack(densities))


class _ScaleSites(Messenger):
    """Scales the sites that are named."""

    def __init__(self, names: frozenset[str], scale: float) -> None:
        super().__init__()
        self.names, self.scale = names, scale

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            msg["scale"] = msg["scale"] * self.scale


def _length(site: Any, dim: int) -> int:
    shape = site["value"].shape
    return shape[dim] if len(shape) >= -dim else 0


def _parameters_of(function: Callable[..., Any]) -> Any:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _refuse_laplace(family: type[AutoGuide]) -> None:
    """Its normal is made after training, by a call of the user's; while it trains it is the mode alone."""
    if issubclass(family, AutoLaplaceApproximation):
        raise InferenceError(
            f"{family.__name__} trains the mode alone, and makes a normal of it when its laplace_approximation(...) is "
            "called: take MAP(...) for the mode, SVI() or AutoMultivariateNormal for a normal, and "
            "pyro_compress.evidence(..., method='laplace') for the evidence"
        )


def _own_copy(guide: Any, program: Program) -> Any:
    """Of a guide, which stays as it is; an autoguide of a class is made."""
    if isinstance(guide, type):
        if not issubclass(guide, AutoGuide):
            raise InferenceError(f"the class {guide.__name__} is no AutoGuide: give an instance of it as the guide")
        _refuse_laplace(guide)
        function = program.function
        size = {"size": examples_of(program.arguments)} if program.takes_size else {}
        return guide(functools.partial(function, **size) if size else function)
    parts = [part for part in guide.modules() if isinstance(part, AutoGuide)] if isinstance(guide, nn.Module) else []
    for part in parts:
        _refuse_laplace(type(part))
    # an autoguide forgets its model, and of which other it is a part, where it is copied
    remembered = [(part._model, part.master) for part in parts]
    try:
        copied = copy.deepcopy(guide)
    finally:
        for part, (model, master) in zip(parts, remembered, strict=True):
            part._model, part.master = model, master
    if parts:
        own = [part for part in copied.modules() if isinstance(part, AutoGuide)]
        for part, (model, _) in zip(own, remembered, strict=True):
            part._model = model
    return copied
