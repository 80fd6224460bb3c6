"""What a person reads at the end of a run: every figure is there, in its own row or column, under its own name."""

import io
from typing import Any

import pytest
from rich.console import Console

from pyro_compress.report.table import results_table

RESULTS: dict[str, Any] = {
    "network": "lenet-300-100",
    "prior": "group-horseshoe",
    "method": "SVI",
    "data": "mnist",
    "error_before_percent": 1.62,
    "error_after_percent": 1.731,
    "error_standard_error_percent": 0.13,
    "file_bytes": 15_892,
    "file_rate": 67.104,
    "weights_left_percent": 7.951,
    "architecture_left": [311, 86, 14],
    "bits_per_layer": {"fc1": 13, "fc2": 11, "fc3": 10},
    "rates": {"pruning": 9.48, "fast_prediction": 23.51, "maximum_compression": 1059.2},
    "deep_compression_bytes": {"pruned": 90_000, "quantised": 30_000, "huffman": 26_543},
    "description_length_bits": 81_234.2,
    "kl_weight": 0.2,
    "seed": 7,
    "wall_seconds": 618.2,
    "published": [
        {
            "method": "BC-GHS",
            "error_percent": 1.8,
            "weights_left_percent": 10.6,
            "pruning": 9,
            "fast_prediction": 23,
            "maximum_compression": 59,
            "architecture_left": "311-86-14",
            "source": "Louizos et al. 2017",
        },
        {"method": "Oktay et al.", "error_percent": 1.9, "file_rate": 124, "source": "Oktay et al. 2020"},
    ],
}


def lines(results: dict[str, Any], width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(results_table(results))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def row(found: list[str], name: str) -> str:
    """The rest of the one line that starts with `name`."""
    (line,) = (line.strip() for line in found if line.strip().startswith(name))
    return line.removeprefix(name).strip()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("error before compression", "1.62 %"),
        ("error of the decoded file", "1.73 % ± 0.13"),
        ("file size", "15,892 bytes"),
        ("file rate (float32 bytes / file bytes)", "67.1×"),
        ("weights left", "7.95 %"),
        ("architecture left", "311-86-14"),
        ("bits per layer (fixed point)", "13-11-10"),
        ("formula, no file: pruning", "9.5×"),
        ("formula, no file: fast prediction", "23.5×"),
        ("formula, no file: maximum compression", "1,059.2×"),
        ("formula, no file: relative index and Huffman codes", "26,543 bytes"),
        ("formula, no file: description length", "81,234 bits"),
        ("KL weight", "0.2"),
        ("seed", "7"),
        ("time", "618 s (10 min)"),
    ],
)
def test_each_result_has_its_row(name: str, shown: str) -> None:
    assert row(lines({**RESULTS, "published": []}), name) == shown


def test_the_error_of_given_weights_has_a_row_only_where_there_were_some() -> None:
    name = "error of the weights given"
    assert row(lines({**RESULTS, "error_given_percent": 0.724}), name) == "0.72 %"
    assert not any(name in line for line in lines(RESULTS))


def test_this_run_stands_beside_the_published_figures() -> None:
    found = lines(RESULTS)
    assert row(found, "this run  ").split() == ["1.73", "8.0", "9×", "24×", "1,059×", "67×", "311-86-14"]
    assert row(found, "BC-GHS").split() == ["1.80", "10.6", "9×", "23×", "59×", "–", "311-86-14"]
    assert row(found, "Oktay et al.").split() == ["1.90", "–", "–", "–", "–", "124×", "–"]
    assert row(found, "published:") == "Louizos et al. 2017; Oktay et al. 2020"


def test_it_names_what_was_run() -> None:
    assert lines(RESULTS)[0].strip() == "lenet-300-100 · group-horseshoe · SVI · mnist"


def test_without_published_figures_there_is_one_table() -> None:
    assert not any("published figures" in line for line in lines({**RESULTS, "published": []}))


def test_an_improper_prior_has_no_description_length() -> None:
    found = lines({**RESULTS, "description_length_bits": None})
    assert row(found, "formula, no file: description length") == "undefined"


def test_what_was_not_measured_is_a_dash() -> None:
    found = lines({"error_after_percent": 1.0})
    assert row(found, "error of the decoded file") == "1.00 %"
    for name in ("file size", "formula, no file: pruning", "formula, no file: description length", "seed", "time"):
        assert row(found, name) == "–"


def test_it_fits_a_terminal_of_80_columns() -> None:
    found = lines(RESULTS, width=80)
    assert max(len(line.rstrip()) for line in found) <= 80
    assert row(found, "this run  ").split() == ["1.73", "8.0", "9×", "24×", "1,059×", "67×", "311-86-14"]
    assert not any("…" in line for line in found)


def test_a_fit_that_ended_worse_than_its_start_is_in_the_table() -> None:
    said = "the fit ended 3.00 ± 0.40 points worse on validation than the pretrained network"
    found = " ".join(" ".join(lines({**RESULTS, "worse_than_start": said, "published": []})).split())
    assert f"warning {said}" in found or "warning the fit ended 3.00 ± 0.40" in found
    assert not any("warning" in line for line in lines(RESULTS))
    both = lines(
        {**RESULTS, "worse_than_start": said, "no_better_than_one_answer": "the posterior mean does no better"}
    )
    assert sum("warning" in line for line in both) == 2
