"""What a person sees of a fit: bars on a terminal, one of each chain, and lines elsewhere."""

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from pyro_compress.inference.fit import EpochRecord
from pyro_compress.inference.loop.watching import ChainProgress
from pyro_compress.pipeline import progress


def record(epoch: int) -> EpochRecord:
    numbers: dict[str, Any] = {"data_nats": -90.0, "complexity_nats": 10.0, "kl_weight": 1.0, "learning_rate": 0.1}
    where: dict[str, Any] = {"epoch": epoch, "epochs": 2, "round_name": "transitions", "objective_name": "log joint"}
    return EpochRecord(**where, **numbers, validation_error=0.05, weights_left_percent=100.0, seconds=1.0)


def glance(chain: int, done: int) -> ChainProgress:
    numbers = {"acceptance_rate": 0.8123, "n_steps": 63.0, "step_size": 0.0312, "divergences": 2.0}
    return ChainProgress(chain, done, 100, done <= 50, numbers)


def shown(*, terminal: bool, width: int = 120) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width)
    with progress.epoch_bars(console) as bars:
        move = bars.phase("transitions", 2)
        for chain in (0, 1):
            if bars.watcher is not None:
                bars.watcher(glance(chain, 40))
                bars.watcher(glance(chain, 100 - chain))
        for epoch in (0, 1):
            move(record(epoch), None)  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_shows_a_bar_per_chain() -> None:
    text = shown(terminal=True)
    assert "transitions 2/2" in text and "chain 0 100/100" in text and "chain 1 99/100" in text
    assert "drawing, acceptance 0.81, steps 63, step size 0.031, 2 divergences" in text


def test_names_and_bars_survive_a_narrow_terminal() -> None:
    lines = shown(terminal=True, width=80).splitlines()
    assert any("chain 0 100/100" in line and "━" in line for line in lines)
    assert any("transitions 2/2" in line and "━" in line for line in lines)
    assert any("divergences" in line for line in lines) and any("5.00 %" in line for line in lines)


def test_elsewhere_there_are_lines_and_none_of_chains() -> None:
    lines = shown(terminal=False).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["transitions 1/2", "transitions 2/2"]
    assert "\x1b" not in "".join(lines)


def test_a_line_says_how_long_a_long_fit_will_take() -> None:
    first = replace(record(0), epochs=41, seconds=90.0)
    assert progress.time_left(first) == ", about 60 min left"
    assert progress.time_left(replace(first, epoch=40)) == "" == progress.time_left(record(0))
    console = Console(file=io.StringIO(), width=200)
    with progress.epoch_bars(console) as bars:
        bars.phase("epoch", 41)(replace(first, epoch=3), None)  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().endswith("about 56 min left\n")


def test_of_very_many_chains_the_first_have_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "MOST_CHAINS", 1)
    text = shown(terminal=True)
    assert "chain 0 100/100" in text and "chain 1" not in text


def test_a_chain_in_one_line() -> None:
    assert progress.describe_chain(glance(0, 10)).startswith("warm-up, acceptance 0.81, ")
    assert progress.describe_chain(ChainProgress(0, 60, 100, False, {"lp": -12345.6, "log_weight": 1.0})) == (
        "drawing, log joint -12,346"
    )
