"""Whether to believe a posterior: summaries, convergence of chains, flags; numpy, xarray and arviz alone.

R-hat and effective sample sizes are those of Vehtari et al. (2021), rank-normalised, as ArviZ computes them.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from pyro_compress.analysis.diagnosis.arviz_export import DERIVED
from pyro_compress.analysis.diagnosis.arviz_versions import arviz, group, has_group, hdi
from pyro_compress.analysis.diagnosis.exported_names import names_in_export
from pyro_compress.analysis.diagnosis.flags import (
    Flag,
    Row,
    convergence_flags,
    guide_flags,
    importance_flags,
    resolution_flags,
    sampler_flags,
    stuck_flags,
)

if TYPE_CHECKING:
    from pyro_compress.posterior.posterior import Posterior

HDI_SHARE = 0.94
LEAST_DRAWS = 4  # per chain, or per half of a single chain


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        kind: of the posterior, 'chains', 'iid', 'guide' or 'point'.
        chains, draws: how many of each (draws per chain).
        rows: one per scalar quantity.
        flags: what fails.
        notes: what was not computed and why, and how to read the rest.
        statistics: numbers about the sampler or the guide.
    """

    kind: str
    chains: int
    draws: int
    rows: tuple[Row, ...]
    flags: tuple[Flag, ...]
    notes: tuple[str, ...]
    statistics: dict[str, Any] = field(default_factory=dict)

    def worst(self, limit: int | None = None) -> tuple[Row, ...]:
        """Rows by falling R-hat, then rising effective sample size; of independent draws `in_turns`."""
        if self.kind != "chains":
            return self.in_turns(self.rows)[:limit]
        return tuple(sorted(self.rows, key=lambda row: (-(row.r_hat or 0.0), row.ess)))[:limit]

    @staticmethod
    def in_turns(rows: Iterable[Row]) -> tuple[Row, ...]:
        """The first row of every variable, then their second ones and so on; what sums up a network goes first."""
        seen: Counter[str] = Counter()
        turns = []
        for row in rows:
            turns.append((seen[row.variable], row.variable not in DERIVED, row))
            seen[row.variable] += 1
        return tuple(row for *_, row in sorted(turns, key=lambda turn: turn[:2]))

    def as_dict(self) -> dict[str, Any]:
        """For JSON: no NaN and no infinity."""
        return {"hdi_share": HDI_SHARE, **_plain(asdict(self))}


def diagnose(posterior: "Posterior", idata: Any, *, log_ratios: np.ndarray | None = None) -> Diagnosis:
    """Summary and flags.

    Args:
        posterior: for its kind, its importance weights and the sampler's settings.
        idata: what `to_arviz` made of it.
        log_ratios: log p(x, θ) − log q(θ) at draws θ of a guide, (draws,), for Pareto k-hat.
    """
    dataset = group(idata, "posterior")
    stats = group(idata, "sample_stats") if has_group(idata, "sample_stats") else xr.Dataset()
    chains, draws = dataset.sizes["chain"], dataset.sizes["draw"]
    labels, values = quantities(dataset)
    notes, flags = [], []
    statistics: dict[str, Any] = {"left_out": str(dataset.attrs.get("left_out", "nothing"))}
    if posterior.kind == "chains":
        notes += list(chain_notes(chains, draws))
        rows = _summary(labels, values, mcse=None, compared=_compared(values))
        flags += list(convergence_flags(rows, chains, hidden_units=has_hidden_units(posterior)))
        stuck = _stuck(values) & ~fixed(posterior, dataset) if draws >= LEAST_DRAWS else np.zeros(len(labels), bool)
        flags += list(stuck_flags([label for label, still in zip(labels, stuck, strict=True) if still]))
        flags += list(resolution_flags(rows, posterior))
        flags += list(sampler_flags(posterior, stats, statistics))
    else:
        notes.append(
            "the draws are independent: R-hat and effective sample sizes compare dependent ones and are left out"
        )
        effective = float(dataset.attrs.get("effective_draws", draws))
        rows = _summary(labels, values, mcse=1 / math.sqrt(effective), compared=None)
        flags += list(importance_flags(posterior, statistics))
        if log_ratios is not None:
            flags += list(guide_flags(log_ratios, statistics))
    return Diagnosis(posterior.kind, chains, draws, tuple(rows), tuple(flags), tuple(notes), statistics)


def has_hidden_units(posterior: "Posterior") -> bool:
    """Whether a network's units lie between two layers of weights; sites of any other model are no layers."""
    return sum(site.mean.ndim > 1 and site.prior != "site" for site in posterior.parameters.values()) > 1


