"""What to store of every weight: the value, its variance, a number of bits and a grid.  Pruning is zero bits.

A decision speaks of the ORIGINAL network's parameter names and shapes; structured removal happens when it is
compressed.  Decisions compose: `prune(posterior) & bit_widths(posterior)` keeps the smaller number of bits of
every weight and the coarser grid of every tensor.  What is pruned in one is pruned.  Two that contradict one another,
so that a weight would be stored as neither says, are refused.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save

from pyro_compress.errors import DecisionError
from pyro_compress.files import write_atomically
from pyro_compress.network.quantizers import (
    Affine,
    Codebook,
    Described,
    PerChannel,
    Quantizer,
    Uniform,
    bits_on,
    described,
    from_described,
    stored_as,
)
from pyro_compress.posterior.posterior import ParameterPosterior

FLOAT_BITS = 32


@dataclass(frozen=True, eq=False)
class SiteDecision:
    """The decision on one parameter tensor of shape S.

    Attributes:
        value: float32, S. The number to store (before rounding to the grid).
        variance: float32, S. Posterior variance of the weight; zero for point estimates.
        bits: uint8, S. 0 = pruned; 32 without a quantizer = stored as float32.
        quantizer: what values are rounded to, or None; `Uniform(2.0**-k)` is fixed point with k fraction bits.
        mean: float32, S. Posterior mean, where `value` is another number or has been moved; None where it is `value`.
        aim: float32, S. What `value` was before it was moved for the sake of a shorter file, from which further moves
            are measured; None where it has not been.
    """

    value: np.ndarray
    variance: np.ndarray
    bits: np.ndarray
    quantizer: Quantizer | None = None
    mean: np.ndarray | None = None
    aim: np.ndarray | None = None

    @staticmethod
    def of(site: ParameterPosterior, bits: np.ndarray, quantizer: Quantizer | None = None) -> "SiteDecision":
        """What a posterior says is to be stored, at so many bits."""
        return SiteDecision(site.to_store, site.variance, bits, quantizer, None if site.value is None else site.mean)

    def __post_init__(self) -> None:
        if not (self.value.shape == self.variance.shape == self.bits.shape):
            raise DecisionError(
                "value, variance and bits must share one shape, found "
                f"{self.value.shape}, {self.variance.shape}, {self.bits.shape}"
            )
        if not isinstance(self.quantizer, Quantizer | None):
            raise DecisionError(
                "files store a grid of one step, a step per channel, or the levels of a codebook, all with zero at "
                f"integer 0, and cannot say {self.quantizer!r}: round the values yourself and give the codebook of them"
            )
        grid = None if self.quantizer is None else stored_as(self.quantizer)
        if isinstance(grid, PerChannel) and self.value.shape[:1] != (len(grid.steps),):
            raise DecisionError(f"{len(grid.steps)} steps were given for values of shape {self.value.shape}")
        if isinstance(self.quantizer, Affine) and ((self.bits > 0) & (self.bits < self.quantizer.bits)).any():
            raise DecisionError(
                f"an affine quantizer of {self.quantizer.bits} bits is not held by {self.bits[self.bits > 0].min()}: "
                "take one of so many bits"
            )

    def kept(self) -> np.ndarray:
        """Boolean, S: which weights are not pruned."""
        # of a single number too, of which a comparison would be no array
        return np.asarray(self.bits > 0)

    def integers(self) -> np.ndarray:
        """int32, S: the quantizer's index of the value, zero where pruned, clipped to what `bits` can hold.

        Those are integers with a sign, |q| < 2^(bits − 1), and of an affine quantizer its own.
        """
        if self.quantizer is None:
            raise DecisionError("this site has no grid: combine the decision with bit_widths(...)")
        rounded = self.quantizer.index(self.value)
        if not isinstance(self.quantizer, Affine):
            limit = _largest(self.bits)
            rounded = np.clip(rounded, -limit, limit)
        return np.where(self.kept(), rounded, 0).astype(np.int32)

    def stored(self) -> np.ndarray:
        """float32, S: the numbers that a decoder will see."""
        if self.quantizer is None:
            return np.where(self.kept(), self.value, 0).astype(np.float32)
        return self.quantizer.value(self.integers())

    def on(self, quantizer: Quantizer) -> "SiteDecision":
        """The same values on another quantizer, with as many bits as the largest kept one needs."""
        bits = bits_on(quantizer, quantizer.index(self.value)[self.kept()])
        return replace(self, quantizer=quantizer, bits=np.where(self.kept(), bits, 0).astype(np.uint8))

    def moved_to(self, value: np.ndarray, **changed: Any) -> "SiteDecision":
        """Another number to store; where the posterior stands is kept."""
        mean = self.value if self.mean is None else self.mean
        return replace(self, **{"value": value, "mean": mean, "aim": None} | changed)

    def spread(self) -> np.ndarray:
        """float64, S: σ², and where the value is not the mean E[(w − s)²] = σ² + (μ − s)² about s, what is stored.

        Of all normals centred at s, the one with this variance is nearest to N(μ, σ²) in KL(posterior ‖ ·).  Rounding
        alone is not counted, as `bit_widths` has weighed it against σ².  A point estimate has none.
        """
        variance = self.variance.astype(np.float64)
        if self.mean is None:
            return variance
        return np.where(variance > 0, variance + (self.mean.astype(np.float64) - self.stored()) ** 2, 0)


@dataclass(frozen=True, eq=False)
class Decision:
    """One `SiteDecision` per parameter of the network (biases too), buffers to go with it, and how it was made.

    Attributes:
        sites: by dotted parameter name of the original network.
        buffers: float32, re-estimated batch-norm statistics by dotted name; empty without batch norm.
        made_by: settings and chosen thresholds, in order, for the report.
    """

    sites: Mapping[str, SiteDecision]
    buffers: Mapping[str, np.ndarray] = field(default_factory=dict)
    made_by: Mapping[str, object] = field(default_factory=dict)

    def __and__(self, other: "Decision") -> "Decision":
        if set(self.sites) != set(other.sites):
            odd = sorted(set(self.sites) ^ set(other.sites))
            raise DecisionError(
                f"decisions on different sites cannot be combined: {', '.join(odd)} is in one only; make both of one "
                "posterior, of the network as it was or as it was rewritten"
            )
        sites = {name: _both(name, site, other.sites[name]) for name, site in self.sites.items()}
        return Decision(sites, {**self.buffers, **other.buffers}, {**self.made_by, **other.made_by})

    def weights_left(self) -> tuple[int, int]:
        """(weights kept, weights in all), biases not counted, as the published tables count them."""
        weights = [site for site in self.sites.values() if site.value.ndim > 1]
        return sum(int(site.kept().sum()) for site in weights), sum(site.value.size for site in weights)

    def with_sites(self, sites: Mapping[str, SiteDecision], **made_by: object) -> "Decision":
        """The same decision with some sites replaced and further settings noted."""
        return replace(self, sites={**self.sites, **sites}, made_by={**self.made_by, **made_by})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as safetensors (no code, no pickle), through a temporary file."""
        tensors: dict[str, np.ndarray] = {}
        steps: dict[str, Described] = {}
        for name, site in self.sites.items():
            tensors[f"value/{name}"] = site.value.astype(np.float32)
            tensors[f"variance/{name}"] = site.variance.astype(np.float32)
            tensors[f"bits/{name}"] = site.bits.astype(np.uint8)
            for kind, kept in (("mean", site.mean), ("aim", site.aim)):
                if kept is not None:
                    tensors[f"{kind}/{name}"] = kept.astype(np.float32)
            steps[name] = described(site.quantizer)
        for name, buffer in self.buffers.items():
            tensors[f"buffer/{name}"] = buffer.astype(np.float32)
        # not `ascontiguousarray`, which gives a single number an axis
        tensors = {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
        # one entry: safetensors writes several in any order, and equal decisions are to be equal files
        metadata = {"decision": json.dumps({"steps": steps, "made_by": dict(self.made_by)}, default=str)}
        write_atomically(Path(path), save(tensors, metadata=metadata))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Decision":
        """Read what `save` wrote; a missing or foreign file raises DecisionError."""
        try:
            tensors = load_file(path)
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
            said = json.loads(metadata["decision"])
            steps, made_by = said["steps"], said["made_by"]
            sites = {
                name: SiteDecision(
                    tensors[f"value/{name}"],
                    tensors[f"variance/{name}"],
                    tensors[f"bits/{name}"],
                    from_described(step),
                    tensors.get(f"mean/{name}"),
                    tensors.get(f"aim/{name}"),
                )
                for name, step in steps.items()
            }
        except Exception as error:
            raise DecisionError(
                f"{path} does not hold a decision: {error}; run `pyro-compress analyse` again"
            ) from error
        buffers = {name.removeprefix("buffer/"): t for name, t in tensors.items() if name.startswith("buffer/")}
        return Decision(sites, buffers, made_by)


def _largest(bits: np.ndarray) -> np.ndarray:
    """float64: the largest integer that so many bits hold beside its sign."""
    return np.asarray(np.ldexp(1.0, np.maximum(bits.astype(np.int64), 1) - 1) - 1)


def _both(name: str, left: SiteDecision, right: SiteDecision) -> SiteDecision:
    if left.value.shape != right.value.shape:
        raise DecisionError(
            f"{name}: decisions of shapes {left.value.shape} and {right.value.shape} cannot be combined"
        )
    if not np.array_equal(left.value, right.value):
        raise DecisionError(f"{name}: the two decisions store different values; take both from one posterior")
    if not np.array_equal(left.variance, right.variance):
        raise DecisionError(f"{name}: the two decisions have different variances; take both from one posterior")
    both = replace(left, bits=np.minimum(left.bits, right.bits), quantizer=_coarser(name, left, right))
    _refuse_contradiction(name, both)
    return both


def _refuse_contradiction(name: str, site: SiteDecision) -> None:
    """Refuse bits that no grid goes with, that hold less than the grid needs, and a codebook that holds nothing."""
    kept, quantizer = site.kept() & (site.value != 0), site.quantizer
    if not kept.any():
        return
    bits = site.bits[kept]
    if quantizer is None:
        if bits.min() < FLOAT_BITS:
            raise DecisionError(
                f"{name}: {bits.min()} bits, and neither decision says of which grid: combine with bit_widths(...)"
            )
        return
    if isinstance(quantizer, Codebook) and not quantizer.levels:
        raise DecisionError(
            f"{name}: {kept.sum():,} weights are kept, and the only value of the codebook is zero: give it levels, or "
            "prune them"
        )
    if isinstance(quantizer, Affine):
        return
    indices = quantizer.index(site.value)[kept]
    short = np.abs(indices) > _largest(bits)
    if short.any():
        raise DecisionError(
            f"{name}: {bits[short].min()} bits of one decision cut off {short.sum():,} weights on the grid of the "
            f"other, which needs {bits_on(quantizer, indices)}: take a coarser grid, or more bits"
        )


def _coarser(name: str, left: SiteDecision, right: SiteDecision) -> Quantizer | None:
    found, other = left.quantizer, right.quantizer
    if found is None or other is None or found == other:
        return other if found is None else found
    if isinstance(found, Uniform) and isinstance(other, Uniform):
        return max(found, other, key=lambda each: each.step)
    raise DecisionError(f"{name}: of {found} and {other} neither is the coarser grid; take one of the two")
