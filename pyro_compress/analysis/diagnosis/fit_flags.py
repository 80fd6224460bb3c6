"""What speaks against a fit: that it has not converged, that its step is too long, that it is no posterior at β = 1.

`flags.py` looks at draws alone; here are the fit's own history, and gradients of the log joint at its draws.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pyro_compress.analysis.diagnosis.arviz_versions import pareto_smoothed
from pyro_compress.analysis.diagnosis.distance import Distance
from pyro_compress.analysis.diagnosis.flags import guide_flags
from pyro_compress.analysis.diagnosis.psis import K_HAT_LIMIT, LEAST_RATIOS
from pyro_compress.posterior.posterior import Flag

SHIFT_LIMIT = 0.1  # sds of the best member of the family
RATIO_LIMIT = 1.1  # of sds, up or down
POSTERIOR_SHIFT_LIMIT, POSTERIOR_RATIO_LIMIT = 0.3, 1.25
TREND_LIMIT = 0.005  # rise over the last eighth of the run, as a share of the ELBO
TREND_ROUNDS = 16
STEP_LIMIT = 0.1  # of a variance
LONGER = "give more epochs, another learning rate, or leave both out"


def tempered_flags(provenance: Mapping[str, Any]) -> Iterator[Flag]:
    """β or T other than 1: what was fitted is not Bayes' posterior."""
    beta, temperature = float(provenance.get("kl_weight", 1.0)), float(provenance.get("temperature", 1.0))
    if beta != 1:
        yield Flag(
            "kl_weight",
            f"the KL was weighted by β = {beta:g}: this is the posterior of data that count {_times(beta)}, not Bayes'",
        )
    if temperature != 1:
        yield Flag(
            "temperature", f"the draws follow the posterior to the power 1/{temperature:g}, not Bayes' posterior"
        )


def _times(beta: float) -> str:
    return "for ever" if beta == 0 else f"{1 / beta:.3g} times"


def trend_flags(history: Sequence[Mapping[str, Any]], found: dict[str, float]) -> Iterator[Flag]:
    """Whether the objective was still rising over the last eighth of the rounds against the eighth before it."""
    values = np.array([record["data_nats"] - record["complexity_nats"] for record in history])
    if len(values) < TREND_ROUNDS:
        return
    part = len(values) // 8
    before, last = values[-2 * part : -part], values[-part:]
    rise = float(last.mean() - before.mean())
    # differences of neighbours: a trend adds next to nothing to them
    noise = float(np.std(np.diff(values[-2 * part :]))) / math.sqrt(part)
    found["objective_rise_nats"] = rise
    share = abs(rise) / max(1.0, float(np.abs(before.mean())))
    if (share > TREND_LIMIT and abs(rise) > 3 * noise) or not math.isfinite(rise):
        name = history[-1].get("objective_name", "ELBO")
        verb = "rose" if rise > 0 else "fell"
        yield Flag(
            "trend",
            f"the {name} still {verb} by {abs(rise):,.3g} nats ({100 * share:.2g} %) from the last eighth but one of "
            "the run to the last: it has not converged; give more epochs or another learning rate",
        )


def distance_flags(distance: Distance, names: Sequence[str], family: str, found: dict[str, float]) -> Iterator[Flag]:
    """Whether means and sds of a guide are those of the best member of its family; adds the numbers to `found`."""
    if distance.posterior_ratio is None and np.isfinite(distance.shift).all():
        yield from _coarse_flags(distance, found)
        return
    worst = distance.worst
    shift = float(np.abs(distance.shift[worst]))
    clear = np.abs(distance.shift[worst]) - 2 * distance.shift_error[worst] > 0 or not math.isfinite(shift)
    off = int(np.argmax(np.abs(np.log(distance.ratio))))
    found |= {"shift_sds": shift, "sd_ratio": float(distance.ratio[off])}
    if not math.isfinite(shift):
        yield Flag(
            "not_converged",
            "the fit is not near a maximum of the ELBO: where the guide lies, the log joint does not bend down in "
            f"every direction; {LONGER}",
        )
        return
    if shift > SHIFT_LIMIT and clear:
        yield Flag(
            "not_converged",
            f"the fit has not converged: by the gradient at its draws the mean of {names[worst]} is {shift:.2g} sds "
            f"from that of the best {family} guide; {LONGER}",
        )
    if abs(math.log(distance.ratio[off])) > math.log(RATIO_LIMIT):
        yield Flag(
            "sd_not_converged",
            f"the fit has not converged: by the gradient at its draws the sd of {names[off]} is "
            f"{distance.ratio[off]:.2g} times that of the best {family} guide; {LONGER}",
        )
    assert distance.posterior_ratio is not None
    narrow = int(np.argmin(distance.posterior_ratio / distance.ratio))
    share = float(distance.posterior_ratio[narrow] / distance.ratio[narrow])
    if share < 1 / POSTERIOR_RATIO_LIMIT:
        found["family_sd_ratio"] = share
        yield Flag(
            "correlations",
            f"the posterior has correlations that a {family} guide has not: even the best has {share:.2g} times the sd "
            f"of {names[narrow]}; use SVI(guide='full-rank') or NUTS(...)",
        )


