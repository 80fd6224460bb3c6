"""The part of a compressed file that is not entropy-coded: layers, names and the settings of each tensor's model.

`FORMAT.md`, part 2, is the specification.  This file holds what `header_writer.py` and `header_reader.py` share.  The
reader accepts exactly what the writer writes, so a network has one header per choice of settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from pyro_compress.errors import ArtifactError, DecisionError
from pyro_compress.network.architecture import Architecture, last_references
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
    ACTIVATIONS,
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
    Referring,
    Select,
    Unflatten,
    Upsample,
    describe,
    table_of,
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
    scores,
)
from pyro_compress.network.shapes import output_shape
from pyro_compress.network.stored import tensor_shapes

MAX_LAYERS = 1024
MAX_RANK = 8
# What stands in the place of the rank where the input is a code: this, and the kind's number more.
CODE_RANKS = MAX_RANK + 1
# The first byte of a body that holds weights and no layers: no deviations, and 12 in the place of the rank.
WEIGHTS_MARK = b"\x10"
MAX_EXTENT = 1 << 22
MAX_KEPT = 1 << 24
MAX_NUMBERS = 1 << 27
MAX_PLACES = 1 << 24
MAX_SCORES = 1 << 26
MAX_STEPS = 1 << 16
MAX_NAME_BYTES = 255
MAX_NUMBER_IN_NAME = 1 << 32

CODES: tuple[type, ...] = (
    Linear,
    Conv2d,
    ChannelAffine,
    MaxPool2d,
    AvgPool2d,
    AdaptiveAvgPool2d,
    Flatten,
    Select,
)
# What the number of code 6 says.
EXTENDED = ("Flatten", "Add", "Recall", "relu6")


class Again:
    """Stands in a file for an earlier layer with its tensors, which is used once more."""


# What stands in the place of a Recall of distance 0.
FURTHER: tuple[type, ...] = (
    *(ConvTranspose2d, Upsample, Unflatten, Activation, PReLU),
    *(Concatenate, Multiply, Pad, View, Standardize, Resize, AdaptiveMaxPool2d),
    *(Rearrange, Standardize, Attention, PositionBias, ConstantPositions, Embedding, Crop, Recurrent),
    *(Softmax, Again, Squeeze),
)
# Of the two numbers of Standardize, that of the one which takes every place by itself.
BY_PLACE = 13
DEFAULT_EPS = 1e-5
MODE_BITS = 2
# which of `GATES` a recurrent layer has
CELL_BITS = 2
CODED_ACTIVATIONS = ACTIVATIONS[: 16 - len(CODES)]
# Those that stand among the further layers, behind relu6.
FURTHER_ACTIVATIONS = ACTIVATIONS[len(CODED_ACTIVATIONS) + 1 :]
DEFAULT_SLOPES = {"leaky_relu": 0.01, "elu": 1.0}
SHORT_NAME = 64
SHORT_NUMBERS = 6
STEMS = ("", "fc", "conv", "bn", "features.", "classifier.", "layers.", "net.", "linear", "layer")
FIRST_NAMES: dict[type, str] = {
    Linear: "fc1",
    Conv2d: "conv1",
    ChannelAffine: "bn1",
    ConvTranspose2d: "deconv1",
    PReLU: "prelu1",
    PositionBias: "positions1",
    ConstantPositions: "constant1",
    Embedding: "embedding1",
    Recurrent: "recurrent1",
}
# Bits of each field that has a fixed number of them.
CODE_BITS, NUMBER_BITS, STRENGTH_BITS, FALL_BITS, GAP_ORDER_BITS, FORM_BITS = 4, 2, 2, 2, 4, 2
# Optional parts of a layer by its code; activations have one.
FLAG_BITS = dict(enumerate((1, 4, 0, 2, 2, 0, 0, 0)))
TRANSPOSED_FLAG_BITS = 5
# Orders of the Exp-Golomb codes: of sizes, of what is mostly small, of what is mostly zero.
SIZE, SMALL, LEAST = 4, 2, 0
KINDS = ("integers", "all zero", "float32", "codebook", "of another form", "of an earlier tensor")
INTEGERS, ZEROS, FLOATS, CODEBOOK, OTHER_FORM, TIED = range(len(KINDS))
# What integers are indices of where their step is no power of two, or they have several.
FORMS = ("step", "steps", "levels")
STEP, STEPS, LEVELS = range(len(FORMS))
# No number of the header has more leading zeros.
LONGEST_CODE = 48
# The density of a tensor that has nothing to code.
ALL_ZERO = -1


@dataclass(frozen=True)
class TensorCode:
    """How one tensor is coded.

    Attributes:
        step_exponent: e of a step 2^e; None for float32 and other forms.
        density, strength, top_token, fall: settings of the model of its integers; `ALL_ZERO` says that there is none.
        codebook: the non-zero integers that occur, in order, where their places are coded, counted from zero.
        form: which of `FORMS` the quantizer has, its numbers standing among the float32 ones; None for other tensors.
        sides: of levels, how many are below and how many above zero.
        tied: name of the earlier tensor whose numbers these are; nothing of them is coded, and all else is as it comes.
    """

    step_exponent: int | None = None
    density: int = ALL_ZERO
    strength: int = 0
    top_token: int = 0
    fall: int = 0
    codebook: tuple[int, ...] = ()
    form: int | None = None
    sides: tuple[int, int] = (0, 0)
    tied: str = ""

    @property
    def is_float(self) -> bool:
        """Whether float32 numbers are stored for the tensor."""
        return self.step_exponent is None and self.form is None and not self.tied

    def floats(self, shape: tuple[int, ...]) -> int:
        """How many float32 numbers stand in the file for a tensor of this shape."""
        if self.form is None:
            return prod(shape) if self.is_float else 0
        return (1, (*shape, 0)[0], sum(self.sides))[self.form]


def code_of(quantizer: Stored | None) -> TensorCode:
    """The code of a tensor that is all zero, float32 if there is no quantizer."""
    match quantizer:
        case None:
            return TensorCode()
        case Uniform():
            exponent = quantizer.exponent
            return TensorCode(exponent) if exponent is not None else TensorCode(form=STEP)
        case PerChannel():
            return TensorCode(form=STEPS)
        case Codebook():
            return TensorCode(form=LEVELS, sides=quantizer.sides)


def numbers_of(quantizer: Stored | None) -> tuple[float, ...]:
    """What stands among the float32 numbers for a quantizer."""
    match quantizer:
        case Uniform() if quantizer.exponent is None:
            return (quantizer.step,)
        case PerChannel(steps):
            return steps
        case Codebook(levels):
            return levels
    return ()


def quantizer_of(code: TensorCode, numbers: np.ndarray) -> Stored:
    """The quantizer of a tensor that is not float32, given its float32 numbers.

    Raises:
        ArtifactError: a writer writes no such numbers.
    """
    held = tuple(numbers.tolist())
    try:
        match code.form:
            case None if code.step_exponent is not None:
                return power_of_two(code.step_exponent)
            case 0 if Uniform(held[0]).exponent is None:
                return Uniform(held[0])
            case 1:
                return PerChannel(held)
            case 2 if Codebook(held).sides == code.sides:
                return Codebook(held)
    except DecisionError as error:
        raise ArtifactError(f"the file holds no quantizer: {error}") from error
    raise ArtifactError("the file says a quantizer in another way than a writer does")


@dataclass
class Header:
    """What the header says.

    The indices of `Select` layers are in the stream, so a header that was read holds `Select(())`; `selected` gives
    the number of indices by the layer's position.
    """

    input_shape: tuple[int, ...]
    image_side: int = 0
    layers: list[Layer] = field(default_factory=list)
    selected: dict[int, int] = field(default_factory=dict)
    codes: dict[str, TensorCode] = field(default_factory=dict)
    flags: int = 0
    code: InputCode | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor in storage order."""
        return tensor_shapes(Architecture(self.input_shape, tuple(self.layers)))


