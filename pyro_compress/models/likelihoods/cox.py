"""Cox's partial likelihood: the order of the events, with no word on when they happen."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pyro.distributions import TorchDistribution

from pyro_compress.errors import DataError, InferenceError
from pyro_compress.models.likelihoods.survival import SurvivalLikelihood, times_and_events


@dataclass(frozen=True)
class Cox(SurvivalLikelihood):
    """Proportional hazards h(t | x) = h₀(t) exp(η(x)) with h₀ left open (Cox 1972, 1975); η is the output.

    ln PL = Σ_t [ Σ_{i ∈ D_t} η_i − Σ_{l < d_t} ln( Σ_{k: t_k ≥ t} exp η_k − c_l Σ_{k ∈ D_t} exp η_k ) ]

    over the distinct times of events, D_t being the d_t examples with an event at t, and c_l = l / d_t by Efron (1977),
    0 by Breslow (1974).  Every event has its own term, and a censored example none, but each term looks at all examples
    still at risk: this is no product over examples, and a part of the data has another partial likelihood than the
    whole.  So batches are refused; `PiecewiseExponential` is a product, with the same hazard ratios.

    Outputs are of shape (examples,) or (examples, 1), targets (examples, 2).  η counts up to a constant, so a bias of
    the last layer is not identified.  `mean` is the hazard ratio exp η; `breslow` gives curves.

    Args:
        ties: 'efron' or 'breslow'.
    """

    factorises: ClassVar[bool] = False

    ties: Literal["efron", "breslow"] = "efron"

    def distribution(self, output: torch.Tensor) -> "CoxDistribution":
        return CoxDistribution(output.reshape(-1), self.ties)

    def risk(self, output: torch.Tensor) -> torch.Tensor:
        return output.reshape(-1)

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        """The hazard ratio exp η, in the shape of the output."""
        return output.exp()

    def link(self, mean: torch.Tensor) -> torch.Tensor:
        return mean.log()

    def variance(self, output: torch.Tensor, latent: torch.Tensor | None = None) -> torch.Tensor:
        """0: the hazard ratio follows from the output."""
        return torch.zeros_like(output)

    def cross_entropy(
        self, output: torch.Tensor, mean: torch.Tensor, latent: torch.Tensor | None = None
    ) -> torch.Tensor:
        raise InferenceError("Cox's partial likelihood has no cross-entropy with hazard ratios: leave the teacher out")

    def check(self, output: torch.Tensor, target: torch.Tensor | None) -> None:
        if output.shape[1:] not in ((), (1,)):
            raise DataError(
                f"Cox likelihood: outputs of shape {tuple(output.shape)}, expected one log hazard ratio per example, "
                f"({len(output)}, 1): change the network's last layer"
            )
        super().check(output, target)


def breslow(output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Breslow's estimate (1974) of the baseline: H₀(t) = Σ_{events t_i ≤ t} 1 / Σ_{k: t_k ≥ t_i} exp η_k.

    Args:
        output: η of the training examples, (examples,) or (examples, 1).
        target: their times and events, (examples, 2).

    Returns:
        (times, H₀): the distinct times of events, ascending, and the cumulative baseline hazard from each of them on.
        S(t | x) = exp(−H₀(t) exp η(x)).
    """
    score, (time, event) = output.reshape(-1).double(), target.double().unbind(-1)
    order = time.argsort(descending=True)
    at_risk = torch.logcumsumexp(score[order], 0)[_last_of_ties(time[order], time)]
    times, place = time.unique(return_inverse=True)
    steps = torch.zeros_like(times).index_add_(0, place, event * (-at_risk).exp())
    happened = torch.zeros_like(times).index_add_(0, place, event) > 0
    return times[happened], steps.cumsum(0)[happened]


class CoxDistribution(TorchDistribution):
    """Every example's term of the partial likelihood of those that it is asked of together; see `Cox`.

    Args:
        score: η, (examples,).
        ties: 'efron' or 'breslow'.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = times_and_events
    has_rsample = False

    def __init__(self, score: torch.Tensor, ties: str = "efron") -> None:
        self.score, self.ties = score, ties
        super().__init__(score.shape, torch.Size((2,)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "CoxDistribution":
        return CoxDistribution(self.score.expand(batch_shape), self.ties)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        raise InferenceError(
            "Cox's partial likelihood leaves the baseline hazard open, so it gives no times: take the likelihood "
            "'piecewise-exponential' to draw some"
        )

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """(examples,): η_i − ln(R_i − c_i D_i) where there was an event, else 0."""
        time, event = value[..., 0], value[..., 1].to(self.score.dtype)
        order = time.argsort(descending=True)
        inverse = order.argsort()
        ordered, happened, score = time[order], event[order], self.score[order]
        last = _last_of_ties(ordered, ordered)
        at_risk = torch.logcumsumexp(score, 0)[last]
        terms = score - at_risk
        if self.ties == "efron":
            # D / R ≤ 1 before any exponential can overflow; `last` numbers the groups of equal times
            share = torch.zeros_like(score).index_add(0, last, happened * terms.exp())[last]
            deaths = torch.zeros_like(score).index_add(0, last, happened)[last]
            before = happened.cumsum(0) - happened
            first = torch.searchsorted(-ordered.contiguous(), -ordered.contiguous())
            rank = before - before[first]
            terms = terms - torch.log1p(-rank / deaths.clamp(min=1) * share * happened)
        return (terms * happened)[inverse]


def _last_of_ties(descending: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """Of every time the last index in `descending` that holds it: all from there on are earlier."""
    return torch.searchsorted(-descending.contiguous(), -time.contiguous(), right=True) - 1
