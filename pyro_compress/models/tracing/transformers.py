"""Torch's modules of which a transformer is made: embeddings, attention, encoders and their layers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pyro_compress.models.tracing.activations import MODULES as ACTIVATION_MODULES
from pyro_compress.models.tracing.attention import additive, cropped, fixed, masks_places_behind, padded
from pyro_compress.models.tracing.constants import Constant, beside_constant
from pyro_compress.models.tracing.last_axis import dense, norm
from pyro_compress.models.tracing.layouts import Layout
from pyro_compress.models.tracing.positions import (
    at_channels,
    combined,
    layout_of,
    over_last_axis,
    result_of,
    swapped,
    taken,
)
from pyro_compress.models.tracing.rules import RefusedError, computes_like
from pyro_compress.models.tracing.sequences import LayerSequence, Result, add
from pyro_compress.network.further_layers import Concatenate
from pyro_compress.network.layers import Activation, Conv2d, Select
from pyro_compress.network.sequence_layers import Attention, Embedding


def self_attention(sequence: LayerSequence, result: Result, module: Any, name: str, *, causal: bool = False) -> Result:
    """`nn.MultiheadAttention` of a result to itself: its packed projection is one dense layer."""
    _check_packed(module)
    size, heads, bias = module.embed_dim, module.num_heads, module.in_proj_bias is not None
    # (batch, places, features), whichever of the first two comes first
    swap = len(result.shape) == 3 and layout_of(sequence, result).axes[1] == (0,)
    result = swapped(sequence, result) if swap else result
    packed = over_last_axis(sequence, result, f"{name}.in_proj", size, 3 * size, bias)
    for kind in ("weight", "bias")[: 1 + bias]:
        sequence.aliases[f"{name}.in_proj.{kind}"] = f"{name}.in_proj_{kind}"
    layout = layout_of(sequence, packed)
    number, layout = at_channels(sequence, packed, layout.axes[-1], [[], layout.axes[-2]])
    number = sequence.behind(number, Attention(heads, size, (size // heads) ** -0.5, causal))
    found = result_of(sequence, number, layout.exchanged(2, 1, len(layout.axes[-1]), size))
    found = dense(sequence, found, module.out_proj, f"{name}.out_proj")
    return swapped(sequence, found) if swap else found


def cross_attention(sequence: LayerSequence, queries: Any, keys: Any, module: Any, name: str) -> Result:
    """`nn.MultiheadAttention` of a result to another one: its packed projection is used on both, and parts of each."""
    _check_packed(module)
    size, heads, bias = module.embed_dim, module.num_heads, module.in_proj_bias is not None
    if not isinstance(queries, Result) or len(queries.shape) != 3 or len(keys.shape) != 3:
        raise RefusedError("attends with something else than (batch, places, features)")
    swap = layout_of(sequence, keys).axes[1] == (0,)
    if swap:
        queries, keys = swapped(sequence, queries), swapped(sequence, keys)
    few, many = queries.shape[1], keys.shape[1]
    if few > many:
        raise RefusedError(f"attends from {few} places to {many}, supported are no more queries than keys")
    one = (1, 1)
    packed = Conv2d(f"{name}.in_proj", size, 3 * size, one, one, (0, 0), one, 1, bias)
    for kind in ("weight", "bias")[: 1 + bias]:
        sequence.aliases[f"{name}.in_proj.{kind}"] = f"{name}.in_proj_{kind}"
    parts = []
    for result, kept in ((keys, range(size, 3 * size)), (queries, range(size))):
        layout = layout_of(sequence, result)
        number, layout = at_channels(sequence, result, layout.axes[-1], [[], layout.axes[-2]])
        parts.append(sequence.once(sequence.behind(number, packed), Select(tuple(kept))))
    both = sequence.combined(Concatenate, padded(sequence, parts[1], many), parts[0])
    number = sequence.behind(both, Attention(heads, size, (size // heads) ** -0.5))
    number = cropped(sequence, number, few)
    found = result_of(sequence, number, layout.exchanged(2, 1, len(layout.axes[-1]), size))
    found = dense(sequence, found, module.out_proj, f"{name}.out_proj")
    return swapped(sequence, found) if swap else found


def _check_packed(module: Any) -> None:
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        raise RefusedError("has keys or values of another width, a bias of k and v or zeros beside them")


def encoder_layer(sequence: LayerSequence, result: Result, module: Any, name: str, *, causal: bool = False) -> Result:
    """`nn.TransformerEncoderLayer`, its norms in front of both blocks or behind."""
    for own, kinds in _PARTS.items():
        _check_part(getattr(module, own), f"{name}.{own}", kinds)

    def attend(x: Result) -> Result:
        return self_attention(sequence, x, module.self_attn, f"{name}.self_attn", causal=causal)

    def feed(x: Result) -> Result:
        x = dense(sequence, x, module.linear1, f"{name}.linear1")
        x = _behind(sequence, x, *_activation(module.activation))
        return dense(sequence, x, module.linear2, f"{name}.linear2")

    blocks: tuple[Callable[[Result], Result], ...] = attend, feed
    for block, own in zip(blocks, ("norm1", "norm2"), strict=True):
        normalise = getattr(module, own)
        inside = norm(sequence, result, normalise, f"{name}.{own}") if module.norm_first else result
        result = combined(sequence, add, result, block(inside))
        result = result if module.norm_first else norm(sequence, result, normalise, f"{name}.{own}")
    return result


def encoder(sequence: LayerSequence, result: Result, module: Any, name: str, *, causal: bool = False) -> Result:
    """`nn.TransformerEncoder`: layers one after the other, and perhaps a norm."""
    for number, layer in enumerate(module.layers):
        result = encoder_layer(sequence, result, layer, f"{name}.layers.{number}".removeprefix("."), causal=causal)
    if module.norm is not None:
        _check_part(module.norm, f"{name}.norm".removeprefix("."), _NORMS)
        result = norm(sequence, result, module.norm, f"{name}.norm".removeprefix("."))
    return result


_NORMS = (nn.LayerNorm, nn.RMSNorm)
_PARTS: dict[str, tuple[type[nn.Module], ...]] = {
    "self_attn": (nn.MultiheadAttention,),
    **dict.fromkeys(("linear1", "linear2"), (nn.Linear,)),
    **dict.fromkeys(("norm1", "norm2"), _NORMS),
    **dict.fromkeys(("dropout", "dropout1", "dropout2"), (nn.Dropout, nn.Identity)),
}


def _check_part(module: nn.Module, name: str, kinds: tuple[type[nn.Module], ...]) -> None:
    if not any(isinstance(module, kind) and computes_like(module, kind) for kind in kinds):
        raise RefusedError(
            f"holds a {type(module).__name__} as {name}, supported is {kinds[0].__name__} with torch's forward pass"
        )


def _activation(function: Any) -> list[Any]:
    if function in (F.relu, torch.relu):
        return [Activation("relu")]
    if function is F.gelu:
        return [Activation("gelu")]
    rule = ACTIVATION_MODULES.get(type(function))
    if rule is None or isinstance(function, nn.PReLU):
        raise RefusedError(f"has the activation {function}, supported are ReLU, GELU and other modules of torch")
    return list(rule(function, "", ()))


def _behind(sequence: LayerSequence, result: Result, *layers: Any) -> Result:
    return replace(result, number=sequence.behind(result.number, *layers))


def _called_embedding(sequence: LayerSequence, module: Any, name: str, tokens: Any) -> Result:
    if not isinstance(tokens, Result) or tokens.number or len(tokens.shape) != 2 or module.max_norm is not None:
        raise RefusedError("embeds something else than the network's input, (positions,) of whole numbers")
    number = sequence.behind(0, Embedding(name, module.num_embeddings, module.embedding_dim))
    count, places = tokens.shape
    layout = Layout.of((count, module.embedding_dim, places), (count, module.embedding_dim, 1, places))
    return result_of(sequence, number, layout.permuted([0, 2, 1]))


def _called_attention(
    sequence: LayerSequence,
    module: Any,
    name: str,
    query: Any,
    key: Any,
    value: Any,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Result:
    if not isinstance(key, Result) or key != value or key_padding_mask is not None:
        raise RefusedError("attends with keys that are no values or no result, or pads them: supported is one result")
    if isinstance(query, Constant):
        # beside what attends to it, and alone again
        axis = 1 if module.batch_first else 0
        both = beside_constant(sequence, key, query, axis, behind=False)
        query = taken(sequence, both, axis, range(query.value.shape[axis]))
    if query != key:
        if attn_mask is not None or is_causal:
            raise RefusedError("masks other places than its own, supported is no mask there")
        return cross_attention(sequence, query, key, module, name)
    return self_attention(sequence, query, module, name, causal=_masked(query, module, attn_mask))


def _called_layer(
    sequence: LayerSequence,
    module: Any,
    name: str,
    src: Any,
    src_mask: Any = None,
    src_key_padding_mask: Any = None,
    is_causal: bool = False,
) -> Result:
    _refuse_padding(src_key_padding_mask)
    return encoder_layer(sequence, src, module, name, causal=_masked(src, module.self_attn, src_mask))


def _called_encoder(
    sequence: LayerSequence,
    module: Any,
    name: str,
    src: Any,
    mask: Any = None,
    src_key_padding_mask: Any = None,
    is_causal: bool | None = None,
) -> Result:
    _refuse_padding(src_key_padding_mask)
    for layer in module.layers:
        if type(layer) is not nn.TransformerEncoderLayer:
            raise RefusedError(f"holds a {type(layer).__name__}, supported is nn.TransformerEncoderLayer")
    causal = any(_masked(src, layer.self_attn, mask) for layer in module.layers)
    return encoder(sequence, src, module, name, causal=causal)


def _refuse_padding(mask: Any) -> None:
    if mask is not None:
        raise RefusedError("pads its input, supported are positions that are all there")


def _masked(result: Result, module: Any, mask: Any) -> bool:
    """Whether a mask of torch's modules, which hides where it is true, is causal."""
    if mask is None:
        return False
    places = result.shape[1 if getattr(module, "batch_first", False) else 0]
    return masks_places_behind(additive(fixed(mask), True), (1, places, places))


# modules that make several layers of a result, called as the network calls them
MODULES: dict[Any, Callable[..., Result]] = {
    nn.Embedding: _called_embedding,
    nn.MultiheadAttention: _called_attention,
    nn.TransformerEncoderLayer: _called_layer,
    nn.TransformerEncoder: _called_encoder,
}
