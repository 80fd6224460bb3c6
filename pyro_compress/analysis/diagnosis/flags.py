"""What fails in a diagnosis, each with the sentence that a person reads."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from pyro_compress.analysis.diagnosis.psis import K_HAT_LIMIT, LEAST_RATIOS, psis_k_hat
from pyro_compress.posterior.posterior import Flag as Flag

if TYPE_CHECKING:
    from pyro_compress.posterior.posterior import Posterior

R_HAT_LIMIT = 1.01
ESS_PER_CHAIN = 100
E_BFMI_LIMIT = 0.3
ACCEPTANCE_SHARE = 0.7  # of the target
ACCEPTANCE_RANGE = (0.1, 0.99)  # where no target is known
IMPORTANCE_ESS = 100
LEAST_STEPS = 50  # of floats within a standard deviation


@dataclass(frozen=True)
class Row:
    """One scalar quantity; None where a number means nothing for these draws or cannot be had."""

    name: str
    mean: float
    sd: float
    hdi_low: float
    hdi_high: float
    mcse: float | None
    ess_bulk: float | None = None
    ess_tail: float | None = None
    r_hat: float | None = None

    @property
    def variable(self) -> str:
        """The name without an index."""
        return self.name.partition("[")[0]

    @property
    def ess(self) -> float:
        """The smaller effective sample size; infinite where there is none."""
        return min(x for x in (self.ess_bulk, self.ess_tail, math.inf) if x is not None)


def convergence_flags(rows: list[Row], chains: int, *, hidden_units: bool) -> Iterator[Flag]:
    """R-hat, of predictions apart from the rest, and effective sample sizes."""
    predictions = [row for row in rows if row.name.startswith("predictions[")]
    others = [row for row in rows if not row.name.startswith("predictions[")]
    symmetry = (
        "hidden units can be exchanged without changing the network, so weights of different chains need not agree: "
        "judge by predictions and log_joint"
        if hidden_units
        else "the chains do not describe one distribution: run longer, or from better starts"
    )
    for name, what, chosen, advice in (
        ("r_hat", "quantities", others, symmetry),
        ("r_hat_predictions", "predictions", predictions, "the chains do not predict alike: run longer"),
    ):
        failing = [row for row in chosen if row.r_hat is not None and row.r_hat > R_HAT_LIMIT]
        if failing:
            worst = max(failing, key=lambda row: row.r_hat or 0.0)
            yield Flag(
                name,
                f"R-hat is above {R_HAT_LIMIT} for {len(failing):,} of {len(chosen):,} {what}, most for {worst.name} "
                f"({worst.r_hat:.3g}): {advice}",
            )
    least = ESS_PER_CHAIN * chains
    few = [row for row in rows if row.ess < least]
    if few:
        worst = min(few, key=lambda row: row.ess)
        yield Flag(
            "ess",
            f"effective sample size is below {least:,} ({ESS_PER_CHAIN} per chain) for {len(few):,} of {len(rows):,} "
            f"quantities, least for {worst.name} ({worst.ess:.0f}): R-hat and the intervals of "
            "these are not reliable yet",
        )


def stuck_flags(still: list[str]) -> Iterator[Flag]:
    """Quantities that move in no chain; predictions may be certain."""
    still = [name for name in still if not name.startswith("predictions[")]
    if still:
        yield Flag(
            "constant",
            f"{len(still):,} quantities never move, such as {still[0]}: no proposal was accepted, or single precision "
            "does not tell their values apart; shorten the step, or use precision='double'",
        )


def resolution_flags(rows: list[Row], posterior: "Posterior") -> Iterator[Flag]:
    """Quantities whose draws lie on a handful of numbers, because floats of their size are no closer to each other."""
    if posterior.draws is None or posterior.draws.flat.dtype != np.float32:
        return
    own = set(posterior.draws.shapes)
    coarse = [
        row for row in rows if row.variable in own and 0 < row.sd < LEAST_STEPS * np.spacing(np.float32(abs(row.mean)))
    ]
    if coarse:
        worst = min(coarse, key=lambda row: row.sd / float(np.spacing(np.float32(abs(row.mean)))))
        yield Flag(
            "resolution",
            f"{len(coarse):,} quantities spread over a few numbers of single precision, least {worst.name} with the sd "
            f"{worst.sd:.2g} around {worst.mean:.6g}: gradients and draws are rounded to that; use precision='double', "
            "or shift and scale the model's data",
        )


def sampler_flags(posterior: "Posterior", stats: xr.Dataset, found: dict[str, Any]) -> Iterator[Flag]:
    """What the sampler noted: divergences, tree depth, energy, acceptance; adds the numbers to `found`."""
    total = math.prod(stats.sizes.values())
    if "diverging" in stats:
        found["divergences"] = int(stats["diverging"].sum())
        if found["divergences"]:
            yield Flag(
                "divergences",
                f"{found['divergences']:,} of {total:,} transitions diverged: the step is too long for a part of the "
                "posterior, which is then missed, or the model cannot be computed there; raise the target acceptance "
                "rate or change the parametrisation",
            )
    if "tree_depth" in stats:
        limit = int(setting(posterior, "max_tree_depth") or 10)
        saturated = int((stats["tree_depth"] >= limit).sum())
        found |= {"max_tree_depth": limit, "saturated_tree_depth": saturated}
        if saturated:
            yield Flag(
                "tree_depth",
                f"{saturated:,} of {total:,} trajectories reached the greatest tree depth of {limit}: they were cut "
                "short, and the chain moves less than it could; raise it or change the parametrisation",
            )
    if "energy" in stats:
        fractions = e_bfmi(np.asarray(stats["energy"].transpose("chain", "draw"), dtype=np.float64))
        found["e_bfmi"] = fractions.tolist()
        if (fractions < E_BFMI_LIMIT).any():
            yield Flag(
                "e_bfmi",
                f"E-BFMI is {np.nanmin(fractions):.2f} in the worst chain, below {E_BFMI_LIMIT}: the chain cannot "
                "change its energy fast enough to reach the tails; change the parametrisation",
            )
    if "acceptance_rate" in stats:
        yield from _acceptance_flags(posterior, stats["acceptance_rate"].mean("draw").values, found)


def _acceptance_flags(posterior: "Posterior", rates: np.ndarray, found: dict[str, Any]) -> Iterator[Flag]:
    target = setting(posterior, r"target\w*")
    # a target of 0 leaves the step size as it is
    found |= {"acceptance_rate": rates.tolist(), "target_acceptance_rate": target or None}
    if target:
        # more than the target costs time and nothing else; where steps are too short to mix, sample sizes say so
        worst = float(rates.min())
        if worst < ACCEPTANCE_SHARE * target:
            yield Flag(
                "acceptance",
                f"the mean acceptance rate is {worst:.2f} in one chain, its target was {target:g}: steps are too long "
                "where it went after the warm-up; lengthen the warm-up, or change the parametrisation",
            )
        return
    low, high = ACCEPTANCE_RANGE
    for rate in (float(rates.min()), float(rates.max())):
        if not low <= rate <= high:
            change = "shorten" if rate < low else "lengthen"
            yield Flag("acceptance", f"the mean acceptance rate is {rate:.3g} in one chain: {change} the step")
            return


def importance_flags(posterior: "Posterior", found: dict[str, Any]) -> Iterator[Flag]:
    """Weights of independent draws; adds their numbers to `found`."""
    if posterior.draws is None or posterior.draws.log_weight is None:
        return
    effective, total = posterior.draws.effective_count(), posterior.draws.chains * posterior.draws.count
    found["effective_draws"] = effective
    if effective < IMPORTANCE_ESS:
        yield Flag(
            "importance_ess",
            f"the weights of {total:,} draws leave {effective:.1f} effective ones: the proposal is too far from the "
            "posterior; draw more or choose another",
        )
    if total >= LEAST_RATIOS:
        found["pareto_k"] = psis_k_hat(posterior.draws.log_weight.ravel())
        if found["pareto_k"] > K_HAT_LIMIT:
            yield Flag(
                "pareto_k",
                f"Pareto k-hat of the weights is {found['pareto_k']:.2f}, above {K_HAT_LIMIT}: a few draws carry the "
                "weighted means, which are not reliable",
            )


def guide_flags(log_ratios: np.ndarray, found: dict[str, Any]) -> Iterator[Flag]:
    """Pareto k-hat of a guide; adds it to `found`."""
    k_hat = psis_k_hat(log_ratios)
    found |= {"pareto_k": k_hat, "pareto_k_draws": len(log_ratios)}
    if k_hat > K_HAT_LIMIT:
        reads = f"is {k_hat:.2f}, above {K_HAT_LIMIT}" if math.isfinite(k_hat) else "is infinite"
        yield Flag(
            "pareto_k",
            f"Pareto k-hat {reads}: the guide is too far from the joint posterior to be corrected by weights; its "
            "means may still be useful, its standard deviations and correlations are not to be trusted "
            "(expected of a mean-field guide over many weights)",
        )


def e_bfmi(energy: np.ndarray) -> np.ndarray:
    """E-BFMI, E (ΔE)² / Var E, of each chain of (chain, draw) energies (Betancourt 2016)."""
    with np.errstate(all="ignore"):
        return np.square(np.diff(energy, axis=1)).mean(1) / energy.var(axis=1)


def setting(posterior: "Posterior", pattern: str) -> float | None:
    """A number among the method's settings, from its `repr` in the provenance; None if it has none of that name."""
    found = re.search(rf"\b{pattern}=([0-9.eE+-]+)", str(posterior.provenance.get("settings", "")))
    return None if found is None else float(found.group(1).rstrip("."))
