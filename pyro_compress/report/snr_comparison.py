"""Two posteriors of one network side by side: do they rank the weights alike?"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import rankdata, spearmanr

from pyro_compress.analysis.decisions.pruning import signal_to_noise
from pyro_compress.posterior.posterior import ParameterPosterior
from pyro_compress.report.drawing import BLUE, COLOURS, GREY, MARKERS, VERMILION, label, new_figure
from pyro_compress.report.figures import SNR_RANGE


class Ranking(NamedTuple):
    """Signal-to-noise ratios of the weights of one network under two posteriors.

    Attributes:
        first, second: by parameter name, the same names and shapes.
    """

    first: Mapping[str, np.ndarray]
    second: Mapping[str, np.ndarray]

    def correlation(self) -> float:
        """Spearman's ρ over all weights."""
        return float(spearmanr(_joined(self.first), _joined(self.second)).statistic)

    def agreement(self, kept: float) -> float:
        """Share of the `kept` · n weights of highest ratio under the first that are among those of the second."""
        ratios = _joined(self.first), _joined(self.second)
        count = max(1, round(kept * ratios[0].size))
        best, other = (set(np.argsort(-ratio, kind="stable")[:count].tolist()) for ratio in ratios)
        return len(best & other) / count


def ranking(first: Mapping[str, ParameterPosterior], second: Mapping[str, ParameterPosterior]) -> Ranking:
    """Of the weights that are uncertain in both.

    The units of both must have the same names: align draws to the other posterior's mean first, with
    `analysis.modes.moments.one_mode(..., reference=...)`.
    """
    names = [
        name
        for name, site in first.items()
        if site.mean.ndim > 1 and not site.is_point and name in second and not second[name].is_point
    ]
    return Ranking(*({name: signal_to_noise(held[name]) for name in names} for held in (first, second)))


def snr_comparison(compared: Ranking, first: str, second: str) -> Figure:
    """Ranks of all weights against each other, and both sorted curves of ratios.

    Args:
        compared: see `ranking`.
        first, second: names of the two methods.
    """
    rho, share = compared.correlation(), compared.agreement(0.5)
    figure = new_figure(5.6, f"Signal-to-noise ratio of the weights: {first} and {second}")
    ranks, curves = figure.subplots(1, 2)
    _draw_ranks(ranks, compared)
    title = f"Spearman's ρ = {rho:.2f}; the upper half agrees in {100 * share:.0f} %"
    label(ranks, title, f"rank under {first} (1: lowest ratio)", f"rank under {second}")
    for name, ratios, colour, style in (
        (first, _joined(compared.first), BLUE, "-"),
        (second, _joined(compared.second), VERMILION, "--"),
    ):
        places = np.arange(1, ratios.size + 1)
        curves.plot(
            places, np.sort(np.clip(ratios, *SNR_RANGE)), color=colour, linestyle=style, linewidth=2, label=name
        )
    curves.set_yscale("log")
    label(curves, "Each sorted by itself", "weights, lowest ratio first", "|E w| / sd(w)  (log scale)")
    curves.legend(fontsize=10, frameon=False)
    return figure


def _draw_ranks(axes: Axes, compared: Ranking) -> None:
    """A point per weight, a marker and colour per layer, and the line of equal ranks."""
    across, up = (rankdata(_joined(held), "ordinal") for held in (compared.first, compared.second))
    axes.plot([1, across.size], [1, across.size], color=GREY, linewidth=1, zorder=1)
    start = 0
    for number, (name, ratios) in enumerate(compared.first.items()):
        here = slice(start, start + ratios.size)
        start += ratios.size
        axes.scatter(
            across[here],
            up[here],
            s=28 if across.size < 500 else 5,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            alpha=0.7,
            linewidths=0,
            label=f"{name} ({ratios.size:,})",
        )
    axes.set_aspect("equal")
    axes.legend(fontsize=10, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)


def _joined(ratios: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in ratios.values()])
