"""Stored network → ONNX: the same layers, with weights as small integers and their steps as scales.

A tensor whose integers fit 8 bits is an int8 initializer behind a `DequantizeLinear`, or uint8 with a zero point where
they lie unevenly about zero, 16 bits likewise; others are float32.  Scales are one step or one per output channel;
levels of a codebook are gathered at places held as bytes.  Nothing is rounded that `StoredTensor.dense` does not round,
and sums are taken in float32.  4-bit integers would halve some files again, but the common runtime unpacks them at
every call, six times slower than int8.

Writing needs the package onnx (`pip install 'pyro-compress[onnx]'`), running any runtime for operator set 21.
"""

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pyro_compress.artifact.runtimes.numpy_runtime import averages, bins
from pyro_compress.errors import ArtifactError
from pyro_compress.network import further_layers as further
from pyro_compress.network import layers as kinds
from pyro_compress.network import sequence_layers as seq
from pyro_compress.network.architecture import last_references, walk
from pyro_compress.network.quantizers import Codebook, PerChannel, Uniform
from pyro_compress.network.stored import StoredNetwork, StoredTensor

OPERATOR_SET = 21
IR_VERSION = 10
INPUT, OUTPUT = "input", "output"
# Order of the gates there, by their numbers here.
_GATES = {
    "lstm": np.array((0, 3, 1, 2)),
    "gru": np.array((1, 0, 2)),
    **dict.fromkeys(("rnn_tanh", "rnn_relu"), np.array((0,))),
}
_PADDINGS = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def to_onnx(network: StoredNetwork) -> bytes:
    """An ONNX model with one input, (batch, *input shape) float32, and one output, (batch, *output shape).

    Tokens, which an embedding takes, are int64.

    The same network gives the same bytes under one version of onnx.

    Raises:
        ArtifactError: a layer has no operator.
    """
    shapes = network.architecture.shapes()
    graph = _Graph(network, shapes)
    *_, last = walk(network.architecture.layers, INPUT, graph.add)
    taken = onnx.TensorProto.FLOAT if network.architecture.tokens is None else onnx.TensorProto.INT64
    # The last value may be the input itself, or one that other layers read under its name.
    graph.nodes.append(helper.make_node("Identity", [last], [OUTPUT], name=OUTPUT))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "network",
            [helper.make_tensor_value_info(INPUT, taken, ["batch", *shapes[0]])],
            [helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["batch", *shapes[-1]])],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPERATOR_SET)],
        ir_version=IR_VERSION,
        producer_name="pyro-compress",
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


