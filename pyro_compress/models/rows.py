"""Whether the rows of a program's data may come apart, in batches and in any order.

    log p(y | θ) = Σ_i ℓ_i(θ),   ℓ_i of row i alone

holds where every observed site lies in a plate over the rows and no row's share depends on the others.  The first is
read from a trace, the second is tried: the program runs on all rows and on two halves of them in another order, at
values drawn from the prior, and every row must have the same log-likelihood.  So a series whose likelihood is of y_t
given y_{t−1}, data that the model standardises, or a plate that happens to have as many places as there are rows, are
found out before a batch of them is believed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.models.sites import is_deterministic, is_latent, log_prob, weighted, weighted_total

Arguments = tuple[Tensor, ...]
# draws from the prior at which rows are compared, and seeds that are tried to get them
TRIALS, SEEDS = 3, 10
# rounding differs between shapes; a row that depends on others is off by as much as there is between rows
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Rows:
    """How the log-likelihood falls apart.

    Attributes:
        plates: names of the plates over the rows.
        checked: whether rows were compared; False where the program draws numbers beside its sample sites.
    """

    plates: frozenset[str]
    checked: bool = True


def examples_of(arguments: Arguments) -> int:
    """Rows of the first argument that has any; 0 if none has."""
    return next((len(part) for part in arguments if part.ndim), 0)


def rows_of(run: Callable[..., Any], arguments: Arguments, name: str, local: frozenset[str] = frozenset()) -> Rows:
    """How the log-likelihood of a program falls apart over the rows of its arguments.

    Args:
        run: the program.
        arguments: all of the data.
        name: of the program, for messages.
        local: latent sites of single rows, whose values come with the rows: their log-density counts as the rows'.

    Raises:
        InferenceError: it does not; a sentence that lacks what to do.
    """
    count = examples_of(arguments)
    if count < 1 or any(not part.ndim or len(part) != count for part in arguments):
        shapes = ", ".join(str(tuple(part.shape)) for part in arguments)
        raise InferenceError(f"the arguments of {name} are no examples side by side (shapes {shapes or 'none'})")
    # handlers around this call, such as one that replays values of a batch, are none of the runs' here
    with torch.random.fork_rng(devices=[]), torch.no_grad(), pyro.validation_enabled(False), poutine.block():
        trials, found = 0, Rows(frozenset())
        for seed in range(SEEDS):
            torch.default_generator.manual_seed(seed)
            try:
                whole = poutine.trace(run).get_trace(*arguments)
                totals = {n: _total(site) for n, site in _sites(whole)}
            except Exception:  # a draw from the prior may lie where nothing can be computed, such as no Cholesky factor
                continue
            found = _Comparison(run, arguments, whole, totals, local).rows()
            trials += 1
            if trials == TRIALS or not found.checked:
                return found
    if not trials:
        raise InferenceError(f"{name} could not be run at any of {SEEDS} draws from its prior to see what its rows are")
    return found


class _Comparison:
    """Of runs on all rows and on some, at one value of every latent site."""

    def __init__(
        self,
        run: Callable[..., Any],
        arguments: Arguments,
        whole: Any,
        totals: dict[str, Tensor],
        local: frozenset[str],
    ) -> None:
        self.run, self.arguments, self.whole, self.totals = run, arguments, whole, totals
        values = {name: site["value"] for name, site in whole.nodes.items() if is_latent(site)}
        self.latents = {name: value for name, value in values.items() if name not in local}
        self.local = {name: value for name, value in values.items() if name in local}
        self.count = examples_of(arguments)

    def rows(self) -> Rows:
        again = self._trace(self.arguments, self.local)
        random = any(
            not _same(weighted_total(again.nodes[n], log_prob(again.nodes[n])), t) for n, t in self.totals.items()
        )
        plates: frozenset[str] = frozenset()
        order = torch.randperm(self.count)
        for chosen in order.tensor_split(2):
            if not len(chosen):
                continue
            part = self._on(chosen)
            plates = _plates(self.whole, self.count) & _plates(part, len(chosen))
            self._refuse_latents(part, plates)
            self._refuse_observed(part, plates, chosen, random)
        return Rows(plates, not random)

    def _trace(self, arguments: Arguments, local: dict[str, Tensor]) -> Any:
        return poutine.trace(poutine.condition(self.run, data=self.latents | local)).get_trace(*arguments)

    def _on(self, chosen: Tensor) -> Any:
        try:
            local = {name: value[(..., chosen, *self._behind(name))] for name, value in self.local.items()}
            part = self._trace(tuple(argument[chosen] for argument in self.arguments), local)
            for _, site in _sites(part):
                weighted(site, log_prob(site))
            return part
        except Exception as error:
            for name, site in self.whole.nodes.items():
                if name in self.latents and _in_plate_of(site, self.count):
                    raise self._local(name) from error
            for name, site in _sites(self.whole):
                if name not in self.latents and not _in_plate_of(site, self.count):
                    raise self._outside(name) from error
            reason = str(error).strip().partition("\n")[0]
            raise InferenceError(
                f"the model runs on all {self.count} rows of its data and not on {len(chosen)} of them ({reason})"
            ) from error

    def _behind(self, name: str) -> tuple[slice, ...]:
        """Of a local site, all of the dimensions behind that of the rows."""
        dim = row_dimension(self.whole.nodes[name], self.count)
        if dim is None:
            raise self._local(name)
        return (slice(None),) * (-dim - 1)

    def _refuse_latents(self, part: Any, plates: frozenset[str]) -> None:
        for name in self.latents:
            site = part.nodes.get(name)
            if site is None or any(frame.name in plates for frame in site["cond_indep_stack"]):
                raise self._local(name)
            if not _same(_total(site), self.totals[name]):
                raise InferenceError(f"the prior of latent site '{name}' depends on which rows of the data are given")

    def _refuse_observed(self, part: Any, plates: frozenset[str], chosen: Tensor, random: bool) -> None:
        inside = [n for n, s in _sites(part) if n not in self.latents and frames_of(s, plates)]
        for name in inside:
            scales = [trace.nodes[name]["scale"] for trace in (part, self.whole)]
            if all(isinstance(scale, int | float) for scale in scales) and scales[0] != scales[1]:
                raise InferenceError(
                    f"the model scales observed site '{name}' by itself where it gets fewer rows, as a plate with "
                    "subsample_size does, and a fit would do so again (write `pyro.plate('data', len(x))`, or let the "
                    "model take N as its argument `size`)"
                )
        for name, site in _sites(part):
            if name in self.latents or name in inside:
                continue
            if name not in self.totals or not _same(_total(site), self.totals[name]):
                raise self._outside(name)
        if not inside or random:
            return
        alone = per_row(part, plates, inside, len(chosen))
        of_all = per_row(self.whole, plates, [n for n, s in _sites(self.whole) if frames_of(s, plates)], self.count)
        if not _same(alone, of_all[chosen]):
            raise InferenceError(
                f"the log-likelihood of a row depends on which rows are given with it (observed site '{inside[0]}')"
            )

    def _local(self, name: str) -> InferenceError:
        return InferenceError(
            f"latent site '{name}' is drawn per example, and a batch says nothing of those of the others (a "
            "guide of your own may draw it from the batch)"
        )

    def _outside(self, name: str) -> InferenceError:
        return InferenceError(
            f"observed site '{name}' is in no plate of the batch's {self.count} examples, such as "
            "`pyro.plate('data', len(x))`, and depends on them"
        )


def per_row(trace: Any, plates: frozenset[str], names: list[str], count: int) -> Tensor:
    """(count,): what the named sites add to every row, scaled and masked.

    Args:
        trace: of a run on that many rows.
        plates: over the rows.
        names: of observed sites, each in one of these plates.

    Raises:
        InferenceError: a site has another number of places along its plate.
    """
    total = torch.zeros(())
    for name in names:
        site = trace.nodes[name]
        frame = frames_of(site, plates)[0]
        each = weighted(site, log_prob(site))
        if frame.dim is None:
            # a loop over the rows: the site is of one of them
            row = each.new_zeros(count)
            row[frame.counter - 1] = 1.0
            total = total + row * each.sum()
            continue
        if each.ndim < -frame.dim or each.shape[frame.dim] != count:
            raise InferenceError(
                f"observed site '{name}' has the shape {tuple(each.shape)} in a plate over {count} rows, and needs "
                f"{count} places along dimension {frame.dim}"
            )
        total = total + each.movedim(frame.dim, 0).reshape(count, -1).sum(1)
    return total if total.ndim else total.expand(count)


def row_dimension(site: Any, count: int) -> int | None:
    """The dimension of a site's value along which it has one place per row, from the right; None where it has none."""
    frames = (frame for frame in site["cond_indep_stack"] if frame.size == count and frame.dim is not None)
    return next((frame.dim - len(site["fn"].event_shape) for frame in frames), None)


def frames_of(site: Any, plates: frozenset[str]) -> list[Any]:
    """The plates over the rows that a site lies in."""
    return [frame for frame in site["cond_indep_stack"] if frame.name in plates]


def _sites(trace: Any) -> Iterator[tuple[str, Any]]:
    """Sample sites that have a density."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site) and not is_deterministic(site):
            yield name, site


def _total(site: Any) -> Tensor:
    return weighted_total(site, log_prob(site))


def _plates(trace: Any, count: int) -> frozenset[str]:
    """Plates of so many places."""
    sites = (site for _, site in _sites(trace))
    return frozenset(frame.name for site in sites for frame in site["cond_indep_stack"] if frame.size == count)


def _in_plate_of(site: Any, count: int) -> bool:
    return any(frame.size == count for frame in site["cond_indep_stack"])


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.allclose(one, other, TOLERANCE, TOLERANCE, equal_nan=True))