def _coarse_flags(distance: Distance, found: dict[str, float]) -> Iterator[Flag]:
    """Of many coordinates, looked at one by one: medians, since each alone is known badly."""
    ratio = float(np.median(distance.ratio))
    noise = float(np.median(distance.shift_error)) * 0.6745
    shift = float(np.median(np.abs(distance.shift)))
    found |= {"median_shift_sds": shift, "median_sd_ratio": ratio}
    # half of all |x| of a standard normal x lie below 0.67
    excess = math.sqrt(max(0.0, shift**2 - noise**2)) / 0.6745
    if abs(math.log(ratio)) > math.log(RATIO_LIMIT) or (excess > SHIFT_LIMIT and shift > 1.5 * noise):
        yield Flag(
            "not_converged",
            "the fit has not converged: by the gradient at its draws half of all sds are further off than "
            f"{ratio:.2g} times, and half of all means than {excess:.2g} sds, from those of the best guide; {LONGER}",
        )


def ratio_flags(u: np.ndarray, log_ratios: np.ndarray, names: Sequence[str], found: dict[str, Any]) -> Iterator[Flag]:
    """Pareto k-hat of a guide and, where it allows for that, what importance weights make of its moments.

    Args:
        u: draws of the guide in unconstrained space, (S, D).
        log_ratios: log p(y, θ) − log q(θ) there, (S,); −∞ where p is zero.
        names: of the coordinates.
        found: takes the numbers.
    """
    usable = ~np.isnan(log_ratios) & ~np.isposinf(log_ratios)
    if usable.mean() < 0.5 or usable.sum() < LEAST_RATIOS:
        yield Flag("pareto_k", "the log joint overflows at draws of the guide: it is too far from the posterior")
        return
    u, log_ratios = u[usable], log_ratios[usable]
    yield from guide_flags(log_ratios, found)
    if found["pareto_k"] > K_HAT_LIMIT:
        return
    finite = np.where(np.isfinite(log_ratios), log_ratios, log_ratios[np.isfinite(log_ratios)].min() - 700.0)
    weights = np.exp(pareto_smoothed(finite)[0])
    weights /= weights.sum()
    mean = weights @ u
    variance = weights @ np.square(u - mean)
    error = np.sqrt(np.square(weights) @ np.square(u - mean) / variance)
    shift = (u.mean(0) - mean) / np.sqrt(variance)
    ratio = np.sqrt(u.var(0) / variance)
    worst = int(np.argmax(np.abs(shift) - 2 * error))
    wide = int(np.argmax(np.abs(np.log(ratio))))
    found |= {"posterior_shift_sds": float(shift[worst]), "posterior_sd_ratio": float(ratio[wide])}
    if abs(shift[worst]) - 2 * error[worst] > POSTERIOR_SHIFT_LIMIT:
        yield Flag(
            "posterior_mean",
            f"importance weights move the mean of {names[worst]} by {abs(shift[worst]):.2g} posterior sds: the guide "
            "is not the posterior; use another guide or NUTS(...)",
        )
    if abs(math.log(ratio[wide])) - 2 * error[wide] > math.log(POSTERIOR_RATIO_LIMIT):
        yield Flag(
            "posterior_sd",
            f"by importance weights the sd of {names[wide]} is {ratio[wide]:.2g} times that of the posterior; use "
            "another guide or NUTS(...)",
        )


def point_flags(shift: np.ndarray | None, names: Sequence[str], found: dict[str, float]) -> Iterator[Flag]:
    """Of a point estimate: how far Newton's step goes from it, in sds of the normal approximation there, (D,)."""
    if shift is None or not np.isfinite(shift).all():
        yield Flag(
            "not_converged",
            "the point estimate is no maximum: there the density does not bend down in every direction, so it has not "
            f"converged or the density has no maximum; {LONGER}, or use NUTS(...)",
        )
        return
    worst = int(np.argmax(np.abs(shift)))
    found["shift_sds"] = float(np.abs(shift[worst]))
    if found["shift_sds"] > SHIFT_LIMIT:
        yield Flag(
            "not_converged",
            f"the point estimate has not converged: {names[worst]} is {found['shift_sds']:.2g} sds from the maximum of "
            f"the density; {LONGER}",
        )


def step_flags(inflation: float, found: dict[str, float]) -> Iterator[Flag]:
    """Of a sampler on batches: by which share a step of finite size inflates the smallest variance."""
    found["variance_inflation"] = inflation
    advice = "and give as many times the epochs, or use NUTS(...)"
    if not math.isfinite(inflation):
        yield Flag(
            "step_size",
            "the step is longer than the smallest posterior variance allows: the draws do not follow the posterior "
            f"at all; divide `a` by 10 or more {advice}",
        )
    elif inflation > STEP_LIMIT:
        yield Flag(
            "step_size",
            "the step is too long for the smallest posterior variance: by theory it is "
            f"{100 * inflation:.0f} % too large in the draws; divide `a` by {2 * inflation / STEP_LIMIT:.2g} or so "
            f"{advice}",
        )


def batch_flags(inflation: float, found: dict[str, float]) -> Iterator[Flag]:
    """Of a sampler on batches: by which share the noise of their gradients makes the variances of draws too large."""
    found["batch_noise_inflation"] = inflation
    if inflation > STEP_LIMIT:
        yield Flag(
            "batch_noise",
            "the noise of batches is not small beside what the sampler draws: by theory variances are "
            f"{100 * inflation:.0f} % too large in the draws; divide `a` by {2 * inflation / STEP_LIMIT:.2g} or so and "
            "give as many times the epochs, take larger batches, or use NUTS(...)",
        )