class _Graph:
    """Collects nodes and constants layer by layer; values between layers are their names."""

    def __init__(self, network: StoredNetwork, shapes: tuple[tuple[int, ...], ...]) -> None:
        self._network, self._shapes = network, shapes
        self._position = -1
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._tensors: dict[str, dict[tuple[int, ...], str]] = {}

    def add(self, layer: kinds.Layer, value: str, referred: str | None) -> str:
        """Append what a layer computes of `value`; gives the name of the result."""
        self._position += 1
        before, after = self._shapes[self._position : self._position + 2]
        match layer:
            case kinds.Linear():
                return self._node("Gemm", value, *self._weights(layer), transB=1)
            case kinds.Conv2d() if self._is_of_states():
                # the operator of the recurrent layer behind multiplies by itself
                return value
            case kinds.Conv2d():
                return self._node(
                    "Conv",
                    value,
                    *self._weights(layer),
                    kernel_shape=layer.kernel_size,
                    strides=layer.stride,
                    pads=layer.padding * 2,
                    dilations=layer.dilation,
                    group=layer.groups,
                )
            case kinds.ConvTranspose2d():
                more, ends = _at_the_end(layer)
                return self._node(
                    "ConvTranspose",
                    value,
                    *self._weights(layer),
                    kernel_shape=layer.kernel_size,
                    strides=layer.stride,
                    pads=(*layer.padding, *ends),
                    output_padding=more,
                    dilations=layer.dilation,
                    group=layer.groups,
                )
            case kinds.ChannelAffine():
                each = (-1, *(1 for _ in before[1:]))
                scaled = self._node("Mul", value, self._tensor(f"{layer.name}.scale", each), suffix="scaled")
                return self._node("Add", scaled, self._tensor(f"{layer.name}.shift", each))
            case kinds.MaxPool2d():
                return self._node("MaxPool", value, **_window(layer))
            case kinds.AvgPool2d():
                return self._node("AveragePool", value, **_window(layer), count_include_pad=1)
            case kinds.AdaptiveAvgPool2d(output_size=(1, 1)):
                return self._node("GlobalAveragePool", value)
            case kinds.AdaptiveAvgPool2d():
                rows, columns = (averages(*extents) for extents in zip(before[1:], after[1:], strict=True))
                return self._between(value, rows, columns)
            case kinds.Upsample():
                factors = self._constant("factors", np.array([1, 1, *layer.factor], np.float32))
                how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
                return self._node("Resize", value, "", factors, **how)
            case kinds.Flatten():
                return self._node("Flatten", value, axis=1)
            case kinds.Unflatten():
                # 0 stands for as many examples as there are
                return self._node("Reshape", value, self._constant("shape", np.array([0, *after], np.int64)))
            case kinds.Select():
                return self._node("Gather", value, self._constant("indices", np.array(layer.indices, np.int32)), axis=1)
            case kinds.Activation():
                return self._activation(layer, value)
            case kinds.PReLU():
                return self._node("PRelu", value, self._tensor(f"{layer.name}.slope", (-1, *(1 for _ in before[1:]))))
            case kinds.Add() if referred is not None:
                return self._node("Add", value, referred)
            case kinds.Recall() if referred is not None:
                return referred
            case further.Multiply() if referred is not None:
                return self._node("Mul", value, referred)
            case further.Concatenate() if referred is not None:
                return self._node("Concat", referred, value, axis=1)
            case further.View():
                return self._node("Reshape", value, self._constant("shape", np.array([0, *after], np.int64)))
            case further.Pad():
                sides = np.array([0, 0, *layer.before, 0, 0, *layer.after], np.int64)
                return self._node("Pad", value, self._constant("sides", sides), mode=_PADDINGS[layer.mode])
            case further.Standardize():
                return self._standardized(layer, value, after)
            case further.Squeeze():
                return self._node("Squeeze", value, self._constant("axis", np.array([1], np.int64)))
            case further.Softmax():
                return self._node("LogSoftmax" if layer.log else "Softmax", value, axis=1)
            case further.Resize():
                rows, columns = (
                    further.interpolation(*extents, layer.mode) for extents in zip(before[1:], after[1:], strict=True)
                )
                return self._between(value, rows, columns)
            case further.AdaptiveMaxPool2d():
                return self._adaptive_maximum(value, before, after)
        if isinstance(layer, seq.SequenceLayer):
            return self._sequence(layer, value, before, after)
        raise ArtifactError(f"there is no ONNX operator for {kinds.describe(layer)}")

    def _node(self, operator: str, *inputs: str, suffix: str = "", **attributes: Any) -> str:
        name = "_".join(part for part in (f"layer{self._position}", suffix) if part)
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def _between(self, value: str, rows: np.ndarray, columns: np.ndarray) -> str:
        """rows · x · columnsᵀ of every channel."""
        fewer = self._node("MatMul", self._constant("rows", rows), value, suffix="rows_averaged")
        return self._node("MatMul", fewer, self._constant("columns", columns.T))

    def _sequence(self, layer: seq.SequenceLayer, value: str, before: tuple[int, ...], after: tuple[int, ...]) -> str:
        match layer:
            case seq.Rearrange(view=view, order=order):
                seen = self._reshape(value, view, "seen")
                moved = self._node("Transpose", seen, perm=(0, *(1 + axis for axis in order)), suffix="moved")
                return self._reshape(moved, after)
            case seq.Crop(before=(top, left), size=(height, width)):
                bounds = (("start", (top, left)), ("stop", (top + height, left + width)), ("along", (2, 3)))
                return self._node("Slice", value, *(self._constant(n, np.array(at, np.int64)) for n, at in bounds))
            case seq.Attention():
                return self._attention(layer, value, before, after)
            case seq.Recurrent():
                return self._recurrent(layer, value, before)
            case seq.PositionBias(name=name, channels=channels):
                turned = self._node("Transpose", self._tensor(f"{name}.value"), perm=(1, 0), suffix="turned")
                shape = self._constant("own_shape", np.array((channels, *after[1:]), np.int64))
                return self._node("Add", value, self._node("Reshape", turned, shape, suffix="own"))
            case seq.ConstantPositions(name=name, count=count, channels=channels, behind=behind):
                turned = self._node("Transpose", self._tensor(f"{name}.value"), perm=(1, 0), suffix="turned")
                shape = self._constant("own_shape", np.array((1, channels, 1, count), np.int64))
                own = self._node("Reshape", turned, shape, suffix="own")
                batch = self._node("Shape", value, start=0, end=1, suffix="batch")
                each = self._node("Concat", batch, self._constant("ones", np.ones(3, np.int64)), axis=0, suffix="each")
                parts = [self._node("Expand", own, each, suffix="expanded"), value]
                return self._node("Concat", *(parts[::-1] if behind else parts), axis=3)
        whole = self._node("Cast", value, to=onnx.TensorProto.INT64, suffix="tokens")
        rows = self._node("Gather", self._tensor(f"{layer.name}.weight"), whole, axis=0, suffix="rows")
        return self._reshape(self._node("Transpose", rows, perm=(0, 2, 1), suffix="features"), after)

    def _reshape(self, value: str, shape: tuple[int, ...], suffix: str = "") -> str:
        """0 stands for as many examples as there are."""
        name = "_".join(part for part in ("shape", suffix) if part)
        return self._node("Reshape", value, self._constant(name, np.array([0, *shape], np.int64)), suffix=suffix)

    def _attention(self, layer: seq.Attention, value: str, before: tuple[int, ...], after: tuple[int, ...]) -> str:
        places, keys, parts = prod(before[1:]), layer.keys(before[0]), []
        for name, start, stop in (("q", 0, keys), ("k", keys, 2 * keys), ("v", 2 * keys, before[0])):
            bounds = ((f"{name}_start", start), (f"{name}_stop", stop), (f"{name}_along", 1))
            cut = (self._constant(n, np.array([at], np.int64)) for n, at in bounds)
            each = (layer.heads, (stop - start) // layer.heads, places)
            parts.append(self._reshape(self._node("Slice", value, *cut, suffix=f"{name}_cut"), each, name))
        turned = self._node("Transpose", parts[0], perm=(0, 1, 3, 2), suffix="turned")
        scaled = self._node("Mul", turned, self._constant("scale", np.float32(layer.scale)), suffix="scaled")
        scores = self._node("MatMul", scaled, parts[1], suffix="scores")
        if layer.causal:
            mask = np.triu(np.full((places, places), -np.inf, np.float32), 1)
            scores = self._node("Add", scores, self._constant("mask", mask), suffix="masked")
        shares = self._node("Softmax", scores, axis=-1, suffix="shares")
        shares = self._node("Transpose", shares, perm=(0, 1, 3, 2), suffix="by_key")
        return self._reshape(self._node("MatMul", parts[2], shares, suffix="heads"), after)

    def _is_of_states(self) -> bool:
        """Whether the present layer is a product that a recurrent layer alone takes."""
        layers, place = self._network.architecture.layers, self._position
        here, behind = layers[place], layers[place + 1 : place + 2]
        if not behind or not isinstance(behind[0], seq.Recurrent) or place + 1 in last_references(layers):
            return False
        one = (1, 1)
        return isinstance(here, kinds.Conv2d) and here == replace(
            here, kernel_size=one, stride=one, padding=(0, 0), dilation=one, groups=1
        )

    def _recurrent(self, layer: seq.Recurrent, value: str, before: tuple[int, ...]) -> str:
        rows, hidden = layer.gates * layer.hidden, layer.hidden
        order = self._constant("gates", (_GATES[layer.kind][:, None] * hidden + np.arange(hidden)).ravel())
        self._position -= 1
        merged = self._is_of_states()
        self._position += 1
        if merged:
            front = self._network.architecture.layers[self._position - 1]
            assert isinstance(front, kinds.Conv2d)
            width, (weight, *biases) = front.in_channels, self._weights(front)
        else:
            width, weight, biases = rows, self._constant("identity", np.eye(rows, dtype=np.float32)), []

        def turned(name: str, shape: tuple[int, ...], suffix: str) -> str:
            whole = self._constant(f"{suffix}_shape", np.array(shape, np.int64))
            gathered = self._node("Gather", name, order, axis=0, suffix=f"{suffix}_gathered")
            return self._node("Reshape", gathered, whole, suffix=suffix)

        # of the product with the input, and of that with the states, where all gates but the last have none
        zeros = np.zeros((1, rows), np.float32)
        given = turned(biases[0], (1, rows), "input_bias") if biases else self._constant("no_input_bias", zeros)
        if layer.bias:
            others = self._constant("other_biases", zeros[:, hidden:])
            shape = self._constant("row", np.array((1, hidden), np.int64))
            last = self._node("Reshape", self._tensor(f"{layer.name}.bias"), shape, suffix="last_bias")
            both = self._node("Concat", given, others, last, axis=1, suffix="biases")
        else:
            both = self._node("Concat", given, self._constant("no_bias", zeros), axis=1, suffix="biases")
        # a size that is found out refuses a batch of no examples, on which onnxruntime's recurrent operators crash
        series = self._constant("series", np.array([0, width, -1], np.int64))
        row = self._node("Reshape", value, series, suffix="series_of")
        steps = self._node("Transpose", row, perm=(2, 0, 1), suffix="steps")
        into = turned(weight, (1, rows, width), "input_weight")
        states = turned(self._tensor(f"{layer.name}.weight"), (1, rows, hidden), "state_weight")
        how: dict[str, Any] = {"hidden_size": hidden, "direction": "reverse" if layer.reverse else "forward"}
        if layer.kind == "gru":
            how["linear_before_reset"] = 1
        if layer.kind.startswith("rnn"):
            how["activations"] = [layer.kind.removeprefix("rnn_").capitalize()]
        operator = layer.kind.partition("_")[0].upper()
        found = self._node(operator, steps, into, states, both, suffix="states", **how)
        return self._node("Transpose", found, perm=(2, 3, 1, 0))

    def _standardized(self, layer: further.Standardize, value: str, shape: tuple[int, ...]) -> str:
        places = prod(shape[1:]) if layer.by_place else 1
        # all sizes said: none can be found out from a batch of no examples
        entries = prod(shape) // (layer.groups * places)
        groups = self._constant("groups", np.array([0, layer.groups, entries, places], np.int64))
        axis = self._constant("axis", np.array([2], np.int64))
        value = self._node("Reshape", value, groups, suffix="grouped")
        for number in range(further.CENTRINGS * layer.centred):
            mean = self._node("ReduceMean", value, axis, suffix=f"mean_{number}")
            value = self._node("Sub", value, mean, suffix=f"centred_{number}")
        square = self._node("Mul", value, value, suffix="square")
        variance = self._node("ReduceMean", square, axis, suffix="variance")
        eps = self._constant("epsilon", np.float32(layer.eps))
        deviation = self._node("Sqrt", self._node("Add", variance, eps, suffix="above_zero"), suffix="deviation")
        value = self._node("Div", value, deviation, suffix="standardized")
        return self._node("Reshape", value, self._constant("shape", np.array([0, *shape], np.int64)))

    def _adaptive_maximum(self, value: str, before: tuple[int, ...], after: tuple[int, ...]) -> str:
        """The largest of every bin of rows, then of columns."""
        for axis, extents in ((2, (before[1], after[1])), (3, (before[2], after[2]))):
            parts = []
            for number, part in enumerate(bins(*extents)):
                start, stop, along = (
                    self._constant(f"{what}_{axis}_{number}", np.array([at], np.int64))
                    for what, at in (("start", part.start), ("stop", part.stop), ("along", axis))
                )
                cut = self._node("Slice", value, start, stop, along, suffix=f"bin_{axis}_{number}")
                parts.append(self._node("ReduceMax", cut, along, suffix=f"largest_{axis}_{number}"))
            value = self._node("Concat", *parts, axis=axis, suffix="" if axis == 3 else "rows")
        return value

    def _activation(self, layer: kinds.Activation, value: str) -> str:
        match layer.kind:
            case "leaky_relu" | "elu":
                return self._node({"elu": "Elu"}.get(layer.kind, "LeakyRelu"), value, alpha=layer.slope)
            case "relu6":
                bounds = (self._constant("least", np.float32(0)), self._constant("most", np.float32(6)))
                return self._node("Clip", value, *bounds)
            case "silu":
                return self._node("Mul", value, self._node("Sigmoid", value, suffix="sigmoid"))
            case "relu" | "tanh" | "sigmoid" | "softplus" | "gelu" | "mish" | "softsign":
                return self._node(layer.kind.capitalize(), value)
            case "gelu_tanh":
                return self._node("Gelu", value, approximate="tanh")
            case "hardswish":
                return self._node("HardSwish", value)
            case "hardsigmoid":
                return self._node("HardSigmoid", value, alpha=1 / 6, beta=0.5)
            case "times" | "plus" | "at_least" | "at_most":
                operator = {"times": "Mul", "plus": "Add", "at_least": "Max", "at_most": "Min"}[layer.kind]
                return self._node(operator, value, self._constant("operand", np.float32(layer.slope)))
        raise ArtifactError(f"there is no ONNX operator for the activation '{layer.kind}'")

    def _weights(self, layer: kinds.Weighted) -> list[str]:
        roles = ["weight", "bias"] if layer.bias else ["weight"]
        return [self._tensor(f"{layer.name}.{role}") for role in roles]

    def _constant(self, what: str, numbers: Any) -> str:
        return self._initializer(f"layer{self._position}_{what}", numbers)

    def _initializer(self, name: str, numbers: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(numbers), name))
        return name

    def _tensor(self, name: str, shape: tuple[int, ...] | None = None) -> str:
        """A tensor of the network under its own name, dequantised in the graph where that makes it smaller.

        That of a layer which is used again is there once in each shape.
        """
        tensor = self._network.tensors[name]
        shape = shape or tensor.shape
        known = self._tensors.setdefault(name, {})
        if shape not in known:
            label = f"{name}.{len(known)}" if known else name
            known[shape] = self._added_tensor(label, tensor, shape)
        return known[shape]

    def _added_tensor(self, name: str, tensor: StoredTensor, shape: tuple[int, ...]) -> str:
        kind = _smallest_kind(tensor)
        if kind is None or tensor.integers is None:
            return self._initializer(name, tensor.dense().reshape(shape))
        if isinstance(tensor.quantizer, Codebook):
            return self._from_codebook(name, tensor.integers.reshape(shape), tensor.quantizer)
        steps: Any = np.float32(1)
        match tensor.quantizer:
            case Uniform(step):
                steps = np.float32(step)
            case PerChannel(each):
                steps = np.array(each, np.float32)
        zero, integers = np.zeros(np.shape(steps), kind), tensor.integers
        if kind is np.uint8:
            # bytes without a sign count from what is least, in every channel that has a step
            least, _ = _extremes(tensor)
            zero = (-least).reshape(zero.shape).astype(kind)
            integers = integers + zero.astype(np.int32).reshape(-1, *(1,) * (integers.ndim - 1))
        integers = integers.astype(kind).reshape(shape)
        parts = [self._initializer(f"{name}.integers", integers), self._initializer(f"{name}.step", steps)]
        if zero.any():
            parts.append(self._initializer(f"{name}.zero_point", zero))
        self.nodes.append(helper.make_node("DequantizeLinear", parts, [name], name=name, axis=0))
        return name

    def _from_codebook(self, name: str, places: np.ndarray, codebook: Codebook) -> str:
        """Levels gathered at the places of the numbers, counted from the lowest level and held as bytes."""
        below = codebook.sides[0]
        if len(codebook.levels) >= 1 << 8:
            return self._initializer(name, codebook.value(places))
        held = self._initializer(f"{name}.places", (places + below).astype(np.uint8))
        self.nodes.append(helper.make_node("Cast", [held], [f"{name}.indices"], to=onnx.TensorProto.INT32))
        levels = self._initializer(f"{name}.levels", codebook.book)
        self.nodes.append(helper.make_node("Gather", [levels, f"{name}.indices"], [name], name=name))
        return name


