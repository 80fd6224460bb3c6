"""Scores against values worked out by hand, and a real file decoded and run."""

import dataclasses
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.errors import ArtifactError, DataError
from pyro_compress.models.likelihoods import Categorical, Gaussian
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Activation, Linear
from pyro_compress.network.quantizers import power_of_two
from pyro_compress.network.stored import StoredNetwork, StoredTensor
from pyro_compress.report.measure import (
    brier_score,
    expected_calibration_error,
    float32_bytes,
    mcnemar_p_value,
    mean_answer,
    measure,
    paired_p_value,
    predict,
    standard_error,
)


@pytest.fixture
def artifact() -> Artifact:
    """x ↦ (relu(x₀), ½·relu(x₁)) as logits of two classes."""
    layers = (Linear("one", 2, 2, False), Activation("relu"), Linear("two", 2, 2, False))
    one = StoredTensor(np.array([[1, 0], [0, 1]], np.int32))
    two = StoredTensor(np.array([[2, 0], [0, 1]], np.int32), power_of_two(-1))
    return Artifact.of(StoredNetwork(Architecture((2,), layers), {"one.weight": one, "two.weight": two}))


X = torch.tensor([[1.0, 0.0], [0.0, 4.0], [-3.0, -1.0], [2.0, 2.0]])
Y = torch.tensor([0, 1, 1, 1])
# logits (1, 0), (0, 2), (0, 0), (2, 1); a tie goes to class 0
P_RIGHT = np.array([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2)), 0.5, 1 / (1 + math.e)])


def test_the_mean_answer_is_that_of_all_passes_together() -> None:
    network = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.5]]))
    # logits (1, 0), (0, 2), (−3, −1/2), (2, 1)
    first = [1 / (1 + math.exp(-d)) for d in (1.0, -2.0, -2.5, 1.0)]
    for chunk in (1, 3, 100):
        found = mean_answer(network, X, Categorical(), chunk)
        torch.testing.assert_close(found, torch.tensor([np.mean(first), 1 - np.mean(first)], dtype=torch.float32))


def test_a_file_is_measured_by_its_length_and_its_decoded_network(artifact: Artifact, tmp_path: Path) -> None:
    path = artifact.save(tmp_path / "small.pyrc")
    found = measure(path, X, Y, Categorical(), original_bytes=10_000)
    assert found.file_bytes == path.stat().st_size
    assert found.file_rate == 10_000 / path.stat().st_size
    assert found.examples == 4
    assert found.error_percent == 50.0
    assert found.error_standard_error_percent == pytest.approx(100 * math.sqrt(0.25 / 4))
    assert found.nll_nats_per_example == pytest.approx(-np.log(P_RIGHT).mean(), rel=1e-6)
    assert found.label_nats == pytest.approx(-np.log(P_RIGHT).sum(), rel=1e-6)
    assert found.brier_score == pytest.approx(2 * ((1 - P_RIGHT) ** 2).mean(), rel=1e-6)
    # confidences .731 (twice, one right, one wrong), .881 (right) and .5 (wrong)
    first = 1 / (1 + math.exp(-1))
    expected = (abs(1 - 2 * first) + (1 - P_RIGHT[1]) + 0.5) / 4
    assert found.calibration_error == pytest.approx(expected, rel=1e-6)


def test_an_artifact_in_memory_measures_like_its_file(artifact: Artifact, tmp_path: Path) -> None:
    by_file = measure(artifact.save(tmp_path / "a.pyrc"), X, Y, Categorical(), 100)
    in_memory = measure(artifact, X, Y, Categorical(), 100)
    assert dataclasses.replace(by_file, seconds=0.0) == dataclasses.replace(in_memory, seconds=0.0)


