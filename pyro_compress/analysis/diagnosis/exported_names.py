"""What sites are called in an ArviZ export: by their own name, unless that means something else there.

Variables lie beside their axes, so a site called 'chain' or 'draw' would be taken for one; 'log_joint' and the like
are variables of the export's own; a slash separates groups in a DataTree and in a netCDF file, where '.' and '..' are
places as well.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pyro_compress.analysis.diagnosis.exported_draws import site_shapes

if TYPE_CHECKING:
    from pyro_compress.posterior.posterior import Posterior

# axes of the export and of what ArviZ makes of it, and the export's own variables and labels
_AXES = {"chain", "draw", "sample", "held_out", "class", "example", "weight", "layer", "hdi", "ci_bound", "quantile"}
RESERVED = _AXES | {"summary", "metric", "weights", "weight_layer", "layer_norm", "log_joint", "predictions"}
_FORBIDDEN = re.compile(r"[/\x00-\x1f\x7f]")


def names_in_export(posterior: "Posterior", others: Mapping[str, Sequence[int]] | None = None) -> dict[str, str]:
    """`exported_names` of a posterior's sites, and of other variables that go along with their shapes."""
    layers = {name.rpartition(".")[0] or name for name in posterior.parameters}
    axes = [axis_of(layer, role) for layer in layers for role in ("out", "in", "row", "column")]
    return exported_names({**(others or {}), **site_shapes(posterior)}, axes)


def axis_of(layer: str, role: str) -> str:
    """Name of an axis of a layer's tensors."""
    return f"{_plain(layer)}_{role}"


def exported_names(shapes: Mapping[str, Sequence[int]], taken: Iterable[str] = ()) -> dict[str, str]:
    """A name in the export for every site: distinct, no axis, and one that every file takes.

    Args:
        shapes: of the sites; each has axes of its own, 'SITE_dim_0' and so on.
        taken: other axes' names.

    Returns:
        By site; a name that has to change gets '.' for what separates paths, and '_' behind it until it is free.
    """
    pairs = [
        (name, axis) for site, shape in shapes.items() for name in (site, _plain(site)) for axis, _ in enumerate(shape)
    ]
    axes = {f"{name}_dim_{axis}" for name, axis in pairs}
    held = RESERVED | axes | {str(name) for name in taken}
    plain = {site for site in shapes if _plain(site) == site and site not in held}
    found: dict[str, str] = {}
    for site in shapes:
        name = _plain(site)
        while site not in plain and (name in held or name in plain or name in found.values()):
            name += "_"
        found[site] = name
    return found


def _plain(site: str) -> str:
    name = _FORBIDDEN.sub(".", site).strip()
    return f"site{name}" if not name.strip(".") else name
