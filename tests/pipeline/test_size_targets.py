"""`compress --target-bytes` and `--target-error`: what they reach, what they record, what they refuse."""

import copy
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_compress as pc
from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.decisions.kept_deviations import stored_network
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.artifact.writing.rate_distortion import refine
from pyro_compress.errors import DecisionError
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.pipeline.size_targets import PRICE_LADDER, smallest_accepted, to_bytes, to_error
from pyro_compress.pipeline.validation import with_batch_norm
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior
from tests.artifact.test_rate_distortion import ARCHITECTURE, decision, size
from tests.pipeline.conftest import Cli
from tests.pipeline.test_draws_to_decision import classes


@pytest.fixture
def finished(digits_run: Path, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(digits_run, tmp_path / "run"))


def test_a_file_has_at_most_the_bytes_asked_for_and_few_less() -> None:
    whole = size(decision())
    target = round(0.7 * whole)
    found = to_bytes(ARCHITECTURE, decision(), target)
    assert 0.85 * target <= size(found) <= target  # a tensor that takes a coarser grid makes a jump
    assert found.made_by["target_bytes"] == target
    assert to_bytes(ARCHITECTURE, aim := decision(), whole) is aim


def test_bytes_that_nothing_reaches() -> None:
    with pytest.raises(
        DecisionError, match=r"a file of 20 bytes is out of reach: the smallest .* has \d+, its weights"
    ):
        to_bytes(ARCHITECTURE, decision(), 20)


def kept_percent(of: Decision) -> float:
    """Stands for an error: the share of stored numbers of the first weight that the refinement dropped."""
    kept = sum(int((of.sites[name].stored() != 0).sum()) for name in ("fc1.weight", "fc2.weight"))
    whole = sum(int((decision().sites[name].stored() != 0).sum()) for name in ("fc1.weight", "fc2.weight"))
    return 100 - 100 * kept / whole


def test_the_smallest_file_within_an_error() -> None:
    found = to_error(ARCHITECTURE, decision(), 20.0, kept_percent)
    assert 15 < kept_percent(found) <= 20
    assert found.made_by["validation_error_percent"] == kept_percent(found)
    assert size(found) < size(decision())


def test_an_error_that_the_decision_itself_exceeds() -> None:
    with pytest.raises(DecisionError, match=r"has 7\.00 % validation error, more than the 3 % asked for"):
        to_error(ARCHITECTURE, decision(), 3.0, lambda of: 7.0)


@pytest.mark.usefixtures("no_figures")
def test_a_target_is_kept_and_written_down(cli: Cli, finished: Path) -> None:
    before = (finished / "network.pyrc").read_bytes()
    target = round(0.9 * len(before))
    called = cli("compress", finished, "--target-bytes", target)
    assert called.code == 0, called.err
    assert "λ = 0 nats per bit" in called.err
    file_bytes = (finished / "network.pyrc").stat().st_size
    assert 0.8 * target < file_bytes <= target and f"{file_bytes:,} bytes" in called.out
    assert not (finished / "results.json").exists()
    results = json.loads(cli("evaluate", finished, "--json").out)
    assert results["file_bytes"] == file_bytes
    assert results["decision"]["target_bytes"] == target and results["decision"]["price_nats_per_bit"] > 0
    again = cli("compress", finished)  # without a target: the decision as it was made
    assert again.code == 0 and (finished / "network.pyrc").read_bytes() == before
    assert not (finished / "refined.safetensors").exists()


def test_two_targets_are_refused(cli: Cli, finished: Path) -> None:
    called = cli("compress", finished, "--target-bytes", 500, "--target-error", 3)
    assert called.code == 1 and "not both" in called.err


def test_the_python_road(digits_run: Path) -> None:
    decided = Decision.load(digits_run / "decision.safetensors")
    whole = pc.compress(pc.models.digits_cnn(), decided, (1, 8, 8))
    small = pc.compress(pc.models.digits_cnn(), decided, (1, 8, 8), target_bytes=len(whole) - 50)
    assert len(small) <= len(whole) - 50
    assert encode(small.network) == small.data


def test_a_target_from_python_gathers_batch_norm_again() -> None:
    network, data = classes(norm=True)
    sites = {
        name: ParameterPosterior(p.detach().numpy().copy(), np.full(p.shape, 1e-3, np.float32), "Normal")
        for name, p in network.named_parameters()
    }
    buffers = {name: b.numpy().copy() for name, b in network.named_buffers() if b.is_floating_point()}
    posterior = Posterior(sites, {}, buffers)
    decided = pc.analysis.prune(posterior) & pc.analysis.bit_widths(posterior)
    whole = len(pc.compress(network, decided, (6,)))
    with pytest.raises(
        DecisionError, match=r"batch norm needs its statistics gathered again: give compress\(..., data="
    ):
        pc.compress(network, decided, (6,), target_bytes=whole - 20)
    before = copy.deepcopy(network.state_dict())
    x, y = data.part("train")
    small = pc.compress(network, decided, (6,), target_bytes=whole - 20, data=(x, y))
    assert len(small) <= whole - 20
    complete = partial(with_batch_norm, copy.deepcopy(network), data=data)  # as the command line does
    architecture = trace(network, (6,))
    expected = to_bytes(architecture, decided, whole - 20, complete=complete)
    assert small.data == encode(stored_network(architecture, expected))
    stale = to_bytes(architecture, decided, whole - 20)
    assert not np.allclose(expected.buffers["n.running_var"], stale.buffers["n.running_var"], rtol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# ---- without a target: as far as validation accepts


def test_the_largest_price_that_is_accepted() -> None:
    tried: list[float] = []

    def accepts(candidate: Decision) -> bool:
        tried.append(kept_percent(candidate))
        return tried[-1] <= 20

    found = smallest_accepted(ARCHITECTURE, decision(), accepts)
    price = float(str(found.made_by["price_nats_per_bit"]))
    assert price in PRICE_LADDER and tried[-1] == kept_percent(found) <= 20 < tried[-2]
    assert tried == [kept_percent(refine(ARCHITECTURE, decision(), p)) for p in PRICE_LADDER if p >= price]
    assert size(found) < size(decision())


def test_nothing_is_refined_where_nothing_is_accepted_or_no_byte_is_saved() -> None:
    lines: list[str] = []
    for accepts, start in ((lambda of: False, decision()), (lambda of: True, without_variance(decision()))):
        found = smallest_accepted(ARCHITECTURE, start, accepts, say=lines.append)
        assert found.made_by["price_nats_per_bit"] == 0
        for name, site in start.sites.items():
            np.testing.assert_array_equal(found.sites[name].stored(), site.stored())
        assert f"no price of a bit is accepted that makes the file smaller than {size(start):,} bytes" in lines[-1]


def without_variance(of: Decision) -> Decision:
    """Point estimates: no number may move."""
    return of.with_sites({name: replace(site, variance=0 * site.variance) for name, site in of.sites.items()})
