"""encode → decode gives the same network, encode again the same bytes; golden files decode for ever."""

import subprocess
import sys
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_compress.artifact.format.decode import decode, decode_sections
from pyro_compress.artifact.format.header import split_name
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.further_layers import (
    PAD_MODES,
    RESIZE_MODES,
    AdaptiveMaxPool2d,
    Concatenate,
    Multiply,
    Pad,
    Resize,
    Softmax,
    Standardize,
    fit_together,
)
from pyro_compress.network.input_codes import InputCode
from pyro_compress.network.layers import (
    ACTIVATIONS,
    Activation,
    Add,
    AvgPool2d,
    ChannelAffine,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    Named,
    PReLU,
    Recall,
    Select,
    Unflatten,
    Upsample,
)
from pyro_compress.network.quantizers import Codebook, PerChannel, Quantizer, Uniform, power_of_two
from pyro_compress.network.sequence_layers import (
    GATES,
    Attention,
    ConstantPositions,
    Crop,
    Embedding,
    PositionBias,
    Rearrange,
    Recurrent,
)
from pyro_compress.network.shapes import output_shape
from pyro_compress.network.stored import StoredNetwork, StoredTensor, tensor_shapes, tied_weights
from tests.artifact import networks
from tests.artifact.runnable import RUNNABLE, runnable

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_FILES = ["dense", "conv", "depthwise", "residual", "levels", "norms", "image", "decoder", "coded", "curves"]
GOLDEN_FILES += ["combined", "positions", "attention", "recurrent", "softmax", "again", "single", "tied"]
GOLDEN_FILES += ["gates", "uniform", "per_channel", "ternary", "shared"]
NAMES = st.text(max_size=12) | st.sampled_from(["0", "fc1", "a.00", "x007", "9" * 30, "conv4294967295", "7²"])


def _accepts(layer: Layer, shape: tuple[int, ...]) -> bool:
    try:
        output_shape(layer, [shape])
    except ValueError:
        return False
    return True