def chain_notes(chains: int, draws: int) -> Iterator[str]:
    """What so many chains and draws can and cannot tell."""
    per_part = draws if chains > 1 else draws // 2
    if per_part < LEAST_DRAWS:
        need = f"{LEAST_DRAWS} draws per chain" if chains > 1 else f"{2 * LEAST_DRAWS} draws of a single chain"
        yield (
            f"{chains} {'chains' if chains > 1 else 'chain'} of {draws} draws are too few for R-hat and effective "
            f"sample sizes, which need at least {need}: draw more"
        )
    elif chains == 1:
        yield (
            "there is one chain: R-hat compares its halves (split R-hat), and cannot see what the chain never visited; "
            "run at least 2 chains, better 4"
        )


def quantities(dataset: xr.Dataset) -> tuple[list[str], np.ndarray]:
    """(names, float64 (chain, draw, quantity)) of every scalar in a group."""
    labels, columns = [], []
    for name, array in dataset.data_vars.items():
        ordered = array.transpose("chain", "draw", ...)
        dims = ordered.dims[2:]
        columns.append(np.asarray(ordered, dtype=np.float64).reshape(*ordered.shape[:2], -1))
        for place in np.ndindex(*ordered.shape[2:]):
            index = ",".join(str(ordered[d].values[i]) for d, i in zip(dims, place, strict=True))
            labels.append(index if name == "weights" else f"{name}[{index}]" if dims else str(name))
    return labels, np.concatenate(columns, axis=2)


def fixed(posterior: "Posterior", dataset: xr.Dataset) -> np.ndarray:
    """Boolean, (quantity,) as `quantities` orders them: numbers whose site's support leaves them no choice."""
    places = {} if posterior.draws is None else posterior.draws.fixed
    names = names_in_export(posterior) if places else {}
    by_name = {names[site]: list(where) for site, where in places.items()}
    sampled = {
        f"{site}[{','.join(str(i) for i in np.unravel_index(where, posterior.draws.shapes[site]))}]"
        for site in places
        for where in places[site]
        if posterior.draws is not None
    }
    found = []
    for name, array in dataset.data_vars.items():
        ordered = array.transpose("chain", "draw", ...)
        here = np.zeros(math.prod(ordered.shape[2:]), bool)
        here[by_name.get(str(name), [])] = True
        if name == "weights":
            here |= np.array([str(label) in sampled for label in ordered["weight"].values], bool)
        found.append(here)
    return np.concatenate(found)


def _compared(values: np.ndarray) -> np.ndarray | None:
    """The chains that R-hat compares, (chain, draw, quantity): halves of a single one; None if too short."""
    chains, draws, count = values.shape
    if chains == 1:
        half = draws // 2
        # what an odd number leaves over is dropped at the start
        values = values[0, draws - 2 * half :].reshape(2, half, count)
    return values if values.shape[1] >= LEAST_DRAWS else None


def _stuck(values: np.ndarray) -> np.ndarray:
    """Boolean, (quantity,): whether it moves in no chain of (chain, draw, quantity)."""
    return np.asarray((np.ptp(values, axis=1) == 0).all(0))


def _summary(labels: list[str], values: np.ndarray, *, mcse: float | None, compared: np.ndarray | None) -> list[Row]:
    """One row per quantity; `mcse` is in standard deviations, for independent draws."""
    dims = ("chain", "draw", "quantity")
    dataset = xr.Dataset({"x": (dims, values)})
    mean, sd = values.mean((0, 1)), values.std((0, 1), ddof=1) if values.shape[0] * values.shape[1] > 1 else None
    sd = np.zeros(len(labels)) if sd is None else sd
    lower, upper = (np.asarray(end["x"]) for end in hdi(dataset, HDI_SHARE))
    columns: dict[str, np.ndarray] = {}
    if compared is not None:
        az, parts = arviz(), xr.Dataset({"x": (dims, compared)})
        with np.errstate(all="ignore"):  # quantities that do not move
            columns = {
                "mcse": np.asarray(az.mcse(parts)["x"]),
                "ess_bulk": np.asarray(az.ess(parts, method="bulk")["x"]),
                "ess_tail": np.asarray(az.ess(parts, method="tail", prob=(0.05, 0.95))["x"]),
                "r_hat": np.asarray(az.rhat(parts)["x"]),
            }
            # chains that stand still at different places would have an infinite R-hat
            stuck = _stuck(compared)
            columns = {name: np.where(stuck, np.nan, column) for name, column in columns.items()}
    elif mcse is not None:
        columns = {"mcse": sd * mcse}
    rows = []
    for place, label in enumerate(labels):
        found = {n: None if np.isnan(c[place]) else float(c[place]) for n, c in columns.items()}
        low, high = float(lower[place]), float(upper[place])
        rows.append(Row(label, float(mean[place]), float(sd[place]), low, high, found.pop("mcse", None), **found))
    return rows


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
