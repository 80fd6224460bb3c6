"""Shrinking while training: what the posterior has switched off leaves the tensors, and a step costs what is left.

After every epoch, once the KL has its full weight, it is asked which weights are off: by their group's statistic, or by
their own under an unstructured prior.  While the KL warms up many groups are switched off that come back; so do some
that are just beyond the cut later on, therefore group priors have a stricter one for this.  Those that were off K times
in a row count as zeros, and units that then do not matter (`liveness`) are taken
out of guide, optimizer and network, for good.  The guide over the whole network stays: what is left out keeps its last
spread there, with mean zero, so decisions and files speak of the network that was given.

The KL of what is left out still counts: it is added to the complexity as it was when it went.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine

from pyro_compress.errors import NetworkError, PriorError, warn
from pyro_compress.inference.gradient.elbo import closed_form, terms_from_traces
from pyro_compress.inference.gradient.gradient_method import buffer_arrays
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.local_reparameterization import LocalReparameterization
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.names import attribute_name
from pyro_compress.models.narrowing import Index, can_narrow, folds, follows_sizes, multiply_adds, narrowed
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.liveness import signals
from pyro_compress.network.numbers import Numbers
from pyro_compress.posterior.posterior import ParameterPosterior

# checks in a row
PATIENCE = 2
# a new step has to be recorded: that pays where so much of the arithmetic goes
WORTHWHILE = 0.85


@dataclass(frozen=True, eq=False)
class RemainingNetwork:
    """Model and guide over what is left.

    Attributes:
        model, guide: narrower.
        index: of network parameters and buffers, `models.narrowing.Narrowed.index`.
    """

    model: BayesianNetwork
    guide: DeclaredGuide
    index: Mapping[str, Index]


@dataclass(frozen=True, eq=False)
class Removal:
    """What is to be left out next.

    Attributes:
        kept: which entries stay, before each layer and after the last.
        folds: what biases take over from constants, by name.
        multiply_adds_spared: of a forward pass of one example.
    """

    kept: Sequence[np.ndarray]
    folds: Mapping[str, np.ndarray]
    multiply_adds_spared: int


class ShrinkingNetwork:
    """Model and guide over the whole network, while a part of it is trained.

    Args:
        model, guide: of the whole network; they hold what is left out, and all of it after `write_back`.
        input_shape: of one example.

    Attributes:
        left_nats: complexity of what is left out.
        left: what is trained, or None as long as that is all.
    """

    def __init__(self, model: BayesianNetwork, guide: DeclaredGuide, input_shape: tuple[int, ...]) -> None:
        self.model, self.guide, self.input_shape = model, guide, input_shape
        self.architecture = shrinkable(model, input_shape)
        self.left: RemainingNetwork | None = None
        self.left_nats = 0.0
        sizes = [math.prod(shape[:1]) for shape in self.architecture.shapes()] if self.architecture else []
        self._kept = [np.ones(size, dtype=bool) for size in sizes]
        self._times_off: dict[str, np.ndarray] = {}

    def write_back(self) -> None:
        """Copy what is trained into the guide, the point estimates and the buffers of the whole."""
        if self.left is None:
            return
        with torch.no_grad():
            for whole, part, index in self._pairs(self.left):
                whole[index] = part.detach()

    def find_removal(self, parameters: Mapping[str, ParameterPosterior]) -> Removal | None:
        """Look which weights are off; what leaves where that has become worth it.

        Args:
            parameters: the posterior of the whole network, after `write_back`.
        """
        if self.architecture is None:
            return None
        values = {}
        for name, site in parameters.items():
            before = self._times_off.get(name, np.zeros(site.mean.shape, dtype=np.uint8))
            cut = None if site.criterion is None else site.criterion.shrink_threshold
            times = np.where(site.on(cut), 0, np.minimum(before + 1, PATIENCE)).astype(np.uint8)
            self._times_off[name] = times
            values[name] = np.where(times < PATIENCE, site.mean, np.float32(0.0))
        numbers = Numbers(values, buffer_arrays(self.model), adds_biases=False)
        flow = signals(self.architecture, numbers)
        kept = [signal.kept & present for signal, present in zip(flow, self._kept, strict=True)]
        if not all(entries.any() for entries in kept):
            # the layer would be left without any; what stands is not worth less for it
            return None
        now, then = multiply_adds(self.architecture, self._kept), multiply_adds(self.architecture, kept)
        if then > WORTHWHILE * now:
            return None
        return Removal(kept, folds(self.architecture, flow, numbers), now - then)

    def narrow(self, leaving: Removal) -> RemainingNetwork:
        """The narrower model and guide."""
        for name, taken in leaving.folds.items():
            with torch.no_grad():
                location = self._location(name)
                location.add_(torch.from_numpy(taken).to(location))
        left = self._leave(leaving.kept)
        self._drop_means(left.index)
        self.left_nats = complexity_nats(self.model, self.guide) - complexity_nats(left.model, left.guide)
        return left

    def spread(self, parts: Mapping[int, Mapping[str, torch.Tensor]]) -> dict[int, dict[str, torch.Tensor]]:
        """What is known per trained parameter, by its id, as tensors of the whole, by theirs; zero where it is not."""
        if self.left is None:
            return {key: dict(held) for key, held in parts.items()}
        found: dict[int, dict[str, torch.Tensor]] = {}
        for whole, part, index in self._pairs(self.left):
            for name, value in parts.get(id(part), {}).items():
                found.setdefault(id(whole), {})[name] = torch.zeros_like(whole)
                found[id(whole)][name][index] = value
        return found

    def cut(self, wholes: Mapping[int, Mapping[str, torch.Tensor]]) -> dict[int, dict[str, torch.Tensor]]:
        """The other way round, for what is left now."""
        assert self.left is not None
        return {
            id(part): {name: value[index] for name, value in wholes[id(whole)].items()}
            for whole, part, index in self._pairs(self.left)
            if id(whole) in wholes
        }

    def capture(self) -> dict[str, Any]:
        """For `restore`."""
        return {
            "guide": self.guide.state_dict(),
            "free": self.model.free.state_dict(),
            "hyper": self.model.hyper.state_dict(),
            "buffers": dict(self.model.network.named_buffers()),
            "kept": [torch.from_numpy(kept) for kept in self._kept] if self.left is not None else None,
            "times_off": {name: torch.from_numpy(times) for name, times in self._times_off.items()},
            "left_nats": self.left_nats,
            "input_shape": list(self.input_shape),
        }

    def restore(self, captured: Mapping[str, Any]) -> RemainingNetwork | None:
        """Take over what `capture` gave; returns what was left, with the numbers of the whole."""
        self.guide.load_state_dict(captured["guide"])
        self.model.free.load_state_dict(captured["free"])
        self.model.hyper.load_state_dict(captured["hyper"])
        for name, buffer in self.model.network.named_buffers():
            buffer.copy_(captured["buffers"][name])
        self._times_off = {name: times.numpy() for name, times in captured["times_off"].items()}
        self.left_nats = captured["left_nats"]
        return None if captured["kept"] is None else self._leave([kept.numpy() for kept in captured["kept"]])

    def _leave(self, kept: Sequence[np.ndarray]) -> RemainingNetwork:
        assert self.architecture is not None
        self._kept = list(kept)
        found = narrowed(self.model.network, self.architecture, kept)
        model = BayesianNetwork(found.network, self.model.prior, self.model.likelihood)
        model.teaching = self.model.teaching
        # validation looks at the whole and may have left that in evaluation mode
        model.network.train()
        self.left = RemainingNetwork(model, DeclaredGuide(model), found.index)
        with torch.no_grad():
            for whole, part, index in self._pairs(self.left):
                part.copy_(whole[index])
        return self.left

    def _pairs(self, left: RemainingNetwork) -> list[tuple[torch.Tensor, torch.Tensor, Any]]:
        """(tensor of the whole, its part, index of the part) for all that is trained, and for buffers."""
        pairs = []
        for name, index in self._site_indices(left.index).items():
            for of in ("loc", "log_variance"):
                whole, part = (getattr(getattr(g, of), attribute_name(name)) for g in (self.guide, left.guide))
                pairs.append((whole, part, _fitting(index, whole.shape)))
        for name, whole in self.model.free_values().items():
            part = left.model.free_values()[name]
            pairs.append((whole, part, _fitting(left.index.get(name, ()), whole.shape)))
        for name in self.model.hyper.declared:
            whole, part = self.model.hyper.tensor(name), left.model.hyper.tensor(name)
            if whole.shape != part.shape:
                raise PriorError(
                    f"hyper-parameter '{name}' has shape {tuple(whole.shape)} for the network as given and "
                    f"{tuple(part.shape)} where it is narrower: use SVI(shrink=False), or give it a shape of its own"
                )
            pairs.append((whole, part, ...))
        parts = dict(left.model.network.named_buffers())
        for name, whole in self.model.network.named_buffers():
            pairs.append((whole, parts[name], _fitting(left.index.get(name, ()), whole.shape)))
        return pairs

    def _site_indices(self, index: Mapping[str, Index]) -> dict[str, Index]:
        """Per latent site of the guide the entries that are left; () is all of them."""
        found: dict[str, Index] = dict.fromkeys(self.guide.sites, ())
        for parameter, prior in self.model.parameters_covered:
            of_parameter = index.get(parameter.name)
            if of_parameter is None:
                continue
            for site in prior.latents(parameter, torch.zeros(parameter.shape)):
                axes = site.axes_of(parameter)
                assert axes is not None
                found[site.name] = tuple(
                    np.arange(size) if axis is None else of_parameter[axis]
                    for axis, size in zip(axes, site.shape, strict=True)
                )
        return found

    def _location(self, name: str) -> torch.Tensor:
        """Point estimate, or mean under the guide, of a parameter that has a site of its own."""
        free = self.model.free_values()
        found: torch.Tensor = free[name] if name in free else getattr(self.guide.loc, attribute_name(name))
        return found

    def _drop_means(self, index: Mapping[str, Index]) -> None:
        """Zero what is left out, so that the whole computes what is left does."""
        with torch.no_grad():
            for parameter, prior in self.model.parameters_covered:
                for site in prior.latents(parameter, torch.zeros(parameter.shape)):
                    if site.vanishes(parameter) and parameter.name in index:
                        _zero_outside(getattr(self.guide.loc, attribute_name(site.name)), index[parameter.name])
            for name, value in self.model.free_values().items():
                if name in index:
                    _zero_outside(value, index[name])


def shrinkable(model: BayesianNetwork, input_shape: tuple[int, ...]) -> Architecture | None:
    """The architecture of a network that can lose units while it is trained; None for others.

    Its priors have to say along which axes of their parameter every site runs (`LatentSite.axes`), and one site of
    each must be the weight or a factor of it.  A network in parts, such as encoder and decoder, is none of these.
    Frozen parameters stay as they are, so no unit of theirs leaves, and no bias takes over a constant.  Units that a
    teacher's are held against stay too.  Warns where it is only the forward pass that cannot go on with fewer units.
    """
    if model.frozen_values() or model.has_local_sites or model.teaching.hint is not None:
        return None
    try:
        architecture = trace(model.network, input_shape)
    except NetworkError:
        return None
    if not can_narrow(architecture):
        return None
    for parameter, prior in model.parameters_covered:
        sites = prior.latents(parameter, torch.zeros(parameter.shape))
        unknown = any(site.axes_of(parameter) is None for site in sites)
        if unknown or not any(site.vanishes(parameter) for site in sites):
            return None
    if not follows_sizes(model.network, architecture):
        warn(
            "what is switched off stays in the tensors, which is slower: the network's forward pass does not run with "
            "narrower layers, as where sizes are written into it (write x.flatten(1) in the place of x.view(-1, 800))"
        )
        return None
    return architecture


def complexity_nats(model: BayesianNetwork, guide: DeclaredGuide) -> float:
    """KL(q ‖ p) of all sites, in closed form where there is one."""
    with torch.no_grad():
        with LocalReparameterization():
            guide_trace = poutine.trace(guide.forward).get_trace()
        program = poutine.trace(poutine.replay(model.sample_weights, trace=guide_trace)).get_trace()
        return float(terms_from_traces(program, guide_trace, closed_form).complexity)


def _fitting(index: Index, shape: torch.Size) -> Any:
    """An index for a tensor of that shape, which may broadcast: axes of length one are taken whole."""
    if not index:
        return ...
    last = index[len(index) - len(shape) :]
    return np.ix_(*(np.zeros(1, dtype=int) if size == 1 else axis for axis, size in zip(last, shape, strict=True)))


def _zero_outside(tensor: torch.Tensor, index: Index) -> None:
    inside = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
    inside[np.ix_(*index)] = True
    tensor[~inside] = 0.0
