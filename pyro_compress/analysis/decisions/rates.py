"""The three compression rates of the published tables, and description lengths: formulas, never file sizes.

With n_l the numbers left of layer l and b_l its bits per number (the rule `published`):

    pruning             = Σ n_l(original) / Σ n_l
    fast prediction     = 32 · Σ n_l(original) / Σ b_l · n_l
    maximum compression = 32 · Σ n_l(original) / Σ bits_l, clusters and Huffman codes (`coded_bits`)

(Louizos et al. 2017, section 4.2.)  Only weights of dense and convolution layers are counted.  Biases, normalisation,
headers, Huffman tables and the list of removed inputs are not, as in the tables, so a file of that size need not
exist: `report/measure.py` measures real ones.

Checked against the printed architectures and bits (tests/analysis/decisions/test_rates.py), cutting decimals off as
the tables do: pruning and fast prediction of BC-GNJ and BC-GHS on LeNet-300-100 and VGG and of BC-GHS on LeNet-5 come
out as printed, and so does pruning of Sparse VD with its weights in CSC format.  What does not:

* BC-GNJ on LeNet-5: 8-13-88-13 at 18-10-7-9 bits gives 105.7 and 355.2, printed are 108 and 361.  The authors' code
  also leaves out kernels and kernel positions that are zero throughout, which an architecture does not show.
* Fast prediction of Sparse VD depends on the weights kept per layer, which are not printed; spread evenly they give
  81 and 235, printed are 84 and 228.
"""

import math
from dataclasses import dataclass

import numpy as np

from pyro_compress.analysis.decisions.bits import published_bits, significand_bits
from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.analysis.decisions.relative_index import (
    CONVOLUTION_INDEX_BITS,
    DENSE_INDEX_BITS,
    huffman_bits,
    with_fillers,
)
from pyro_compress.analysis.decisions.structure import in_layers, numbers_of
from pyro_compress.errors import DecisionError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.coupling import sharing
from pyro_compress.network.layers import Linear, Weighted, groups_of, is_depthwise, outputs_of
from pyro_compress.network.liveness import Signal, around, signals
from pyro_compress.network.numbers import by_output
from pyro_compress.posterior.posterior import ParameterPosterior


@dataclass(frozen=True)
class LayerCount:
    """What pruning and fast prediction need to know of a layer of the smaller network.

    Attributes:
        weights: entries of its dense weight tensor.
        nonzero: those that are not zero.
        columns: columns of the weight as a matrix of outputs × everything else.
        bits: per number stored.
    """

    weights: int
    nonzero: int
    columns: int
    bits: int = FLOAT_BITS

    @property
    def numbers(self) -> int:
        """Numbers to store: all weights, or 2·nonzero + columns + 1 in compressed-sparse-column format if fewer.

        The tables count group methods densely and the others in CSC format; the smaller of the two is the printed
        one for all of them.  CSC indices take as many bits as values.
        """
        return min(self.weights, 2 * self.nonzero + self.columns + 1)


@dataclass(frozen=True)
class PublishedRates:
    """The three rates as published (formulas: weights only, no file), and the bits per weight by layer name."""

    pruning: float
    fast_prediction: float
    maximum_compression: float
    bits_per_layer: dict[str, int]


def pruning_rate(original_weights: int, layers: list[LayerCount]) -> float:
    """float32 weights of the original network / float32 numbers left."""
    return original_weights / sum(layer.numbers for layer in layers)


def fast_prediction_rate(original_weights: int, layers: list[LayerCount]) -> float:
    """Bits of the original weights at float32 / bits of the numbers left."""
    return FLOAT_BITS * original_weights / sum(layer.bits * layer.numbers for layer in layers)


