"""Stored network → ONNX that computes in 8-bit integers: activations too are quantised, by ranges seen on examples.

A value a between layers that lies in [l, h] on all examples, where l ≤ 0 ≤ h, becomes

    q = clip(round(a / s) + z, 0, 255),  s = (h − l) / 255,  z = round(−l / s)

(affine quantisation; Jacob et al. 2018, 'Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference').  Weights keep their integers and steps Δ, one or one per output channel; biases get
32 bits with the step s · Δ.  In the model these are `QuantizeLinear` and `DequantizeLinear` around float operators,
which runtimes fuse to integer ones.  Operators that have no integer form stay float32, as do outputs, and products with
weights of a codebook or of more than 8 bits.

A layer that is used again has a copy of its weights at each of its places.

A scale and shift per channel behind a layer of weights goes into its steps and its bias:
γ (W x + b) + β = (γ W) x + (γ b + β).

Needs the packages onnx and onnxruntime (`pip install 'pyro-compress[onnx]'`).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from pyro_compress.artifact.runtimes.onnx_export import INPUT, OUTPUT, to_onnx
from pyro_compress.errors import ArtifactError
from pyro_compress.network.stored import StoredNetwork, each_used_once

LEVELS = 255
BATCH = 128
# How much finer than its input's the scale of a mean may be; onnxruntime computes none that is 256 times as fine.
FINER = 128
# Operators that runtimes have for integers: with weights, those that cut off what is quantised anyway, those that move
# numbers and keep their range, means, and others.
_WITH_WEIGHTS = {"Conv", "Gemm"}
_CLIPPING = {"Relu", "Clip"}
_MOVING = {"MaxPool", "Flatten", "Reshape", "Gather"}
_OTHERS = {"Add", "Mul", "Concat", "LeakyRelu", "Sigmoid"}
_POOLING = {"AveragePool", "GlobalAveragePool"}
_INTEGER = _WITH_WEIGHTS | _CLIPPING | _MOVING | _POOLING | _OTHERS

Ranges = dict[str, tuple[float, float]]


def to_onnx_int8(network: StoredNetwork, examples: np.ndarray) -> bytes:
    """An ONNX model like that of `to_onnx`, with activations of 8 bits.

    Args:
        network: of any layers; those that have no integer form stay float32.
        examples: inputs on which ranges are taken, (n, *input shape), as the network gets them: some hundred of the
            training set.

    Raises:
        ArtifactError: a layer has no operator, examples are of another shape, or a value on them is not finite.
    """
    if len(examples) == 0 or examples.shape[1:] != network.architecture.input_shape:
        expected = ", ".join(map(str, ("n > 0", *network.architecture.input_shape)))
        raise ArtifactError(f"ranges are taken on examples of shape ({expected}), but {examples.shape} was given")
    # steps and biases of a layer depend on the ranges of its place
    model = onnx.load_from_string(to_onnx(each_used_once(network)))
    ranges = _ranges(model, examples)
    graph = _Graph(model.graph)
    graph.fold_scales()
    graph.drop_clipping()
    graph.quantise(ranges)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def outputs(model: bytes, examples: np.ndarray) -> np.ndarray:
    """What onnxruntime gives for a model of ours, batch by batch on the CPU."""
    session = _session(model)
    return np.concatenate([session.run([OUTPUT], {INPUT: batch})[0] for batch in _batches(session, examples)])


def _session(model: bytes) -> onnxruntime.InferenceSession:
    """One thread: it is enough for some hundred examples, and more would spin where others compute."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _batches(session: onnxruntime.InferenceSession, examples: np.ndarray) -> Iterator[np.ndarray]:
    """Of the type that the model takes: int64 if that is tokens."""
    (taken,) = session.get_inputs()
    for start in range(0, len(examples), BATCH):
        yield np.asarray(examples[start : start + BATCH], np.int64 if "int64" in taken.type else np.float32)


