"""Which sites noise per example cannot serve in a network: found by one pass of a few examples before the first step.

Local reparameterization and flipout treat weights of dense layers and convolutions that are used once per pass.  A
weight that anything else reads (a recurrent layer, attention, an embedding, the user's own arithmetic) is drawn once
per step by itself, as it is materialised.  One that is used twice, as by a dense layer that is called at every place of
a sequence, would need its noise at two places: its sites are to be drawn once as well, and all others keep their noise.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger

from pyro_compress.errors import listed
from pyro_compress.inference.gradient.elbo import guide_and_model_traces
from pyro_compress.inference.guides.lazy_values import Lazy, sources_of
from pyro_compress.inference.guides.local_reparameterization import LocalReparameterization
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.probing import BATCH

SHOWN = 5


class _Lenient(Messenger):
    """Lets noise be asked for twice."""

    def _pyro_post_sample(self, message: Any) -> None:
        for source in sources_of(message["value"]):
            source.lenient = True


def sites_drawn_once(
    model: BayesianNetwork, guide: Any, handler: Callable[[], LocalReparameterization], batch: Batch
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Sites that must be drawn once, and the names of all weights that are, because of what reads them.

    Args:
        model, guide: neither is changed, nor are random numbers used up.
        handler: of the estimator.
        batch: inputs and targets, of which the first few are looked at.
    """
    few = tuple(part[:BATCH] for part in batch)
    model = copy.deepcopy(model)
    # weights that reach the network with their noise: of others the prior's own arithmetic has drawn, and no module
    noisy: set[str] = set()
    place = model._placed

    def remembering(values: Mapping[str, Any]) -> Any:
        noisy.update(name for name, value in values.items() if isinstance(value, Lazy) and not _is_drawn(value))
        return place(values)

    model._placed = remembering  # type: ignore[method-assign]

    def guided(*args: Any, **kwargs: Any) -> None:
        guide.forward(*args, **kwargs)
        model.bounded_guide(*args, **kwargs)

    devices = [few[0].device] if few[0].device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad(), _Lenient():
        trace, _ = guide_and_model_traces(model.bounded, guided, handler(), *few, size=len(few[0]))
    sources = {name: sources_of(site.get("value")) for name, site in trace.nodes.items()}
    clashed = frozenset(name for name, found in sources.items() if any(source.clashed for source in found))
    fixed = {name for name, found in sources.items() if any(source.sample is not None for source in found)}
    weights = (p.name for p, _ in model.parameters_covered if p.group_axis is not None and p.name in noisy)
    once = clashed | fixed
    return clashed, tuple(w for w in weights if any(site == w or site.startswith(f"{w}.") for site in once))


def _is_drawn(value: Lazy) -> bool:
    return any(source.sample is not None for source in sources_of(value))


def said(names: tuple[str, ...], estimator: str) -> str:
    """One line for people on weights that are drawn once."""
    return (
        f"drawn once per step, for all examples together: {listed(names, SHOWN)}; the estimator "
        f"'{estimator}' serves weights of dense layers and convolutions that are used once per pass"
    )
