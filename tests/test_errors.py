"""Warnings point at the line that called, whatever lies between."""

import warnings

import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.errors import UnstorableWarning, warn
from pyro_compress.inference.point.map import MAP
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.models.priors.normal import Normal


class Sines(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1)).sin()


@pytest.mark.filterwarnings("ignore")
def test_a_warning_names_the_line_of_whoever_called() -> None:
    model, data = pc.BayesianNetwork(Sines(), Normal(), Categorical()), pc.data.load("digits")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pc.fit(model, data, MAP(epochs=1))
    (found,) = [warning for warning in caught if warning.category is UnstorableWarning]
    assert found.filename == __file__


def test_a_warning_that_nobody_else_called_for_is_of_the_line_itself() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn("so it is", UserWarning)
    assert [(str(warning.message), warning.filename) for warning in caught] == [("so it is", __file__)]
