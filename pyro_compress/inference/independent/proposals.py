"""Independent proposals for the latent sites of a small model, many at once, with what they weigh.

Values come from the prior, by running the model, or from a guide.  The Pyro program runs once for all proposals
under `torch.func.vmap`; one that cannot (it branches on a value, or draws from a distribution that `vmap` does not
know) runs once for each.  Discrete sites are welcome: nothing here needs a gradient.
"""

import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.func import vmap
from torch.overrides import TorchFunctionMode

from pyro_compress.errors import InferenceError, listed
from pyro_compress.inference.contract import Model
from pyro_compress.inference.log_joint.determinism import refuse_random
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.inference.results.from_draws import derived_shapes, derived_values
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.failures import FAILURES
from pyro_compress.models.program import Program
from pyro_compress.models.rows import examples_of
from pyro_compress.models.sites import refuse_other_sites
from pyro_compress.posterior.posterior import Latent, Posterior

Guide = Callable[..., Any]

# proposals times examples that are evaluated together: what a network makes of each example is held for all of them
MOST_ROWS = 100_000
# draws from the prior that a model may fail at
TRIES = 20


@dataclass(frozen=True)
class Proposals:
    """Independent values of all sites.

    Attributes:
        values: (count, *shape) by site, in the space in which the model declares it; for a network also its
            parameters that are no site of their own.
        log_likelihood: (count,), (N/n) Σ_i log p(y_i | x_i, θ), total nats.
        log_prior: (count,).
        log_proposal: (count,), log density that the values were drawn with.
    """

    values: Mapping[str, Tensor]
    log_likelihood: Tensor
    log_prior: Tensor
    log_proposal: Tensor


