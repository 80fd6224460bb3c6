"""Prices of integers against what the coder really writes."""

import numpy as np
import pytest

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.artifact.format.stream import RangeWriter, code_tensor
from pyro_compress.artifact.format.weights_header import columns_of
from pyro_compress.artifact.writing.code_length import CodeLength, code_lengths
from pyro_compress.artifact.writing.decided_weights import stored_tensor
from pyro_compress.artifact.writing.encode import choose_code
from pyro_compress.artifact.writing.rate_distortion import what_is_left
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Activation, Conv2d, Flatten, Linear
from pyro_compress.network.quantizers import PerChannel
from pyro_compress.network.unlayered import Unlayered
from tests.artifact.test_rate_distortion import ARCHITECTURE, STEP, decision, site

IMAGES = Architecture(
    (1, 14, 14),
    (
        Conv2d("conv1", 1, 8, (5, 5), (1, 1), (0, 0), (1, 1), 1, True),
        Activation("relu"),
        Flatten(),
        Linear("fc1", 800, 30, True),
        Activation("relu"),
        Linear("fc2", 30, 10, True),
    ),
)


def of_images(density: float, dead_rows: int = 0) -> Decision:
    random = np.random.default_rng(1)
    shapes = {"conv1": (8, 1, 5, 5), "fc1": (30, 800), "fc2": (10, 30)}
    sites = {}
    for name, shape in shapes.items():
        value = random.laplace(scale=0.1, size=shape) * (random.random(shape) < density)
        value[: dead_rows if name == "fc1" else 0] = 0
        sites[f"{name}.weight"] = site(value, 1e-3)
        sites[f"{name}.bias"] = site(random.normal(size=shape[0]) * (name != "fc1"), 0.0)
    return Decision(sites)


def bits(length: CodeLength, integers: np.ndarray) -> float:
    """Of all integers together, as they are priced."""
    size = np.abs(integers)
    steps = np.concatenate([[0.0, 0.0], np.cumsum(length.further)])
    return float(np.where(size == 0, length.zero, length.one + steps[np.minimum(size, len(steps) - 1)]).sum())


@pytest.mark.parametrize(
    ("architecture", "of"),
    [(ARCHITECTURE, decision()), (IMAGES, of_images(0.5)), (IMAGES, of_images(0.05, dead_rows=20))],
    ids=["dense", "images", "sparse images with dead units"],
)
def test_the_price_of_all_integers_is_what_the_coder_writes(architecture: Architecture, of: Decision) -> None:
    found = code_lengths(architecture, of)
    tensors, index, columns = what_is_left(architecture, of)
    for name, length in found.items():
        integers = tensors[name].integers
        assert integers is not None
        matrix, code = integers.reshape(len(integers), -1), choose_code(tensors[name], columns[name])
        coder = RangeWriter()
        code_tensor(coder, code, columns[name], len(matrix), matrix)
        where = index[name]
        here = CodeLength(length.zero[where], length.one[where], length.further)
        # the coder learns sizes on the way, which their price knows from the start
        assert bits(here, integers.reshape(here.zero.shape)) == pytest.approx(coder.used_bits(), rel=0.1, abs=8), name
    assert {"fc1.weight", "fc2.weight"} <= set(found)


def test_a_weight_among_many_costs_less_than_one_alone() -> None:
    random = np.random.default_rng(0)
    value = random.laplace(scale=0.1, size=(16, 150)) * (random.random((16, 150)) < 0.02)
    value[:, :10] = random.laplace(scale=0.1, size=(16, 10))
    found = code_lengths(ARCHITECTURE, decision().with_sites({"fc1.weight": site(value, 1e-3)}))["fc1.weight"]
    assert found.one.shape == (16, 150)
    late = slice(8, None)
    assert (found.one - found.zero)[late, :10].mean() < (found.one - found.zero)[late, 10:].mean() - 3


def test_larger_integers_never_cost_less_and_one_more_than_the_largest_has_a_price() -> None:
    for length in code_lengths(IMAGES, of_images(0.5)).values():
        assert (length.further >= 0).all() and np.isfinite(length.further).all()
    found = code_lengths(ARCHITECTURE, decision())["fc2.weight"]
    assert len(found.further) == np.abs(decision().sites["fc2.weight"].integers()).max()
    assert found.further[-1] > 0


def test_steps_per_filter_and_dead_units() -> None:
    of = of_images(0.3, dead_rows=4)
    steps = PerChannel(tuple(STEP * 2.0 ** (i % 3) for i in range(8)))
    of = of.with_sites({"conv1.weight": of.sites["conv1.weight"].on(steps)})
    found = code_lengths(IMAGES, of)
    dead = found["fc1.weight"].one[:4]
    assert (dead == dead.max()).all() and dead.max() == found["fc1.weight"].one.max()
    assert not found["fc1.weight"].zero[:4].any() and "fc1.bias" not in found
    assert found["conv1.weight"].one.shape == (8, 1, 5, 5)


def test_a_module_without_layers_is_priced_tensor_by_tensor() -> None:
    of = decision()
    found = code_lengths(Unlayered({}, (12,), "a test says so"), of)
    assert set(found) == {"fc1.weight", "fc2.weight"}  # biases are stored as they are
    for name, length in found.items():
        integers = of.sites[name].integers()
        code = choose_code(stored_tensor(of.sites[name]), columns_of(integers.shape))
        coder = RangeWriter()
        code_tensor(coder, code, columns_of(integers.shape), len(integers), integers)
        assert bits(length, integers) == pytest.approx(coder.used_bits(), rel=0.1)
