"""Any Pyro model as inference methods take it: `program(*arguments, size=N)`.

    log p(y, θ) = log p(θ) + (N/n) Σ_i log p(y_i | x_i, θ)

A model that takes `size` scales its likelihood itself, as `BayesianNetwork` does.  For any other, `Program` scales
the observed sites of its data plate, the plate with one place per example of the batch, by N/n; what is observed
outside of it and does not depend on the rows, such as a `pyro.factor` of parameters, counts once.  A batch is taken
only where the rows may come apart (`rows.py`).  Latent sites z_i of single rows, which a guide draws from the batch,
scale alike:

    log p(y, z, θ) = log p(θ) + (N/n) Σ_i [log p(z_i | θ) + log p(y_i | z_i, x_i, θ)]

Parameters that a model trains (`trained.py`) are point estimates.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.distributions import biject_to

from pyro_compress.data.untouched import Untouched
from pyro_compress.errors import DataError, InferenceError, warn
from pyro_compress.models.arguments import Arguments
from pyro_compress.models.failures import FAILURES, described
from pyro_compress.models.hyperparameters import Hyperparameters
from pyro_compress.models.priors.base import LatentSite
from pyro_compress.models.rows import Rows, examples_of, frames_of, rows_of
from pyro_compress.models.sites import is_deterministic, is_latent, log_prob, weighted
from pyro_compress.models.trained import Trained
from pyro_compress.models.unreached import WithPriors, unreached_places

T = TypeVar("T")
# draws from the prior that a model may fail at
TRIES = 20
ALL_AT_ONCE = (
    "fit all of it in one batch (batch_size of at least {count}), which keeps the order that the data have, or use a "
    "method that sees all the data, such as NUTS(...)"
)


class Program(nn.Module):
    """A Pyro model over the arguments that it is fitted to.

    Args:
        function: the model.
        arguments: those of its arguments that are tensors, the data: all of them, or a batch; decides shapes.
        call: what else it is called with; nothing if not given.

    Raises:
        DataError: it cannot be called with these arguments.
        InferenceError: the model has no latent site at all.

    Attributes:
        local: latent sites of single rows that a guide draws from the batch; told by who builds that guide.
        free: the parameters that the model trains.
    """

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[torch.Tensor, ...], call: Arguments | None = None
    ) -> None:
        super().__init__()
        self.function, self.arguments = function, arguments
        self.call, self._untouched = call or Arguments.taken_apart(arguments)[1], Untouched(f"the model {self.name}")
        self._refuse_arguments()
        self.takes_size = "size" in inspect.signature(getattr(function, "forward", function)).parameters
        self._rows: Rows | None = None
        self._why_whole = ""
        self._unreached: dict[str, torch.Tensor] = {}
        self.local: frozenset[str] = frozenset()
        self.free = self._tried(lambda: Trained(function, lambda: self._run(*arguments), self.name), 1)[0]
        drawn, another = self._prototypes(2)
        self.sites = _latent_sites(drawn)
        self.dependent = frozenset(_dependent(self.sites, another))
        if any(is_latent(node) and node["mask"] is not None for node in drawn.nodes.values()):
            self._unreached = unreached_places(self.run, self.arguments)
        # what methods ask of a BayesianNetwork and a plain model does not have
        self.network, self.parameters_covered, self.hyper = nn.Module(), (), Hyperparameters()

    def free_values(self) -> dict[str, torch.Tensor]:
        """What the model trains, by name, in the space in which it declares it."""
        return self.free.values()

    def latents(self) -> tuple[LatentSite, ...]:
        """Every site for guides, started at zero in unconstrained space with the sd 0.1.

        Raises:
            InferenceError: the support of a site depends on others, and a guide's must stay.
        """
        if self.dependent:
            raise InferenceError(
                f"the support of site '{min(self.dependent)}' depends on other sites, which guides and point estimates "
                "cannot follow: draw it on a fixed support and transform it in the model, as in b = a * u with u ~ "
                "Uniform(0, 1), or use NUTS(...)"
            )
        return tuple(_for_guides(name, fn) for name, fn in self.sites.items())

    @property
    def name(self) -> str:
        """What messages call it."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def forward(self, *arguments: torch.Tensor, size: int | None = None) -> Any:
        """Run the model on a batch.

        Args:
            *arguments: n examples each, or none at all.
            size: N; n if not given.

        Raises:
            InferenceError: n < N, and the rows may not come apart.
        """
        count = examples_of(arguments)
        if size is None or size == count or not count:
            return self.run(*arguments)
        rows = self.rows()
        if self.takes_size:
            return self.run(*arguments, size=size)
        with ScaleData(rows.plates, size / count, self.local):
            return self.run(*arguments)

    def run(self, *arguments: torch.Tensor, size: int | None = None) -> Any:
        """The model as it is, scaled by itself where it takes `size`."""
        with self.free.in_place():
            return self._run(*arguments, size=size)

    def _run(self, *arguments: torch.Tensor, size: int | None = None) -> Any:
        keywords = {}
        if self.takes_size:
            keywords["size"] = examples_of(arguments) if size is None else size
        if not self._unreached:
            return self.called(self.function, arguments, **keywords)
        with WithPriors(self._unreached):
            return self.called(self.function, arguments, **keywords)

    def leave_masked(self, guide: Any) -> None:
        """Where a guide's trace has a masked latent value as the model has, neither counts: no prior is put back."""
        left = {}
        for name, places in self._unreached.items():
            mask = guide.nodes[name]["mask"] if name in guide.nodes else None
            left[name] = places if mask is None else places & torch.as_tensor(mask)
        self._unreached = {name: places for name, places in left.items() if bool(places.any())}

    def rows(self, advice: str = ALL_AT_ONCE) -> Rows:
        """How the log-likelihood falls apart over the rows of the data; found at the first call.

        Args:
            advice: what the sentence ends with.

        Raises:
            InferenceError: it does not.
        """
        if self._rows is None and not self._why_whole:
            try:
                self._rows = rows_of(self.run, self.arguments, self.name, self.local)
            except InferenceError as error:
                self._why_whole = str(error)
            else:
                if not self._rows.checked:
                    warn(
                        f"{self.name} draws random numbers beside its sample sites, so it could not be seen whether a "
                        "row's log-likelihood depends on the rows that it comes with: batches are right only where it "
                        "does not"
                    )
        if self._rows is None:
            count = examples_of(self.arguments)
            raise InferenceError(f"{self._why_whole}, so its rows cannot come in batches: {advice.format(count=count)}")
        return self._rows

    def refuse_share(self, arguments: tuple[torch.Tensor, ...], size: int) -> None:
        """Say so where arguments are fewer than N and may not be; before a transform of torch, in which none is tried.

        Raises:
            InferenceError: as `rows`.
        """
        if examples_of(arguments) not in (0, size):
            self.rows()

    def called(self, function: Callable[..., Any], arguments: tuple[torch.Tensor, ...], **more: Any) -> Any:
        """The model, or a guide that takes the same arguments, called with a batch, which it does not change."""

        def run(*tensors: torch.Tensor) -> Any:
            return self.call.call(function, tensors, **more)

        return self._untouched(run, *arguments, mode=id(function))

    def _refuse_arguments(self) -> None:
        try:
            signature = inspect.signature(getattr(self.function, "forward", self.function))
        except ValueError:  # functions that are not written in Python have none
            return
        try:
            self.call.call(signature.bind, self.arguments, **({"size": 0} if "size" in signature.parameters else {}))
        except TypeError as error:
            raise DataError(
                f"the model {self.name} cannot be called with the data that it was given: {error}; give a tuple of its "
                "arguments, or a dict of them by name"
            ) from error

    def reweighted(self) -> list[str]:
        """Latent sites whose prior counts otherwise than it draws, scaled or masked: it does not integrate to one."""
        nodes = self.prototype().nodes
        return [name for name in self.sites if _is_reweighted(nodes[name])]

    def prototype(self) -> Any:
        """One trace, drawn from the prior, that leaves torch's generator as it was."""
        return self._prototypes(1)[0]

    def _prototypes(self, count: int) -> list[Any]:
        return self._tried(lambda: poutine.trace(self.forward).get_trace(*self.arguments), count)

    def _tried(self, run: Callable[[], T], count: int) -> list[T]:
        """What several runs from the prior give; where the model cannot be computed at a draw, another is taken."""
        found: list[T] = []
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(0)
            for attempt in range(TRIES):
                try:
                    found.append(run())
                except NotImplementedError as error:
                    reason = str(error).strip().partition("\n")[0]
                    raise InferenceError(
                        f"the model {self.name} draws from a distribution that has no draws ({reason}): a flat prior "
                        "is a proper one on the same support, under `poutine.mask(mask=False)`, which counts nothing"
                    ) from error
                except FAILURES as error:
                    if attempt < TRIES - 1:
                        continue
                    if isinstance(error, ValueError):
                        raise
                    raise InferenceError(
                        f"the model {self.name} cannot be computed at any of {TRIES} draws from its prior "
                        f"({described(error)}): mend it, or move its priors to where it can"
                    ) from error
                if len(found) == count:
                    break
        return found


