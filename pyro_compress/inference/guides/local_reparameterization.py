"""Local reparameterization as an effect handler around a guide (Kingma, Salimans & Welling 2015).

    with LocalReparameterization():
        guide_trace = poutine.trace(guide).get_trace(...)

Every sample site whose guide is a normal or a log-normal, or says `infer={"per_example": True}` of another distribution
that is sampled through its parameters, then holds a lazy value instead of a sample.  Scalars (a layer's global scale)
are drawn once as usual, and so is what stands in a plate, such as codes: it has a row per example already.  Nothing is
patched; outside the context nothing changes.
"""

from collections.abc import Collection
from typing import Any, ClassVar

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch.distributions import Independent, LogNormal, Normal

from pyro_compress.inference.guides.lazy_values import FineLazyNormal, LazyGate, LazyLogNormal, LazyNormal


class LocalReparameterization(Messenger):
    """Replaces samples by lazy values; see the module's text.

    Args:
        shared: sites that are drawn once as usual.
        fine: whether outputs may be small numbers, as those for real targets.
    """

    lazy_normal: ClassVar[type[LazyNormal]] = LazyNormal

    def __init__(self, shared: Collection[str] = (), *, fine: bool = False) -> None:
        super().__init__()
        self.shared = shared
        self._made = FineLazyNormal if fine and self.lazy_normal is LazyNormal else self.lazy_normal

    def _pyro_sample(self, message: Any) -> None:
        # what other values are made of is no weight or scale itself
        if message["is_observed"] or message["done"] or message["infer"].get("is_auxiliary"):
            return
        if message["name"] in self.shared:
            return
        if site_is_subsample(message) or message["cond_indep_stack"]:
            return
        base = message["fn"]
        while isinstance(base, Independent):
            base = base.base_dist
        if not message["fn"].event_shape:
            return
        if isinstance(base, LogNormal):
            message["value"] = LazyLogNormal(self._made(base.loc, base.scale))
        elif isinstance(base, Normal):
            message["value"] = self._made(base.loc, base.scale)
        elif message["infer"].get("per_example"):
            message["value"] = LazyGate(base)
        else:
            return
        message["done"] = True
