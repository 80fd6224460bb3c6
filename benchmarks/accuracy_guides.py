"""What a variational method is held to: the best member of its family, not the posterior.

A guide that cannot be the posterior has a bias that no optimizer mends.  So the method is judged by its distance from
the guide of the same family with the largest ELBO, and its distance from the posterior is only shown.  On some targets
that guide is known in closed form (`Target.best_normal`).  On the others it is found from where the method ended, by
L-BFGS on the ELBO over fixed noise in double precision:

    maximise over φ   1/S Σ_s log p(y, u_φ(ε_s)) + H[q_φ]
"""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy_errors import Target, moments
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.joint import JointGuide, MeanField
from pyro_compress.inference.log_joint.at_draws import at_points
from pyro_compress.inference.log_joint.log_joint import LogJoint

SAMPLES, RATIOS, DRAWS = 4096, 1000, 100_000


class Fitted:
    """A guide as a method left it, and the log joint that it was fitted to, both in double precision.

    Args:
        target: what it was fitted to.
        state: of the variational method, after its last step.
    """

    def __init__(self, target: Target, state: Any) -> None:
        self.target, self.model = target, state.model
        self.guide = (
            as_mean_field(state) if isinstance(state.guide, DeclaredGuide) else copy.deepcopy(state.guide)
        ).double()
        self.log_joint = LogJoint(state.model, state.size, dtype=torch.float64)
        self.batch = tuple(part.double() if part.is_floating_point() else part for part in target.data or ())

    def log_ratios(self) -> np.ndarray:
        """log p(y, u) − log q(u) at draws u of the guide, (draws,), for Pareto k-hat."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            q = self.guide.distribution()
            u = q.sample((RATIOS,))
            return np.asarray(self.log_joint(u, self.batch).log_joint - q.log_prob(u))

    def aim(self) -> Target:
        """The target with the moments of the best member of the guide's family in place of the posterior's."""
        if self.target.best_normal is not None:
            mean, covariance = self.target.best_normal(self.guide.name)
            return replace(self.target, mean=mean, covariance=covariance, reference_count=math.inf)
        draws = optimal(self.guide, self.log_joint, self.batch).draws(self.model, DRAWS, seed=2)
        sites = {name: draws.site(name).astype(np.float64) for name in draws.shapes}
        mean, covariance = moments(self.target.quantities(sites))
        return replace(self.target, mean=mean, covariance=covariance, reference_count=DRAWS)


def as_mean_field(state: Any) -> MeanField:
    """The guide that normal priors declare, weights independent and normal, as one over all sites."""
    found, declared = MeanField(state.model), state.guide.moments().values()
    with torch.no_grad():
        found.loc.joint.copy_(torch.cat([site.mean.reshape(-1) for site in declared]))
        found.log_variance.joint.copy_(torch.cat([site.variance.reshape(-1) for site in declared]).log())
    return found


def optimal(
    guide: JointGuide, log_joint: LogJoint, batch: tuple[torch.Tensor, ...], samples: int = SAMPLES
) -> JointGuide:
    """The member of the guide's family at the ELBO's maximum nearest to it; `guide` is left as it was."""
    guide = copy.deepcopy(guide)
    optimizer = torch.optim.LBFGS(guide.parameters(), max_iter=300, history_size=50, line_search_fn="strong_wolfe")

    def negative_elbo() -> torch.Tensor:
        optimizer.zero_grad()
        torch.manual_seed(0)
        q = guide.distribution()
        u = q.rsample((samples,))
        found = at_points(log_joint, u.detach().to(log_joint.dtype), batch)
        # the value of the log joint with its gradient through u
        through = (found.gradient.double() * u).sum(1)
        loss = -(found.log_joint + through - through.detach()).mean() - q.entropy()
        loss.backward()
        return loss

    with torch.random.fork_rng(devices=[]):
        optimizer.step(negative_elbo)
    return guide
