"""Errors in nats: no table, line or figure says percent of them."""

from typing import Any

from rich.console import Console

from pyro_compress.pipeline.sweeping import table
from pyro_compress.posterior.error_unit import NATS, PERCENT, unit_of
from pyro_compress.report.figures import RatePoint, error_against_rate
from pyro_compress.report.table import print_results

RESULTS: dict[str, Any] = {
    "error_unit": "nats",
    "error_before_nats": 1.62,
    "error_after_nats": 1.73125,
    "error_standard_error_nats": 0.13,
    "file_bytes": 100,
    "file_rate": 4.0,
    "weights_left_percent": 50.0,
    "published": [{"method": "another", "error_nats": 1.5, "source": "s"}],
}


def test_a_unit_prints_and_names() -> None:
    assert (PERCENT.text(0.0162), NATS.text(0.0162)) == ("1.62 %", "0.0162 nats")
    assert (PERCENT.key("error_after"), NATS.key("error_after")) == ("error_after_percent", "error_after_nats")
    assert (PERCENT.rise(0.2, 0.1), NATS.rise(0.2, 0.1)) == ("+0.20 ± 0.10 points", "+0.0020 ± 0.0010 nats")
    assert unit_of({}) is PERCENT and unit_of(RESULTS) is NATS


def test_the_results_table_says_nats() -> None:
    console = Console(width=200, record=True, quiet=False, file=None, highlight=False)
    with console.capture() as captured:
        print_results(RESULTS, console)
    text = captured.get()
    assert "1.6200 nats" in text and "1.7312 nats ± 0.1300" in text.replace("1.7313", "1.7312")
    assert "another" in text and "1.5000" in text
    assert not any("error" in line and "%" in line for line in text.splitlines())


def test_sweeps_and_figures_say_nats() -> None:
    context = {"seed": 0, "kl_weight": 1.0, "wall_seconds": 60.0}
    row = list(table({"a/b": [{**RESULTS, **context}]}))[-1]
    assert "1.7312 (1.7312) nats" in row.replace("1.7313", "1.7312")
    axes = error_against_rate([RatePoint("this run", 4.0, 1.7, "file", ours=True)], "nats").axes[0]
    assert axes.get_ylabel() == "test error (nats)"