def test_a_damaged_file_is_not_measured(artifact: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "damaged.pyrc"
    path.write_bytes(artifact.data[:-1])
    with pytest.raises(ArtifactError, match=r"damaged\.pyrc"):
        measure(path, X, Y, Categorical(), 100)


def test_regression_has_no_calibration_error(artifact: Artifact) -> None:
    target = torch.zeros(4, 2)
    found = measure(artifact, X, target, Gaussian(noise=1.0), 100)
    squares = np.array([1.0, 4.0, 0.0, 5.0])
    assert found.calibration_error is None and found.brier_score is None
    assert found.error_percent == pytest.approx(100 * (squares / 2).mean())
    assert found.nll_nats_per_example == pytest.approx((squares / 2).mean() + math.log(2 * math.pi))


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_predictions_do_not_depend_on_the_chunk(chunk: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
    found = predict(network, X, Y, Categorical(), chunk)
    probabilities = network[0](X).softmax(-1).detach().double().numpy()
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities, probabilities, rtol=1e-6)
    assert network.training


def test_as_many_targets_as_inputs_are_needed() -> None:
    with pytest.raises(DataError, match="found 4 and 3"):
        predict(nn.Identity(), X, Y[:3], Categorical())
    with pytest.raises(DataError, match="found 0 and 0"):
        predict(nn.Identity(), X[:0], Y[:0], Categorical())


def test_float32_bytes_of_lenet_300_100() -> None:
    sizes = (784, 300, 100, 10)
    network = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)), nn.BatchNorm1d(10))
    # weights and biases of the dense layers, scale and shift of the normalisation, but not its running statistics
    assert float32_bytes(network) == 1_066_440 + 4 * 20


def test_calibration_of_two_bins_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
    labels = np.array([0, 1, 1, 0])
    # with 4 bins: [.5, .75) holds .6 and .7, both right; [.75, 1] holds .9 right and .8 wrong
    assert expected_calibration_error(probabilities, labels, bins=4) == pytest.approx((0.7 + 0.7) / 4)


def test_a_calibrated_forecast_has_a_small_calibration_error_and_certainty_none() -> None:
    generator = np.random.default_rng(0)
    chance = generator.uniform(0, 1, 200_000)
    labels = (generator.random(200_000) < chance).astype(int)
    assert expected_calibration_error(np.stack([1 - chance, chance], 1), labels) < 0.01
    assert expected_calibration_error(np.eye(3), np.arange(3)) == pytest.approx(0.0, abs=1e-6)


def test_certainty_shares_the_last_bin() -> None:
    # 1 (wrong) and .9 (right) are in one of 2 bins: |½ − .95|, not (1 + .1) / 2
    assert expected_calibration_error(np.array([[1.0, 0.0], [0.9, 0.1]]), np.array([1, 0]), 2) == pytest.approx(0.45)


def test_brier_score_between_perfect_and_worst() -> None:
    assert brier_score(np.eye(3), np.arange(3)) == 0.0
    assert brier_score(np.eye(3), np.array([1, 2, 0])) == 2.0
    assert brier_score(np.full((1, 10), 0.1), np.array([4])) == pytest.approx(0.9)


def test_standard_error_of_a_share() -> None:
    errors = np.repeat([1.0, 0.0], [90, 4_910])
    assert 100 * standard_error(errors) == pytest.approx(100 * math.sqrt(0.018 * 0.982 / 5_000))


def test_mcnemar_counts_only_examples_on_which_two_networks_differ() -> None:
    first = np.array([1, 1, 1, 1, 1, 0, 1, 0])
    second = np.array([0, 0, 0, 0, 0, 1, 1, 0])
    # five against one: 2 · (1 + 6) / 2⁶
    assert mcnemar_p_value(first, second) == pytest.approx(14 / 64)
    assert mcnemar_p_value(second, first) == pytest.approx(14 / 64)
    assert mcnemar_p_value(first, first) == 1.0


def test_the_paired_test_is_mcnemar_where_an_example_has_one_target() -> None:
    first, second = np.zeros(40), np.zeros(40)
    first[:5], second[5:6] = 1, 1
    assert paired_p_value(first, second) == pytest.approx(14 / 64) == mcnemar_p_value(first, second)
    assert paired_p_value(first, first) == 1.0


def test_the_paired_test_errs_as_often_as_it_says_on_positions_that_go_together() -> None:
    random = np.random.default_rng(0)
    found = []
    for _ in range(200):
        difference = random.standard_normal(30)  # of all positions of an example at once
        found.append(paired_p_value(difference.clip(min=0), (-difference).clip(min=0), resamples=199))
    assert 0.01 < np.mean(np.array(found) <= 0.05) < 0.1


def test_mcnemar_stays_finite_for_thousands_of_differences() -> None:
    first = np.repeat([1.0, 0.0], [2_000, 1_800])
    assert 0 < mcnemar_p_value(first, 1 - first) < 0.002
