"""A posterior as ArviZ takes it, in every version from 0.23 on; needs numpy, xarray and arviz.

A network has hundreds of thousands of weights; exporting all of them would take longer than fitting them.  Scales
and other small sites, the log joint, the norms of the layers and predictions go whole, of the weights a seeded
sample; what was left out is named in the attributes of the result.

Arrays that are given along are one per draw of the posterior: (chain, draw, ...) as in `posterior.draws`, or
(1, draws, ...) for a guide.  Where draws carry weights they are drawn again by weight, and these arrays with them.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from pyro_compress.analysis.diagnosis.arviz_versions import container
from pyro_compress.analysis.diagnosis.exported_draws import Exported, export_draws, plan
from pyro_compress.analysis.diagnosis.exported_names import axis_of, names_in_export
from pyro_compress.errors import InferenceError

if TYPE_CHECKING:
    from pyro_compress.posterior.posterior import Posterior

# sampler's flags and counts; every other statistic is a float
STATISTIC_TYPES = {
    "diverging": np.bool_,
    "reached_max_treedepth": np.bool_,
    "tree_depth": np.int64,
    "n_steps": np.int64,
}
DERIVED = ("log_joint", "layer_norm", "predictions")

Arrays = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


def to_arviz(
    posterior: "Posterior",
    *,
    sites: str | Sequence[str] | None = None,
    draws: int = 1000,
    weights: int | None = 200,
    seed: int = 0,
    layer_norms: Arrays | None = None,
    predictions: np.ndarray | None = None,
    log_likelihood: Arrays | None = None,
    posterior_predictive: Arrays | None = None,
    prior: Arrays | None = None,
    observed_data: Arrays | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
) -> Any:
    """An ArviZ `InferenceData` (0.23) or `DataTree` (1.x).

    Its groups are `posterior`, `sample_stats` where a sampler noted something, and those that are given.  The
    posterior holds every small site, `weights` (sampled elements of the large ones, labelled 'SITE[index]'),
    `layer_norm`, `log_joint` and `predictions`.  Axes are named after the layer: 'fc1_out', 'fc1_in'.  A site
    whose name means something else there, such as 'chain', or holds a slash, gets another: attribute `renamed`.

    Args:
        posterior: with draws, or with closed-form latents.
        sites: names or patterns ('fc1.*') of what to export, of sites and of 'log_joint', 'layer_norm' and
            'predictions'; None for all.
        draws: S, taken from a guide, or by weight from independent weighted draws; chains are exported whole.
        weights: how many elements of the large sites are exported; None for all.
        seed: of the guide's draws, of draws by weight and of which weights are exported.
        layer_norms: by layer, (chain, draw); if not given, the norms of the network's sites with two or more axes.
        predictions: on held-out inputs, (chain, draw, held_out[, class]).
        log_likelihood: pointwise, by observed variable, (chain, draw, example).
        posterior_predictive: by observed variable, (chain, draw, example, ...).
        prior: draws from the prior by site, (chain, draw, *site shape).
        observed_data: by observed variable, (example, ...).
        coords: labels of 'held_out', 'class', 'example' or of any other axis.

    Raises:
        InferenceError: a point estimate, a pattern that matches nothing, or arrays that are not one per draw.
    """
    if not posterior.is_distribution:
        raise InferenceError("a point estimate has no draws to export: fit with SVI(...) or a sampler instead")
    given = {
        "log_likelihood": log_likelihood or {},
        "posterior_predictive": posterior_predictive or {},
        "prior": prior or {},
        "observed_data": observed_data or {},
    }
    exported = export_draws(posterior, plan(posterior, sites, weights, seed, DERIVED), draws, seed)
    shapes = {name: np.shape(values) for arrays in given.values() for name, values in arrays.items()}
    axes = Axes(posterior, coords or {}, shapes)
    groups = {"posterior": _posterior_group(posterior, exported, axes, layer_norms, predictions)}
    statistics = {name: (_typed(name, values), ()) for name, values in exported.statistics.items()}
    if statistics:
        groups["sample_stats"] = axes.dataset(statistics)
    groups |= {name: _given_group(name, arrays, exported, axes) for name, arrays in given.items() if arrays}
    groups["posterior"].attrs.update(_attributes(posterior, exported, seed) | axes.renamed())
    return container(groups)


def _given_group(name: str, arrays: Arrays, exported: Exported, axes: "Axes") -> xr.Dataset:
    """A group of arrays that were given along: (chain, draw, example, ...), sites, or (example, ...)."""
    if name == "prior":
        return axes.dataset(axes.sites(arrays))
    if name == "observed_data":
        return axes.observed(arrays, 0)
    return axes.observed(_rows(exported, name, arrays), 2)


def _posterior_group(
    posterior: "Posterior",
    exported: Exported,
    axes: "Axes",
    layer_norms: Arrays | None,
    predictions: np.ndarray | None,
) -> xr.Dataset:
    variables = axes.sites(exported.whole)
    coords: dict[str, Any] = {}
    if exported.labels:
        variables["weights"] = (exported.elements, ("weight",))
        coords["weight"] = list(exported.labels)
        coords["weight_layer"] = ("weight", [label.partition("[")[0].rpartition(".")[0] for label in exported.labels])
    wanted = exported.plan.wanted
    norms = exported.norms if layer_norms is None else _rows(exported, "layer_norms", layer_norms)
    if norms and ("layer_norm" in wanted):
        variables["layer_norm"] = (np.stack(list(norms.values()), axis=2), ("layer",))
        coords["layer"] = list(norms)
    if "lp" in exported.statistics and "log_joint" in wanted:
        variables["log_joint"] = (exported.statistics["lp"], ())
    if predictions is not None and "predictions" in wanted:
        values = exported.per_draw("predictions", predictions)
        names = ("held_out", "class") if values.ndim == 4 else ("held_out",)
        if values.ndim not in (3, 4):
            raise InferenceError(f"predictions have {values.ndim} axes, expected (chain, draw, held_out[, class])")
        variables["predictions"] = (values, names)
    return axes.dataset(variables, coords)


def _rows(exported: Exported, what: str, arrays: Arrays) -> dict[str, np.ndarray]:
    return {name: exported.per_draw(f"{what}['{name}']", values) for name, values in arrays.items()}


def _typed(name: str, values: np.ndarray) -> np.ndarray:
    return values.astype(STATISTIC_TYPES.get(name, np.float64))


def _attributes(posterior: "Posterior", exported: Exported, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "draws_are": posterior.kind,
        "method": str(posterior.provenance.get("method", "")),
        "seed": seed,
        "left_out": exported.plan.left_out,
    }
    if posterior.draws is not None and posterior.draws.log_weight is not None:
        found["resampled"] = "draws were drawn again by their weights, which stand in sample_stats as log_weight"
        found["effective_draws"] = posterior.draws.effective_count()
    return found


class Axes:
    """Names of variables, names and labels of axes: those of one layer's tensors agree wherever they occur."""

    def __init__(self, posterior: "Posterior", coords: Mapping[str, Sequence[Any]], others: Shapes) -> None:
        self.posterior, self.coords = posterior, coords
        self.extents: dict[str, int] = {}
        self.names = names_in_export(posterior, others)

    def renamed(self) -> dict[str, str]:
        """Sites that have another name here, as an attribute."""
        changed = [f"{site} is {name}" for site, name in self.names.items() if site != name]
        return {"renamed": "; ".join(changed)} if changed else {}

    def sites(self, values: Arrays) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
        """(values, names of the axes after chain and draw) of sites, (chain, draw, *shape) each."""
        return {self.names[site]: (held, self.of_site(site, held.shape[2:])) for site, held in values.items()}

    def observed(self, values: Arrays, leading: int) -> xr.Dataset:
        """A group of observed variables, (example, ...) after so many leading axes."""
        variables = {}
        for site, held in values.items():
            extra = (f"{self.names[site]}_dim_{axis}" for axis in range(held.ndim - leading - 1))
            variables[self.names[site]] = (held, ("example", *extra))
        return self.dataset(variables, sampled=leading > 0)

    def of_site(self, site: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Names of a site's axes: 'LAYER_out' and so on where it is a network's, else 'SITE_dim_0'."""
        names = self._of_network(site, shape)
        if names is None or any(self.extents.get(n, e) != e for n, e in zip(names, shape, strict=True)):
            names = tuple(f"{self.names[site]}_dim_{axis}" for axis in range(len(shape)))
        self.extents.update(zip(names, shape, strict=True))
        return names

    def _of_network(self, site: str, shape: tuple[int, ...]) -> tuple[str, ...] | None:
        for name, parameter in self.posterior.parameters.items():
            if site != name and not site.startswith(f"{name}."):
                continue
            layer, full = name.rpartition(".")[0] or name, parameter.mean.shape
            if shape == full and len(shape) in (1, 2, 4):
                kernel = ("row", "column") if len(shape) == 4 else ()
                return tuple(axis_of(layer, role) for role in ("out", "in", *kernel)[: len(shape)])
            groups = parameter.groups
            if len(shape) == 1 and groups is not None and shape[0] == full[groups.axis] and groups.axis < 2:
                return (axis_of(layer, ("out", "in")[groups.axis]),)
        return None

    def dataset(
        self,
        variables: Mapping[str, tuple[np.ndarray, tuple[str, ...]]],
        coords: Mapping[str, Any] | None = None,
        *,
        sampled: bool = True,
    ) -> xr.Dataset:
        """A group of (values, names of the axes after chain and draw) by variable."""
        labels: dict[str, Any] = dict(coords or {})
        leading = ("chain", "draw") if sampled else ()
        arrays = {}
        for variable, (values, names) in variables.items():
            arrays[variable] = ((*leading, *names), values)
            for axis, extent in zip((*leading, *names), values.shape, strict=True):
                given = self.coords.get(axis)
                if given is not None and len(given) != extent:
                    raise InferenceError(f"'{axis}' has {len(given)} labels, {variable} has {extent} of them")
                labels.setdefault(axis, np.arange(extent) if given is None else list(given))
        return xr.Dataset(arrays, labels, {"inference_library": "pyro_compress"})
