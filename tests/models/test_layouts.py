"""Networks that flatten an image by a view are fitted to the same numbers as those that flatten it by `flatten`."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pyro_compress as pc
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.layouts import AnyLayout
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal

Flattening = Callable[[torch.Tensor], torch.Tensor]

FLATTENED: dict[str, Flattening] = {
    "minus-one": lambda x: x.view(-1, 45),
    "size": lambda x: x.view(x.size(0), -1),
    "by-name": lambda x: x.view(size=(x.shape[0], 45)),
    "like": lambda x: x.view_as(torch.empty(x.shape[0], 45)),
}


class Net(nn.Module):
    def __init__(self, flattening: Flattening) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.flattening = flattening
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 2)
        self.head = nn.Linear(45, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2, stride=1)
        return self.head(self.flattening(F.relu(F.max_pool2d(self.second(x), 2, stride=1))))


@pytest.mark.filterwarnings("ignore:what is switched off stays")
@pytest.mark.parametrize("method", [SVI(epochs=2), MAP(epochs=2)], ids=["svi", "map"])
@pytest.mark.parametrize("how", FLATTENED)
def test_a_view_does_not_matter(how: str, method: SVI | MAP) -> None:
    data = pc.data.load("digits")
    prior = LogUniform() if isinstance(method, SVI) else Normal()
    means = []
    for flattening in (FLATTENED[how], lambda x: x.flatten(1)):
        model = pc.BayesianNetwork(Net(flattening), prior, Categorical())
        means.append(pc.fit(model, data, method).parameters)
    for name, site in means[0].items():
        np.testing.assert_array_equal(site.mean, means[1][name].mean)


def test_within_it_views_copy_only_where_they_must() -> None:
    x = torch.rand(2, 3, 4, 4)
    last = x.contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        last.view(-1, 48)
    with AnyLayout():
        assert torch.equal(last.view(-1, 48), x.view(-1, 48))
        assert x.view(-1, 48).data_ptr() == x.data_ptr()
        # of the same bits as another type
        assert torch.equal(x.view(torch.int32), x.view(dtype=torch.int32)) and x.view(torch.int32).dtype == torch.int32
