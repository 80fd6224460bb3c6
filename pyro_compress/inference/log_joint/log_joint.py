"""The log joint of a Pyro model as a function of one flat vector: what every sampler here works on.

    log p(y, u) = [ (N/n) Σ_i log p(y_i | x_i, θ(u)) + log p(θ(u)) ] / T + log |dθ/du|

u holds every latent site in unconstrained space, as Pyro transforms it, then the network's parameters that no prior
covers.  T is the temperature; the Jacobian belongs to the change of variables and is not tempered.  Everything is
total nats over the data set.

Running a Pyro model costs milliseconds of Python, so the gradient is traced once per batch shape into a graph of
tensor operations and replayed from then on; several chains run as one batched graph (`torch.func.vmap`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.func import grad_and_value, vmap

from pyro_compress.errors import InferenceError, warn
from pyro_compress.inference.log_joint.densities import compute_log_prob
from pyro_compress.inference.log_joint.flat_sites import AtPresent, Placing, in_precision, place, sites_of
from pyro_compress.inference.loop.dtypes import default_dtype
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.inference.speed.graph_passes import simplify
from pyro_compress.inference.speed.moving import moved
from pyro_compress.inference.speed.recording import Marks, Replayed, is_unrolled, marks_of, record, records
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.failures import FAILURES, described
from pyro_compress.models.program import Program
from pyro_compress.models.rows import frames_of, per_row
from pyro_compress.models.sites import refuse_other_sites

DATA_PLATES = frozenset({"data"})


@dataclass(frozen=True)
class Evaluation:
    """The log joint at one point per chain.

    Attributes:
        log_joint: (chain,), total nats, tempered, with the Jacobian.
        gradient: (chain, D), of `log_joint`.
        data: (chain,), (N/n) Σ log-likelihood, not tempered.
        prior: (chain,), log prior, not tempered.
    """

    log_joint: Tensor
    gradient: Tensor
    data: Tensor
    prior: Tensor


class LogJoint:
    """See the head of this module.

    Args:
        model: a `BayesianNetwork` or a `Program`.
        size: N.
        temperature: T; 1 is Bayes, below 1 a cold posterior.
        replay: trace gradients into graphs; without, the Pyro model runs at every evaluation.
        dtype: of positions, and of data with it, in which everything is computed; torch's default if not given.

    Attributes:
        failure: what the model raised where it could not be computed last, or None.
        example: (D,), a point that graphs are traced at.
        dependent: sites whose support depends on the values of others; it is taken at their present values.
        alone: whether chains run in turn, by plain automatic differentiation, as a model needs that branches on
            values or writes into its own tensors.

    Raises:
        InferenceError: an improper prior, a discrete latent site, T ≤ 0.
    """

    def __init__(
        self,
        model: BayesianNetwork | Program,
        size: int,
        *,
        temperature: float = 1.0,
        replay: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not temperature > 0:
            raise InferenceError(f"the temperature must be positive, found {temperature}")
        self.model, self.size, self.temperature, self.dtype = (
            model,
            size,
            temperature,
            dtype or torch.get_default_dtype(),
        )
        self.sites, self.free = sites_of(model)
        self.width = self.free.stop
        self._latent_names = frozenset(site.name for site in self.sites) - frozenset(model.free_values())
        self.dependent: frozenset[str] = frozenset() if isinstance(model, BayesianNetwork) else model.dependent
        if isinstance(model, BayesianNetwork):
            # as it predicts: dropout is off, and batch norm takes the statistics that it came with
            model.network.eval()
        self.replay, self.alone = replay and records() and not is_unrolled(model), False
        self.failure: str | None = None
        self.example = self.start()
        self._graphs: dict[tuple[Any, ...], Callable[..., tuple[Tensor, ...]]] = {}
        self._marks: Marks = {}

    @property
    def latents(self) -> slice:
        """The part of the flat vector that has a prior; the rest is point-estimated."""
        return slice(0, self.free.start)

    # ---- values

    def start(self) -> Tensor:
        """(D,): the network's present parameters, or zero in unconstrained space, which is where `Program`s start."""
        if not isinstance(self.model, BayesianNetwork):
            return torch.zeros(self.width)
        found = torch.zeros(self.width)
        # a log-normal site's location is that of its logarithm, which is where the sampler works
        locations = {s.name: s.loc.detach().expand(s.shape) for s in self.model.latents()} | self.model.free_values()
        for site in self.sites:
            found[site.where] = locations[site.name].detach().reshape(-1)
        return found

    def constrained(self, flat: Tensor) -> dict[str, Tensor]:
        """Values by site of (..., D): each (..., *shape), in the space in which the model declares it."""
        found = {}
        for site in self.sites:
            value = flat[..., site.where].reshape((*flat.shape[:-1], *site.unconstrained))
            found[site.name] = value if site.transform is None else site.transform(value)
        if self.dependent:
            rows = self._dependent_values(flat.reshape(-1, self.width))
            found |= {name: value.reshape((*flat.shape[:-1], *value.shape[1:])) for name, value in rows.items()}
        return found

    def _dependent_values(self, rows: Tensor) -> dict[str, Tensor]:
        """Values of sites whose support depends on others, (n, *shape), at (n, D)."""
        assert isinstance(self.model, Program)
        batch = in_precision(self.model.arguments, self.dtype)

        def one(row: Tensor) -> dict[str, Tensor]:
            nodes = self._trace(self._parts(row), batch)[0].nodes
            return {name: nodes[name]["value"] for name in sorted(self.dependent)}

        with torch.no_grad():
            try:
                return vmap(one, randomness="different")(rows)
            except Exception:  # what a row alone raises is raised again
                each = [one(row) for row in rows]
        return {name: torch.stack([values[name] for values in each]) for name in each[0]}

    def unconstrained(self, values: Mapping[str, Tensor]) -> Tensor:
        """(D,) of values by site: the inverse of `constrained`."""
        if self.dependent:
            return self.placed(torch.zeros(self.width, dtype=self.dtype), values)
        parts = []
        for site in self.sites:
            value = values[site.name]
            parts.append((value if site.transform is None else site.transform.inv(value)).reshape(-1))
        return torch.cat(parts)

    def placed(self, row: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """(D,) as `row`, with these values of some sites.

        Raises:
            InferenceError: a value outside its site's support.
        """
        row = row.clone().to(self.dtype)
        if isinstance(self.model, BayesianNetwork):
            for site in self.sites:
                if site.name in values:
                    place(row, site, site.transform, values[site.name])
            return row
        placing = Placing(self.sites, row, values)
        with torch.no_grad(), pyro.validation_enabled(False), default_dtype(self.dtype), placing:
            try:
                self.model.forward(*in_precision(self.model.arguments, self.dtype), size=self.size)
            except FAILURES as error:
                self.failure = described(error)
        if lacking := set(values) - placing.done:
            raise InferenceError(
                f"the model cannot be computed at the values given to start from ({self.failure}), before it comes to "
                f"'{min(lacking)}': give others"
            )
        return row

    def fixed(self) -> dict[str, tuple[int, ...]]:
        """By site, flat indices of the numbers that are the same wherever a chain is; see `Draws.fixed`."""
        generator = torch.Generator().manual_seed(0)
        found = {}
        for site in self.sites:
            if site.transform is None or site.unconstrained == site.shape:
                continue
            free = torch.randn(3, *site.unconstrained, generator=generator, dtype=torch.float64)
            values = site.transform(free).reshape(3, -1)
            places = torch.nonzero((values == values[0]).all(0))[:, 0].tolist()
            if places:
                found[site.name] = tuple(places)
        return found

    # ---- the log joint

    def terms(self, flat: Tensor, *batch: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(log joint, (data, prior)) at one point, (D,), as scalars that gradients flow through."""
        return self._terms(self._parts(flat), *batch)

    def _terms(self, parts: tuple[Tensor, ...], *batch: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        trace, jacobian = self._trace(parts, batch)
        data = prior = torch.zeros(())
        latent = self._latent_names
        refuse_other_sites(trace, latent)
        for name, node in trace.nodes.items():
            if name in latent:
                prior = prior + node["log_prob_sum"]
            elif node["type"] == "sample" and not site_is_subsample(node):
                data = data + node["log_prob_sum"]
        return (data + prior) / self.temperature + jacobian, (data, prior)

    def _parts(self, flat: Tensor) -> tuple[Tensor, ...]:
        """(D,) as one view per site, unconstrained; gradients of these need no tensor of zeros per site."""
        return tuple(flat[site.where].reshape(site.unconstrained) for site in self.sites)

    def apart(self, flat: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """(log p(y_i | x_i, θ), log p(θ) / T + log |dθ/du|): the log joint with every example's share, (n,), to itself.

        The shares are neither scaled nor tempered.
        """
        trace, jacobian = self._trace(self._parts(flat), batch)
        latent = self._latent_names
        refuse_other_sites(trace, latent)
        plates = DATA_PLATES if isinstance(self.model, BayesianNetwork) else self.model.rows().plates
        inside, prior = [], torch.zeros(())
        for name in trace.observation_nodes:
            if name not in latent and frames_of(trace.nodes[name], plates):
                inside.append(name)
            else:
                # what does not depend on the rows counts once, as a prior does
                prior = prior + trace.nodes[name]["log_prob_sum"]
        # the plate has scaled n examples to N
        share = len(batch[0]) / self.size
        return per_row(trace, plates, inside, len(batch[0])) * share, prior / self.temperature + jacobian

    def _trace(self, parts: tuple[Tensor, ...], batch: tuple[Tensor, ...]) -> tuple[Any, Tensor]:
        values, jacobian = {}, torch.zeros(())
        present = AtPresent()
        for site, raw in zip(self.sites, parts, strict=True):
            if site.name in self.dependent:
                present.raw[site.name] = raw
                continue
            values[site.name] = raw if site.transform is None else site.transform(raw)
            if site.transform is not None:
                jacobian = jacobian + site.transform.log_abs_det_jacobian(raw, values[site.name]).sum()
        keywords: dict[str, Any] = {}
        if isinstance(self.model, BayesianNetwork):
            keywords["free"] = {name: values.pop(name) for name in self.model.free_values()}
        with pyro.validation_enabled(False), default_dtype(self.dtype):
            conditioned = poutine.condition(self.model.forward, data=values)
            with present:
                trace = poutine.trace(conditioned).get_trace(*batch, size=self.size, **keywords)
            compute_log_prob(trace)
        return trace, jacobian + present.jacobian

    def trace_at(self, position: Tensor, batch: Batch) -> Any:
        """The model's trace at one point, (D,), with `log_prob_sum` at every site."""
        return self._trace(self._parts(position), in_precision(batch, self.dtype))[0]

    # ---- with gradients, for several chains

    def __call__(self, flat: Tensor, batch: Batch) -> Evaluation:
        """The log joint and its gradient at one point per chain.

        Args:
            flat: (chain, D).
            batch: the data, or n examples of it.
        """
        flat = flat.detach()
        return self._rescued(lambda *arguments: self.graph(flat, batch)(*arguments), flat, batch)

    def at(self, flat: Tensor, batch: Batch) -> Evaluation:
        """The same without a graph, in the precision of the log joint."""
        flat = flat.detach().to(self.dtype)
        if isinstance(self.model, Program):
            self.model.refuse_share(batch, self.size)
        return self._rescued(self.evaluate, flat, in_precision(batch, self.dtype))

    def _rescued(self, function: Callable[..., tuple[Tensor, ...]], flat: Tensor, batch: Batch) -> Evaluation:
        """What `function` gives; where the model cannot be computed for a chain, that chain alone gets NaN."""
        self.failure = None
        try:
            return Evaluation(*function(flat, *batch))
        except FAILURES as error:
            self.failure = described(error)
        except RuntimeError:
            self.run_alone()
        each = [self._or_nan(row, batch) for row in flat]
        return Evaluation(*(torch.stack(column) for column in zip(*each, strict=True)))

    def _or_nan(self, row: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        try:
            return self._eager(row, *batch)
        except FAILURES as error:
            self.failure = described(error)
            nothing = torch.full((), torch.nan, dtype=row.dtype)
            return nothing, torch.full_like(row, torch.nan), nothing, nothing

    def run_alone(self) -> None:
        """From now on, after an error that running chains side by side may have made; else it is raised again."""
        if self.alone:
            raise
        self.replay, self.alone = False, True
        self._graphs.clear()

    def graph(self, flat: Tensor, batch: Batch) -> Callable[..., tuple[Tensor, ...]]:
        """(log joint, gradient, data, prior) as a function of (flat, *batch), made once per shape.

        Anything that depends on a value and not on its shape alone cannot be traced: that runs eagerly, and says so.
        """
        if isinstance(self.model, Program):
            self.model.refuse_share(batch, self.size)
        key = (tuple(flat.shape), *((tuple(part.shape), part.dtype) for part in batch))
        if key not in self._graphs:
            self._graphs[key] = self._traced(self.evaluate, flat, batch) if self.replay else self.evaluate
        return self._graphs[key]

    def run_eagerly(self) -> None:
        """Forget what was recorded, and record nothing any more: of a model whose record does not run."""
        self.replay = False
        self._graphs.clear()

    def evaluate(self, flat: Tensor, *batch: Tensor) -> tuple[Tensor, ...]:
        """(log joint, gradient, data, prior) at one point per chain, without a graph; what graphs are traced from."""
        if not self.alone and len(flat) > 1:
            try:
                return self._vectorised(flat, *batch)
            except FAILURES:
                raise
            except RuntimeError:
                # what writes in place or branches on a value cannot be batched; if it is wrong, it is so alone too
                self.alone = True
        return self._one_by_one(flat, *batch)

    def _traced(self, function: Callable[..., Any], flat: Tensor, batch: Batch) -> Callable[..., Any]:
        self._marks = self._marks or marks_of(self.model)
        try:
            graph = record(function, (flat, *batch), self.model)
        except (InferenceError, *FAILURES):
            # about this point, and not about the model
            raise
        except Exception as error:
            self.replay = False
            reason = str(error).strip().partition("\n")[0]
            warn(f"the model cannot be traced and runs eagerly, which is slower ({reason})")
            return function
        return Replayed(simplify(graph), function)

    def check_recordings_again(self) -> None:
        """Told where others may have changed what the model reads: it runs eagerly from now on if they have."""
        reason = moved(self._marks, marks_of(self.model), generators=False) if self._marks and self.replay else None
        if reason is not None:
            self.replay = False
            self._graphs.clear()
            warn(f"the model runs eagerly from now on, which is slower ({reason})")

    def _one(self, flat: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gradients, (value, (data, prior)) = grad_and_value(self._terms, has_aux=True)(self._parts(flat), *batch)
        return value, torch.cat([part.reshape(-1) for part in gradients]), data, prior

    def _vectorised(self, flat: Tensor, *batch: Tensor) -> tuple[Tensor, ...]:
        return vmap(self._one, in_dims=(0, *(None for _ in batch)), randomness="different")(flat, *batch)

    def _one_by_one(self, flat: Tensor, *batch: Tensor) -> tuple[Tensor, ...]:
        # a function transform refuses models that write into their own tensors, plain differentiation does not
        one = self._eager if self.alone else self._one
        each = [one(row, *batch) for row in flat]
        if len(each) == 1:
            return tuple(column[None] for column in each[0])
        return tuple(torch.stack(column) for column in zip(*each, strict=True))

    def _eager(self, flat: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            leaves = tuple(part.detach().requires_grad_() for part in self._parts(flat))
            value, (data, prior) = self._terms(leaves, *batch)
            gradients = torch.autograd.grad(value, leaves, materialize_grads=True)
        gradient = torch.cat([part.reshape(-1) for part in gradients])
        return value.detach(), gradient, data.detach(), prior.detach()
