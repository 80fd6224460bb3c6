"""Figures of a diagnosis: trace, rank, autocorrelation, energy and forest plots.

Drawn from the arrays alone, so that they are the same under every version of ArviZ.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from pyro_compress.analysis.diagnosis.arviz_export import DERIVED
from pyro_compress.analysis.diagnosis.arviz_versions import group, has_group
from pyro_compress.analysis.diagnosis.diagnostics import Diagnosis, quantities
from pyro_compress.analysis.diagnosis.flags import Row, e_bfmi
from pyro_compress.report.drawing import BLUE, COLOURS, GREY, VERMILION, label, new_figure

MOST_PANELS = 6
MOST_POINTS = 1500  # of a trace, per chain: more than the pixels of its panel
MOST_PER_VARIABLE = 12
MOST_VARIABLES = 8
RANK_BINS = 20
MOST_LAGS = 100
FLAT_PREDICTION = 0.01  # standard deviation


def figures_of_diagnosis(idata: Any, diagnosis: Diagnosis) -> dict[str, Figure]:
    """Every figure by the name of its file; independent draws have a forest plot alone.

    Args:
        idata: what `to_arviz` made.
        diagnosis: of it; its worst quantities are shown.
    """
    dataset = group(idata, "posterior")
    names, values = quantities(dataset)
    by_name = {name: values[..., place] for place, name in enumerate(names)}
    axes = {str(name): array.dims[2:] for name, array in dataset.data_vars.items()}
    drawn = {"forest": forest(diagnosis, by_name, axes)}
    if diagnosis.kind != "chains":
        return drawn
    rows = _shown(diagnosis)
    diverging = None
    if has_group(idata, "sample_stats"):
        stats = group(idata, "sample_stats")
        diverging = np.asarray(stats["diverging"]) if "diverging" in stats else None
        if "energy" in stats:
            drawn["energy"] = energy(np.asarray(stats["energy"], dtype=np.float64))
    drawn["trace"] = trace(rows, by_name, diverging)
    drawn["rank"] = rank(rows, by_name)
    drawn["autocorrelation"] = autocorrelation(rows, by_name)
    return drawn


def trace(rows: Sequence[Row], by_name: dict[str, np.ndarray], diverging: np.ndarray | None = None) -> Figure:
    """Values over draws and their histogram, chain by chain; divergent transitions are marked below.

    Args:
        rows: the quantities to draw.
        by_name: (chain, draw) of each.
        diverging: boolean, (chain, draw).
    """
    figure = new_figure(0.9 + 1.7 * len(rows), "Traces of the worst quantity of every variable")
    panels = figure.subplots(len(rows), 2, width_ratios=(5, 1), squeeze=False)
    for (axes, margin), row in zip(panels, rows, strict=True):
        values = by_name[row.name]
        stride = -(-values.shape[1] // MOST_POINTS)
        low, high = float(values.min()), float(values.max())
        edges = np.linspace(low, high if high > low else low + 1.0, _bins(values.shape[1]) + 1)
        for chain, series in enumerate(values):
            draws, colour = np.arange(0, len(series), stride), _colour(chain)
            axes.plot(draws, series[::stride], color=colour, linewidth=0.7, alpha=0.85)
            counts, _ = np.histogram(series, edges)
            margin.stairs(counts, edges, orientation="horizontal", color=colour, linewidth=1.2)
        if diverging is not None and diverging.any():
            marked = np.flatnonzero(diverging.any(0))
            axes.plot(marked, np.full(len(marked), 0.02), "|", color="black", transform=axes.get_xaxis_transform())
        last = row is rows[-1]
        label(axes, _titled(row), "draw" if last else "", "")
        label(margin, "", "draws" if last else "", "")
        axes.set_xlim(0, max(1, values.shape[1] - 1))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        margin.sharey(axes)
        margin.tick_params(labelleft=False)
        margin.xaxis.set_major_locator(MaxNLocator(2, integer=True))
        margin.set_xlim(left=0)
    marks = diverging is not None and bool(diverging.any())
    _legend(figure, by_name[rows[0].name].shape[0], "divergent transition in any chain" if marks else None)
    return figure


def rank(rows: Sequence[Row], by_name: dict[str, np.ndarray]) -> Figure:
    """Histograms per chain of the ranks among all draws; chains of one distribution are flat (Vehtari et al. 2021).

    Args:
        rows: the quantities to draw.
        by_name: (chain, draw) of each.
    """
    figure, panels = _grid(len(rows), "Ranks among the draws of all chains (grey: 95 % of agreeing, independent draws)")
    for axes, row in zip(panels, rows, strict=True):
        values = by_name[row.name]
        ranks = rankdata(values).reshape(values.shape)
        bins = min(RANK_BINS, max(2, values.shape[1] // 20))
        edges = np.linspace(0.5, values.size + 0.5, bins + 1)
        for chain, of_chain in enumerate(ranks):
            share = np.histogram(of_chain, edges)[0] / (values.shape[1] / bins)
            axes.stairs(share, edges, color=_colour(chain), linewidth=1.6)
        # a bin of one chain holds a hypergeometric number: of all draws so many are its own
        reach = 1.96 * np.sqrt((bins - 1) / values.shape[1] * (1 - 1 / len(values)))
        axes.axhspan(max(0.0, 1 - reach), 1 + reach, color="0.9", linewidth=0, zorder=0)
        axes.axhline(1.0, color=GREY, linestyle="--", linewidth=1.0)
        label(axes, _titled(row), "", "")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    _below(panels, "rank")
    figure.supylabel("draws, in multiples of the mean", fontsize=11)
    _legend(figure, by_name[rows[0].name].shape[0])
    return figure


def autocorrelation(rows: Sequence[Row], by_name: dict[str, np.ndarray]) -> Figure:
    """Correlation of draws of one chain over the lag; the grey band is where that of independent draws lies.

    Args:
        rows: the quantities to draw.
        by_name: (chain, draw) of each.
    """
    figure, panels = _grid(len(rows), "Autocorrelation within chains (grey: 95 % of what independent draws show)")
    for axes, row in zip(panels, rows, strict=True):
        values = by_name[row.name]
        lags = min(MOST_LAGS, values.shape[1] // 2)
        band = 1.96 / np.sqrt(values.shape[1])
        axes.axhspan(-band, band, color="0.85", linewidth=0)
        for chain, series in enumerate(values):
            axes.plot(autocorrelations(series, lags), color=_colour(chain), linewidth=1.4)
        label(axes, _titled(row), "", "")
        axes.set_xlim(0, max(1, lags))
        axes.set_ylim(-0.4, 1.05)
    _below(panels, "lag in draws")
    figure.supylabel("correlation", fontsize=11)
    _legend(figure, by_name[rows[0].name].shape[0])
    return figure


def energy(values: np.ndarray) -> Figure:
    """Marginal energy and energy transitions per chain; the second must be as wide as the first (Betancourt 2016).

    Args:
        values: energies, (chain, draw).
    """
    figure, panels = _grid(len(values), "Energy: good where its changes are as wide as its own distribution")
    for chain, (axes, series, fraction) in enumerate(zip(panels, values, e_bfmi(values), strict=True)):
        marginal, change = series - series.mean(), np.diff(series)
        reach = max(float(np.abs(marginal).max()), float(np.abs(change).max()) if len(change) else 0.0, 1e-12)
        edges = np.linspace(-reach, reach, _bins(len(series)) + 1)
        for data, colour, name in ((marginal, BLUE, "energy − its mean"), (change, VERMILION, "change per transition")):
            axes.stairs(np.histogram(data, edges, density=True)[0], edges, color=colour, linewidth=1.8, label=name)
        label(axes, f"chain {chain}: E-BFMI {fraction:.2f}", "", "")
        axes.yaxis.set_major_locator(MaxNLocator(3))
    _below(panels, "nats")
    figure.supylabel("density", fontsize=11)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return figure


def forest(
    diagnosis: Diagnosis, by_name: dict[str, np.ndarray], axes_of: Mapping[str, Sequence[Any]] | None = None
) -> Figure:
    """Means, 50 % and 94 % intervals (quantiles) of each chain, a panel per variable, its worst quantities first.

    Args:
        diagnosis: its rows, by variable.
        by_name: (chain, draw) of each.
        axes_of: names of the axes that a variable's quantities are labelled by.
    """
    shown = _by_variable(diagnosis)
    heights = [0.5 + 0.3 * len(rows) for rows in shown.values()]
    figure = new_figure(1.2 + sum(heights), "Intervals of 50 % and 94 %, chain by chain")
    panels = figure.subplots(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (variable, rows) in zip(panels, shown.items(), strict=True):
        for place, row in enumerate(rows):
            _intervals(axes, place, by_name[row.name])
        total = sum(row.variable == variable for row in diagnosis.rows)
        named = ", ".join(str(name).replace("_", " ") for name in (axes_of or {}).get(variable, ()))
        title = f"{variable} [{named}]" if named else variable
        label(axes, title if total == len(rows) else f"{title}: {len(rows)} of {total:,}")
        axes.set_yticks(range(len(rows)), [_within(row.name) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(7))
    if diagnosis.kind == "chains":
        _legend(figure, diagnosis.chains)
    else:
        figure.suptitle("Intervals of 50 % and 94 %", fontsize=14)
    return figure


def _bins(draws: int) -> int:
    """Of a histogram: as many as its noise allows."""
    return int(np.clip(np.sqrt(draws), 10, 40))


def autocorrelations(series: np.ndarray, lags: int) -> np.ndarray:
    """Correlations at lag 0 … `lags` with the biased estimator; 1 and then zeros for a series that never moves."""
    centred = series - series.mean()
    variance = float(centred @ centred)
    if variance == 0.0:
        return np.eye(1, lags + 1)[0]
    return np.array([float(centred[: len(centred) - lag] @ centred[lag:]) / variance for lag in range(lags + 1)])


def _intervals(axes: Axes, place: int, values: np.ndarray) -> None:
    chains = len(values)
    for chain, series in enumerate(values):
        at = place + (0.0 if chains == 1 else 0.6 * (chain / (chains - 1) - 0.5))
        far, near = np.quantile(series, (0.03, 0.97)), np.quantile(series, (0.25, 0.75))
        axes.plot(far, (at, at), color=_colour(chain), linewidth=1.0)
        axes.plot(near, (at, at), color=_colour(chain), linewidth=3.0, solid_capstyle="butt")
        axes.plot(series.mean(), at, "o", color="white", markersize=4.5, markeredgecolor=_colour(chain), mew=1.5)


def _shown(diagnosis: Diagnosis) -> list[Row]:
    """The worst of every variable, their second worst, and so on."""
    moving = _told_apart(row for row in diagnosis.worst() if row.sd > 0)
    return list(diagnosis.in_turns(moving)[:MOST_PANELS]) or list(diagnosis.rows[:1])


def _told_apart(rows: Iterable[Row]) -> list[Row]:
    """Without predictions that hardly move, such as probabilities of 10⁻⁵, where there are others."""
    rows = list(rows)
    predictions = [row for row in rows if row.variable == "predictions"]
    flat = {row.name for row in predictions if row.sd < FLAT_PREDICTION}
    return rows if len(flat) == len(predictions) else [row for row in rows if row.name not in flat]


def _by_variable(diagnosis: Diagnosis) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in _told_apart(diagnosis.worst()):
        of_variable = found.setdefault(row.variable, [])
        if len(of_variable) < MOST_PER_VARIABLE:
            of_variable.append(row)
    first = {name: found.pop(name) for name in DERIVED if name in found}
    return dict(list((first | found).items())[:MOST_VARIABLES])


def _within(name: str) -> str:
    _, bracket, index = name.partition("[")
    return index.removesuffix("]") if bracket else ""


def _titled(row: Row) -> str:
    parts = [row.name]
    if row.r_hat is not None:
        parts.append(f"R-hat {row.r_hat:.2f}")
    if np.isfinite(row.ess):
        parts.append(f"ESS {row.ess:,.0f}")
    return "   ".join(parts)


def _grid(count: int, title: str) -> tuple[Figure, list[Axes]]:
    """`count` panels in two columns; one takes the whole width."""
    columns = min(2, count)
    lines = -(-count // columns)
    figure = new_figure(1.1 + 2.2 * lines, title)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for unused in panels[count:]:
        unused.remove()
    return figure, list(panels[:count])


def _below(panels: Sequence[Axes], what: str) -> None:
    """Name the horizontal axis of the lowest panel of each column; a name of the figure would lie on its legend."""
    for axes in panels[-2:]:
        axes.set_xlabel(what, fontsize=11)


def _colour(chain: int) -> str:
    return COLOURS[chain % len(COLOURS)]


def _legend(figure: Figure, chains: int, marks: str | None = None) -> None:
    handles = [Line2D([], [], color=_colour(chain), linewidth=2) for chain in range(min(chains, len(COLOURS)))]
    names = [f"chain {chain}" for chain in range(len(handles))]
    if chains > len(COLOURS):
        names[-1] += f" (colours repeat, {chains} chains)"
    if marks is not None:
        handles.append(Line2D([], [], color="black", marker="|", linestyle="none"))
        names.append(marks)
    if len(handles) > 1:
        figure.legend(handles, names, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=10)
