"""Fits to a label per position: what methods of each kind make of them, and what is refused before."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyro_compress as pc
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.data.labels import IGNORED
from pyro_compress.errors import DataError
from pyro_compress.inference.contract import Method
from pyro_compress.inference.gradient.elbo import elbo_terms
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.results.predictive import posterior_predictive
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Categorical, Likelihood
from pyro_compress.models.priors.normal import Normal


def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Lines of 12 numbers; a position is of class 0, 1 or 2 as its smoothed number says; every sixth does not count."""
    x = torch.randn(count, 1, 12, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.avg_pool1d(x, 3, 1, 1, count_include_pad=False)[:, 0]
    y = (smooth > -0.3).long() + (smooth > 0.3).long()
    y[:, ::6] = IGNORED
    return x, y


def data() -> DataSet:
    return as_data(examples(200, 0), validation=examples(50, 1), test=examples(80, 2), name="lines")


class Last(nn.Module):
    """Classes behind the positions, as language models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).movedim(1, -1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 3, 3, padding=1))


@pytest.mark.parametrize(
    ("method", "most"),
    [
        (SVI(epochs=10, batch_size=20, learning_rate=0.05, compile="never"), 0.2),
        (MAP(epochs=10, batch_size=20, learning_rate=0.03), 0.1),
        (SGLD(epochs=20, batch_size=20, draws=10), 0.25),
    ],
    ids=["svi", "map", "sgld"],
)
def test_methods_learn_a_label_per_position(method: Method, most: float) -> None:
    model, held = BayesianNetwork(network(), Normal(scale=1.0)), data()
    posterior = pc.fit(model, held, method, seed=0)
    found = posterior_predictive(model, posterior, held.test_x, held.test_y, draws=20)
    assert found.errors is not None and found.nll_nats is not None and found.mean.shape == (80, 3, 12)
    assert found.errors.mean() < most and found.nll_nats.mean() < 10 * 0.6


def test_the_axis_of_the_classes_changes_nothing_else() -> None:
    held, method = data(), MAP(epochs=3, batch_size=20, learning_rate=0.02)
    first = pc.fit(BayesianNetwork(network(), Normal()), held, method, seed=0)
    last = pc.fit(BayesianNetwork(Last(), Normal(), Categorical(class_axis=-1)), held, method, seed=0)
    for name, site in first.parameters.items():
        torch.testing.assert_close(torch.from_numpy(site.mean), torch.from_numpy(last.parameters[f"inner.{name}"].mean))


def test_the_log_joint_is_scaled_by_examples_and_not_by_positions() -> None:
    x, y = examples(40, 3)
    model = BayesianNetwork(network(), Normal(scale=1.0))

    def guide(*args: Any, **kwargs: Any) -> None:
        model.sample_weights()

    def nats(x: Tensor, y: Tensor) -> float:
        torch.manual_seed(1)
        return float(elbo_terms(model.forward, guide, None, x, y, size=40).data)

    assert nats(x, y) == pytest.approx((nats(x[:10], y[:10]) + nats(x[10:], y[10:]) * 3) / 4, rel=1e-5)
    log_joint = LogJoint(model, 40)
    flat = torch.stack([torch.zeros(log_joint.width), torch.full((log_joint.width,), 0.1)])
    # ten positions of an example count, at ln 3 nats each
    assert float(log_joint(flat, (x, y)).data[0]) == pytest.approx(-40 * 10 * 1.0986123, rel=1e-5)
    assert float(log_joint(flat, (x[:8], y[:8])).data[0]) == pytest.approx(-40 * 10 * 1.0986123, rel=1e-5)


@pytest.mark.parametrize(
    ("likelihood", "build", "sentence"),
    [
        (Categorical(class_axis=-1), network, r"\(3, 12\) per example, which with class_axis=-1 .* class_axis=1$"),
        (Categorical(), Last, r"\(12, 3\) per example, which with class_axis=1 go with labels of shape \(3,\)"),
        (Categorical(), lambda: nn.Sequential(network(), nn.AvgPool1d(2)), r"has \(12,\): reshape the targets or chan"),
        (
            Categorical(),
            lambda: nn.Sequential(network(), nn.Flatten()),
            r"\(36,\), lines has 3 classes, and labels of shape \(12,\) per example",
        ),
    ],
    ids=["last", "first", "shorter", "flat"],
)
def test_shapes_that_do_not_fit_are_refused_before_a_fit(likelihood: Likelihood, build: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        pc.fit(BayesianNetwork(build(), Normal(), likelihood), data(), MAP(epochs=1))


def test_labels_of_data_are_checked_position_by_position() -> None:
    x, y = examples(6, 0)
    with pytest.raises(DataError, match=r"label -3 is outside 0\.\.2"):
        as_data((x, y.masked_fill(y == 1, -3)), classes=3)
    with pytest.raises(DataError, match="label -100 is outside"):
        as_data((x, y[:, 0]), classes=3)
    with pytest.raises(DataError, match="every position has a label of its own"):
        as_data((x, y)).with_labels(3)
