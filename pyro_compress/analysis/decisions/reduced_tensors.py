"""Layers and tensors of a network from which entries were removed, for `structure.py`."""

from dataclasses import replace

import numpy as np

from pyro_compress.analysis.decisions.decision import SiteDecision
from pyro_compress.analysis.decisions.structure_checks import INTEGER_LIMIT
from pyro_compress.network.layers import ConvTranspose2d, Linear, Weighted, is_depthwise
from pyro_compress.network.quantizers import STEP_EXPONENTS, Codebook, Quantizer, Uniform, stored_as
from pyro_compress.network.stored import StoredTensor


def finer(one: SiteDecision | None, other: SiteDecision) -> SiteDecision:
    """That of two biases on whose grid their sum lies, where steps are powers of two."""
    if one is None or other.quantizer is None:
        return other
    both = isinstance(one.quantizer, Uniform) and isinstance(other.quantizer, Uniform)
    return other if both and other.quantizer.step < one.quantizer.step else one  # type: ignore[union-attr]


def kept_of_transposed(
    layer: ConvTranspose2d, outputs: np.ndarray, inputs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What is kept along the first two axes of the weight: of a grouped layer that is not depthwise, everything."""
    if layer.groups == 1:
        return inputs, outputs
    rows = outputs if is_depthwise(layer) else np.ones(layer.in_channels, dtype=bool)
    return rows, np.ones(layer.out_channels // layer.groups, dtype=bool)


def resized(layer: Weighted, outputs: int, inputs: int, bias: bool) -> Weighted:
    if isinstance(layer, Linear):
        return replace(layer, in_features=inputs, out_features=outputs, bias=bias)
    groups = inputs if is_depthwise(layer) else layer.groups
    return replace(layer, in_channels=inputs, out_channels=outputs, groups=groups, bias=bias)


def stored_integers(integers: np.ndarray, quantizer: Quantizer) -> StoredTensor:
    """What a file holds of int32 indices; of a codebook only the levels that some number has."""
    held = stored_as(quantizer)
    if isinstance(held, Codebook):
        held, integers = held.used(integers)
    return StoredTensor(integers, held)


def equal_numbers(numbers: np.ndarray) -> StoredTensor:
    """What a file holds of float32 numbers that are all the same: one, and how often."""
    size = abs(float(numbers[0])) if numbers.size else 0.0
    if size and not 2.0 ** STEP_EXPONENTS[0] <= size < 2.0**STEP_EXPONENTS.stop:
        return StoredTensor(floats=numbers)
    return StoredTensor(np.sign(numbers).astype(np.int32), Uniform(size or 1.0))


def stored_bias(bias: np.ndarray, site: SiteDecision | None, rows: np.ndarray) -> StoredTensor | None:
    """The bias on its own grid, in float32 if it has none or a fold outgrew it; None if nothing is left of it.

    A codebook has no levels near what a fold has moved, so then it is float32 too.
    """
    stored = StoredTensor(floats=bias.astype(np.float32))
    # what a fold has moved need not fit the bits of an affine one
    quantizer = None if site is None or site.quantizer is None else stored_as(site.quantizer.rows(rows))
    if quantizer is not None:
        indices = quantizer.index(bias)
        moved = isinstance(quantizer, Codebook) and not np.array_equal(quantizer.value(indices), stored.dense())
        if not moved and np.abs(indices).max() < INTEGER_LIMIT:
            stored = stored_integers(indices.astype(np.int32), quantizer)
    return stored if stored.dense().any() else None