def _ranges(model: onnx.ModelProto, examples: np.ndarray) -> Ranges:
    """Smallest and largest number of every float value between layers, the input among them; zero is within."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    values = [name for node in model.graph.node if node.op_type != "DequantizeLinear" for name in node.output]
    values = [name for name in values if name != OUTPUT]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in values)
    session = _session(watched.SerializeToString())
    found: Ranges = defaultdict(lambda: (0.0, 0.0))
    for batch in _batches(session, examples):
        for name, value in zip([INPUT, *values], [batch, *session.run(values, {INPUT: batch})], strict=True):
            if value.dtype != np.float32:
                continue
            least, most = found[name]
            # NaN stays NaN; masks of attention hold −∞, and are not quantised
            found[name] = np.minimum(least, value.min(initial=0)), np.maximum(most, value.max(initial=0))
    return {name: (float(least), float(most)) for name, (least, most) in found.items()}


class _Graph:
    """Changes a graph in place."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants = {each.name: each for each in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)

    def _numbers(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self._constants[name])

    def _constant(self, name: str, numbers: Any) -> str:
        # not `ascontiguousarray`, which makes vectors of scalars
        made = numpy_helper.from_array(np.asarray(numbers, order="C"), name)
        if name in self._constants:
            self._constants[name].CopyFrom(made)
        else:
            self._graph.initializer.append(made)
            self._constants[name] = self._graph.initializer[-1]
        return name

    def _integers(self, name: str) -> onnx.NodeProto | None:
        """What dequantises a constant of 8 bits, or None if it is no such."""
        node = self._makers.get(name)
        if node is None or node.op_type != "DequantizeLinear" or self._numbers(node.input[0]).itemsize != 1:
            return None
        return node

    def _dequantised(self, node: onnx.NodeProto) -> np.ndarray:
        integers, step, *zero = (self._numbers(name) for name in node.input)
        each = (-1, *(1,) * (integers.ndim - 1)) if step.ndim else ()
        above = integers.astype(np.int32) - (zero[0].astype(np.int32).reshape(each) if zero else 0)
        return np.asarray(above.astype(np.float32) * step.reshape(each))

    def _value(self, name: str) -> np.ndarray | None:
        """A tensor that does not depend on the input, as float32."""
        if name in self._constants:
            return self._numbers(name)
        node = self._makers.get(name)
        return self._dequantised(node) if node is not None and node.op_type == "DequantizeLinear" else None

    def _only_reader(self, node: onnx.NodeProto, operators: Iterable[str]) -> onnx.NodeProto | None:
        readers = self._readers[node.output[0]]
        return readers[0] if len(readers) == 1 and readers[0].op_type in operators else None

    def fold_scales(self) -> None:
        """Scale and shift per channel go into the layer of 8-bit weights in front of them, if nothing else reads it."""
        for node in [each for each in self._graph.node if each.op_type in ("Conv", "Gemm")]:
            scaling = self._only_reader(node, ["Mul"])
            shifting = self._only_reader(scaling, ["Add"]) if scaling is not None else None
            weight = self._integers(node.input[1])
            if scaling is None or shifting is None or weight is None:
                continue
            scale, shift = (self._value(each.input[1]) for each in (scaling, shifting))
            outputs = len(self._numbers(weight.input[0]))
            if scale is None or shift is None or not scale.size == shift.size == outputs:
                continue
            integers, step, *_ = (self._numbers(name) for name in weight.input)
            if (scale <= 0).any() and (len(weight.input) > 2 or integers.min() == np.iinfo(integers.dtype).min):
                continue  # integers that cannot change their sign
            each, gamma = (-1, *(1,) * (integers.ndim - 1)), scale.ravel().astype(np.float64)
            name = weight.output[0]
            steps = np.float32(np.abs(gamma) * step)
            if len(weight.input) == 2:
                integers = (integers * np.sign(gamma).reshape(each)).astype(integers.dtype)
            else:
                zero = np.broadcast_to(self._numbers(weight.input[2]), gamma.shape)
                self._constant(weight.input[2], zero)
            self._constant(weight.input[0], integers)
            self._constant(weight.input[1], np.where(steps > 0, steps, np.float32(1)))
            bias = self._value(node.input[2]) if len(node.input) > 2 else np.zeros(outputs, np.float32)
            assert bias is not None
            folded = self._constant(f"{name}.folded_bias", np.float32(gamma * bias + shift.ravel()))
            del node.input[2:]
            node.input.append(folded)
            self._readers[folded].append(node)
            node.output[0] = shifting.output[0]
            self._makers[node.output[0]] = node
            self._graph.node.remove(scaling)
            self._graph.node.remove(shifting)
        self._drop_unread()

    def drop_clipping(self) -> None:
        """No Relu or Clip behind an integer operator: 8 bits that reach as far as its results cut as it does.

        What is read as the result of one is the operator's own then, so that ranges are those behind the clipping.
        """
        for node in [each for each in self._graph.node if each.op_type in _INTEGER - _MOVING - _CLIPPING]:
            clipping = self._only_reader(node, _CLIPPING)
            if clipping is not None and any(each.op_type in _INTEGER for each in self._readers[clipping.output[0]]):
                node.output[0] = clipping.output[0]
                self._makers[node.output[0]] = node
                self._graph.node.remove(clipping)

    def quantise(self, ranges: Ranges) -> None:
        """Values that an integer operator makes or gets pass through 8 bits, and biases become integers."""
        grids: dict[str, tuple[np.float32, np.uint8]] = {}
        for name in (INPUT, *(node.output[0] for node in self._graph.node)):
            maker = self._makers.get(name)
            made = maker is None or (maker.op_type in _INTEGER and self._value(name) is None)
            read = any(node.op_type in _INTEGER for node in self._readers[name])
            if name not in ranges or not made or not read:
                continue
            if not np.isfinite(ranges[name]).all():
                raise ArtifactError(f"value '{name}' is not finite on the examples: ranges cannot be taken")
            moved = maker.input[0] if maker is not None and maker.op_type in _MOVING else ""
            pooled = maker.input[0] if maker is not None and maker.op_type in _POOLING else ""
            least_scale = float(grids[pooled][0]) / FINER if pooled in grids else 0.0
            grids[name] = grids.get(moved) or _grid(*ranges[name], least_scale)
        for node in list(self._graph.node):
            # of an input that is always zero the step says nothing, and biases stay floats
            if node.op_type in _WITH_WEIGHTS and node.input[0] in grids and not _is_zero(*ranges[node.input[0]]):
                self._prepare_weights(node, grids[node.input[0]][0])
            elif node.op_type in ("Add", "Mul"):
                for number, name in enumerate(node.input):
                    value = self._value(name)
                    if value is not None and node.input[1 - number] in grids:
                        node.input[number] = self._quantised_constant(name, value)
        before = list(self._graph.node)
        del self._graph.node[:]
        self._graph.node.extend(self._through(INPUT, grids))
        for node in before:
            for number, name in enumerate(node.input):
                if name in grids:
                    node.input[number] = f"{name}.back"
            self._graph.node.append(node)
            self._graph.node.extend(self._through(node.output[0], grids))
        self._drop_unread()

    def _through(self, name: str, grids: dict[str, tuple[np.float32, np.uint8]]) -> list[onnx.NodeProto]:
        if name not in grids:
            return []
        scale, zero = grids[name]
        grid = [self._constant(f"{name}.scale", scale), self._constant(f"{name}.zero_point", zero)]
        held = f"{name}.integers"
        return [
            helper.make_node("QuantizeLinear", [name, *grid], [held], name=held),
            helper.make_node("DequantizeLinear", [held, *grid], [f"{name}.back"], name=f"{name}.back"),
        ]

    def _prepare_weights(self, node: onnx.NodeProto, scale: np.float32) -> None:
        """Zero points said, and biases as integers of 32 bits at the step of the products, if weights have integers."""
        weight = self._integers(node.input[1])
        if weight is None:
            return
        integers, step = (self._numbers(name) for name in weight.input[:2])
        if len(weight.input) == 2:  # the common runtime has no integer form of a Gemm without
            zero = np.zeros(step.shape, integers.dtype)
            weight.input.append(self._constant(f"{weight.output[0]}.zero_point", zero))
        bias = self._value(node.input[2]) if len(node.input) > 2 else None
        if bias is None:
            return
        steps = step.astype(np.float64) * float(scale)
        integers = np.rint(bias / steps)
        if np.abs(integers).max(initial=0) > np.iinfo(np.int32).max:
            return
        name = f"{node.name}.bias"
        parts = [
            self._constant(f"{name}.integers", integers.astype(np.int32)),
            self._constant(f"{name}.step", np.float32(steps)),
        ]
        made = helper.make_node("DequantizeLinear", parts, [name], name=name, axis=0)
        self._graph.node.insert(0, made)
        node.input[2] = name

    def _quantised_constant(self, name: str, value: np.ndarray) -> str:
        """The other operand of a sum or product, on 8 bits as well."""
        scale, zero = _grid(float(value.min(initial=0)), float(value.max(initial=0)))
        integers = np.clip(np.rint(value / scale) + float(zero), 0, LEVELS).astype(np.uint8)
        made = f"{name}.back"
        if made not in self._makers:
            parts = [
                self._constant(f"{name}.operand", integers),
                self._constant(f"{name}.operand_scale", scale),
                self._constant(f"{name}.operand_zero_point", zero),
            ]
            self._makers[made] = helper.make_node("DequantizeLinear", parts, [made], name=made)
            self._graph.node.insert(0, self._makers[made])
        return made

    def _drop_unread(self) -> None:
        """Constants, and what dequantises them, that nothing reads any more."""
        read = {name for node in self._graph.node for name in node.input}
        for node in list(self._graph.node):
            if node.op_type == "DequantizeLinear" and node.output[0] not in read:
                self._graph.node.remove(node)
        read = {name for node in self._graph.node for name in node.input}
        for each in list(self._graph.initializer):
            if each.name not in read:
                self._graph.initializer.remove(each)


def _grid(least: float, most: float, least_scale: float = 0.0) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of 8 bits that reach from `least` ≤ 0 to `most` ≥ 0, or further at the least scale."""
    if _is_zero(least, most) and not least_scale:
        return np.float32(1), np.uint8(0)
    scale = np.float32(max((most - least) / LEVELS, least_scale))
    return scale, np.uint8(np.clip(np.rint(-least / scale), 0, LEVELS))


def _is_zero(least: float, most: float) -> bool:
    """Whether 8 bits over a range have no scale that float32 holds."""
    return (most - least) / LEVELS < float(np.finfo(np.float32).tiny)
