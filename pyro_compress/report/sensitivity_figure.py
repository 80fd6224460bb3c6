"""How the error rises with the units that are gone, a curve for each layer."""

from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.figure import Figure

from pyro_compress.report.drawing import COLOURS, MARKERS, label, new_figure


def sensitivity_figure(
    percents: Sequence[float], errors: Mapping[str, Sequence[float]], by: str, error_unit: str = "%"
) -> Figure:
    """Validation error against the share of one layer's units that are gone; the others are whole.

    Args:
        percents: of a layer's units.
        errors: by layer, as many as `percents`.
        by: what ranks the units, in words.
        error_unit: of the errors.
    """
    figure = new_figure(5.2, f"Sensitivity of layers: units ranked by {by}")
    axes = figure.subplots()
    for (layer, curve), colour, marker in zip(errors.items(), cycle(COLOURS), cycle(MARKERS), strict=False):
        axes.plot(percents, curve, color=colour, marker=marker, linewidth=2, label=layer)
    label(
        axes,
        "One layer at a time, nothing trained again",
        "units gone (% of the layer)",
        f"validation error ({error_unit})",
    )
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=10, frameon=False)
    return figure
