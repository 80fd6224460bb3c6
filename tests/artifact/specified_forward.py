"""Part 4 of `FORMAT.md`, for the second reader: what a network computes, in float64 and one number after the other."""

from math import erf, exp, expm1, log1p, pi, prod, tanh

import numpy as np

from tests.artifact.specified import Layer, Network

Array = np.ndarray


def forward(network: Network, example: Array) -> Array:
    """The output for one example of the network's input shape."""
    outputs = [np.asarray(example, np.float64)]
    for layer in network.layers:
        tensors = {part: network.tensors[f"{layer.name}.{part}"].numbers.astype(np.float64) for part in layer.tensors}
        earlier = outputs[layer.source] if layer.source is not None else None
        outputs.append(after(layer, outputs[-1], earlier, tensors))
        assert outputs[-1].shape == layer.after
    return outputs[-1]


def after(layer: Layer, x: Array, earlier: Array | None, tensors: dict[str, Array]) -> Array:
    """What a layer makes of the output before it."""
    if layer.kind == "linear":
        return tensors["weight"] @ x + tensors.get("bias", 0.0)
    if layer.kind == "conv":
        return convolution(layer, x, tensors["weight"], tensors.get("bias", np.zeros(layer.after[0])))
    if layer.kind == "conv_transpose":
        return transposed(layer, x, tensors["weight"], tensors.get("bias", np.zeros(layer.after[0])))
    if layer.kind == "upsample":
        out = np.zeros(layer.after)
        for c, i, j in np.ndindex(*layer.after):
            out[c, i, j] = x[c, i // layer.factor[0], j // layer.factor[1]]
        return out
    if layer.kind == "unflatten":
        return x.reshape(layer.after)
    if layer.kind == "affine":
        each = (-1, *[1] * (x.ndim - 1))
        return tensors["scale"].reshape(each) * x + tensors["shift"].reshape(each)
    if layer.kind == "prelu":
        return np.where(x > 0, x, tensors["slope"].reshape(-1, *[1] * (x.ndim - 1)) * x)
    if layer.kind in ("max_pool", "average_pool"):
        return pool(layer, x)
    if layer.kind in ("adaptive_pool", "adaptive_max_pool"):
        return adaptive_pool(layer, x)
    if layer.kind == "flatten":
        return x.reshape(prod(x.shape))
    if layer.kind == "select":
        return x[layer.indices]
    if layer.kind == "add" and earlier is not None:
        return np.asarray(x + earlier)
    if layer.kind == "recall" and earlier is not None:
        return earlier
    if layer.kind == "multiply" and earlier is not None:
        return np.asarray(x * earlier)
    if layer.kind == "concatenate" and earlier is not None:
        return np.array([*earlier, *x])
    if layer.kind == "view":
        return x.reshape(layer.after)
    if layer.kind == "standardize":
        return standardized(layer, x)
    if layer.kind == "standardize_places":
        places = x.reshape(len(x), -1).T
        return np.array([standardized(layer, place) for place in places]).T.reshape(x.shape)
    if layer.kind == "squeeze":
        return x[0]
    if layer.kind == "softmax":
        each = np.exp(x) / np.exp(x).sum(axis=0)
        return np.log(each) if layer.log else each
    if layer.kind == "rearrange":
        return x.reshape(layer.view).transpose(layer.order).reshape(layer.after)
    if layer.kind == "recurrent":
        return states(layer, x[:, 0], tensors)[:, None]
    if layer.kind == "crop":
        (top, left), (height, width) = layer.pad_before, layer.size
        return x[:, top : top + height, left : left + width]
    if layer.kind == "attention":
        return attended(layer, x)
    if layer.kind == "position_bias":
        return np.asarray(x + tensors["value"].T.reshape(x.shape))
    if layer.kind == "constant_positions":
        own = tensors["value"].T[:, None]
        return np.concatenate([x, own] if layer.behind else [own, x], axis=2)
    if layer.kind == "embedding":
        return np.array([tensors["weight"][int(token)] for token in x]).T.reshape(layer.after)
    if layer.kind == "pad":
        return surrounded(layer, x)
    if layer.kind == "resize":
        rows, columns = (resized(layer.mode, *sizes) for sizes in zip(x.shape[1:], layer.after[1:], strict=True))
        return np.array([rows @ plane @ columns.T for plane in x])
    return np.array([activation(layer.kind, layer.slope, float(number)) for number in x.flat]).reshape(x.shape)


def padded(x: Array, padding: tuple[int, int], filling: float) -> Array:
    down, right = padding
    return np.pad(x, ((0, 0), (down, down), (right, right)), constant_values=filling)


def standardized(layer: Layer, x: Array) -> Array:
    out = np.zeros_like(x)
    size = len(x) // layer.groups
    for first in range(0, len(x), size or 1):
        group = x[first : first + size]
        mean = 0.0 if layer.mean_square else group.mean()
        out[first : first + size] = (group - mean) / (((group - mean) ** 2).mean() + layer.eps) ** 0.5
    return out


def attended(layer: Layer, x: Array) -> Array:
    places, values = prod(x.shape[1:]), layer.after[0]
    keys = (len(x) - values) // 2
    flat, out = x.reshape(len(x), places), np.zeros((values, places))
    for head in range(layer.heads):
        wide, deep = keys // layer.heads, values // layer.heads
        q, k = (flat[first + head * wide : first + (head + 1) * wide] for first in (0, keys))
        v = flat[2 * keys + head * deep : 2 * keys + (head + 1) * deep]
        for i in range(places):
            seen = i + 1 if layer.causal else places
            shares = np.array([exp(layer.scale * float(q[:, i] @ k[:, j])) for j in range(seen)])
            out[head * deep : (head + 1) * deep, i] = v[:, :seen] @ (shares / shares.sum())
    return out.reshape(layer.after)


def states(layer: Layer, x: Array, tensors: dict[str, Array]) -> Array:
    weight, hidden = tensors["weight"], layer.after[0]
    bias = tensors.get("bias", np.zeros(hidden))
    h, c, out = np.zeros(hidden), np.zeros(hidden), np.zeros((hidden, x.shape[1]))

    def logistic(v: Array) -> Array:
        return np.asarray(1 / (1 + np.exp(-v)))

    for t in range(x.shape[1])[:: -1 if layer.backwards else 1]:
        u = weight @ h
        gates = [slice(start, start + hidden) for start in range(0, len(x), hidden)]
        if layer.cell == "lstm":
            i, f, g, o = (x[gate, t] + u[gate] for gate in gates)
            c = logistic(f) * c + logistic(i) * np.tanh(g)
            h = logistic(o) * np.tanh(c)
        elif layer.cell == "gru":
            r, z, n = gates
            zeta, reset = logistic(x[z, t] + u[z]), logistic(x[r, t] + u[r])
            h = (1 - zeta) * np.tanh(x[n, t] + reset * (u[n] + bias)) + zeta * h
        else:
            h = np.tanh(x[:, t] + u) if layer.cell == "rnn_tanh" else np.maximum(x[:, t] + u, 0)
        out[:, t] = h
    return out


def surrounded(layer: Layer, x: Array) -> Array:
    out = np.zeros(layer.after)
    for c, i, j in np.ndindex(*layer.after):
        places = []
        for at, before, n in zip((i, j), layer.pad_before, x.shape[1:], strict=True):
            k = at - before
            if layer.mode == "replicate":
                k = min(max(k, 0), n - 1)
            elif layer.mode == "circular":
                k %= n
            elif layer.mode == "reflect":
                k = abs(k) if k < n else 2 * (n - 1) - k
            places.append(k)
        if all(0 <= k < n for k, n in zip(places, x.shape[1:], strict=True)):
            out[c, i, j] = x[c, places[0], places[1]]
    return out


def resized(mode: str, n: int, count: int) -> Array:
    """(count, n): the weights of every place along one axis."""
    out = np.zeros((count, n))
    for i in range(count):
        if mode == "nearest":
            out[i, i * n // count] = 1
        elif mode == "nearest-exact":
            out[i, (2 * i + 1) * n // (2 * count)] = 1
        else:
            u = max((i + 0.5) * n / count - 0.5, 0) if mode == "bilinear" else i * (n - 1) / max(count - 1, 1)
            f = int(u)
            out[i, f] += 1 - (u - f)
            out[i, min(f + 1, n - 1)] += u - f
    return out


def convolution(layer: Layer, x: Array, weight: Array, bias: Array) -> Array:
    x, out = padded(x, layer.padding, 0.0), np.zeros(layer.after)
    inputs, outputs = x.shape[0] // layer.groups, layer.after[0] // layer.groups
    for o, i, j in np.ndindex(*layer.after):
        first = o // outputs * inputs
        total = bias[o]
        for c, y, z in np.ndindex(*weight.shape[1:]):
            row, column = i * layer.stride[0] + y * layer.dilation[0], j * layer.stride[1] + z * layer.dilation[1]
            total += weight[o, c, y, z] * x[first + c, row, column]
        out[o, i, j] = total
    return out


def transposed(layer: Layer, x: Array, weight: Array, bias: Array) -> Array:
    out = np.zeros(layer.after) + bias[:, None, None]
    inputs, outputs = x.shape[0] // layer.groups, layer.after[0] // layer.groups
    for o, i, j in np.ndindex(*layer.after):
        first = o // outputs * inputs
        for c, u, v, a, b in np.ndindex(inputs, *layer.kernel, *x.shape[1:]):
            row = a * layer.stride[0] - layer.padding[0] + u * layer.dilation[0]
            column = b * layer.stride[1] - layer.padding[1] + v * layer.dilation[1]
            if (row, column) == (i, j):
                out[o, i, j] += weight[first + c, o % outputs, u, v] * x[first + c, a, b]
    return out


def pool(layer: Layer, x: Array) -> Array:
    largest = layer.kind == "max_pool"
    x, out = padded(x, layer.padding, -np.inf if largest else 0.0), np.zeros(layer.after)
    for c, i, j in np.ndindex(*layer.after):
        top, left = i * layer.stride[0], j * layer.stride[1]
        values = x[c, top : top + layer.kernel[0], left : left + layer.kernel[1]]
        out[c, i, j] = values.max() if largest else values.sum() / prod(layer.kernel)
    return out


def adaptive_pool(layer: Layer, x: Array) -> Array:
    out = np.zeros(layer.after)
    for c, i, j in np.ndindex(*layer.after):
        rows, columns = (
            bin_of(part, *extents)
            for part, extents in ((i, (x.shape[1], out.shape[1])), (j, (x.shape[2], out.shape[2])))
        )
        cut = x[c, rows, columns]
        out[c, i, j] = cut.max() if layer.kind == "adaptive_max_pool" else cut.mean()
    return out


def bin_of(part: int, extent: int, count: int) -> slice:
    return slice(part * extent // count, -(-(part + 1) * extent // count))


def activation(kind: str, slope: float, x: float) -> float:
    sigmoid = 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))
    hard = min(max(x + 3, 0.0), 6.0) / 6
    return {
        "relu": lambda: max(x, 0.0),
        "leaky_relu": lambda: x if x > 0 else slope * x,
        "elu": lambda: x if x > 0 else slope * expm1(x),
        "tanh": lambda: tanh(x),
        "sigmoid": lambda: sigmoid,
        "softplus": lambda: max(x, 0.0) + log1p(exp(-abs(x))),
        "gelu": lambda: x * (1 + erf(x / 2**0.5)) / 2,
        "silu": lambda: x * sigmoid,
        "relu6": lambda: min(max(x, 0.0), 6.0),
        "hardswish": lambda: x * hard,
        "hardsigmoid": lambda: hard,
        "mish": lambda: x * tanh(max(x, 0.0) + log1p(exp(-abs(x)))),
        "gelu_tanh": lambda: x * (1 + tanh((2 / pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
        "softsign": lambda: x / (1 + abs(x)),
        "times": lambda: slope * x,
        "plus": lambda: x + slope,
        "at_least": lambda: max(x, slope),
        "at_most": lambda: min(x, slope),
    }[kind]()
