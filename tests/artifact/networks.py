"""Networks that the tests of the format share: made by arithmetic alone, so that golden files stay true for ever."""

import numpy as np

from pyro_compress.network.architecture import Architecture
from pyro_compress.network.further_layers import (
    AdaptiveMaxPool2d,
    Concatenate,
    Multiply,
    Pad,
    Resize,
    Softmax,
    Squeeze,
    Standardize,
    View,
)
from pyro_compress.network.input_codes import InputCode
from pyro_compress.network.layers import (
    Activation,
    AdaptiveAvgPool2d,
    Add,
    AvgPool2d,
    ChannelAffine,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    PReLU,
    Recall,
    Select,
    Unflatten,
    Upsample,
)
from pyro_compress.network.quantizers import Codebook, PerChannel, Stored, Uniform, power_of_two
from pyro_compress.network.sequence_layers import (
    Attention,
    ConstantPositions,
    Crop,
    Embedding,
    PositionBias,
    Rearrange,
    Recurrent,
)
from pyro_compress.network.stored import StoredNetwork, StoredTensor, tensor_shapes


def pattern(shape: tuple[int, ...], largest: int, share_percent: int, salt: int) -> np.ndarray:
    """Integers of a fixed pseudo-random pattern: `share_percent` of them non-zero, up to `largest` in magnitude."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(1000003 * salt)
    mixed = (index * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)) >> np.uint64(33)
    kept = mixed % 100 < share_percent
    size = (mixed // 100) % largest + 1
    sign = np.where(mixed // 100000 % 2, -1, 1)
    return (kept * size.astype(np.int64) * sign).astype(np.int32).reshape(shape)


def filled(input_shape: tuple[int, ...], layers: tuple[Layer, ...], floats: tuple[str, ...] = ()) -> StoredNetwork:
    """A network with these layers; tensors named in `floats` are float32, biases of the last layer are zero."""
    architecture = Architecture(input_shape, layers)
    tensors = {}
    for salt, (name, shape) in enumerate(tensor_shapes(architecture).items()):
        weight = name.endswith(".weight")
        integers = pattern(shape, 9 if weight else 200, 30 if weight else 90, salt)
        if name in floats:
            tensors[name] = StoredTensor(floats=(integers / np.float32(7)).astype(np.float32))
        else:
            tensors[name] = StoredTensor(integers, power_of_two(-4 if weight else -8))
    return StoredNetwork(architecture, tensors)


def dense() -> StoredNetwork:
    """Image → selected pixels → two dense layers, the second float32 and without bias."""
    kept = tuple(i for i in range(64) if (i * 37) % 64 > 12)
    layers = (
        Flatten(),
        Select(kept),
        Linear("fc1", len(kept), 20, True),
        Activation("relu"),
        Linear("fc2", 20, 5, False),
    )
    return filled((1, 8, 8), layers, floats=("fc2.weight",))


def conv() -> StoredNetwork:
    """Every kind of layer once at least, with options that differ from their defaults."""
    layers = (
        Select((0, 2)),
        Conv2d("features.0", 2, 6, (3, 3), (1, 1), (1, 1), (1, 1), 1, False),
        ChannelAffine("features.1", 6),
        Activation("leaky_relu", 0.2),
        MaxPool2d((2, 2), (2, 2), (0, 0)),
        Conv2d("features.4", 6, 4, (3, 2), (2, 1), (0, 1), (2, 1), 2, True),
        Activation("elu", 1.0),
        AvgPool2d((2, 2), (1, 1), (1, 1)),
        AdaptiveAvgPool2d((3, 2)),
        Flatten(),
        Select(tuple(range(1, 24, 2))),
        Linear("größe", 12, 3, True),
        Activation("softplus"),
    )
    return filled((3, 16, 12), layers)


def residual() -> StoredNetwork:
    """An identity, a branch of its own, sums of images and of features, and relu6."""
    layers = (
        Conv2d("conv1", 2, 6, (3, 3), (1, 1), (1, 1), (1, 1), 1, False),
        Activation("relu6"),
        Conv2d("layer1.0.conv1", 6, 6, (3, 3), (1, 1), (1, 1), (1, 1), 6, True),
        ChannelAffine("layer1.0.bn1", 6),
        Add(2),
        Activation("relu"),
        Conv2d("layer2.0.conv1", 6, 4, (3, 3), (2, 2), (1, 1), (1, 1), 1, False),
        Recall(6),
        Conv2d("layer2.0.downsample", 6, 4, (1, 1), (2, 2), (0, 0), (1, 1), 1, True),
        Add(7),
        Flatten(),
        Select(tuple(range(0, 48, 3))),
        Linear("fc1", 16, 16, True),
        Recall(12),
        Linear("fc2", 16, 16, False),
        Add(12),
        Add(13),
        Linear("fc3", 16, 3, True),
    )
    return filled((2, 8, 6), layers)


def levels() -> StoredNetwork:
    """A layer whose weights have four different values, far apart, and one whose weights have two."""
    layers = (Linear("fc1", 24, 30, True), Activation("relu"), Linear("fc2", 30, 10, False))
    network = filled((24,), layers)
    for name, values in (("fc1.weight", (-217, -50, 0, 60, 1025)), ("fc2.weight", (0, -4096, 4096, 0, 0))):
        number = pattern(network.tensors[name].shape, 5, 100, len(name))
        integers = np.array(values, np.int32)[np.abs(number) - 1]
        network.tensors[name] = StoredTensor(integers, power_of_two(-12))
    return network


def depthwise() -> StoredNetwork:
    """A filter per channel, several filters per channel, and a pointwise convolution, on planes that are not square."""
    layers = (
        Conv2d("features.0", 3, 6, (3, 2), (1, 2), (1, 0), (1, 1), 3, True),
        Activation("silu"),
        Conv2d("features.2", 6, 6, (3, 3), (2, 1), (1, 1), (1, 2), 6, False),
        Activation("gelu"),
        Conv2d("features.4", 6, 5, (1, 1), (1, 1), (0, 0), (1, 1), 1, True),
        MaxPool2d((3, 2), (2, 2), (1, 1)),
        Activation("sigmoid"),
    )
    return filled((3, 9, 11), layers)


def decoder() -> StoredNetwork:
    """Features to images: transposed convolutions plain, with every option, and depthwise, between enlarged planes."""
    layers = (
        Linear("fc1", 5, 36, True),
        Activation("relu"),
        Unflatten((3, 2)),
        ConvTranspose2d("deconv1", 6, 4, (4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1, True),
        ChannelAffine("bn1", 4),
        Activation("tanh"),
        Upsample((1, 2)),
        ConvTranspose2d("up.0", 4, 6, (3, 2), (2, 1), (2, 1), (1, 1), (1, 2), 2, False),
        ConvTranspose2d("up.1", 6, 6, (2, 3), (1, 1), (0, 1), (0, 0), (2, 1), 6, True),
        Select((0, 1, 2, 4)),
        Conv2d("conv1", 4, 1, (3, 3), (1, 1), (1, 1), (1, 1), 1, True),
        Flatten(),
        Unflatten((6, 9)),
    )
    return filled((5,), layers)


def curves() -> StoredNetwork:
    """Elementwise functions of every kind behind the first nine, and slopes of an image and of features."""
    layers = (
        Conv2d("conv1", 1, 4, (2, 2), (1, 1), (0, 0), (1, 1), 1, True),
        PReLU("prelu1", 4),
        Activation("hardswish"),
        Activation("times", 0.375),
        Flatten(),
        Linear("fc1", 24, 8, True),
        PReLU("act", 1),
        Activation("mish"),
        Linear("fc2", 8, 8, False),
        Activation("gelu_tanh"),
        Activation("plus", -0.25),
        Activation("at_least", -0.3),
        Activation("at_most", 2.5),
        Linear("fc3", 8, 5, True),
        Activation("softsign"),
        Activation("hardsigmoid"),
    )
    return filled((1, 3, 4), layers, floats=("prelu1.slope",))


def combined() -> StoredNetwork:
    """Images: gates of one pixel, concatenations, padding of every mode, sizes of every mode, statistics by groups."""
    layers = (
        Conv2d("conv1", 2, 6, (3, 3), (1, 1), (0, 0), (1, 1), 1, True),
        Standardize(3, 1e-5),
        ChannelAffine("bn1", 6),
        Activation("relu"),
        AdaptiveMaxPool2d((1, 1)),
        Conv2d("gate", 6, 6, (1, 1), (1, 1), (0, 0), (1, 1), 1, True),
        Activation("hardsigmoid"),
        Multiply(4),
        Pad((1, 2), (0, 1)),
        Conv2d("conv3", 6, 3, (2, 2), (2, 2), (0, 0), (1, 1), 1, False),
        Pad((1, 0), (2, 3), "reflect"),
        Pad((0, 1), (1, 0), "replicate"),
        Pad((1, 1), (0, 2), "circular"),
        Resize((5, 4), "bilinear"),
        Resize((3, 7), "nearest"),
        Resize((4, 5), "aligned"),
        Recall(8),
        Resize((4, 5), "nearest-exact"),
        Concatenate(16),
        Standardize(1, 0.125, False),
        Recall(16),
        AdaptiveMaxPool2d((1, 1)),
        Add(16),
        Concatenate(20),
        Select((0, 2, 3, 5, 9, 11)),
        AdaptiveAvgPool2d((1, 1)),
        Flatten(),
        Linear("fc1", 6, 3, True),
    )
    return filled((2, 8, 9), layers)


def positions() -> StoredNetwork:
    """Channels over positions, as an image of height 1 and back; features that are put together and normalised."""
    layers = (
        View((1, 12)),
        Conv2d("conv1", 3, 4, (1, 5), (1, 1), (0, 2), (1, 1), 1, True),
        PReLU("prelu1", 4),
        MaxPool2d((1, 2), (1, 2), (0, 0)),
        View((6,)),
        Activation("tanh"),
        Flatten(),
        Select((1, 2, 5, 7, 8, 11, 13, 20)),
        Standardize(1, 1e-6),
        ChannelAffine("norm", 8),
        Linear("fc1", 8, 5, True),
        Concatenate(10),
        Standardize(1, 1e-5, False),
        Linear("fc2", 13, 6, True),
        Activation("times", -1.0),
        Multiply(14),
    )
    return filled((3, 12), layers)


def softmax() -> StoredNetwork:
    """Shares of channels at every place weigh these; logarithms of shares of classes at the end."""
    layers = (
        Conv2d("conv1", 2, 4, (2, 2), (1, 1), (0, 0), (1, 1), 1, True),
        Softmax(),
        Multiply(1),
        AdaptiveAvgPool2d((1, 1)),
        Flatten(),
        Linear("fc1", 4, 3, True),
        Softmax(log=True),
    )
    return filled((2, 3, 5), layers)


def again() -> StoredNetwork:
    """Layers that are used again: a convolution on images of two sizes, a norm, a dense layer whose inputs are new."""
    step = Conv2d("conv1", 2, 2, (3, 3), (1, 1), (1, 1), (1, 1), 1, True)
    layers = (
        step,
        ChannelAffine("bn1", 2),
        Activation("relu"),
        step,
        ChannelAffine("bn1", 2),
        MaxPool2d((2, 2), (2, 2), (0, 0)),
        step,
        Flatten(),
        Linear("fc1", 8, 8, True),
        Activation("tanh"),
        Linear("fc1", 8, 8, True),
        Recall(9),
        Add(11),
        Linear("fc2", 8, 3, False),
    )
    return filled((2, 4, 5), layers)


def tied() -> StoredNetwork:
    """An output with the weight of the embedding, in the shape of a convolution, and two dense layers of one weight."""
    pixel = ((1, 1), (1, 1), (0, 0), (1, 1), 1)
    layers = (
        Embedding("wte", 6, 4),
        Conv2d("conv1", 4, 4, *pixel, True),
        Activation("tanh"),
        Conv2d("head", 4, 6, *pixel, False),
        Flatten(),
        Linear("fc1", 30, 30, True),
        Activation("relu"),
        Linear("fc2", 30, 30, True),
    )
    network = filled((5,), layers)
    same = {"head.weight": network.tensors["wte.weight"].reshaped((6, 4, 1, 1))}
    return StoredNetwork(network.architecture, network.tensors | same | {"fc2.weight": network.tensors["fc1.weight"]})


def gates() -> StoredNetwork:
    """One channel, one row and one column that go with all, both ways, and one number that goes with all features."""
    layers = (
        Conv2d("conv1", 2, 3, (2, 2), (1, 1), (0, 0), (1, 1), 1, True),
        Conv2d("gate", 3, 1, (3, 3), (1, 1), (1, 1), (1, 1), 1, True),
        Activation("sigmoid"),
        Multiply(1),
        Crop((0, 0), (1, 4)),
        Recall(4),
        Crop((0, 1), (3, 1)),
        Add(5),
        Multiply(3),
        AdaptiveAvgPool2d((2, 2)),
        Flatten(),
        Linear("fc1", 12, 6, True),
        Linear("fc2", 6, 1, True),
        Multiply(11),
        Linear("fc3", 12, 4, True),
        Recall(13),
        Add(15),
        Linear("fc4", 4, 3, False),
    )
    return filled((2, 4, 5), layers)


def single() -> StoredNetwork:
    """One number for each example, without an axis."""
    layers = (Linear("fc1", 4, 3, True), Activation("relu"), Linear("fc2", 3, 1, True), Squeeze())
    return filled((4,), layers)


def attention() -> StoredNetwork:
    """Tokens that attend to those before them, image patches beside constant positions, axes in another order."""
    layers = (
        Embedding("embedding1", 11, 6),
        PositionBias("positions1", 5, 6),
        Standardize(1, 1e-5, by_place=True),
        ChannelAffine("norm1", 6),
        Conv2d("conv1", 6, 16, (1, 1), (1, 1), (0, 0), (1, 1), 1, True),
        Attention(2, 8, 0.125, causal=True),
        Conv2d("conv2", 8, 6, (1, 1), (1, 1), (0, 0), (1, 1), 1, False),
        Add(2),
        ConstantPositions("class", 1, 6),
        ConstantPositions("constant2", 2, 6, behind=True),
        Standardize(2, 0.25, False, by_place=True),
        Recall(10),
        Conv2d("conv3", 6, 9, (1, 1), (1, 1), (0, 0), (1, 1), 1, True),
        Attention(3, 3, -0.5),
        Concatenate(11),
        Crop((0, 1), (1, 6)),
        Rearrange((3, 3, 2, 3), (2, 0, 3, 1), (6, 9)),
        Flatten(),
        Rearrange((9, 6), (1, 0), (54,)),
        Linear("fc1", 54, 4, True),
    )
    return filled((5,), layers)


def recurrent() -> StoredNetwork:
    """Every kind of states, in both directions, side by side and one behind the other."""
    one = (1, 1)
    layers = (
        Conv2d("conv1", 3, 20, one, one, (0, 0), one, 1, True),
        Recurrent("recurrent1", "lstm", 5),
        Recall(0),
        Conv2d("conv2", 3, 12, one, one, (0, 0), one, 1, False),
        Recurrent("recurrent2", "lstm", 3, reverse=True),
        Concatenate(2),
        Conv2d("conv3", 8, 12, one, one, (0, 0), one, 1, True),
        Recurrent("gru", "gru", 4, bias=True),
        Recurrent("states4", "rnn_tanh", 4, reverse=True),
        Conv2d("conv4", 4, 6, one, one, (0, 0), one, 1, True),
        Recurrent("states5", "gru", 2, reverse=True),
        Recurrent("states6", "rnn_relu", 2),
        Crop((0, 5), one),
        Flatten(),
        Linear("fc1", 2, 3, True),
    )
    return filled((3, 1, 6), layers)


def coded() -> StoredNetwork:
    """A decoder whose input is a code with a parameter."""
    plain = filled((5,), (Linear("fc1", 5, 9, True), Activation("tanh"), Linear("fc2", 9, 4, True)))
    code = InputCode("dirichlet", 0.75)
    return StoredNetwork(Architecture((5,), plain.architecture.layers, code), plain.tensors)


def norms() -> StoredNetwork:
    """Scales and shifts on grids of their own, of images and of features, and one that is float32."""
    layers = (
        Conv2d("conv1", 1, 5, (3, 3), (2, 2), (0, 0), (1, 1), 1, False),
        ChannelAffine("bn1", 5),
        Activation("tanh"),
        Flatten(),
        Linear("fc1", 45, 7, False),
        ChannelAffine("bn2", 7),
    )
    network = filled((1, 7, 8), layers, floats=("bn2.shift",))
    for name, exponent in (("bn1.scale", -9), ("bn1.shift", -13), ("bn2.scale", 3)):
        network.tensors[name] = StoredTensor(network.tensors[name].integers, power_of_two(exponent))
    return network


def image() -> StoredNetwork:
    """A flat input that is three square images, of which whole rows and columns are zero."""
    network = filled((147,), (Linear("net.0", 147, 6, True), Activation("relu"), Linear("net.2", 6, 2, True)))
    weights = network.tensors["net.0.weight"].integers
    assert weights is not None
    weights.reshape(6, 3, 7, 7)[:, :, [0, 6]] = 0
    weights.reshape(6, 3, 7, 7)[:, :, :, [0, 1, 6]] = 0
    return network


def _quantized(quantizer: Stored, **others: Stored) -> StoredNetwork:
    """A convolution and a dense layer whose weights are of this quantizer; `others` by layer, their biases."""
    layers = (
        Conv2d("conv1", 2, 5, (3, 3), (2, 2), (1, 1), (1, 1), 1, True),
        Activation("relu"),
        Flatten(),
        Linear("fc1", 80, 5, True),
    )
    network = filled((2, 7, 8), layers)
    given = {"conv1.weight": quantizer, "fc1.weight": quantizer} | {f"{name}.bias": q for name, q in others.items()}
    for name, each in given.items():
        integers = network.tensors[name].integers
        assert integers is not None
        if isinstance(each, Codebook):
            integers = np.sign(integers) * (np.abs(integers) % (np.where(integers < 0, *each.sides) + 1))
        network.tensors[name] = StoredTensor(integers.astype(np.int32), each)
    return network


def uniform() -> StoredNetwork:
    """Steps that are no powers of two, of weights and of a bias."""
    return _quantized(Uniform(0.3), fc1=Uniform(1e-3))


def per_channel() -> StoredNetwork:
    """A step for each output channel or unit, powers of two among them, and for each number of a bias."""
    return _quantized(PerChannel((0.3, 0.125, 1e-4, 7.0, 0.2)), conv1=PerChannel((0.01, 0.02, 0.03, 0.04, 0.05)))


def ternary() -> StoredNetwork:
    """Weights that are −a, 0 or b."""
    return _quantized(Codebook((-0.31, 0.27)))


def shared() -> StoredNetwork:
    """Weights that share seven values, a bias that shares two positive ones."""
    return _quantized(Codebook((-1.5, -0.4, -0.11, 0.09, 0.3, 0.7, 2.25)), fc1=Codebook((0.1, 0.2)))


def assert_same(found: StoredNetwork, expected: StoredNetwork) -> None:
    """Equal architecture and bit for bit equal tensors."""
    assert found.architecture == expected.architecture
    assert list(found.tensors) == list(tensor_shapes(expected.architecture))
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].equals(tensor), name
