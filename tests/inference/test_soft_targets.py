"""Class probabilities as targets, and a teacher's outputs as a third tensor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_compress as pc
from pyro_compress.data.examples import as_data
from pyro_compress.errors import DataError, InferenceError
from pyro_compress.inference.contract import Method
from pyro_compress.inference.fit import fit
from pyro_compress.inference.gradient.elbo import elbo_terms
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.results.predictive import posterior_predictive
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Categorical, Gaussian
from pyro_compress.models.priors.normal import Normal

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(36, 3, generator=GENERATOR)
SHARES = torch.randn(36, 4, generator=GENERATOR).mul(2).softmax(-1)
LABELS = torch.multinomial(SHARES, 1, generator=GENERATOR)[:, 0]


def network(**more: Any) -> BayesianNetwork:
    torch.manual_seed(0)
    return BayesianNetwork(nn.Sequential(nn.Linear(3, 4)), Normal(scale=2.0), **more)


def data_nats(model: BayesianNetwork, *batch: Tensor, size: int) -> Tensor:
    def guide(*args: Any, **kwargs: Any) -> None:
        model.sample_weights()
        model.likelihood.sample_latents()

    torch.manual_seed(1)
    return elbo_terms(model.forward, guide, None, *batch, size=size).data


def test_soft_targets_are_a_mean_over_labels() -> None:
    model = network()
    labels = [LABELS.new_full((36,), label) for label in range(4)]
    output = torch.randn(36, 4, generator=GENERATOR)
    by_label = [SHARES[:, label] * model.likelihood.log_prob(output, y) for label, y in enumerate(labels)]
    torch.testing.assert_close(model.likelihood.log_prob(output, SHARES), torch.stack(by_label).sum(0))
    # of certain classes it is that of labels, with N/n
    hard = nn.functional.one_hot(LABELS, 4).float()
    soft = data_nats(model, X[:9], hard[:9], size=36)
    torch.testing.assert_close(soft, data_nats(model, X[:9], LABELS[:9], size=36))
    torch.testing.assert_close(model.likelihood.error(output, hard), model.likelihood.error(output, LABELS))


@pytest.mark.parametrize("likelihood", [Categorical(), Gaussian(noise=0.5), Gaussian()])
def test_a_teacher_counts_by_its_weight(likelihood: Any) -> None:
    model = network(likelihood=likelihood, teacher_weight=0.3)
    y = LABELS if isinstance(likelihood, Categorical) else SHARES * 2
    taught = data_nats(model, X[:9], y[:9], SHARES[:9], size=36)
    own, teacher = data_nats(model, X[:9], y[:9], size=36), data_nats(model, X[:9], SHARES[:9], size=36)
    torch.testing.assert_close(taught, 0.7 * own + 0.3 * teacher)


def test_samplers_see_the_teacher_too() -> None:
    model = BayesianNetwork(nn.Linear(3, 4, bias=False), Normal(scale=2.0))
    at = torch.randn(2, 12, generator=GENERATOR)
    plain, soft, both = (
        LogJoint(model, 36)(at, batch).data for batch in ((X, LABELS), (X, SHARES), (X, LABELS, SHARES))
    )
    torch.testing.assert_close(both, 0.5 * plain + 0.5 * soft)


def test_map_finds_the_minimum_of_the_cross_entropy() -> None:
    model = BayesianNetwork(nn.Linear(3, 4), Normal(scale=1e3))
    found = fit(model, (X, SHARES), MAP(epochs=400, batch_size=36, learning_rate=0.1))
    weight, bias = (torch.from_numpy(found.parameters[name].mean) for name in ("weight", "bias"))
    residual = (X @ weight.T + bias).softmax(-1) - SHARES
    # at the minimum residuals are orthogonal to inputs
    assert float((X.T @ residual).abs().max()) < 0.02 and float(residual.sum(0).abs().max()) < 0.02


@pytest.mark.parametrize(
    "method", [SVI(epochs=2, batch_size=8), MAP(epochs=2, batch_size=8), SGLD(epochs=2, batch_size=8, a=0.01)]
)
def test_fits_with_a_teacher_are_validated_on_labels(method: Method) -> None:
    data = as_data((X, LABELS, SHARES), validation=8)
    assert data.train_teacher is not None and data.train_teacher.shape == (28, 4)
    held = {tuple(row.tolist()) for row in data.validation_x}
    rows = [i for i in range(36) if tuple(X[i].tolist()) not in held]
    torch.testing.assert_close(data.train_teacher, SHARES[rows])
    model = BayesianNetwork(nn.Linear(3, 4), Normal(scale=1.0))
    found = fit(model, data, method)
    history: Any = found.provenance["history"]
    values = {name: torch.from_numpy(site.mean) for name, site in found.parameters.items()}
    errors = model.errors(values, data.validation_x, data.validation_y)
    assert history[-1]["validation_error"] == pytest.approx(float(errors.mean()))


def test_a_dataset_may_hold_triples() -> None:
    loader = DataLoader(TensorDataset(X, LABELS, SHARES), batch_size=5)
    data = as_data(loader)
    assert data.train_teacher is not None
    torch.testing.assert_close(data.train_teacher, SHARES)
    torch.testing.assert_close(as_data((X.numpy(), LABELS.numpy(), SHARES.numpy())).train_teacher, SHARES)


def test_a_checkpoint_of_another_teacher_weight_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    fit(network(), (X, LABELS, SHARES), SVI(epochs=1, batch_size=8), checkpoint=checkpoint)
    with pytest.raises(InferenceError, match=r"teacher is weight 0\.5, this run's is weight 0\.2"):
        fit(
            network(teacher_weight=0.2),
            (X, LABELS, SHARES),
            SVI(epochs=1, batch_size=8),
            checkpoint=checkpoint,
            resume=True,
        )


def test_predictions_are_scored_on_soft_targets() -> None:
    model = network()
    found = fit(model, (X, SHARES), SVI(epochs=2, batch_size=8))
    predicted = posterior_predictive(model, found, X, SHARES, draws=1, seed=0)
    nll = -(SHARES * torch.from_numpy(predicted.mean).log()).sum(-1)
    assert predicted.nll_nats is not None
    np.testing.assert_allclose(predicted.nll_nats, nll, rtol=1e-4)
    np.testing.assert_array_equal(
        np.asarray(predicted.errors), (predicted.mean.argmax(-1) != SHARES.argmax(-1).numpy())
    )


def test_a_network_of_soft_targets_becomes_a_file() -> None:
    data = as_data((X, SHARES), validation=8, test=(X[:6] + 0.1, SHARES[:6]))
    found = pc.fit(network(), data, SVI(epochs=2, batch_size=8))
    plain = network().network
    artifact = pc.compress(plain, pc.decide(found, plain, data), (3,))
    output = artifact.to_torch()(data.test_x).detach().log_softmax(-1)
    measured = pc.evaluate(artifact, data)
    assert measured["nll_nats_per_example"] == pytest.approx(float(-(data.test_y * output).sum(-1).mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, SHARES * 1.5), "is no distribution over classes"),
        ((X, SHARES[:, :3]), "has no class labels, which the categorical likelihood needs"),
        ((X, LABELS, SHARES * 1.5), "teacher: .* is no distribution over classes"),
        ((X, LABELS, SHARES[:, :3]), r"the teacher's outputs have the shape \(3,\) per example"),
        ((X, LABELS, SHARES[:5]), "don't hold the same number of examples"),
        ((X, LABELS, SHARES, SHARES), r"expected tensors or arrays \(x, y\) or \(x, y, teacher\)"),
    ],
)
def test_what_is_no_share_or_no_teacher_is_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(network(), data, SVI(epochs=1, batch_size=8))


def test_a_weight_beyond_a_share_is_refused() -> None:
    with pytest.raises(InferenceError, match=r"teacher_weight is a share from 0 to 1, found 1\.5"):
        network(teacher_weight=1.5)
