"""Errors in nats: no table, line or figure says percent of them."""

from typing import Any

from rich.console import Console

from pyro_compress.pipeline.sweeping import table
from pyro_compress.posterior.error_unit import NATS, NATS_OF_BOUND, PERCENT, unit_of
from pyro_compress.report.figures import RatePoint, error_against_rate
from pyro_compress.report.table import results_table

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
        console.print(results_table(RESULTS))
    text = captured.get()
    assert "1.6200 nats" in text and "1.7312 nats ± 0.1300" in text.replace("1.7313", "1.7312")
    assert "another" in text and "1.5000" in text
    assert not any("error" in line and "%" in line for line in text.splitlines())


def test_an_autoencoders_table_says_what_the_bound_loses() -> None:
    scores: dict[str, Any] = {
        "binarisation": "static",
        "log_likelihood_samples": 1000,
        "log_likelihood_after_nats": -24.06,
        **{f"{name}nats_lost": 0.228 for name in ("", "log_likelihood_")},
        **{f"{name}nats_lost_standard_error": 0.028 for name in ("", "log_likelihood_")},
    }
    results = {**RESULTS, "published": [], "generative": scores}
    assert unit_of(results) is NATS_OF_BOUND
    console = Console(width=200)
    with console.capture() as captured:
        console.print(results_table(results))
    text = captured.get()
    assert "negative ELBO of the decoded file" in text and "0.228 ± 0.028 nats" in text and "-24.06 nats" in text
    assert "binarisation" in text and "error" not in text


def test_sweeps_and_figures_say_nats() -> None:
    context = {"seed": 0, "kl_weight": 1.0, "wall_seconds": 60.0}
    row = list(table({"a/b": [{**RESULTS, **context}]}))[-1]
    assert "1.7312 (1.7312) nats" in row.replace("1.7313", "1.7312")
    axes = error_against_rate([RatePoint("this run", 4.0, 1.7, "file", ours=True)], NATS).axes[0]
    assert axes.get_ylabel() == "test error (nats)"