def published_rates(
    architecture: Architecture, decision: Decision, original_weights: int | None = None
) -> PublishedRates:
    """The rates of what `decision` leaves of a network.

    Dead units, filters and inputs are removed first (`analysis/decisions/structure.py`); bits and clusters come from
    the value and variance of the weights that are left.  A weight that the decision's grid rounds to zero counts as
    pruned; otherwise the grid is not looked at, since the published rule has its own rounding.  A layer of which
    nothing is left counts one bit for the one zero that keeps its shape.

    Args:
        architecture: the ORIGINAL network, as traced.
        decision: one site per parameter of it, and buffers.
        original_weights: of what the rates are relative to, where that is another network; `architecture` if not given.

    Raises:
        DecisionError: the architecture has no dense or convolution layer.
    """
    if not architecture.weighted():
        raise DecisionError("the network has no dense or convolution layer, so it has no compression rate")
    decision = in_layers(architecture, decision)
    flow = signals(architecture, numbers_of(decision))
    counts, bits, coded = [], {}, 0
    # of weights that several layers share the first one counts
    own = {architecture.parameter(f"{layer.name}.weight"): layer for layer in reversed(architecture.weighted())}
    weighted = [layer for layer in architecture.weighted() if layer in own.values()]
    shared = sharing(architecture)
    for layer in weighted:
        sides = around(shared, flow, architecture.layers.index(layer))
        left = _left(layer, decision.sites[f"{layer.name}.weight"], *sides)
        kept = left.mean != 0
        bits[layer.name] = max(1, published_bits(left, kept))
        count = LayerCount(kept.size, int(kept.sum()), left.mean[0].size, bits[layer.name])
        counts.append(count)
        # δ is the unit round-off ½·2^{1−t} of t significand bits, the step to which the authors' code rounds
        clusters = np.floor(np.ldexp(left.mean.astype(np.float64), significand_bits(left, kept)) + 0.5)
        index_bits = DENSE_INDEX_BITS if isinstance(layer, Linear) else CONVOLUTION_INDEX_BITS
        smallest = min(count.bits * count.numbers, coded_bits(clusters.astype(np.int64).ravel(), index_bits))
        coded += max(1, smallest)
    if original_weights is None:
        original_weights = sum(decision.sites[f"{layer.name}.weight"].value.size for layer in weighted)
    original = original_weights
    return PublishedRates(
        pruning_rate(original, counts), fast_prediction_rate(original, counts), FLOAT_BITS * original / coded, bits
    )


def coded_bits(clusters: np.ndarray, index_bits: int) -> int:
    """Bits of one layer after clustering and Huffman coding (Han et al. 2016, as the tables refer to it).

    The smaller of two ways, each with a codebook of 32 bits per cluster:

    * every weight's cluster, zero among them, in one Huffman code;
    * clusters of non-zero weights in one Huffman code, and in another the distance of each to the one before, of at
      most 2^index_bits; where it is larger, filler zeros are stored on the way and coded like weights.

    Clusters stand on multiples of the layer's unit round-off.  The tables of the Huffman codes are not counted.

    Args:
        clusters: integers, (weights,) in row-major order; the weight is cluster · δ.
        index_bits: 8 for convolutions and 5 for dense layers in Han et al. (2016).
    """
    dense = huffman_bits(clusters) + FLOAT_BITS * np.unique(clusters).size
    stored, distances = with_fillers(clusters, index_bits)
    sparse = huffman_bits(stored) + huffman_bits(distances) + FLOAT_BITS * np.unique(stored).size
    return min(dense, sparse)


def description_length_bits(kl_nats: float | None, *, proper_prior: bool) -> float | None:
    """KL(q ‖ p) / ln 2: bits in which the bits-back argument sends the weights (Hinton & van Camp 1993).

    None, 'undefined', of a posterior without a KL (`Posterior.kl_nats`), and under an improper prior: its normaliser is
    infinite, so the KL is known up to a constant only.
    """
    return kl_nats / math.log(2) if proper_prior and kl_nats is not None else None


def two_part_code_bits(file_bytes: int, label_nats: float) -> float:
    """8 · bytes + nats / ln 2: bits that send the network as a file, and then the labels given the inputs.

    `label_nats` is −Σ ln p(y|x) of the DECODED network over the labels to be sent, those of the training data
    (Blier & Ollivier 2018).
    """
    return 8 * file_bytes + label_nats / math.log(2)


def _left(layer: Weighted, site: SiteDecision, before: Signal, after: Signal) -> ParameterPosterior:
    """Moments, outputs first, of the weights that structured removal leaves, mean zero where pruned or unread."""
    outputs, rows, columns = outputs_of(layer), after.kept, before.kept
    stored, value, variance = (by_output(layer, found) for found in (site.stored(), site.value, site.variance))
    alive = np.broadcast_to(after.live[:, None], value.shape[:2])
    if groups_of(layer) == 1:
        alive = alive & before.live
    else:
        columns = np.ones(value.shape[1], dtype=bool)
        rows = rows if is_depthwise(layer) else np.ones(outputs, dtype=bool)
    kept = (stored != 0) & alive.reshape(*alive.shape, *(1,) * (value.ndim - 2))
    return ParameterPosterior((value * kept)[rows][:, columns], variance[rows][:, columns], "published")
