"""Draws of a network's weights side by side with what has no draws, and the same draws with their units renamed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pyro_compress.analysis.modes.alignment import Renamings, rename_all
from pyro_compress.analysis.modes.symmetries import HiddenSpace, Slot
from pyro_compress.errors import InferenceError
from pyro_compress.posterior.draws import PIECE_BYTES, Draws, moments_of
from pyro_compress.posterior.posterior import Groups, Posterior

# name of the scales of a parameter's groups
SCALE = ".scale"
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True, eq=False)
class WeightDraws:
    """Draws of every parameter, of constants where a parameter was not drawn, and of the scales of groups.

    Attributes:
        draws: with the network's parameter names among the sites; others are passed over.
        sampled: shapes of the parameters that were drawn, by name.
        constants: parameters that all draws share, by name.
        groups: of the parameters whose w and w̃ were drawn, so that their scales are known: z = ‖w‖ / ‖w̃‖ over a
            group.
        logarithmic: of these, the names whose 'NAME.scale' is ln z and not z, as the prior's criterion asks for.
    """

    draws: Draws
    sampled: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, np.ndarray]
    groups: Mapping[str, Groups]
    logarithmic: frozenset[str] = frozenset()

    @staticmethod
    def of(posterior: Posterior, draws: Draws) -> "WeightDraws":
        """Draws of the parameters of a posterior; a point estimate that was not drawn is the same in every draw.

        Raises:
            InferenceError: a parameter with a prior has no draws.
        """
        sites = posterior.parameters
        missing = [name for name, site in sites.items() if name not in draws.shapes and not site.is_point]
        if missing:
            raise InferenceError(
                f"there are no draws of the weights {', '.join(missing)}: the sites are {', '.join(draws.shapes)}"
            )
        sampled = {name: draws.shapes[name] for name in sites if name in draws.shapes}
        constants = {name: site.mean for name, site in sites.items() if name not in draws.shapes}
        groups = {n: s.groups for n, s in sites.items() if s.groups is not None and s.groups.unscaled in draws.shapes}
        criteria = {name: sites[name].criterion for name in groups}
        logarithmic = frozenset(n for n, one in criteria.items() if one is not None and one.of == "log_scale")
        return WeightDraws(draws, sampled, constants, groups, logarithmic)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by name, in the order in which they lie in a row."""
        constants = {name: array.shape for name, array in self.constants.items()}
        scales = {name + SCALE: (self.sampled[name][groups.axis],) for name, groups in self.groups.items()}
        return {**self.sampled, **constants, **scales}

    def select(self, chain: int) -> "WeightDraws":
        """One chain of these."""
        return replace(self, draws=self.draws.select(chain))

    def tensors(self, row: np.ndarray) -> dict[str, np.ndarray]:
        """The tensors that lie in a row, views by name."""
        found, start = {}, 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            found[name] = row[start : start + size].reshape(shape)
            start += size
        return found

    def row(self, chain: int, draw: int) -> dict[str, np.ndarray]:
        """One draw, float64 by name."""
        return self.tensors(self._rows(chain, slice(draw, draw + 1))[0])

    def chain_moments(
        self, chain: int, renamings: "ChainRenamings | None" = None
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """(weight, mean, variance) of one chain as rows, with units renamed if `renamings` are given."""
        return moments_of(self._pieces(chain, renamings), sum(math.prod(shape) for shape in self.shapes.values()))

    def _rows(self, chain: int, which: slice) -> np.ndarray:
        places = dict(self.draws.slices())
        parts = [np.asarray(self.draws.flat[chain, which, places[name]], dtype=np.float64) for name in self.sampled]
        parts += [np.broadcast_to(a.ravel(), (len(parts[0]), a.size)) for a in self.constants.values()]
        for name, groups in self.groups.items():
            assert groups.unscaled is not None
            w, unscaled = (self._norms(site, name, chain, which) for site in (name, groups.unscaled))
            scale = np.maximum(w, _TINY) / np.maximum(unscaled, _TINY)
            parts.append(np.log(scale) if name in self.logarithmic else scale)
        return np.concatenate(parts, axis=1)

    def _norms(self, site: str, name: str, chain: int, which: slice) -> np.ndarray:
        """(draws, groups): norms over the groups of parameter `name` of a site of its shape."""
        values = np.asarray(self.draws.site(site)[chain, which], dtype=np.float64)
        grouped = np.moveaxis(values, 1 + self.groups[name].axis, 1)
        return np.asarray(np.linalg.norm(grouped.reshape(*grouped.shape[:2], -1), axis=2))

    def _pieces(self, chain: int, renamings: "ChainRenamings | None") -> Iterator[tuple[np.ndarray, np.ndarray]]:
        weights, width = self.draws.weights()[chain], self.draws.flat.shape[2]
        per_piece = max(1, PIECE_BYTES // max(1, 8 * width))
        for start in range(0, self.draws.count, per_piece):
            rows = self._rows(chain, slice(start, start + per_piece))
            if renamings is not None:
                rows = renamings.apply(self, rows, start)
            yield weights[start : start + per_piece], rows


@dataclass(frozen=True, eq=False)
class ChainRenamings:
    """How the units of one chain are renamed.

    Attributes:
        spaces: of the network.
        per_draw: renamings of every draw; a single entry holds for all of them.
    """

    spaces: tuple[HiddenSpace, ...]
    per_draw: tuple[Renamings, ...]

    def of(self, draw: int) -> Renamings:
        """The renamings of one draw."""
        return self.per_draw[draw if len(self.per_draw) > 1 else 0]

    def apply(self, weights: WeightDraws, rows: np.ndarray, first: int) -> np.ndarray:
        """Rows of consecutive draws from number `first` on, renamed."""
        spaces = tuple(_with_scales(space, weights.groups) for space in self.spaces)
        # numbers from 1 on with a sign: where an entry comes from, and whether it is flipped
        numbers = weights.tensors(np.arange(1, rows.shape[1] + 1))
        if len(self.per_draw) == 1:
            return _taken(rows, spaces, self.per_draw[0], numbers)
        each = (_taken(row, spaces, self.of(first + place), numbers) for place, row in enumerate(rows))
        return np.stack(list(each))

    def apply_to_one(self, weights: WeightDraws, draw: int, chain: int) -> dict[str, np.ndarray]:
        """The tensors of one draw, renamed."""
        rows = np.concatenate([array.ravel() for array in weights.row(chain, draw).values()])[None]
        return weights.tensors(self.apply(weights, rows, draw)[0])


def _taken(
    rows: np.ndarray, spaces: Sequence[HiddenSpace], renamings: Renamings, numbers: Mapping[str, np.ndarray]
) -> np.ndarray:
    signed = np.concatenate([array.ravel() for array in rename_all(spaces, renamings, numbers).values()])
    return np.take(rows, np.abs(signed) - 1, axis=-1) * np.sign(signed)


def _with_scales(space: HiddenSpace, groups: Mapping[str, Groups]) -> HiddenSpace:
    """The space with the scales of groups as further slots: they follow their units and never change sign."""
    grouped = [slot for slot in space.slots if slot.name in groups and groups[slot.name].axis == slot.axis]
    scales = [Slot(slot.name + SCALE, 0, slot.block) for slot in grouped]
    return replace(space, slots=(*space.slots, *scales))
