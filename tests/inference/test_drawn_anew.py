"""Data whose inputs are others in every batch: all that looks at them sees what a fit sees, or refuses."""

import copy
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.data.splits import number_of_batches
from pyro_compress.errors import InferenceError
from pyro_compress.inference.finetuning.batch_norm import reestimate_batch_norm
from pyro_compress.inference.finetuning.grid import GridSite, fine_tune
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal
from pyro_compress.network.quantizers import Uniform


def model_of(network: nn.Module, **options: Any) -> pc.BayesianNetwork:
    return pc.BayesianNetwork(network, Normal(10.0), **options)


def greys(sides: int = 3, count: int = 200) -> DataSet:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, sides, generator=generator)
    return as_data((x, torch.randint(2, (count,), generator=generator)), classes=2)


def test_dynamic_binarisation_leaves_targets_that_are_no_inputs() -> None:
    """y = 3 whatever x is, with as many targets as inputs; once they were taken for reconstructions."""
    x, noise = torch.rand(200, 1), torch.randn(200, 1)
    data = as_data((x, 3 + 0.1 * noise)).binarised("dynamic")
    assert not data.reconstructs and as_data((x, x)).reconstructs and greys().reconstructing().reconstructs
    torch.manual_seed(0)
    posterior = pc.fit(
        model_of(nn.Linear(1, 1), likelihood=Gaussian(noise=0.1)),
        data,
        MAP(epochs=150, batch_size=50, learning_rate=0.05),
    )
    weight, bias = (float(posterior.parameters[name].mean.ravel()[0]) for name in ("weight", "bias"))
    assert abs(weight) < 0.1 and abs(bias - 3) < 0.1


def line(x: torch.Tensor, y: torch.Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(w * x[:, 0], 0.3), obs=y[:, 0])


def turned() -> DataSet:
    """Images whose sign is turned in every batch: the slope is −2, of the images as they are 2."""
    x = torch.randn(60, 1, generator=torch.Generator().manual_seed(1))
    return as_data((x, 2 * x)).augmented(transform=lambda image: -image)


def test_a_pyro_model_learns_from_changed_images_or_the_method_refuses_them() -> None:
    posterior = pc.fit(line, turned(), SVI(epochs=300, batch_size=60, learning_rate=0.05))
    assert posterior.parameters["w"].mean == pytest.approx(-2, abs=0.1)
    for method, name in (("svi", "SVI"), ("map", "MAP"), ("nuts", "NUTS"), ("importance", "ImportanceSampling")):
        with pytest.raises(InferenceError, match=rf"{name} takes all examples as they are, and augmentation, dynamic"):
            pc.fit(line, turned(), method)


@pytest.mark.parametrize("asked", [False, True])
def test_whole_data_methods_and_evidence_refuse_what_is_drawn_anew(asked: bool) -> None:
    """NUTS had the probabilities in place of the images, and never asked the teacher."""
    data = greys().binarised("dynamic")
    model = model_of(nn.Linear(3, 2), teacher_weight=1.0)
    data = pc.with_teacher(data, nn.Linear(3, 2), model) if asked else data
    with pytest.raises(InferenceError, match="NUTS takes all examples as they are"):
        pc.fit(model, data, "nuts")
    with pytest.raises(InferenceError, match=r"evidence: .*others in every batch.* are no observations"):
        pc.evidence(model, data, "laplace")


def test_flags_do_not_judge_a_fit_by_data_that_it_did_not_see() -> None:
    model = model_of(nn.Linear(3, 2))
    posterior = pc.fit(model, greys().binarised("dynamic"), SVI(epochs=20, batch_size=200))
    found = pc.diagnose(posterior, model, greys().binarised("dynamic"))
    assert "other inputs in every batch" in str(found.statistics["not_judged"])


class Recording(nn.Module):
    """A teacher that notes whether its inputs are zeros and ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.binary = nn.Linear(64, 10), list[bool]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.binary.append(bool(((x == 0) | (x == 1)).all()))
        found: torch.Tensor = self.layer(x.flatten(1))
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> "Recording":
        # its notes are shared by all copies
        made = Recording()
        made.layer, made.binary = copy.deepcopy(self.layer, memo), self.binary
        return made


def test_training_on_the_grid_asks_about_binarised_inputs() -> None:
    torch.manual_seed(0)
    teacher, network = Recording(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model = pc.BayesianNetwork(network, pc.models.LogUniform(), teacher_weight=0.5)
    data = pc.with_teacher(pc.data.load("digits").binarised("dynamic"), teacher, model)
    before = len(teacher.binary)
    value = torch.zeros(10, 64)
    sites = {"1.weight": GridSite(value, torch.ones_like(value).bool(), Uniform(1e-3))}
    fine_tune(network, sites, data, model.likelihood, epochs=1, rate_weight=0.0, teaching=model.teaching)
    assert len(teacher.binary) == before + number_of_batches(len(data.train_x), 128) and all(teacher.binary[before:])


def test_batch_norms_are_estimated_on_binarised_inputs() -> None:
    """Of uniform probabilities zeros and ones have the variance ½ · ½, and the probabilities themselves a twelfth."""
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    reestimate_batch_norm(network, greys(count=4000).binarised("dynamic"))
    variance = network.get_buffer("0.running_var").numpy()
    np.testing.assert_allclose(variance, 0.25, atol=0.01)