class Proposer:
    """Draws proposals for a model.

    Args:
        model: a `BayesianNetwork` or a `Program`.
        size: N.
        proposal: None for the prior; a posterior with closed-form latents; or a Pyro guide, called with the model's
            arguments.

    Raises:
        InferenceError: a posterior without densities, or for other sites than the model's; from the prior, a
            parameter that has none.
    """

    def __init__(self, model: Model, size: int, proposal: Posterior | Guide | None = None) -> None:
        self.model, self.size = model, size
        self.latents = tuple(s.name for s in model.latents()) if isinstance(model, BayesianNetwork) else (*model.sites,)
        self.free: dict[str, Tensor] = {}
        if isinstance(model, BayesianNetwork):
            self.free = _free_values(model, proposal)
            model.network.eval()
        self.name = _name(proposal)
        self.guide = _guide_of(proposal, self.latents) if isinstance(proposal, Posterior) else proposal
        self.vectorised: bool | None = None
        self.stand_in: Any = None
        self.dtype = torch.float32
        if not isinstance(model, BayesianNetwork):
            drawn = model.prototype().nodes
            if any(drawn[name]["value"].dtype == torch.float64 for name in self.latents):
                self.dtype = torch.float64

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of everything in `Proposals.values`, in that order."""
        if not isinstance(self.model, BayesianNetwork):
            return {name: tuple(fn.shape()) for name, fn in self.model.sites.items()}
        sites = {site.name: tuple(site.shape) for site in self.model.latents()}
        return sites | {name: tuple(v.shape) for name, v in self.free.items()} | derived_shapes(self.model)

    @property
    def derived(self) -> tuple[str, ...]:
        """Names among them that are no latent site."""
        return tuple(name for name in self.shapes() if name not in self.latents)

    def draw(self, count: int, batch: Batch) -> Proposals:
        """`count` proposals, with noise from torch's generator.

        Args:
            count: how many.
            batch: all the data.

        Raises:
            InferenceError: the guide has other sites than the model.
        """
        if isinstance(self.model, Program):
            self.model.refuse_share(batch, self.size)
        if self.vectorised is None:
            self._refuse_random(batch)
            self.vectorised = self._can_vectorise(batch)
        if self.vectorised:
            most = max(1, MOST_ROWS // max(1, examples_of(batch)))
            each = [self._piece(min(most, count - start), batch) for start in range(0, count, most)]
            joined = torch.cat
        else:
            each = [self._or_nothing(batch) for _ in range(count)]
            joined = torch.stack
        found, *rest = zip(*each, strict=True)
        values = {name: joined([one[name] for one in found]) for name in found[0]}
        return Proposals(values, *(joined(column).double() for column in rest))

    def _together(self, count: int, batch: Batch) -> Any:
        with warnings.catch_warnings():
            # operations without a batching rule are slower, and right
            warnings.filterwarnings("ignore", message="There is a performance drop")
            run = vmap(self._one, in_dims=(0, *(None for _ in batch)), randomness="different")
            return run(torch.zeros(count), *batch)

    def _refuse_random(self, batch: Batch) -> None:
        """Weights compare log joints, so they must not be random."""
        with torch.random.fork_rng(devices=[]):
            for _ in range(TRIES):
                try:
                    self.stand_in = self._one(torch.zeros(()), *batch)
                    break
                except FAILURES:
                    continue
            else:
                return
        values = {name: self.stand_in[0][name] for name in self.latents}
        keywords = {"free": self.free} if isinstance(self.model, BayesianNetwork) else {}

        def run() -> Any:
            with pyro.validation_enabled(False):
                trace = poutine.trace(poutine.condition(self.model.forward, data=values))
                found = trace.get_trace(*batch, size=self.size, **keywords)
                found.compute_log_prob()
            return found

        refuse_random(self.model, run, "a sampler that weighs proposals")

    def _piece(self, count: int, batch: Batch) -> Any:
        """`_together`, or one by one where the model cannot be computed for some."""
        try:
            return self._together(count, batch)
        except FAILURES:
            found, *rest = zip(*(self._or_nothing(batch) for _ in range(count)), strict=True)
            return {name: torch.stack([one[name] for one in found]) for name in found[0]}, *map(torch.stack, rest)

    def _or_nothing(self, batch: Batch) -> Any:
        """`_one`; where the model cannot be computed, other values that weigh nothing."""
        try:
            return self._one(torch.zeros(()), *batch)
        except FAILURES:
            if self.stand_in is None:
                raise
            nothing = torch.tensor(-torch.inf)
            return self.stand_in[0], nothing, nothing, torch.zeros(())

    def _can_vectorise(self, batch: Batch) -> bool:
        """Whether the model runs under `vmap`, and every continuous site then gets values of its own."""
        with torch.random.fork_rng(devices=[]):
            try:
                values = self._piece(3, batch)[0]
            except Exception:  # whatever is wrong with the model itself is raised again by running it alone
                return False
        # whole numbers may well be equal by chance
        real = [values[name] for name in self.latents if bool((values[name] != values[name].round()).any())]
        return all(bool((value[0] != value[1]).any()) for value in real)

    def _one(self, _: Tensor, *batch: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """(values, log-likelihood, log prior, log proposal density) of one proposal."""
        zero, log_proposal = torch.zeros(()), None
        proposed: dict[str, Any] = {}
        with pyro.validation_enabled(False), torch.no_grad(), _OutOfPlaceNoise():
            if self.guide is not None:
                drawn = poutine.trace(self._run_guide).get_trace(*batch)
                drawn.compute_log_prob()
                proposed = {name: drawn.nodes[name]["value"] for name in _sampled(drawn)}
                self._check_sites(tuple(proposed))
                log_proposal = _drawn_with(drawn, tuple(proposed))
            keywords = {"free": self.free} if isinstance(self.model, BayesianNetwork) else {}
            model = poutine.condition(self.model.forward, data=proposed)
            trace = poutine.trace(model).get_trace(*batch, size=self.size, **keywords)
            refuse_other_sites(trace, self.latents)
            trace.compute_log_prob()
            values: dict[str, Any] = {name: trace.nodes[name]["value"] for name in self.latents}
            sums = {name: node["log_prob_sum"] for name, node in trace.nodes.items() if "log_prob_sum" in node}
            prior = sum((sums[name] for name in self.latents), zero)
            log_proposal = _drawn_with(trace, self.latents) if log_proposal is None else log_proposal
            data = sum((value for name, value in sums.items() if name not in self.latents), zero)
            if isinstance(self.model, BayesianNetwork):
                values = values | self.free | derived_values(self.model, values | self.free)
        return values, data, prior, log_proposal

    def _run_guide(self, *batch: Tensor) -> None:
        assert self.guide is not None
        if isinstance(self.model, BayesianNetwork):
            self.guide(*batch)
        else:
            self.model.called(self.guide, batch)

    def _check_sites(self, found: tuple[str, ...]) -> None:
        if set(found) != set(self.latents):
            raise InferenceError(
                f"the proposal draws the sites {', '.join(found) or 'none'}, and the model has the latent sites "
                f"{', '.join(self.latents)}: it must draw each of them"
            )


class _OutOfPlaceNoise(TorchFunctionMode):
    """Noise that distributions write into an empty tensor is made afresh, which `vmap` can do for each proposal."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.normal_ and len(args) == 1 and not kwargs:
            return torch.randn_like(args[0])
        if function is torch.Tensor.exponential_ and len(args) == 1 and not kwargs:
            return -torch.log1p(-torch.rand_like(args[0]))
        if function is torch.Tensor.cauchy_ and len(args) == 1 and not kwargs:
            return torch.tan(torch.pi * (torch.rand_like(args[0]) - 0.5))
        if function is torch.Tensor.uniform_ and len(args) == 3 and not kwargs:
            return args[1] + (args[2] - args[1]) * torch.rand_like(args[0])
        return function(*args, **(kwargs or {}))