def _is_reweighted(node: Any) -> bool:
    elements = log_prob(node)
    return not torch.allclose(weighted(node, elements), elements)


class ScaleData(Messenger):
    """Scales what is observed in the plates over the rows, and the sites of single rows that are named `local`."""

    def __init__(self, plates: frozenset[str], scale: float, local: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.plates, self.scale, self.local = plates, scale, local

    def _pyro_sample(self, msg: Any) -> None:
        # handlers outside this one, which may fix latent values, have not seen the message yet
        counts = msg["name"] in self.local or (msg["is_observed"] and not is_deterministic(msg))
        if counts and frames_of(msg, self.plates):
            msg["scale"] = msg["scale"] * self.scale


def transform_of(name: str, distribution: Any) -> Any:
    """From unconstrained space to a site's support, as Pyro transforms it; None where they are the same.

    Raises:
        InferenceError: the site is discrete.
    """
    support = distribution.support
    if getattr(support, "is_discrete", False):
        raise InferenceError(
            f"latent site '{name}' is discrete, and gradients and random walks need continuous ones: sum it out in "
            "the model, or use ImportanceSampling(...)"
        )
    # an independent constraint around the reals is the identity as well
    base = getattr(support, "base_constraint", support)
    return None if base is torch.distributions.constraints.real else biject_to(support)


def shape_of(distribution: Any) -> torch.Size:
    """Of one draw."""
    return torch.Size(distribution.batch_shape + distribution.event_shape)


def _dependent(sites: dict[str, Any], trace: Any) -> Iterator[str]:
    """Sites that another draw from the prior gives another support."""
    for name, fn in sites.items():
        other = trace.nodes[name]["fn"] if name in trace.nodes else fn
        if getattr(fn.support, "is_discrete", False) or getattr(other.support, "is_discrete", False):
            continue
        one, two = transform_of(name, fn), transform_of(name, other)
        if one is None or two is None:
            differ = (one is None) != (two is None)
        elif (shape := one.inverse_shape(shape_of(fn))) != two.inverse_shape(shape_of(other)):
            differ = True
        else:
            middle = torch.zeros(shape)
            differ = not torch.equal(one(middle), two(middle))
        if differ:
            yield name


def _for_guides(name: str, distribution: Any) -> LatentSite:
    transform, shape = transform_of(name, distribution), shape_of(distribution)
    family = "normal" if transform is None else "transformed"
    unconstrained = shape if transform is None else torch.Size(transform.inverse_shape(shape))
    return LatentSite(name, family, unconstrained, torch.zeros(()), 2 * math.log(0.1), transform=transform)


def _latent_sites(trace: Any) -> dict[str, Any]:
    """Distribution of every latent site, by name."""
    found = {}
    for name, node in trace.nodes.items():
        if is_latent(node):
            found[name] = node["fn"]
    if not found:
        raise InferenceError("the model has no latent site: there is nothing to infer")
    return found