def is_further(layer: Layer) -> bool:
    """Whether a layer stands in the place of a Recall of distance 0."""
    return layer.kind in FURTHER_ACTIVATIONS if isinstance(layer, Activation) else isinstance(layer, FURTHER)


def further_number(layer: Layer) -> int:
    """Which of `FURTHER` a layer is."""
    return BY_PLACE if isinstance(layer, Standardize) and layer.by_place else FURTHER.index(type(layer))


def extended(layer: Layer) -> int:
    """Number of a layer among those that share a code (0 is Flatten), 0 for all others."""
    if is_further(layer):
        return EXTENDED.index("Recall")
    name = layer.kind if isinstance(layer, Activation) else type(layer).__name__
    return EXTENDED.index(name) if name in EXTENDED else 0


# Layers whose result may be larger than what they take.
ENLARGING = (
    *(Flatten, Linear, ConvTranspose2d, Upsample, Concatenate, Pad, Resize, AdaptiveMaxPool2d),
    *(ConstantPositions, Embedding),
)


def shape_after(layer: Layer, shapes: Sequence[tuple[int, ...]], selected: int | None) -> tuple[int, ...]:
    """Shape of one example after a layer, given those of all outputs so far.

    Raises:
        ArtifactError: the layer does not fit, or gives more than the format allows.
    """
    try:
        after = output_shape(layer, shapes) if selected is None else (selected, *shapes[-1][1:])
    except ValueError as error:
        raise ArtifactError(f"the network does not fit together: {error}") from error
    enlarged = isinstance(layer, ENLARGING)
    if isinstance(layer, Add | Multiply):
        # each side may have axes that the other lacks
        enlarged = prod(after) > max(prod(shapes[-1]), prod(shapes[layer.source]))
    if enlarged and prod(after) > MAX_EXTENT:
        raise ArtifactError(f"{describe(layer)} gives {prod(after)} numbers, more than {MAX_EXTENT}")
    if isinstance(layer, Attention) and scores(layer, after) > MAX_SCORES:
        raise ArtifactError(f"{describe(layer)} has {scores(layer, after)} scores, more than {MAX_SCORES}")
    if isinstance(layer, Recurrent) and after[2] > MAX_STEPS:
        raise ArtifactError(f"{describe(layer)} goes through {after[2]} positions, more than {MAX_STEPS}")
    return after


