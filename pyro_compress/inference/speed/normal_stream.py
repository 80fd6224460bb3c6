"""Standard normal numbers, many per step, from a generator of the run's own that can be stopped and resumed.

Few numbers come from numpy's ziggurat.  Many would cost a sampler half as much as its gradient, so they are looked up:
16 bits choose one of 65,536 cells of equal probability, and the number is the cell's mean,

    x = E[z | Φ⁻¹(i / 65536) ≤ z < Φ⁻¹((i + 1) / 65536)],   z ~ N(0, 1),

except in the two outermost cells, where z is drawn exactly.  What that lacks of a normal is the spread within cells:
the distribution function is off by less than 1 / 65536 and the variance by less than 1e-6.  The bits are those of
SFC64 (Doty-Humphrey's small fast chaotic generator); no bit is used twice.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor
from torch.overrides import TorchFunctionMode

_aten = torch.ops.aten

CELLS = 65536
# below this numpy's own normal numbers cost less
MANY = 4096
# from here on there are two streams
SHARED = 32768
FLOAT_BYTES = 4


class Noise:
    """A stream of standard normal numbers.

    Large tensors are filled by two generators, half each, so that two threads could.  None do: torch's threads keep
    their cores busy while they wait for the next operation, and sharing the work took a quarter longer.
    The halves stay, since what a seed gives depends on them.

    Args:
        seed: streams of different seeds are independent.
    """

    def __init__(self, seed: int) -> None:
        # a key of its own keeps it apart from other generators that a run seeds with the same number
        key = np.random.SeedSequence((abs(seed), int(seed < 0), 0x4E6F697365))
        self._first, self._second = _Lane(key), _Lane(key.spawn(1)[0])

    def fill(self, out: Tensor) -> Tensor:
        """Fill a contiguous tensor with fresh numbers, and return it; other types than float32 as `fill_like` does."""
        if out.dtype != torch.float32:
            return self.fill_like(out)
        count = out.numel()
        if count < MANY:
            self._first.generator.standard_normal(dtype=np.float32, out=out.numpy())
            return out
        flat = out.view(-1).numpy()
        if count < SHARED:
            self._first.look_up(flat)
        else:
            self._first.look_up(flat[: count // 2])
            self._second.look_up(flat[count // 2 :])
        return out

    def fill_like(self, out: Tensor) -> Tensor:
        """`fill` for any dense tensor: numbers go where they come in memory.

        Narrower types take those of float32, rounded, and float64 takes numpy's; other devices than the CPU their own
        generator's.
        """
        if out.device.type != "cpu":
            return out.normal_()
        flat = out.as_strided((out.numel(),), (1,))
        if out.dtype == torch.float32:
            self.fill(flat)
        elif out.element_size() < FLOAT_BYTES:
            flat.copy_(self.fill(torch.empty(out.numel(), dtype=torch.float32)))
        else:
            flat.copy_(torch.from_numpy(self._first.generator.standard_normal(out.numel())))
        return out

    def capture(self) -> dict[str, Any]:
        """Where the stream stands."""
        return {"first": self._first.capture(), "second": self._second.capture()}

    def restore(self, captured: dict[str, Any]) -> None:
        """Go on from where `capture` was called."""
        self._first.restore(captured["first"])
        self._second.restore(captured["second"])


class _Lane:
    """One generator of bits, and the normal numbers that they choose."""

    def __init__(self, key: np.random.SeedSequence) -> None:
        self._bits = np.random.SFC64(key)
        self.generator = np.random.Generator(self._bits)

    def look_up(self, out: np.ndarray) -> None:
        """Fill a vector."""
        cells = self._bits.random_raw(-(-len(out) // 4)).view(np.uint16)[: len(out)]
        # every 16 bits are a place of the table; 'wrap' only says that this need not be checked
        np.take(_table(), cells, out=out, mode="wrap")
        self._draw_tails(cells, out)

    def _draw_tails(self, cells: np.ndarray, out: np.ndarray) -> None:
        # in 16 bits the last cell plus one is zero
        places = np.flatnonzero(cells + np.uint16(1) <= 1)
        if len(places):
            beyond = (1.0 - self.generator.random(len(places))) / CELLS
            out[places] = np.where(cells[places] == 0, 1.0, -1.0) * ndtri(beyond)

    def capture(self) -> dict[str, Any]:
        state = self._bits.state
        words = torch.from_numpy(state["state"]["state"].view(np.int64).copy())
        return {"words": words, "has_uint32": int(state["has_uint32"]), "uinteger": int(state["uinteger"])}

    def restore(self, captured: dict[str, Any]) -> None:
        words = captured["words"].numpy().view(np.uint64).copy()
        self._bits.state = {
            "bit_generator": "SFC64",
            "state": {"state": words},
            "has_uint32": captured["has_uint32"],
            "uinteger": captured["uinteger"],
        }


class GivenNoise:
    """Numbers that were drawn before, handed out again in their order.

    Args:
        buffers: as `Noise.fill_like` filled them.
    """

    def __init__(self, buffers: Iterable[Tensor]) -> None:
        self._buffers = iter(buffers)

    def fill_like(self, out: Tensor) -> Tensor:
        """`out` with the next of them, or with NaN where there is none of that shape."""
        buffer = next(self._buffers, None)
        if buffer is None or buffer.shape != out.shape:
            return out.fill_(float("nan"))
        return out.copy_(buffer)


class DrawnFrom(TorchFunctionMode):
    """Within this context a program's standard normal numbers come from a stream, and not from torch's generator.

    Args:
        noise: the stream.
    """

    def __init__(self, noise: Noise | GivenNoise) -> None:
        super().__init__()
        self._noise = noise

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.Tensor.normal_ and len(args) == 1 and not kwargs:
            return self._noise.fill_like(args[0])
        if function is torch.randn_like and not kwargs:
            return self._noise.fill_like(torch.empty_like(args[0]))
        if function is torch.randn and not kwargs.get("generator") and not kwargs.get("out"):
            return self._noise.fill_like(torch.empty(*args, **kwargs))
        for kind in types:
            if not issubclass(kind, Tensor):
                # a lazy value: it draws its noise in there, and a mode is off while it serves
                with self:
                    return kind.__torch_function__(function, types, args, kwargs)
        return function(*args, **kwargs)


def is_standard_normal(target: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation of a recorded program is one that `DrawnFrom` serves while the program runs."""
    if target is _aten.normal_.default:
        return len(args) == 1 and not kwargs
    return target in (_aten.randn.default, _aten.randn_like.default)


@cache
def _table() -> np.ndarray:
    """Means of the cells, float32; antisymmetric, so that the mean of all is zero."""
    edges = ndtri(np.arange(1, CELLS) / CELLS)
    density = np.concatenate([[0.0], np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi), [0.0]])
    means = CELLS * (density[:-1] - density[1:])
    return (0.5 * (means - means[::-1])).astype(np.float32)
