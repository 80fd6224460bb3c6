"""The few places where ArviZ 0.23 (InferenceData) and ArviZ 1.x (xarray's DataTree) differ."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr


def arviz() -> Any:
    """ArviZ, imported when it is needed: it is slow to load, and 0.23 announces its successor to everybody."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing a major refactor", category=FutureWarning)
        import arviz

    return arviz


def has_data_trees() -> bool:
    """Whether the installed ArviZ is 1.x, where inference data are xarray's DataTree."""
    return int(arviz().__version__.partition(".")[0]) >= 1


def container(groups: Mapping[str, xr.Dataset]) -> Any:
    """What the installed ArviZ calls inference data, with these groups."""
    if has_data_trees():
        return xr.DataTree.from_dict(dict(groups))
    return arviz().InferenceData(**groups)


def has_group(idata: Any, name: str) -> bool:
    """Whether there is a group of that name."""
    return name in idata


def group(idata: Any, name: str) -> xr.Dataset:
    """One group as a Dataset."""
    found = idata[name]
    return found if isinstance(found, xr.Dataset) else found.to_dataset()


def hdi(dataset: xr.Dataset, prob: float) -> tuple[xr.Dataset, xr.Dataset]:
    """(lower, upper) ends of the shortest interval that holds `prob` of the draws."""
    if has_data_trees():
        # 'nearest' is not a density estimate: it is the same rule as in 0.23
        found, dim = arviz().hdi(dataset, prob=prob, method="nearest"), "ci_bound"
        return found.sel({dim: "lower"}, drop=True), found.sel({dim: "upper"}, drop=True)
    # 0.23 announces for each variable without axes of its own how 1.x will treat it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        found = arviz().hdi(dataset, hdi_prob=prob)
    return found.sel(hdi="lower", drop=True), found.sel(hdi="higher", drop=True)


def pareto_smoothed(log_ratios: np.ndarray) -> tuple[np.ndarray, float]:
    """(smoothed and normalised log weights, k-hat) of log importance ratios, (draws,)."""
    if has_data_trees():
        # the accessor, which importing ArviZ registers, takes log-likelihoods to be left out: the ratios' negatives
        smoothed, shape = xr.DataArray(-log_ratios[None], dims=("chain", "draw")).azstats.psislw()
        return np.asarray(smoothed)[0], float(shape)
    # its fit of the tail weighs candidates by exp of differences: where one overflows its weight is 1 / inf = 0
    with np.errstate(over="ignore"):
        smoothed, shape = arviz().psislw(log_ratios)
    return np.asarray(smoothed), float(shape)
