"""What variational methods do with a Pyro model where nothing is set: the best normal guide, until it is reached.

All the data at once, noise that is held fixed, and Newton's method (`newton_guides.py`): no number of epochs and no
learning rate to get wrong.  Short trials from several places choose the start.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Info, Method, Model, State
from pyro_compress.inference.guides.from_guide import exact_moments
from pyro_compress.inference.guides.joint import FullRank, JointGuide, MeanField, described
from pyro_compress.inference.guides.newton_guides import NormalGuide, fixed_noise, guide_at, improved, polished
from pyro_compress.inference.log_joint.starts import starts
from pyro_compress.inference.log_joint.whole_data import LEAST_POINTS, WholeData, whole_data_of
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.inference.results.from_draws import posterior_from_draws
from pyro_compress.inference.results.iid_draws import number_of_draws
from pyro_compress.models.program import Program
from pyro_compress.posterior.posterior import Posterior

FIRST_SCALE = 0.1
# up to so many latent numbers the default guide has correlations, and with so many points for each of them
MOST_FULL_RANK, POINTS_PER_NUMBER = 50, 8
TRIAL_STEPS, STEPS_PER_ROUND, MOST_NEWTON, POLISHING = 8, 4, 4, 40
# nats: below it Newton's steps have done what they can, and a fit is at its maximum
CRAWLS, REACHED, REACHED_SINGLE = 1e-2, 1e-5, 1e-6


@dataclass(frozen=True)
class BestNormal(Method):
    """See the head of this module.

    Args:
        independent: mean field; else any covariance.
        draws: that the posterior carries, see `VariationalMethod`.
    """

    independent: bool
    draws: int | None = None

    round_name: ClassVar[str] = "round"

    @property
    def rounds(self) -> int:
        return 40

    def batches(self, feed: Feed, seed: int, round: int) -> Iterator[Batch]:
        return iter([feed.tensors])

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> "NormalState":
        assert isinstance(model, Program)
        return NormalState(model, size, seed, self.independent)

    def finished(self, state: "NormalState") -> bool:
        return state.reached

    def step(self, state: "NormalState", batch: Batch) -> Info:
        whole = state.on(batch)
        if state.mean is None:
            state.go_on_with(best_start(whole, state.model, batch, state.seed))
        else:
            noise = fixed_noise(whole.points, len(state.mean), state.seed)
            state.go_on_with(self._round(state, whole, noise))
        state.steps_done += 1
        assert state.mean is not None and state.root is not None
        noise = fixed_noise(max(LEAST_POINTS, 2 * len(state.mean) + 2), len(state.mean), state.seed)
        data = float(whole(state.mean + noise @ state.root.T).data.mean())
        return Info(data, data - state.elbo, 1.0, 0.0)

    def _round(self, state: "NormalState", whole: WholeData, noise: Tensor) -> NormalGuide:
        assert state.mean is not None and state.root is not None
        guide = guide_at(whole.values, noise, state.mean, state.root)
        if not state.crawls:
            for _ in range(STEPS_PER_ROUND):
                guide = improved(whole.values, noise, guide, self.independent)
                state.crawls = guide.gain < CRAWLS or state.steps_done > MOST_NEWTON
                if state.crawls:
                    break
            return guide
        guide = polished(whole.values, noise, guide, self.independent, POLISHING)
        enough = REACHED if whole.is_double else max(REACHED, REACHED_SINGLE * abs(guide.elbo))
        state.reached = guide.gain < enough
        return guide

    def draw(self, state: "NormalState") -> Posterior:
        guide = state.guide
        draws = guide.draws(state.model, number_of_draws(self.draws, guide.width), state.seed)
        posterior = posterior_from_draws(state.model, draws, "guide")
        exact = exact_moments(state.model, guide)
        parameters = {name: exact.get(name, found) for name, found in posterior.parameters.items()}
        return replace(posterior, parameters=parameters, provenance={**posterior.provenance, **described(guide)})

    def draw_for_validation(self, state: "NormalState") -> Posterior:
        return Posterior(exact_moments(state.model, state.guide))


class NormalState(State):
    """Mean and root of the guide; None before the first round.

    Attributes:
        elbo: nats, over the noise.
        crawls: whether Newton's steps bring little.
        reached: whether there is nothing left to gain.
    """

    def __init__(self, model: Program, size: int, seed: int, independent: bool) -> None:
        self.model, self.size, self.seed, self.independent = model, size, seed, independent
        self.mean: Tensor | None = None
        self.root: Tensor | None = None
        self.steps_done, self.elbo, self.crawls, self.reached = 0, 0.0, False, False
        self._whole: WholeData | None = None

    def on(self, batch: Batch) -> WholeData:
        """The log joint, built once."""
        if self._whole is None:
            self._whole = WholeData(self.model, batch, self.size)
        return self._whole

    def go_on_with(self, guide: NormalGuide) -> None:
        self.mean, self.root, self.elbo = guide.mean, guide.root, guide.elbo

    @property
    def guide(self) -> JointGuide:
        """As a Pyro guide."""
        assert self.mean is not None and self.root is not None
        found: JointGuide = MeanField(self.model) if self.independent else FullRank(self.model)
        factor = torch.linalg.cholesky(self.root @ self.root.T)
        scale = factor.diagonal()
        with torch.no_grad():
            found.loc.joint.copy_(self.mean)
            found.log_variance.joint.copy_(2 * scale.log())
            if isinstance(found, FullRank):
                found.factor.copy_(torch.tril(factor / scale[:, None], -1))
        return found

    def capture(self) -> dict[str, Any]:
        return {
            "mean": None if self.mean is None else self.mean.clone(),
            "root": None if self.root is None else self.root.clone(),
            "numbers": [self.steps_done, self.elbo, self.crawls, self.reached],
        }

    def restore(self, captured: dict[str, Any]) -> None:
        self.mean, self.root = captured["mean"], captured["root"]
        self.steps_done, self.elbo, self.crawls, self.reached = captured["numbers"]


def left_to_choose(model: Model, feed: Feed, draws: int | None, *, independent: bool | None) -> Method | None:
    """The method, or None where it cannot do it: a network, several processes, a model that is too large or random.

    Args:
        model, feed: of the fit.
        draws: that the posterior is to carry.
        independent: None for any covariance where the model is small, else mean field.
    """
    whole = whole_data_of(model, feed)
    if whole is None:
        return None
    width = whole.log_joint.width
    full = width <= MOST_FULL_RANK and whole.points >= POINTS_PER_NUMBER * width
    if independent is None:
        independent = not full
    elif not independent and not full:
        return None
    return BestNormal(independent, draws)


def best_start(whole: WholeData, model: Program, batch: Batch, seed: int) -> NormalGuide:
    """The independent guide of the largest ELBO after a few steps from every start.

    Raises:
        InferenceError: the log joint is finite around none.
    """
    best: NormalGuide | None = None
    places = starts(whole.log_joint, model, batch, seed)
    width = whole.log_joint.width
    noise = fixed_noise(max(LEAST_POINTS, 2 * width + 2), width, seed)
    root = FIRST_SCALE * torch.eye(width, dtype=torch.float64)
    for place in places:
        guide = guide_at(whole.values, noise, place, root)
        for _ in range(TRIAL_STEPS):
            if guide.gain < CRAWLS or guide.elbo == -float("inf"):
                break
            guide = improved(whole.values, noise, guide, True)
        if best is None or guide.elbo > best.elbo:
            best = guide
    if best is None or best.elbo == -float("inf"):
        raise InferenceError(
            f"the log joint of {model.name} is not finite around any of {len(places)} starts (zero in unconstrained "
            "space, draws from the prior, uniform on (-2, 2)): check the data against the support of the likelihood"
        )
    return best
