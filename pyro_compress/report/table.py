"""`results.json` as the table that a person reads at the end of a run.

Formulas and files stand in columns and sections of their own: an estimate of bits is never printed as a size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pyro_compress.posterior.error_unit import ErrorUnit, unit_of

MISSING = "–"
# keys of sentences that speak against a run
WARNINGS = ("worse_than_start", "no_better_than_one_answer")


def results_table(results: Mapping[str, Any]) -> Group:
    """Two tables: this run, and this run beside the published figures.

    Args:
        results: the content of `results.json`.  A key that is missing or None is shown as '–', except that a
            `description_length_bits` of None is 'undefined'.  `published` is a list of mappings with `method` and
            any of `error_percent`, `weights_left_percent`, `pruning`, `fast_prediction`, `maximum_compression`,
            `file_rate`, `architecture_left` and `source`.
    """
    parts = [_run_table(results)]
    if results.get("published"):
        parts.append(_comparison_table(results))
    return Group(*parts)


def _run_table(results: Mapping[str, Any]) -> Table:
    title = " · ".join(str(results[key]) for key in ("network", "prior", "method", "data") if results.get(key))
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("this run", justify="right", overflow="fold")
    rates, unit = results.get("rates") or {}, unit_of(results)
    if unit.key("error_given") in results:
        table.add_row("error of the weights given", _error(results, unit, "error_given"))
    table.add_row(f"{unit.noun} before compression", _error(results, unit, "error_before"))
    for key in WARNINGS:
        if results.get(key):
            table.add_row("warning", Text(str(results[key]), style="bold red"))
    after = _error(results, unit, "error_after")
    table.add_row(f"{unit.noun} of the decoded file", after + _plus_minus(results, unit))
    scores = (
        *_survival_rows(results.get("survival")),
        *_generative_rows(results.get("generative")),
        *_position_rows(results.get("positions")),
    )
    for name, value in scores:
        table.add_row(name, value)
    table.add_row("file size", _number(results, "file_bytes", "{:,} bytes"))
    rate = _number(results, "file_rate", "{:,.1f}×")
    table.add_row("file rate (float32 bytes / file bytes)", Text(rate, style="bold"))
    table.add_section()
    table.add_row("weights left", _number(results, "weights_left_percent", "{:.2f} %"))
    table.add_row("architecture left", _architecture(results.get("architecture_left")))
    table.add_row("bits per layer (fixed point)", _bits(results.get("bits_per_layer")))
    table.add_section()
    for key, name in (
        ("pruning", "pruning"),
        ("fast_prediction", "fast prediction"),
        ("maximum_compression", "maximum compression"),
    ):
        table.add_row(f"formula, no file: {name}", _number(rates, key, "{:,.1f}×"))
    coded = _number(results.get("deep_compression_bytes") or {}, "huffman", "{:,} bytes")
    table.add_row("formula, no file: relative index and Huffman codes", coded)
    length = "undefined" if "description_length_bits" in results else MISSING
    if isinstance(results.get("description_length_bits"), int | float):
        length = f"{results['description_length_bits']:,.0f} bits"
    table.add_row("formula, no file: description length", length)
    table.add_section()
    table.add_row("KL weight", _number(results, "kl_weight", "{:g}"))
    table.add_row("seed", _number(results, "seed", "{}"))
    table.add_row("time", _duration(results.get("wall_seconds")))
    return table


def _survival_rows(scores: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if scores is None:
        return []
    low, high = scores["concordance_interval_95"]
    calibration = f"error of survival at {scores['calibration_time']:.3g} in five groups by risk"
    return [
        ("concordance of the decoded file (95 % by bootstrap)", f"{scores['concordance']:.3f} ({low:.3f}-{high:.3f})"),
        ("integrated Brier score", f"{scores['integrated_brier_score']:.4f}"),
        (calibration, f"{scores['calibration_error']:.4f}"),
    ]


def _position_rows(scores: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if scores is None:
        return []
    return [
        ("error of all positions", f"{scores['error_percent']:.2f} %"),
        ("bits per position", f"{scores['bits']:.4f}"),
        ("mean intersection over union", f"{scores['mean_intersection_over_union']:.4f}"),
    ]


def _generative_rows(scores: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if scores is None:
        return []

    def lost(key: str) -> str:
        return f"{scores[key]:.3f} ± {scores[f'{key}_standard_error']:.3f} nats"

    return [
        ("nats of the ELBO lost", lost("nats_lost")),
        (
            f"ln p(x) of the decoded file, by {scores['log_likelihood_samples']:,} codes",
            f"{scores['log_likelihood_after_nats']:.2f} nats",
        ),
        ("nats of ln p(x) lost", lost("log_likelihood_nats_lost")),
        ("binarisation", scores["binarisation"] or "none"),
    ]


def _comparison_table(results: Mapping[str, Any]) -> Table:
    unit = unit_of(results)
    title = "Beside the published figures (formulas count bits, a file rate counts bytes)"
    table = Table(
        title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, collapse_padding=True
    )
    table.add_column("method", overflow="fold")
    for heading in (
        f"{unit.noun}\n{unit.sign}",
        "left\n%",
        "pruning\nformula",
        "fast\nformula",
        "maximum\nformula",
        "rate\nfile",
    ):
        table.add_column(heading, justify="right")
    table.add_column("layers\nleft", overflow="fold")
    ours = {**(results.get("rates") or {}), **results, "method": "this run"}
    ours["error"] = results.get(unit.key("error_after"))
    table.add_row(*_comparison_row(ours, "error", unit), style="bold", end_section=True)
    for published in results["published"]:
        table.add_row(*_comparison_row(published, unit.key("error"), unit))
    sources = sorted({str(published["source"]) for published in results["published"] if published.get("source")})
    if sources:
        table.caption = Text("published: " + "; ".join(sources))
        table.caption_justify = "left"
    return table


def _comparison_row(entry: Mapping[str, Any], error: str, unit: ErrorUnit) -> list[str]:
    return [
        str(entry["method"]),
        _number(entry, error, f"{{:.{unit.digits}f}}"),
        _number(entry, "weights_left_percent", "{:.1f}"),
        *(_number(entry, key, "{:,.0f}×") for key in ("pruning", "fast_prediction", "maximum_compression")),
        _number(entry, "file_rate", "{:,.0f}×"),
        _architecture(entry.get("architecture_left")),
    ]


def _number(values: Mapping[str, Any], key: str, form: str) -> str:
    value = values.get(key)
    return MISSING if value is None else form.format(value)


def _error(results: Mapping[str, Any], unit: ErrorUnit, what: str) -> str:
    value = results.get(unit.key(what))
    return MISSING if value is None else unit.shown(value)


def _plus_minus(results: Mapping[str, Any], unit: ErrorUnit) -> str:
    return _number(results, unit.key("error_standard_error"), f" ± {{:.{unit.digits}f}}").replace(MISSING, "")


def _architecture(sizes: str | Sequence[int] | None) -> str:
    if not sizes:
        return MISSING
    return sizes if isinstance(sizes, str) else "-".join(str(size) for size in sizes)


def _bits(bits: Mapping[str, int] | Sequence[int] | None) -> str:
    if not bits:
        return MISSING
    return "-".join(str(width) for width in (bits.values() if isinstance(bits, Mapping) else bits))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds:,.0f} s ({seconds / 60:.0f} min)"
