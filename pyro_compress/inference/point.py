"""Plain gradient descent on one value per parameter: maximum a posteriori, the degenerate case of inference.

    minimise over w   −(N/n) Σ_i log p(y_i | x_i, w) − log p(w)

With momentum SGD and a normal prior this is SGD with weight decay.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import nn

from pyro_compress.inference.contract import Batch, Info, Method, Model, left_at_defaults
from pyro_compress.inference.elbo import ElboTerms
from pyro_compress.inference.feed import Feed
from pyro_compress.inference.joint_guides import transform_of
from pyro_compress.inference.mode import left_to_find
from pyro_compress.inference.optimisation import GradientMethod, GradientState, as_array, buffer_arrays, build_optimizer
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.names import attribute_name
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Prior
from pyro_compress.models.sites import refuse_other_sites
from pyro_compress.posterior import ParameterPosterior, Posterior


@dataclass(frozen=True)
class MAP(GradientMethod):
    """One value per parameter, by gradient descent.

    A prior enters with its density at the weight where it has one: elementwise, proper priors such as `Normal`,
    `ScaleMixture` and the truncated `LogUniform`.  Group priors have no closed-form marginal over the weight and
    improper ones no density: they count as flat, so with them alone this is maximum likelihood and the complexity
    that is reported is 0 nats.  A latent of the likelihood, such as an unknown noise scale, is estimated too.  Of any
    other Pyro model every latent site is, at the mode of the density in the site's own space (no Jacobian enters).

    Args:
        epochs, batch_size, learning_rate, optimizer, schedule, clip: see `GradientMethod`.
    """

    def for_model(self, model: Model, feed: Feed) -> Method:
        """`Mode` for a Pyro model, where nothing was set."""
        return (left_at_defaults(self) and left_to_find(model, feed)) or self

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> "PointState":
        points = Points(model)
        groups = [{"params": list(points.parameters()), "multiplier": 1.0}]
        optimizer = build_optimizer(self.optimizer, groups, self.learning_rate)
        return PointState(model, points, optimizer, size, self.steps(size if held is None else held))

    def step(self, state: "PointState", batch: Batch) -> Info:
        rate = self.begin(state)
        terms = self.estimate(state, batch)
        self.descend(state, terms.objective(1.0) / state.size, {**terms.by_site, "y": terms.data})
        self.finish(state)
        return Info(float(terms.data.detach()), float(terms.complexity.detach()), 1.0, rate)

    def terms(self, state: "PointState", batch: Batch) -> ElboTerms:
        """Log-likelihood and −log prior at the present values, total nats; by site."""
        model, weights, latents = state.model, state.points.weights(), state.points.latents()

        def program() -> None:
            if not isinstance(model, BayesianNetwork):
                model.forward(*batch, size=state.size)
                return
            for parameter, prior in state.with_density:
                prior.sample(parameter)
            x, y = batch
            model.observe(weights, x, y, size=state.size)

        at = weights | latents
        trace = poutine.trace(poutine.condition(program, data=at)).get_trace()
        trace.compute_log_prob()
        refuse_other_sites(trace, latents)
        data, by_site = torch.zeros(()), {}
        for name in trace.observation_nodes:
            log_prob = trace.nodes[name]["log_prob_sum"]
            if name in at:
                by_site[name] = -log_prob
            else:
                data = data + log_prob
        return ElboTerms(data, sum(by_site.values(), torch.zeros(())), by_site)

    def draw(self, state: "PointState") -> Posterior:
        found = state.points.weights() if isinstance(state.model, BayesianNetwork) else state.points.latents()
        parameters = {name: _point(value) for name, value in found.items()}
        return Posterior(parameters, {}, buffer_arrays(state.model), kind="point")


class Points(nn.Module):
    """One trained tensor per network parameter and per latent of the likelihood, started at the present values.

    Frozen parameters stay as they are.

    Of a model that is no network, one per latent site, in unconstrained space.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        free = model.free_values()
        self.names = [name for name, _ in model.network.named_parameters()]
        self.sites: tuple[LatentSite, ...] = (
            model.likelihood.latents() if isinstance(model, BayesianNetwork) else model.latents()
        )
        self.weight, self.latent = nn.Module(), nn.Module()
        self.frozen = model.frozen_values() if isinstance(model, BayesianNetwork) else {}
        for name, value in model.network.named_parameters():
            if name in self.frozen:
                continue
            self.weight.register_parameter(attribute_name(name), _trained(free.get(name, value)))
        for site in self.sites:
            self.latent.register_parameter(attribute_name(site.name), _trained(site.loc.expand(site.shape)))

    def weights(self) -> dict[str, torch.Tensor]:
        """By dotted name, in the network's order."""
        return {
            name: self.frozen[name] if name in self.frozen else getattr(self.weight, attribute_name(name))
            for name in self.names
        }

    def latents(self) -> dict[str, torch.Tensor]:
        """By site name, in the site's own space; a log-normal one is trained by its logarithm."""
        found = {}
        for site in self.sites:
            value, transform = getattr(self.latent, attribute_name(site.name)), transform_of(site)
            found[site.name] = value if transform is None else transform(value)
        return found


class PointState(GradientState):
    """The points are what is trained."""

    def __init__(
        self, model: Model, points: Points, optimizer: torch.optim.Optimizer, size: int, steps_planned: int
    ) -> None:
        super().__init__(model, {"points": points}, optimizer, size, steps_planned)
        self.points = points
        self.with_density = tuple(_with_density(model.parameters_covered))


def _with_density(covered: Iterable[tuple[Parameter, Prior]]) -> Iterable[tuple[Parameter, Prior]]:
    """Parameters whose prior is one sample statement of the weight itself, with a density."""
    for parameter, prior in covered:
        sites = prior.latents(parameter, torch.zeros(parameter.shape))
        if prior.is_proper and [site.name for site in sites] == [parameter.name]:
            yield parameter, prior


def _trained(value: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone())


def _point(value: torch.Tensor) -> ParameterPosterior:
    mean = as_array(value)
    return ParameterPosterior(mean, 0 * mean, "point")