@st.composite
def layers_on(draw: st.DrawFn, shape: tuple[int, ...], most: int = 7) -> tuple[Layer, ...]:
    """At most so many layers that accept `shape`."""
    names = iter(draw(st.lists(NAMES, min_size=most, max_size=most, unique=True)))
    layers: list[Layer] = []
    shapes = [shape]
    for _ in range(draw(st.integers(0, most))):
        kinds = ["activation", "affine", "prelu", "select", "flatten"]
        kinds += ["recall", "concatenate"] if layers else []
        kinds += ["standardize", "softmax"] if shape[0] else []
        together = [number for number, other in enumerate(shapes[:-1]) if fit_together(shape, other)]
        kinds += ["add", "add", "multiply"] if together else []
        kinds += ["linear", "linear", "unflatten"] if len(shape) == 1 else ["conv", "conv", "pool", "up", "transposed"]
        kinds += ["pad", "resize", "largest", "pixel", "attention", "constant"] if len(shape) == 3 else []
        kinds += ["crop"] if len(shape) == 3 and shape[2] else []
        kinds += ["embedding"] if len(shape) == 1 else []
        kinds += ["recurrent", "recurrent"] if len(shape) == 3 and shape[0] and shape[1] == 1 else []
        kinds += ["rearrange", "bias"]
        usable = [layer for layer in dict.fromkeys(layers) if isinstance(layer, Named) and _accepts(layer, shape)]
        kinds += ["again"] * min(3, len(usable))
        kind = draw(st.sampled_from(kinds))
        if kind == "linear":
            layer: Layer = Linear(next(names), shape[0], draw(st.integers(0, 9)), draw(st.booleans()))
        elif kind == "conv":
            layer = draw(convolution(next(names), shape[0]))
        elif kind == "pool":
            stride, padding = draw(st.sampled_from([(2, 2), (1, 2)])), draw(st.sampled_from([(0, 0), (1, 0)]))
            pools: list[Layer] = [MaxPool2d((2, 2), stride, padding), AvgPool2d((2, 2), stride, padding)]
            layer = draw(st.sampled_from(pools))
        elif kind == "transposed":
            layer = draw(transposed(next(names), shape[0]))
        elif kind == "up":
            layer = Upsample(draw(st.sampled_from([(2, 2), (1, 2), (3, 1)])))
        elif kind == "unflatten":
            layer = Unflatten(draw(st.sampled_from([(1, 1), (2, 2), (1, 3)])))
        elif kind == "affine":
            layer = ChannelAffine(next(names), shape[0])
        elif kind == "prelu":
            layer = PReLU(next(names), draw(st.sampled_from([1, shape[0]])))
        elif kind == "select":
            kept = draw(st.sets(st.integers(0, shape[0] - 1))) if shape[0] else set()
            layer = Select(tuple(sorted(kept)))
        elif kind == "flatten":
            layer = Flatten()
        elif kind == "recall":
            layer = Recall(draw(st.integers(0, len(layers) - 1)))
        elif kind in ("add", "multiply"):
            source = draw(st.sampled_from(together))
            layer = Add(source) if kind == "add" else Multiply(source)
        elif kind == "concatenate":
            layer = Concatenate(draw(st.integers(0, len(layers) - 1)))
        elif kind == "standardize":
            groups = draw(st.sampled_from([k for k in range(1, shape[0] + 1) if shape[0] % k == 0]))
            layer = Standardize(groups, draw(st.sampled_from([1e-5, 0.1])), draw(st.booleans()), draw(st.booleans()))
        elif kind == "again":
            layer = draw(st.sampled_from(usable))
        elif kind == "softmax":
            layer = Softmax(draw(st.booleans()))
        elif kind == "attention":
            values = draw(st.integers(1, max(shape[0], 1)))
            layer = Attention(draw(st.sampled_from([1, 2])), values, draw(st.floats(-2, 2)), draw(st.booleans()))
        elif kind == "rearrange":
            order = tuple(draw(st.permutations(range(len(shape)))))
            layer = Rearrange(shape, order, draw(st.sampled_from([shape[::-1], (prod(shape),)])))
        elif kind == "crop":
            layer = Crop((draw(st.integers(0, 2)), 0), (draw(st.integers(1, 3)), draw(st.integers(1, shape[2]))))
        elif kind == "bias":
            layer = PositionBias(next(names), prod(shape[1:]), shape[0])
        elif kind == "constant":
            layer = ConstantPositions(next(names), draw(st.integers(1, 3)), shape[0], draw(st.booleans()))
        elif kind == "recurrent":
            cell = draw(st.sampled_from([cell for cell, gates in GATES.items() if shape[0] % gates == 0]))
            layer = Recurrent(next(names), cell, shape[0] // GATES[cell], draw(st.booleans()))
        elif kind == "embedding":
            layer = Embedding(next(names), draw(st.integers(1, 40)), draw(st.integers(0, 6)))
        elif kind == "pad":
            sides = st.tuples(st.integers(0, 3), st.integers(0, 3))
            layer = Pad(draw(sides), draw(sides), draw(st.sampled_from(PAD_MODES)))
        elif kind == "resize":
            layer = Resize((draw(st.integers(1, 7)), draw(st.integers(1, 7))), draw(st.sampled_from(RESIZE_MODES)))
        elif kind == "largest":
            layer = AdaptiveMaxPool2d((draw(st.integers(1, 4)), draw(st.integers(1, 4))))
        elif kind == "pixel":
            layers.append(AdaptiveMaxPool2d((1, 1)))
            shapes.append((shape[0], 1, 1))
            layer = Add(len(layers) - 1) if draw(st.booleans()) else Multiply(len(layers) - 1)
        else:
            activation = draw(st.sampled_from(ACTIVATIONS))
            slopes = [0.0] if activation == "relu6" else [0.0, 0.01, 1.0, 0.3]
            layer = Activation(activation, draw(st.sampled_from(slopes)))
        try:
            shape = output_shape(layer, shapes)
        except ValueError:
            break
        layers.append(layer)
        shapes.append(shape)
    return tuple(layers)


@st.composite
def convolution(draw: st.DrawFn, name: str, channels: int) -> Conv2d:
    groups = channels if channels and draw(st.booleans()) else 1
    out = groups * draw(st.integers(1, 4))
    small = st.tuples(st.integers(1, 3), st.integers(1, 3))
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    return Conv2d(name, channels, out, draw(small), draw(small), padding, draw(small), groups, draw(st.booleans()))


@st.composite
def transposed(draw: st.DrawFn, name: str, channels: int) -> ConvTranspose2d:
    groups = channels if channels and draw(st.booleans()) else 1
    out = groups * draw(st.integers(1, 4))
    small = st.tuples(st.integers(1, 3), st.integers(1, 3))
    stride, dilation, padding = draw(small), draw(small), draw(st.tuples(st.integers(0, 1), st.integers(0, 2)))
    most = [max(pair) - 1 for pair in zip(stride, dilation, strict=True)]
    more = (draw(st.integers(0, most[0])), draw(st.integers(0, most[1])))
    return ConvTranspose2d(
        name, channels, out, draw(small), stride, padding, more, dilation, groups, draw(st.booleans())
    )


def quantizers(channels: int) -> st.SearchStrategy[Quantizer]:
    """Any for a tensor with so many entries along axis 0; half of them are powers of two."""
    steps = st.floats(2.0**-64, 2.0**64, exclude_max=True, width=32)
    level = st.floats(width=32, allow_nan=False, allow_infinity=False).filter(bool)
    return st.one_of(
        *[st.sampled_from([-64, -8, -4, 0, 63]).map(power_of_two)] * 3,
        steps.map(Uniform),
        st.lists(steps, min_size=channels, max_size=channels).map(lambda each: PerChannel(tuple(each))),
        st.sets(level, max_size=12).map(lambda levels: Codebook(tuple(sorted(levels)))),
    )


@st.composite
def stored_networks(draw: st.DrawFn) -> StoredNetwork:
    shape = draw(st.sampled_from([(5,), (16,), (12,), (2, 6, 5), (1, 9, 9), (3, 1, 1)]))
    codes = [None, InputCode("gaussian"), InputCode("dirichlet", 0.3), InputCode("logistic-normal", 2.5)]
    architecture = Architecture(
        shape, draw(layers_on(shape)), draw(st.sampled_from(codes if len(shape) == 1 else [None]))
    )
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tensors = {}
    for name, extents in tensor_shapes(architecture).items():
        if draw(st.integers(0, 4)) == 0:
            tensors[name] = StoredTensor(floats=random.normal(size=extents).astype(np.float32))
            continue
        alike = [
            tensor
            for other, tensor in tensors.items()
            if other.endswith(".weight") and (tensor.shape[0], prod(tensor.shape)) == (extents[0], prod(extents))
        ]
        if name.endswith(".weight") and alike and draw(st.booleans()):
            tensors[name] = alike[0].reshaped(extents)
            continue
        largest = draw(st.sampled_from([0, 1, 3, 40, 1000, 2**24]))
        kept = random.random(extents) < draw(st.sampled_from([0.02, 0.3, 1.0]))
        integers = random.integers(-largest, largest, extents, np.int32, endpoint=True) * kept
        if draw(st.integers(0, 3)) == 0:
            integers = random.choice(np.array([0, *integers.flat[:3]], np.int32), extents) * kept
        tensors[name] = StoredTensor(
            integers.astype(np.int32), power_of_two(draw(st.sampled_from([-64, -8, -4, 0, 63])))
        )
    return StoredNetwork(architecture, tensors)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(stored_networks())
def test_random_networks_come_back_and_encode_to_the_same_bytes(network: StoredNetwork) -> None:
    data = encode(network)
    found = decode(data)
    networks.assert_same(found, network)
    assert encode(found) == data


@settings(max_examples=300, deadline=None, derandomize=True)
@given(NAMES)
def test_a_name_is_its_stem_and_its_number(name: str) -> None:
    stem, number = split_name(name)
    assert stem + (str(number) if number >= 0 else "") == name
    assert number < 2**32 - 1


# the three large ones take half a minute each: `benchmarks/artifact.py` and `runtimes_agree.py` have VGG-16
@pytest.mark.parametrize("name", sorted(RUNNABLE.keys() - {"vgg-16", "resnet18", "mobilenet_v2"}))
def test_registered_networks_come_back_and_encode_to_the_same_bytes(name: str) -> None:
    network = runnable(name)
    data = encode(network)
    found = decode(data)
    networks.assert_same(found, network)
    assert encode(found) == data


@pytest.mark.parametrize("golden", GOLDEN_FILES)
def test_golden_files_hold_the_same_network_for_ever(golden: str) -> None:
    data = (GOLDEN / f"{golden}.pyrc").read_bytes()
    network = getattr(networks, golden)()
    networks.assert_same(decode(data), network)
    assert encode(network) == data


def test_weights_of_several_layers_are_stored_once() -> None:
    network = networks.tied()
    assert tied_weights(network) == {"head.weight": "wte.weight", "fc2.weight": "fc1.weight"}
    sections = {section.name: section for section in decode_sections(encode(network))[1]}
    assert sections["fc1.weight"].file_bytes > 100 and sections["fc2.weight"].file_bytes == 0
    assert sections["fc2.weight"].entropy_bytes == 0
    # the layers may come in either order, and floats are numbers as well; what is all zero is stored nowhere
    floats = {name: StoredTensor(floats=tensor.dense()) for name, tensor in network.tensors.items()}
    assert len(tied_weights(StoredNetwork(network.architecture, floats))) == 2
    zero = {name: StoredTensor(np.zeros(tensor.shape, np.int32)) for name, tensor in network.tensors.items()}
    assert not tied_weights(StoredNetwork(network.architecture, zero))


def test_weights_that_differ_in_one_number_or_in_the_step_are_not() -> None:
    network = networks.tied()
    integers = np.array(network.tensors["fc2.weight"].integers)
    integers[3, 4] += 1
    for changed in (StoredTensor(integers, power_of_two(-4)), StoredTensor(integers * 0 + 1, power_of_two(-3))):
        other = StoredNetwork(network.architecture, network.tensors | {"fc2.weight": changed})
        assert tied_weights(other) == {"head.weight": "wte.weight"}
        networks.assert_same(decode(encode(other)), other)


def test_every_part_is_accounted_for() -> None:
    data = encode(networks.conv())
    network, sections = decode_sections(data)
    assert sum(section.file_bytes for section in sections) == pytest.approx(len(data))
    assert [section.name for section in sections[:3]] == ["container", "header", "selections"]
    assert [section.name for section in sections[3:]] == list(network.tensors)
    weight = next(section for section in sections if section.name == "features.0.weight")
    integers = network.tensors["features.0.weight"].integers
    assert integers is not None
    share = np.unique(integers, return_counts=True)[1] / integers.size
    assert weight.entropy_bytes == pytest.approx(-integers.size * (share * np.log2(share)).sum() / 8)
    assert weight.nonzero == np.count_nonzero(integers)


def test_decoding_needs_no_torch() -> None:
    golden = GOLDEN / "dense.pyrc"
    program = (
        "import sys; from pathlib import Path; from pyro_compress.artifact.format.decode import decode; "
        f"decode(Path({str(golden)!r}).read_bytes()); "
        "assert not {'torch', 'pyro', 'safetensors'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
