"""Two ranks on one machine: the gradient of one process, the same end, one writer, and failures that are sentences."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.loop.processes import Ranks, joined, threads_here
from tests.inference import on_two_ranks as both

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Outcome:
    """What the two processes left: findings by rank and scenario, exit codes, and the folder of the first's files."""

    found: tuple[dict[str, Any], dict[str, Any]]
    codes: tuple[int, int]
    folder: Path


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def variables(rank: int, port: int) -> dict[str, str]:
    """Of the environment, as torchrun sets them."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    return {name: str(value) for name, value in own.items()} | {"MASTER_ADDR": "127.0.0.1"}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder, port = tmp_path_factory.mktemp("ranks"), free_port()
    # one process stops after its first epoch; two go on
    alone = folder / "alone"
    alone.mkdir()
    both.fitted(alone)
    (alone / "after0.pt").rename(folder / "alone.pt")
    command = [sys.executable, "-W", "error::UserWarning:pyro_compress", "-m", "tests.inference.on_two_ranks"]
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    started = [
        subprocess.Popen(
            [*command, str(folder)],
            env={**os.environ, **variables(rank, port), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in started]
    files = [folder / f"rank{rank}.json" for rank in range(2)]
    assert all(path.exists() for path in files), said
    first, second = (json.loads(path.read_text()) for path in files)
    assert "ended" in first and "drifted" in second, said
    return Outcome((first, second), (started[0].returncode, started[1].returncode), folder)


@pytest.mark.parametrize("examples", both.BATCH_SIZES)
def test_the_gradient_is_that_of_one_process_on_the_union_batch(outcome: Outcome, examples: int) -> None:
    expected = np.array(both.gradient(Ranks(), examples))
    first, second = (np.array(found[f"gradient of {examples}"]) for found in outcome.found)
    np.testing.assert_array_equal(first, second)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(first, expected, rtol=2e-5, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("scenario", ["fit", "compiled", "resumed", "resumed by more", "batch norm", "map", "grid"])
def test_both_ranks_end_with_the_same_parameters(outcome: Outcome, scenario: str) -> None:
    first, second = (found[scenario] for found in outcome.found)
    assert first.get("means", first) == second.get("means", second)
    assert first.get("history") == second.get("history")


def test_shares_of_whole_batches_are_compiled_and_no_others(outcome: Outcome) -> None:
    for found in outcome.found:
        assert found["compiled"]["compiled"] == 1
        for name, value in found["fit"]["means"].items():
            np.testing.assert_allclose(found["compiled"]["means"][name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_noise_of_the_ranks_differs_and_the_first_has_that_of_one_process(outcome: Outcome) -> None:
    # the first step of a fit: same start, same noise on the first rank, a share of the batch
    alone, shared = (both.fitted()["history"], outcome.found[0]["fit"]["history"])
    for one, two in zip(alone, shared, strict=True):
        assert one["complexity_nats"] == pytest.approx(two["complexity_nats"], rel=0.05)
        assert one["data_nats"] == pytest.approx(two["data_nats"], rel=0.35)
        assert one["data_nats"] != two["data_nats"]
    states = [torch.Generator().manual_seed(Ranks(rank, 2).stream(both.SEED)).initial_seed() for rank in range(3)]
    assert states[0] == both.SEED and len(set(states)) == 3
    assert Ranks(1, 2).stream(both.SEED, 4) != Ranks(1, 2).stream(both.SEED)


def test_the_first_rank_alone_writes_and_is_told(outcome: Outcome) -> None:
    first, second = outcome.found
    assert first["fit"]["told"] == [0, 1, 2] and second["fit"]["told"] == []
    saved = torch.load(outcome.folder / "after2.pt", weights_only=True)
    mine, other = saved["ranks"]
    assert not torch.equal(mine["random"], other["random"])
    assert not torch.equal(mine["state"]["noise"]["first"]["words"], other["state"]["noise"]["first"]["words"])


def test_a_resumed_fit_on_as_many_ranks_is_the_same_bit_for_bit(outcome: Outcome) -> None:
    whole, resumed = outcome.found[0]["fit"], outcome.found[0]["resumed"]
    assert resumed["means"] == whole["means"] and resumed["history"] == whole["history"]
    assert resumed["told"] == [1, 2]


def test_one_process_goes_on_after_two(outcome: Outcome) -> None:
    found = both.fitted(checkpoint=outcome.folder / "after1.pt", resume=True)
    whole = outcome.found[0]["fit"]
    assert found["told"] == [2] and found["history"][:2] == whole["history"][:2]
    assert found["history"][2]["complexity_nats"] == pytest.approx(whole["history"][2]["complexity_nats"], rel=0.02)
    assert found["means"] != whole["means"]


def test_two_go_on_after_one(outcome: Outcome) -> None:
    alone, found = both.fitted(), outcome.found[0]["resumed by more"]
    assert found["told"] == [1, 2]
    assert found["history"][0] == alone["history"][0] and found["means"] != alone["means"]


def test_a_loss_that_is_not_finite_on_one_rank_stops_both_with_its_sentence(outcome: Outcome) -> None:
    first, second = (found["not finite"] for found in outcome.found)
    assert first == second
    assert first.startswith("rank 1: step 2 (epoch 0): the loss is") and "'y' is the first term" in first


def test_a_rank_that_ends_stops_the_other_with_a_sentence_and_the_checkpoint_stays(outcome: Outcome) -> None:
    assert outcome.codes == (1, 7)
    assert outcome.found[0]["ended"].startswith("another rank has ended or cannot be reached")
    saved = torch.load(outcome.folder / "ended.pt", weights_only=True)
    assert [record["epoch"] for record in saved["history"]] == [0, 1]
    resumed = fit(
        both.model(), both.data_set(), both.Ends(epochs=3, batch_size=15), seed=both.SEED,
        checkpoint=outcome.folder / "ended.pt", resume=True,
    )  # fmt: skip
    assert len(both.history_of(resumed)) == 3


def test_samplers_are_refused_on_several_ranks(outcome: Outcome) -> None:
    assert outcome.found[0]["sampler"] == outcome.found[1]["sampler"]
    assert outcome.found[0]["sampler"].startswith("SGLD does not run on 2 ranks: its chains move side by side")


def test_parameters_that_drift_apart_are_refused(outcome: Outcome) -> None:
    for found in outcome.found:
        assert "epoch 0: the ranks' parameters have drifted apart (2 different sums" in found["drifted"]


def test_a_rendezvous_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables(1, free_port()).items():
        monkeypatch.setenv(name, value)
    sentence = r"rank 1 of 2 cannot join the others at 127\.0\.0\.1:\d+: .*torchrun"
    with pytest.raises(InferenceError, match=sentence), joined(timeout_seconds=1):
        pass


def test_a_process_that_is_alone_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with joined() as here:
        assert (here.rank, here.count, here.first) == (0, 1, True)
        assert here.total([1.5]) == [1.5] and here.of_all("x") == ["x"] and here.from_first(lambda: 3) == 3
        chosen = torch.arange(5)
        assert here.share_of(chosen) is chosen and here.weight == 1.0


def test_ranks_of_a_machine_divide_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads_here(4) == 4
    for name, value in variables(0, 1).items():
        monkeypatch.setenv(name, value)
    assert [threads_here(threads) for threads in (1, 2, 5)] == [1, 1, 2]