def _drawn_with(trace: Any, names: tuple[str, ...]) -> Tensor:
    """Log density of what was drawn, which no scale and no mask of the program changes."""
    return sum((trace.nodes[name]["unscaled_log_prob"].sum() for name in names), torch.zeros(()))


def _sampled(trace: Any) -> list[str]:
    nodes = trace.nodes.items()
    return [name for name, node in nodes if node["type"] == "sample" and not site_is_subsample(node)]


def _free_values(model: BayesianNetwork, proposal: Any) -> dict[str, Tensor]:
    """Of the parameters that no prior covers: those of the posterior that proposes."""
    names = list(model.free_values())
    if not names:
        return {}
    if isinstance(proposal, Posterior) and set(names) <= set(proposal.parameters):
        return {name: torch.as_tensor(proposal.parameters[name].mean) for name in names}
    raise InferenceError(
        f"{listed(names)} has no prior to draw from: "
        "name one, as in prior={'*.weight': ..., '*.bias': Normal()}, take a prior that covers biases, such as "
        "Normal(), or propose from a fitted posterior"
    )


def _guide_of(posterior: Posterior, sites: tuple[str, ...]) -> Guide:
    """The closed-form guide of a posterior as a Pyro program."""
    if posterior.draws is not None or not posterior.is_distribution:
        raise InferenceError(
            f"a posterior of kind '{posterior.kind}' without closed-form latents has no density to propose with: fit "
            "SVI(...), or give a Pyro guide"
        )
    if set(posterior.latents) != set(sites):
        raise InferenceError(
            f"the posterior that is to propose has the sites {', '.join(posterior.latents)}, and the model "
            f"{', '.join(sites)}: fit it to this model"
        )
    if not posterior.is_normal:
        raise InferenceError(
            "the posterior that is to propose has gates or point estimates among its sites, which have no density that "
            "covers what the model can draw: propose from one under another prior, or give a Pyro guide"
        )
    families = {name: _family(latent) for name, latent in posterior.latents.items()}

    def guide(*arguments: Any, **keywords: Any) -> None:
        for name, family in families.items():
            pyro.sample(name, family)

    return guide


def _family(latent: Latent) -> Any:
    loc, scale = torch.as_tensor(latent.loc), torch.as_tensor(latent.scale)
    family = dist.LogNormal if latent.family == "lognormal" else dist.Normal
    return family(loc, scale).to_event(loc.ndim)


def _name(proposal: Posterior | Guide | None) -> str:
    """What provenance and checkpoints call a proposal."""
    if proposal is None:
        return "prior"
    if not isinstance(proposal, Posterior):
        return f"guide {getattr(proposal, '__name__', type(proposal).__name__)}"
    parts = (part.tobytes() for latent in proposal.latents.values() for part in (latent.loc, latent.scale))
    return f"posterior of {proposal.provenance.get('method', 'unknown method')} {zlib.crc32(b''.join(parts)):08x}"
