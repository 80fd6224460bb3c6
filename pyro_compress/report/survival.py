"""How well times to an event are foreseen: concordance, Brier scores, calibration, by torchsurv (extra `survival`)."""

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pyro_compress.errors import DataError
from pyro_compress.extras import needs

GRID_POINTS = 100
GROUPS = 5
RESAMPLES = 200


def survival_scores(
    risk: Tensor, survival: Callable[[Tensor], Tensor], target: Tensor, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Scores of predicted curves against times and events, some of which are censored.

    Args:
        risk: (examples,): the larger, the sooner the event is expected.
        survival: gives S(t | x), (examples, times), at times of shape (times,).
        target: times and events, (examples, 2).
        resamples: of the bootstrap of the concordance.
        seed: of these.

    Returns:
        concordance: of Harrell (1982), the share of comparable pairs whose order the risk foresees, equal risks
            counted half; `concordance_interval_95` is its percentile bootstrap over examples, of draws with a pair.
        integrated_brier_score: mean over the times from the 5 % to the 95 % quantile of the events', by the trapezoidal
            rule at 100 times, of Σ_i w_i (1{t_i > t} − S(t | x_i))² / n with the weights of Graf et al. (1999): one
            over the probability of not being censored yet, by Kaplan and Meier over these examples.
        calibration_error: at `calibration_time`, the median time of the events, mean over five groups of about equal
            size by predicted survival of |mean predicted survival − Kaplan–Meier's|, 1 of a group without events.

    Raises:
        DataError: torchsurv is not installed, there are fewer than two events, or nearly all are at one time.
    """
    found = _torchsurv()
    time, event = target[:, 0].double().cpu(), target[:, 1].cpu() > 0
    if int(event.sum()) < 2:
        raise DataError(
            f"scores of survival need at least two events, found {int(event.sum())} in {len(time)} examples"
        )
    index, risk, generator = found.ConcordanceIndex(), risk.double().cpu(), torch.Generator().manual_seed(seed)
    first, median, last = torch.quantile(time[event], torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64))
    if first == last:
        raise DataError(
            f"scores of survival need events at different times, and of {int(event.sum())} the middle 90 % are all at "
            f"{float(first):g}: give more test examples, or times in a finer unit"
        )
    drawn = [torch.randint(len(time), (len(time),), generator=generator) for _ in range(resamples)]
    # without a pair to compare there is no concordance
    drawn = [rows for rows in drawn if bool((time[rows][event[rows]] < time[rows].max()).any())]
    resampled = torch.stack([index(risk[rows], event[rows], time[rows], instate=False) for rows in drawn])
    interval = torch.quantile(resampled.double(), torch.tensor([0.025, 0.975], dtype=torch.float64))
    grid = torch.linspace(float(first), float(last), GRID_POINTS, dtype=torch.float64)
    brier = found.BrierScore()
    weights = found.get_ipcw(event, time), found.get_ipcw(event, time, grid)
    brier(survival(grid).double().cpu(), event, time, grid, *weights)
    return {
        "concordance": float(index(risk, event, time)),
        "concordance_interval_95": [float(end) for end in interval],
        "integrated_brier_score": float(brier.integral()),
        "calibration_error": calibration_error(survival(median[None])[:, 0].double().cpu(), event, time, float(median)),
        "calibration_time": float(median),
    }


def calibration_error(predicted: Tensor, event: Tensor, time: Tensor, at: float, groups: int = GROUPS) -> float:
    """Mean over groups by `predicted` of |mean predicted − Kaplan–Meier's survival at the time|, that of no event 1.

    Args:
        predicted: S(at | x), (examples,).
        event: whether it happened, (examples,).
        time: when, or how long nothing had happened, (examples,).
        at: the time.
        groups: of about equal size.
    """
    curve_of = _torchsurv().KaplanMeierEstimator
    found = []
    for group in predicted.argsort().tensor_split(min(groups, len(predicted))):
        observed = 1.0
        if bool(event[group].any()):
            curve = curve_of()
            curve(event[group], time[group])
            observed = float(curve.predict(torch.tensor([at], dtype=time.dtype)))
        found.append(abs(float(predicted[group].mean()) - observed))
    return sum(found) / len(found)


def _torchsurv() -> SimpleNamespace:
    try:
        # it compiles a function by torch.jit, of which torch warns
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            from torchsurv.metrics.brier_score import BrierScore
            from torchsurv.metrics.cindex import ConcordanceIndex
            from torchsurv.stats.ipcw import get_ipcw
            from torchsurv.stats.kaplan_meier import KaplanMeierEstimator
    except ImportError as error:
        raise DataError(needs("scoring survival", "torchsurv")) from error
    return SimpleNamespace(
        BrierScore=BrierScore,
        ConcordanceIndex=ConcordanceIndex,
        KaplanMeierEstimator=KaplanMeierEstimator,
        get_ipcw=get_ipcw,
    )
