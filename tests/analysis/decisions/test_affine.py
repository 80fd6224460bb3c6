"""Integers with a zero point: against onnxruntime's quantizer, and ranges of least error by looking at all of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import pyro_compress as pc
from pyro_compress.analysis.decisions.affine import affine_quantization, scale_and_zero_point
from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.analysis.decisions.structure import remove_dead
from pyro_compress.artifact.writing.rate_distortion import refine
from pyro_compress.errors import DecisionError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Linear
from pyro_compress.network.quantizers import Affine, PerChannel, Uniform


def trained(name: str = "digits") -> dict[str, np.ndarray]:
    """Weights that a few steps on the digits have moved from where torch puts them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(64, 30), torch.nn.ReLU(), torch.nn.Linear(30, 10))
        data = pc.data.load(name)
        optimizer = torch.optim.Adam(network.parameters(), 0.02)
        for _ in range(40):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(data.train_x.flatten(1)), data.train_y).backward()
            optimizer.step()
    return {key: value.detach().numpy() for key, value in network.named_parameters()}


def decision(weights: dict[str, np.ndarray], kept: float = 1.0, variance: float = 0.0) -> Decision:
    random, sites = np.random.default_rng(0), {}
    for name, value in weights.items():
        bits = np.where((random.random(value.shape) < kept) | (value.ndim == 1), 32, 0).astype(np.uint8)
        sites[name] = SiteDecision(value, np.full(value.shape, variance, np.float32), bits)
    return Decision(sites)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kept", [1.0, 0.4])
def test_integers_scales_and_zero_points_are_those_of_onnxruntime(bits: int, per_channel: bool, kept: float) -> None:
    onnx = pytest.importorskip("onnx")
    quant_utils = pytest.importorskip("onnxruntime.quantization.quant_utils")
    kind = {8: onnx.TensorProto.UINT8, 4: onnx.TensorProto.UINT4}[bits]
    before = decision(trained(), kept)
    after = affine_quantization(before, bits, per_channel=per_channel)
    for name in ("0.weight", "2.weight"):
        site, held = after.sites[name], before.sites[name].stored()
        assert isinstance(site.quantizer, Affine) and site.bits.max() == bits
        rows = list(held) if per_channel else [held]
        found = [quant_utils.quantize_data(row, kind, symmetric=False) for row in rows]
        zero_points, scales, integers = zip(*found, strict=True)
        grid = site.quantizer.grid
        steps = grid.steps if isinstance(grid, PerChannel) else (grid.step,)
        assert steps == tuple(float(scale) for scale in scales)
        assert site.quantizer.zero_points == tuple(int(zero) for zero in zero_points)
        expected = np.concatenate(
            [np.ravel(p).astype(np.int64) - int(z) for p, z in zip(integers, zero_points, strict=True)]
        )
        np.testing.assert_array_equal(site.integers().ravel(), expected)
        np.testing.assert_array_equal(site.integers()[~site.kept()], 0)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("per_channel", [False, True])
def test_the_range_of_least_error_is_near_the_best_of_all(bits: int, per_channel: bool) -> None:
    value = np.random.default_rng(0).standard_t(4, (6, 80)).astype(np.float32) + np.float32(0.3)
    rows = value if per_channel else value.reshape(1, -1)

    def error(row: np.ndarray, below: float, above: float) -> float:
        step, zero = scale_and_zero_point(np.array([row.min() * below]), np.array([row.max() * above]), bits)
        index = np.clip(np.rint(row / step), -zero, 2**bits - 1 - zero)
        return float(np.square(row - index * step).sum())

    parts = np.linspace(0.1, 1, 46)
    best = sum(min(error(row, below, above) for below in parts for above in parts) for row in rows)
    found = {}
    for rule in ("min_max", "least_squares"):
        how: dict[str, Any] = {"per_channel": per_channel, "range_by": rule}
        stored = affine_quantization(decision({"w": value}), bits, **how).sites["w"].stored()
        found[rule] = float(np.square(value - stored).sum())
    assert found["min_max"] == pytest.approx(sum(error(row, 1, 1) for row in rows), rel=1e-4)
    assert 0.97 * best <= found["least_squares"] <= 1.05 * best < found["min_max"]
    assert found["least_squares"] < (0.6 if bits == 2 else 0.95) * found["min_max"]


def test_a_side_that_has_no_weights_has_no_integers() -> None:
    value = np.array([[0.1, 0.45, 1.0], [-0.2, -1.0, -0.4], [0, 0, 0]], np.float32)
    site = affine_quantization(decision({"w": value}), 4, per_channel=True).sites["w"]
    assert isinstance(site.quantizer, Affine)
    assert site.quantizer.zero_points == (0, 15, 0) and site.quantizer.grid == PerChannel((1 / 15, 1 / 15, 1.0))
    np.testing.assert_allclose(site.stored(), np.rint(value * 15) / 15, atol=1e-6)
    assert site.integers().tolist()[1][1] == -15  # more than 4 bits with a sign hold


def test_asymmetric_integers_go_through_decisions_removal_and_refinement() -> None:
    value = np.random.default_rng(1).uniform(-0.2, 2.0, (4, 30)).astype(np.float32)
    pruned = decision({"fc.weight": value}, kept=0.6, variance=1e-3)
    both = pruned & affine_quantization(pruned, 8)
    site = both.sites["fc.weight"]
    assert isinstance(site.quantizer, Affine) and site.integers().max() > 200 and site.bits.max() == 8
    architecture = Architecture((30,), (Linear("fc", 30, 4, False),))
    held = remove_dead(architecture, both).tensors["fc.weight"]
    assert isinstance(held.quantizer, Uniform) and held.dense().max() == site.stored().max()
    for price in (0.0, 0.5, 20.0):
        refined = refine(architecture, both, price).sites["fc.weight"]
        assert isinstance(refined.quantizer, Affine)
        least, most = refined.quantizer.limits(1)
        assert least[0] <= refined.integers().min() and refined.integers().max() <= most[0]
        np.testing.assert_array_equal(refined.stored(), refined.value * refined.kept())
    assert refined.bits.max() < 8


def test_what_an_affine_quantizer_cannot_be_held_by() -> None:
    site = affine_quantization(decision({"w": np.ones((2, 2), np.float32)}), 8).sites["w"]
    with pytest.raises(DecisionError, match="an affine quantizer of 8 bits is not held by 4"):
        replace(site, bits=np.full((2, 2), 4, np.uint8))


def test_bits_and_rules_that_are_none() -> None:
    with pytest.raises(DecisionError, match="takes 2 to 16 bits, found 1"):
        affine_quantization(decision({"w": np.ones((2, 2), np.float32)}), 1)
    with pytest.raises(DecisionError, match="unknown rule for the range 'mse'"):
        affine_quantization(decision({"w": np.ones((2, 2), np.float32)}), 8, range_by="mse")


def test_a_decision_comes_back_from_its_file(tmp_path: Any) -> None:
    after = affine_quantization(decision(trained(), 0.5), 8, per_channel=True, range_by="least_squares")
    after.save(tmp_path / "decision.safetensors")
    again = Decision.load(tmp_path / "decision.safetensors")
    for name, site in after.sites.items():
        assert again.sites[name].quantizer == site.quantizer
        np.testing.assert_array_equal(again.sites[name].stored(), site.stored())
