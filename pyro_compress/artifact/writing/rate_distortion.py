"""Rate and distortion: for every weight the integer that costs least, among those that the posterior allows.

    minimise over integers q   λ Σ_i bits_i(q) + Σ_i (Δ q_i − μ_i)² / (2 σ_i²)

μ is the value that the decision stores (or stored, before it was refined at another price), σ² the posterior variance,
and bits_i is what the entropy coder of the file asks for weight i, given everything coded before it.  The second term
is what the step away from the mean costs in nats under a normal posterior, so λ is in nats per bit: 0 gives the nearest
integers, ln 2 weighs a bit of file like a bit of posterior.  Each weight takes its nearest integer, a few smaller ones,
or zero; each tensor takes the decision's grid, or the next coarser ones.  Values with no variance (point estimates)
stay.  A curvature F_i that is known from elsewhere, such as the Fisher information where the network is now, takes the
place of 1 / σ_i².

Source: entropy-constrained scalar quantisation, Chou, Lookabaugh & Gray (1989), with the posterior's curvature as in
variational compression (Havasi et al. 2019; Wiedemann et al. 2020 use the Fisher information likewise).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.analysis.decisions.structure import remove_dead_indexed
from pyro_compress.artifact.format.coding import UNIT, Values, split, token_range
from pyro_compress.artifact.format.header import ALL_ZERO, TensorCode, code_of
from pyro_compress.artifact.format.layout import Columns, tensor_columns
from pyro_compress.artifact.format.pattern import Choose, code_matrix
from pyro_compress.artifact.format.stream import RangeWriter, tensor_models
from pyro_compress.artifact.format.weights_header import columns_of
from pyro_compress.artifact.writing.decided_weights import stored_tensor
from pyro_compress.artifact.writing.encode import choose_code, first_code
from pyro_compress.errors import DecisionError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.quantizers import STEP_EXPONENTS, Affine, PerChannel, Uniform, bits_on, stored_as
from pyro_compress.network.stored import StoredTensor
from pyro_compress.network.unlayered import Unlayered

Grid = Uniform | PerChannel | Affine
COARSER = (0, 1, 2)
SMALLER = 3
PASSES = 2


def refine(
    architecture: Architecture | Unlayered,
    decision: Decision,
    price: float,
    curvature: Mapping[str, np.ndarray] | None = None,
) -> Decision:
    """The decision with every weight moved to the integer that is cheapest at a price per bit.

    Args:
        architecture: of the original network, as traced, or what stands in its place where there is none.
        decision: weights on grids, with their posterior variance; biases and float32 tensors are left alone.
        price: λ, in nats per bit, at least 0.
        curvature: F by name of the parameter and in its shape, at least 0; 1 / σ² if not given.

    Raises:
        DecisionError: the price is negative, or the decision does not fit the architecture.
    """
    return refinement(architecture, decision, curvature)(price)


def refinement(
    architecture: Architecture | Unlayered, decision: Decision, curvature: Mapping[str, np.ndarray] | None = None
) -> Callable[[float], Decision]:
    """`refine` as a function of the price alone: what all prices share is done once."""
    tensors, index, columns = what_is_left(architecture, decision)
    weights = {}
    names = {name: architecture.parameter(name) for name in index} if isinstance(architecture, Architecture) else {}
    for name, where in index.items():
        parameter = names.get(name, name)
        whole, tensor = decision.sites[parameter].quantizer, tensors[name]
        if isinstance(whole, Grid) and tensor.integers is not None and tensor.integers.any():
            quantizer = whole.rows(where[0].ravel())
            site = decision.sites[parameter]
            # tiny where there is none, so that 1 / σ² stays finite
            variance = np.maximum(site.variance.astype(np.float64), np.finfo(np.float32).tiny)
            known = 1 / variance if curvature is None else curvature[parameter].astype(np.float64)
            numbers = _Numbers.of(site, where, quantizer, tensor.integers, known)
            weights[name] = numbers, choose_code(tensor, columns[name])

    def refined(price: float) -> Decision:
        if not price >= 0:
            raise DecisionError(f"the price of a bit must not be negative, found {price}")
        changed = {}
        for name, (numbers, code) in weights.items():
            integers, coarser = _cheapest(numbers, code, columns[name], price)
            parameter, where = names.get(name, name), index[name]
            site = decision.sites[parameter]
            integers = integers.reshape(site.value[where].shape)
            changed[parameter] = _with_integers(site, where, numbers.quantizer, integers, coarser)
        return decision.with_sites(changed, price_nats_per_bit=price)

    return refined


def what_is_left(
    architecture: Architecture | Unlayered, decision: Decision
) -> tuple[Mapping[str, StoredTensor], Mapping[str, tuple[np.ndarray, ...]], Mapping[str, Columns]]:
    """What is stored of every weight, where that is in the original tensor, and the columns of its matrix.

    Of a module without an architecture all of a tensor stays.
    """
    if isinstance(architecture, Architecture):
        stored, index = remove_dead_indexed(architecture, decision)
        return stored.tensors, index, tensor_columns(stored.architecture, 0)
    grids = {name: site for name, site in decision.sites.items() if site.value.ndim > 1 and site.quantizer is not None}
    tensors = {name: stored_tensor(site) for name, site in grids.items()}
    index = {name: np.ix_(*map(np.arange, site.value.shape)) for name, site in grids.items()}
    return tensors, index, {name: columns_of(tensor.shape) for name, tensor in tensors.items()}


@dataclass(frozen=True, eq=False)
class _Numbers:
    """One tensor as a matrix (rows, columns): where to start, where to aim, and how precisely.

    Attributes:
        quantizer: of the tensor, before its steps are made coarser.
        start: int32, nearest integers.
        mean: float64, μ in steps of the grid.
        precision: float64, 1 / (2σ²) or F / 2 in the same unit.
    """

    quantizer: Grid
    start: np.ndarray
    mean: np.ndarray
    precision: np.ndarray

    @staticmethod
    def of(
        site: SiteDecision,
        where: tuple[np.ndarray, ...],
        quantizer: Grid,
        start: np.ndarray,
        curvature: np.ndarray,
    ) -> "_Numbers":
        """What the decision says of the weights that are left, `start` being the integers that it stores."""
        step = quantizer.spacing(site.value.ndim)
        mean = _aim(site)[where].astype(np.float64) / step
        precision = step**2 * curvature[where] / 2
        return _Numbers(quantizer, *(part.reshape(len(start), -1) for part in (start, mean, precision)))

    def on_grid(self, coarser: int) -> "_Numbers":
        """The same numbers in steps that are 2^coarser times as large."""
        if not coarser:
            return self
        mean = np.ldexp(self.mean, -coarser)
        start = np.rint(mean) * (self.start != 0)
        if isinstance(self.quantizer, Affine):
            start = np.clip(start, *self.quantizer.coarser(coarser).limits(start.ndim))
        start = start.astype(np.int32)
        return replace(self, start=start, mean=mean, precision=np.ldexp(self.precision, 2 * coarser))

    def distortion_nats(self, integers: np.ndarray) -> float:
        """Σ (Δq − μ)² / (2σ²)."""
        return float((self.precision * (integers - self.mean) ** 2).sum())


def _with_integers(
    site: SiteDecision,
    where: tuple[np.ndarray, ...],
    quantizer: Grid,
    integers: np.ndarray,
    coarser: int,
) -> SiteDecision:
    """The site with these integers where they belong, `quantizer` being theirs; the rest stays, zeros are pruned."""
    assert isinstance(site.quantizer, Grid)
    value, bits = site.value.copy(), site.bits.copy()
    value[where] = quantizer.coarser(coarser).value(integers)
    bits[where] = np.where(integers != 0, bits_on(quantizer.coarser(coarser), integers), 0)
    return site.moved_to(value, bits=bits, quantizer=site.quantizer.coarser(coarser), aim=_aim(site))


def _aim(site: SiteDecision) -> np.ndarray:
    return site.value if site.aim is None else site.aim


def _cheapest(numbers: _Numbers, code: TensorCode, columns: Columns, price: float) -> tuple[np.ndarray, int]:
    """Integers (rows, columns) and octaves of the coarser grid on which rate and distortion together cost least."""
    largest = max(numbers.quantizer.spacing(1))
    found = []
    for coarser in COARSER if price else COARSER[:1]:
        if largest * 2.0**coarser >= 2.0**STEP_EXPONENTS.stop:
            break
        on_grid = numbers.on_grid(coarser)
        integers, bits = _chosen(on_grid, code.strength, columns, price)
        found.append((price * bits + on_grid.distortion_nats(integers), coarser, integers))
    _, coarser, integers = min(found, key=lambda entry: entry[:2])
    return integers, coarser


def _chosen(numbers: _Numbers, strength: int, columns: Columns, price: float) -> tuple[np.ndarray, int]:
    """The integers that are cheapest one after the other, under models that learn as the coder's do, and their bits.

    The second pass starts at the density that the first one found.
    """
    given, bits = numbers.start, 0
    for _ in range(PASSES if price else 0):
        code = first_code(given, code_of(stored_as(numbers.quantizer)), strength)
        if code.density == ALL_ZERO:
            return given, 0
        # the largest number may be asked for again
        code = replace(code, top_token=first_code(numbers.start, code).top_token)
        pattern, values = tensor_models(code, columns)
        given, coder = numbers.start.copy(), RangeWriter()
        choose = _chooser(given, numbers, values, price)
        code_matrix(coder, len(given), columns, pattern, values, given, choose)
        bits = coder.used_bits()
    return given, bits


def _chooser(given: np.ndarray, numbers: _Numbers, values: Values, price: float) -> Choose:
    def choose(block: slice, part: np.ndarray, ones: np.ndarray) -> None:
        found = given[block, part]
        row, column = np.nonzero(found)
        if not len(row):
            return
        here = (row + block.start, part[column])
        start, mean, precision = found[row, column], numbers.mean[here], numbers.precision[here]
        share = ones[row, column] / UNIT
        nonzero_bits, size_bits = 1 - np.log2(share), -np.log2(values.size_frequencies())
        best, choice = precision * mean**2 - price * np.log2(1 - share), np.zeros_like(start)
        for smaller in range(SMALLER + 1):
            size = np.abs(start) - smaller
            token = split(np.maximum(size, 1) - 1)[0]
            bits = nonzero_bits + size_bits[token] + token_range(token)[1]
            number = np.sign(start) * size
            cost = precision * (number - mean) ** 2 + price * bits
            better = (size > 0) & (cost < best)
            best, choice = np.where(better, cost, best), np.where(better, number, choice)
        found[row, column] = choice
        given[block, part] = found

    return choose
