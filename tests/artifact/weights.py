"""Weights that the tests of the format share: made by arithmetic alone, so that golden files stay true for ever."""

import numpy as np
from hypothesis import strategies as st

from pyro_compress.network.quantizers import Affine, Codebook, PerChannel, Stored, Uniform, power_of_two
from pyro_compress.network.stored import StoredTensor
from pyro_compress.network.stored_weights import (
    ELEMENT_TYPES,
    WHOLE,
    StoredWeights,
    WeightTensor,
    as_bfloat16,
    limits,
)
from tests.artifact.networks import pattern
from tests.artifact.test_round_trip import quantizers

PARTS = st.text(max_size=5) | st.sampled_from(["weight", "bias", "0", "1", "17", "conv1", "conv2", "a.b", "007", "h²"])
NAMES = st.lists(PARTS, max_size=4).map(".".join)


def on_grid(
    shape: tuple[int, ...], quantizer: Stored, largest: int = 9, share_percent: int = 40, dtype: str = "float32"
) -> WeightTensor:
    """Integers of a fixed pattern."""
    integers = pattern(shape, largest, share_percent, len(shape))
    if isinstance(quantizer, Codebook):
        integers = np.sign(integers) * (np.abs(integers) % (np.where(integers < 0, *quantizer.sides) + 1))
    return WeightTensor(dtype, StoredTensor(integers.astype(np.int32), quantizer))


def every_form() -> StoredWeights:
    """All element types, forms and shapes, names that count on and names that do not, and a tied tensor."""
    numbers = (pattern((12,), 300, 90, 7) / np.float32(7)).astype(np.float32)
    image = pattern((6, 3, 8, 8), 5, 70, 3)
    image[:, :, [0, 7]] = 0
    image[:, :, :, [0, 1, 7]] = 0
    embedding = on_grid((11, 6), PerChannel(tuple(0.01 * (row + 1) for row in range(11))))
    levels = np.array([-217, -50, 0, 60, 1025], np.int32)[np.abs(pattern((9, 30), 5, 100, 4)) - 1]
    tensors = {
        "conv1.weight": on_grid((4, 2, 3, 3), power_of_two(-5)),
        "conv1.bias": WeightTensor("float32", numbers[:4]),
        "bn1.weight": on_grid((4,), Uniform(0.3), share_percent=100),
        "bn1.running_var": WeightTensor("float32", numbers[4:8].astype(np.float16)),
        "bn1.num_batches_tracked": WeightTensor("int64", StoredTensor(np.array(9380, np.int32))),
        "conv4.weight": on_grid((5, 4, 7), Uniform(1e-3), largest=40),
        "conv4.bias": WeightTensor("float32", StoredTensor(np.zeros(5, np.int32), power_of_two(-7))),
        "blocks.0.attn.in_proj_weight": on_grid((18, 6), Codebook((-0.5, -0.1, 0.2, 0.7)), share_percent=80),
        "blocks.0.attn.größe": WeightTensor("float64", np.array(-np.inf)),
        "blocks.1.attn.in_proj_weight": WeightTensor("float32", StoredTensor(levels, power_of_two(-9))),
        "blocks.1.mask": WeightTensor("bool", StoredTensor(np.tri(7, dtype=np.int32))),
        "volume.weight": on_grid((2, 2, 2, 3, 2), power_of_two(-4), share_percent=80),
        "wte.weight": embedding,
        "fc1.weight": WeightTensor("float32", StoredTensor(image.reshape(6, 192), power_of_two(-3))),
        "head.weight": embedding,
        "half.weight": WeightTensor("float16", numbers[:6].astype(np.float16).reshape(2, 3)),
        "half.bias": on_grid((6,), Uniform(0.1), dtype="float16", share_percent=100),
        "brain.weight": WeightTensor("bfloat16", as_bfloat16(numbers[6:].reshape(3, 2))),
        "brain.bias": on_grid((6,), Uniform(0.1), dtype="bfloat16", share_percent=100),
        "position_ids": WeightTensor("int64", StoredTensor(np.arange(40, dtype=np.int32)[None])),
        "far": WeightTensor("int64", np.array([2**40, -(2**40)])),
        "a..b": WeightTensor("int32", np.array([2**30], np.int32)),
        "": WeightTensor("int16", StoredTensor(np.array([-300, 300], np.int32))),
        "small": WeightTensor("int8", StoredTensor(np.array([[-128, 127]], np.int32))),
        "large": WeightTensor("uint8", np.array([0, 255, 7], np.uint8)),
        "flag": WeightTensor("bool", np.array([True, False])),
        "nothing": on_grid((0, 5, 3), power_of_two(0)),
    }
    return StoredWeights(tensors)


@st.composite
def stored_weights(draw: st.DrawFn) -> StoredWeights:
    """Any weights, of a few small tensors."""
    names = draw(st.lists(NAMES, unique=True, max_size=5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tensors: dict[str, WeightTensor] = {}
    for name in names:
        if tensors and draw(st.integers(0, 5)) == 0:
            tensors[name] = draw(st.sampled_from(list(tensors.values())))
        else:
            tensors[name] = draw(tensor_of(random))
    return StoredWeights(tensors)


@st.composite
def tensor_of(draw: st.DrawFn, random: np.random.Generator) -> WeightTensor:
    dtype = draw(st.sampled_from(list(ELEMENT_TYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 4) | st.sampled_from([9, 16]), max_size=4)))
    if draw(st.booleans()):
        return as_it_is(dtype, random.normal(size=shape), halved=draw(st.booleans()))
    largest = draw(st.sampled_from([0, 1, 3, 40, 1000, 2**24]))
    integers = np.asarray(random.integers(-largest, largest, shape, endpoint=True))
    integers = np.asarray(integers * (random.random(shape) < draw(st.sampled_from([0.05, 0.4, 1.0]))))
    if dtype in WHOLE:
        return WeightTensor(dtype, StoredTensor(np.asarray(np.clip(integers, *limits(dtype)), np.int32)))
    quantizer = draw(quantizers(shape[0]) if shape else st.sampled_from([power_of_two(-8), Uniform(0.3)]))
    assert not isinstance(quantizer, Affine)
    if isinstance(quantizer, Codebook):
        below, above = quantizer.sides
        integers = np.asarray(np.clip(integers, -below, above))
    return WeightTensor(dtype, StoredTensor(integers.astype(np.int32), quantizer))


def as_it_is(dtype: str, numbers: np.ndarray, *, halved: bool) -> WeightTensor:
    """A tensor on no grid."""
    numbers = np.asarray(numbers)
    if dtype == "bfloat16":
        return WeightTensor(dtype, as_bfloat16(numbers))
    if dtype == "bool":
        return WeightTensor(dtype, np.asarray(numbers > 0))
    if dtype in WHOLE:
        return WeightTensor(dtype, np.asarray(np.abs(100 * numbers).clip(0, 100), WHOLE[dtype]))
    kind = np.float16 if dtype == "float32" and halved else ELEMENT_TYPES[dtype]
    return WeightTensor(dtype, np.asarray(numbers, kind))