def places(layer: Layer, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    """Places that a reader works out for a layer (FORMAT.md, 3.2): they take memory even where nothing is stored."""
    match layer:
        case Select():
            return before[0]
        case Linear() | Flatten():
            return prod(after)
        case Concatenate() | Rearrange() if len(after) == 1:
            return after[0]
        case Conv2d():
            return layer.in_channels // layer.groups * prod(layer.kernel_size)
        case ConvTranspose2d():
            return layer.out_channels // layer.groups * prod(layer.kernel_size)
        case Embedding() | PositionBias() | ConstantPositions():
            return table_of(layer)[1][1]
        case Recurrent():
            return layer.hidden
    return 0


def check_kept(layers: Sequence[Layer], shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse a network that keeps more than `MAX_KEPT` numbers at once for layers that refer back to them."""
    last, kept = last_references(layers), 0
    for position, layer in enumerate(layers):
        kept += prod(shapes[position]) if position in last else 0
        if kept > MAX_KEPT:
            raise ArtifactError(f"the network keeps {kept} numbers of earlier layers at once, limit {MAX_KEPT}")
        if isinstance(layer, Referring) and last[layer.source] == position:
            kept -= prod(shapes[layer.source])


def role(tensor: str) -> bool:
    """Weights share one memory of the last step, all other tensors another."""
    return tensor.endswith(".weight")


def split_name(name: str) -> tuple[str, int]:
    """A name as stem and the decimal number at its end, −1 if it has none that prints back the same."""
    digits = len(name) - len(name.rstrip("0123456789"))
    while digits and ((name[-digits] == "0" and digits > 1) or int(name[-digits:]) >= MAX_NUMBER_IN_NAME - 1):
        digits -= 1
    return (name[:-digits], int(name[-digits:])) if digits else (name, -1)


def tensor_names(layer: Layer) -> list[str]:
    """Names of a layer's tensors in storage order."""
    return list(tensor_shapes(Architecture((), (layer,))))


def next_name(last: str | None, kind: type) -> str:
    """The name that a layer most likely has: the last one of its kind, counted on."""
    if last is None:
        return FIRST_NAMES[kind]
    stem, number = split_name(last)
    return f"{stem}{number + 1}"