def _at_the_end(layer: kinds.ConvTranspose2d) -> tuple[kinds.Pair, kinds.Pair]:
    """Output padding, and what is cut off at the lower right: the common runtime takes no more of it than a stride."""
    pairs = list(zip(layer.output_padding, layer.padding, strict=True))
    down, right = (max(0, more - cut) for more, cut in pairs)
    below, beside = (max(0, cut - more) for more, cut in pairs)
    if down >= layer.stride[0] or right >= layer.stride[1]:
        raise ArtifactError(
            f"there is no ONNX operator for {kinds.describe(layer)}, whose output padding exceeds padding and stride"
        )
    return (down, right), (below, beside)


def _window(layer: kinds.MaxPool2d | kinds.AvgPool2d) -> dict[str, Any]:
    return {"kernel_shape": layer.kernel_size, "strides": layer.stride, "pads": layer.padding * 2}


def _smallest_kind(tensor: StoredTensor) -> type[np.int8] | type[np.uint8] | type[np.int16] | None:
    """int8, uint8 with a zero point or int16 if the integers fit, and that is worth a node and a scale; else None."""
    if tensor.integers is None or tensor.integers.size == 0:
        return None
    least, most = _extremes(tensor)
    for kind in (np.int8, np.int16):
        if np.iinfo(kind).min <= least.min() and most.max() <= np.iinfo(kind).max:
            fits_bytes = (most - least).max() <= np.iinfo(np.uint8).max and not isinstance(tensor.quantizer, Codebook)
            return np.uint8 if kind is np.int16 and fits_bytes else kind
    return None


def _extremes(tensor: StoredTensor) -> tuple[np.ndarray, np.ndarray]:
    """The least integer, at most 0, and the largest, at least 0: of the tensor, or of every channel that has a step."""
    assert tensor.integers is not None
    channels = len(tensor.integers) if isinstance(tensor.quantizer, PerChannel) else 1
    rows = tensor.integers.reshape(channels, -1)
    return rows.min(1, initial=0), rows.max(1, initial=0)
