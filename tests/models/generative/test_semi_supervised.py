"""M2's bound against sums and programs written by hand, its gradients, its fits, and what is refused."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import nn
from torch.distributions import RelaxedOneHotCategorical

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.errors import DataError, DecisionError, InferenceError, NetworkError, PriorError
from pyro_compress.inference.fit import EpochRecord, fit
from pyro_compress.inference.loop.feed import Feed
from pyro_compress.inference.loop.processes import Ranks
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.results.predictive import posterior_predictive
from pyro_compress.inference.speed.recording import programs_alone
from pyro_compress.inference.variational import base, recorded_step
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.generative.codes import GaussianCodes
from pyro_compress.models.generative.encoder_decoder import LabelledEncoderDecoder
from pyro_compress.models.generative.semi_supervised import SemiSupervisedVAE
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.pipeline.search import decide
from pyro_compress.posterior.posterior import Posterior

INPUTS, WIDTH, CLASSES = 6, 2, 3


def network(
    inputs: int = INPUTS, classes: int = CLASSES, width: int = WIDTH, hidden: int = 5
) -> LabelledEncoderDecoder:
    torch.manual_seed(3)
    classifier = nn.Sequential(nn.Linear(INPUTS, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    encoder = nn.Sequential(nn.Linear(INPUTS + CLASSES, 5), nn.Tanh(), nn.Linear(5, 2 * WIDTH))
    decoder = nn.Sequential(nn.Linear(WIDTH + CLASSES, 5), nn.Tanh(), nn.Linear(5, INPUTS))
    return LabelledEncoderDecoder(classifier, encoder, decoder, GaussianCodes(WIDTH))


def values_in(model: SemiSupervisedVAE) -> dict[str, torch.Tensor]:
    """Of the network, away from where it starts, so that classes and codes differ."""
    generator = torch.Generator().manual_seed(5)
    named = model.network.named_parameters()
    return {name: value.detach() + 0.7 * torch.randn(value.shape, generator=generator) for name, value in named}


def inputs(count: int) -> torch.Tensor:
    return torch.rand(count, INPUTS, generator=torch.Generator().manual_seed(1)).round()


def dense(x: torch.Tensor, values: dict[str, torch.Tensor], part: str) -> torch.Tensor:
    first, bias, second, last = (values[f"{part}.{name}"] for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
    return torch.tanh(x @ first.T + bias) @ second.T + last


def given_label(values: dict[str, torch.Tensor], x: torch.Tensor, label: int, draws: int) -> torch.Tensor:
    """ln p(y) + E ln p(x | y, z) − KL of every example, by plain tensor operations, averaged over draws."""
    one = torch.eye(CLASSES)[label].expand(len(x), -1)
    mean, log_variance = dense(torch.cat([x, one], 1), values, "encoder").chunk(2, 1)
    z = mean + (0.5 * log_variance).exp() * torch.randn(draws, *mean.shape)
    p = dense(torch.cat([z, one.expand(draws, -1, -1)], 2), values, "decoder").sigmoid()
    likelihood = (x * p.log() + (1 - x) * (1 - p).log()).sum(2).mean(0)
    return likelihood - 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).sum(1) - math.log(CLASSES)


def averaged(model: SemiSupervisedVAE, values: Any, x: torch.Tensor, y: torch.Tensor | None, draws: int) -> Any:
    """Mean and standard error of `bounds` per example."""
    count = len(x)
    with torch.no_grad():
        rows = model.bounds(values, x.repeat(draws, 1), None if y is None else y.repeat(draws)).view(draws, count)
    return rows.mean(0), rows.std(0) / math.sqrt(draws)


def test_the_bound_without_labels_is_the_sum_over_classes() -> None:
    model, x = SemiSupervisedVAE(network(), {}), inputs(4)
    values = values_in(model)
    torch.manual_seed(0)
    found, error = averaged(model, values, x, None, 4_000)
    q = dense(x, values, "classifier").softmax(1)
    each = torch.stack([given_label(values, x, label, 4_000) for label in range(CLASSES)], 1)
    expected = (q * (each - q.log())).sum(1)
    assert float((each.max(1)[0] - each.min(1)[0]).min()) > 0.3, "classes differ"
    assert bool(((found - expected).abs() < 6 * error).all()) and float(error.max()) < 0.05


def test_labelled_examples_have_their_own_class_and_the_term_of_the_classifier() -> None:
    model, x, y = SemiSupervisedVAE(network(), {}, alpha=0.3), inputs(5), torch.tensor([2, -1, 0, -1, -1])
    values = values_in(model)
    torch.manual_seed(0)
    found, error = averaged(model, values, x, y, 4_000)
    without, _ = averaged(model, values, x, None, 4_000)
    log_q = dense(x, values, "classifier").log_softmax(1)
    for row, label in ((0, 2), (2, 0)):
        expected = given_label(values, x, label, 4_000)[row] + 0.3 * 5 / 2 * log_q[row, label]
        assert abs(float(found[row] - expected)) < 6 * float(error[row])
    assert bool((found[[1, 3, 4]] - without[[1, 3, 4]]).abs().max() < 8 * error.max())


def test_relaxed_labels_come_to_the_sum_as_the_temperature_falls() -> None:
    x, gaps = inputs(3), []
    values = values_in(SemiSupervisedVAE(network(), {}))
    torch.manual_seed(0)
    exact, error = averaged(SemiSupervisedVAE(network(), {}), values, x, None, 8_000)
    for temperature in (5.0, 0.5, 0.02):
        relaxed = SemiSupervisedVAE(network(), {}, labels="relaxed", temperature=temperature)
        found, deviation = averaged(relaxed, values, x, None, 8_000)
        gaps.append((found - exact).abs())
    assert float(gaps[0].mean()) > 2 * float(gaps[2].mean()) and float(gaps[0].max()) > 0.1
    assert bool((gaps[2] < 5 * (error**2 + deviation**2).sqrt() + 0.01).all())


def test_relaxed_labels_are_of_the_gumbel_softmax_distribution() -> None:
    model = SemiSupervisedVAE(network(), {}, labels="relaxed", temperature=0.7)
    log_q = torch.tensor([0.6, 0.3, 0.1]).log().expand(20_000, -1)
    torch.manual_seed(0)
    ours, torchs = model._relaxed(log_q), RelaxedOneHotCategorical(torch.tensor(0.7), logits=log_q).sample()
    for power in (1, 2, 4):
        torch.testing.assert_close(ours.pow(power).mean(0), torchs.pow(power).mean(0), atol=0.01, rtol=0)


def plain_pyro(values: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    def one_hot(y: torch.Tensor) -> torch.Tensor:
        return torch.eye(CLASSES)[y]

    def beside(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        shape = torch.broadcast_shapes(left.shape[:-1], right.shape[:-1])
        return torch.cat([left.expand(*shape, -1), right.expand(*shape, -1)], -1)

    def model(x: torch.Tensor, y: Any, size: int) -> None:
        with pyro.plate("data", size, subsample=torch.arange(len(x))):
            y = pyro.sample("y", dist.Categorical(torch.ones(CLASSES) / CLASSES), obs=y)
            z = pyro.sample("z", dist.Normal(torch.zeros(WIDTH), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=dense(beside(z, one_hot(y)), values, "decoder")).to_event(1), obs=x)

    def guide(x: torch.Tensor, y: Any, size: int) -> None:
        with pyro.plate("data", size, subsample=torch.arange(len(x))):
            if y is None:
                y = pyro.sample("y", dist.Categorical(logits=dense(x, values, "classifier")))
            mean, log_variance = dense(beside(x, one_hot(y)), values, "encoder").chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, (0.5 * log_variance).exp()).to_event(1))

    return model, guide


def mean_of(losses: list[float]) -> tuple[float, float]:
    return float(np.mean(losses)), float(np.std(losses)) / math.sqrt(len(losses))


def test_fits_descend_what_pyro_enumerates() -> None:
    """Of a batch of 8 out of 40, with α = 0: over draws, Pyro's own loss of the program written by hand."""
    model, x = SemiSupervisedVAE(network(), {}, alpha=0.0), inputs(8)
    state = SVI().init(model, 40, 0)
    y = torch.tensor([0, 2, 1, -1, -1, -1, -1, -1])
    model.see(x, y)
    values = {name: value.detach() for name, value in state.model.free_values().items()}
    hand, guide = plain_pyro(values)
    torch.manual_seed(0)
    with torch.no_grad(), pyro.validation_enabled(False):
        ours = mean_of([float(SVI().terms(state, (x, y)).objective(1.0)) for _ in range(100)])
        summed = TraceEnum_ELBO(max_plate_nesting=1)
        enumerated = config_enumerate(guide, default="parallel")
        # a plate of 5 of 25 scales as 8 of 40 do
        without = mean_of([summed.loss(hand, enumerated, x[3:], None, 25) for _ in range(100)])
        labelled = mean_of([Trace_ELBO().loss(hand, guide, x[:3], y[:3], 15) for _ in range(100)])
    expected, error = without[0] + labelled[0], math.hypot(without[1], labelled[1], ours[1])
    assert abs(ours[0] - expected) < 5 * error and error < 0.04 * abs(expected)


def test_the_plain_program_has_the_same_bound_in_expectation() -> None:
    model, x, y = SemiSupervisedVAE(network(), {}, alpha=0.4), inputs(5), torch.tensor([0, 2, 1, 1, 0])
    values = model.free_values()
    torch.manual_seed(0)
    with torch.no_grad():
        for labels in (None, y):
            plain = [Trace_ELBO().loss(model.forward, model.local_guide, x, labels) for _ in range(200)]
            mean, error = mean_of(plain)
            expected = -averaged(model, values, x, labels, 3000)[0].sum()
            assert abs(mean - float(expected)) < 5 * error + 0.05
        with pytest.raises(DataError, match="labels of 1 of 5 examples are missing"):
            model(x, torch.tensor([0, 2, -1, 1, 0]))


def test_the_gradient_of_labelled_examples_is_autograds_of_the_formula() -> None:
    model, x, y = SemiSupervisedVAE(network(), {}, alpha=0.3), inputs(4), torch.tensor([0, -1, 2, -1])
    values = {name: value.requires_grad_() for name, value in values_in(model).items()}
    torch.manual_seed(0)
    bound = model.bounds(values, x, y)[[0, 2]].sum()
    found = torch.autograd.grad(bound, list(values.values()))
    torch.manual_seed(0)
    noise = torch.randn(CLASSES * 4, WIDTH).view(CLASSES, 4, WIDTH)
    total = torch.zeros(())
    for row in (0, 2):
        label = int(y[row])
        one = torch.eye(CLASSES)[label]
        mean, log_variance = dense(torch.cat([x[row], one]), values, "encoder").chunk(2)
        z = mean + (0.5 * log_variance).exp() * noise[label, row]
        logits = dense(torch.cat([z, one]), values, "decoder")
        total = total + (x[row] * logits - torch.nn.functional.softplus(logits)).sum() - math.log(CLASSES)
        total = total - 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).sum()
        # α N / N_l of N = 4 and N_l = 2
        total = total + 0.3 * 2 * dense(x[row], values, "classifier").log_softmax(0)[label]
    for one_found, expected in zip(found, torch.autograd.grad(total, list(values.values())), strict=True):
        torch.testing.assert_close(one_found, expected, atol=1e-5, rtol=1e-4)


def test_labelled_examples_have_a_share_of_every_batch_and_count_as_many_as_they_are() -> None:
    """Of every rank's part too; the factor that a fit descends is v times the bound of each example."""
    model, data = SemiSupervisedVAE(network(), {}, labelled_share=0.4), small().binarised("static")
    feed = Feed.of(model, data)
    whole = list(feed.batches(10, 0, 0))
    halves = [list(replace(feed, ranks=Ranks(rank, 2)).batches(10, 0, 0)) for rank in (0, 1)]
    for (x, y, weights), *parts in zip(whole, *halves, strict=True):
        assert int((y >= 0).sum()) == 4
        for number, one in enumerate((x, y, weights)):
            assert torch.equal(torch.cat([part[number] for part in parts]), one)
    x, y, weights = whole[0]
    assert float(weights[y >= 0].sum()) == pytest.approx(10 * 6 / 40)
    values = model.free_values()
    torch.manual_seed(0)
    with torch.no_grad(), poutine.trace() as traced:
        model.bounded(x, y, weights, size=40)
    traced.trace.compute_log_prob()
    torch.manual_seed(0)
    expected = 4 * weights * model.bounds(values, x, y)
    torch.testing.assert_close(traced.trace.nodes["bound"]["log_prob"], expected)
    assert all(
        len(batch) == 2 for batch in Feed.of(SemiSupervisedVAE(network(), {}, labelled_share=0), data).batches(10, 0, 0)
    )


SIDES = 20


def two_clusters(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """N(±e₁, ½² I) in twenty dimensions: few labels say little of the direction, and many inputs say all of it."""
    generator, y = torch.Generator().manual_seed(seed), torch.arange(count) % 2
    x = 0.5 * torch.randn(count, SIDES, generator=generator)
    x[:, 0] += 2.0 * y - 1
    return x, y


def linear() -> LabelledEncoderDecoder:
    torch.manual_seed(3)
    return LabelledEncoderDecoder(
        nn.Linear(SIDES, 2), nn.Linear(SIDES + 2, 2), nn.Sequential(nn.Linear(3, SIDES)), GaussianCodes(1)
    )


@pytest.fixture(scope="module")
def clusters() -> DataSet:
    held, test = two_clusters(100, 2), two_clusters(1000, 1)
    data = as_data(two_clusters(400, 0), validation=held, test=test, classes=2, name="two clusters")
    return data.with_labels(4)


@pytest.fixture(scope="module")
def fitted(clusters: DataSet) -> tuple[SemiSupervisedVAE, Posterior]:
    model = SemiSupervisedVAE(linear(), {}, Gaussian(noise=0.5), alpha=1.0)
    return model, fit(model, clusters, SVI(epochs=100, batch_size=100, learning_rate=0.02, schedule="linear"))


def test_examples_without_labels_help(clusters: DataSet, fitted: tuple[SemiSupervisedVAE, Posterior]) -> None:
    alone = BayesianNetwork(nn.Sequential(linear().classifier), Normal(scale=1.0))
    of_four = fit(alone, clusters.labelled(), MAP(epochs=200, batch_size=4, learning_rate=0.03))
    errors = []
    for model, posterior in ((alone, of_four), fitted):
        found = posterior_predictive(model, posterior, clusters.test_x, clusters.test_y)
        assert found.errors is not None
        errors.append(float(found.errors.mean()))
    # 2.3 % is what there is to reach
    assert errors[0] > 0.2 and errors[1] < 0.45 * errors[0], errors


def test_its_prediction_is_the_classifiers(clusters: DataSet, fitted: tuple[SemiSupervisedVAE, Posterior]) -> None:
    model, posterior = fitted
    x, y = clusters.validation_x, clusters.validation_y
    weight, bias = (torch.from_numpy(posterior.parameters[f"classifier.{name}"].mean) for name in ("weight", "bias"))
    predicted = posterior_predictive(model, posterior, x, y)
    np.testing.assert_allclose(predicted.mean, (x @ weight.T + bias).double().softmax(1), atol=1e-5)
    history: Any = posterior.provenance["history"]
    assert predicted.errors is not None
    assert history[-1]["validation_error"] == pytest.approx(float(predicted.errors.mean()))


def small(count: int = 40) -> DataSet:
    x, y = inputs(count), torch.arange(count) % CLASSES
    grey = 0.8 * x + 0.1
    return as_data((grey, y), validation=(x[:9], y[:9]), classes=CLASSES).with_labels(6)


def assert_same(first: Posterior, second: Posterior) -> None:
    for name, site in first.parameters.items():
        assert np.array_equal(site.mean, second.parameters[name].mean), name
        assert np.array_equal(site.variance, second.parameters[name].variance), name


@pytest.mark.parametrize("labels", ["summed", "relaxed"])
def test_recorded_steps_are_those_of_the_program(labels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []
    original = recorded_step.TracedTerms._traced

    def noted(self: Any, *arguments: Any, **options: Any) -> Any:
        tried.append(original(self, *arguments, **options))
        return tried[-1]

    monkeypatch.setattr(recorded_step.TracedTerms, "_traced", noted)
    for module in (recorded_step, base):
        monkeypatch.setattr(module, "TRACE_AFTER", 3)
    data, method = small().binarised("dynamic"), SVI(epochs=3, batch_size=10, compile="never")
    model = SemiSupervisedVAE(network(), LogUniform(), labels=labels)
    recorded = fit(model, data, method, seed=2)
    assert tried and all(one is not None and not one.draws for one in tried), "all noise comes from the run's stream"
    with programs_alone():
        assert_same(recorded, fit(model, data, method, seed=2))
    covered = {name for name, site in recorded.parameters.items() if bool((site.variance > 0).any())}
    assert covered == {"decoder.0.weight", "decoder.2.weight"}


def test_a_resumed_run_goes_on_bit_for_bit_and_only_as_it_was_started(tmp_path: Path) -> None:
    data, method = small().binarised("static"), SVI(epochs=3, batch_size=20)

    def keep(record: EpochRecord, state: Any) -> None:
        if record.epoch == 0:
            shutil.copy(tmp_path / "whole.pt", tmp_path / "stopped.pt")

    model = SemiSupervisedVAE(network(), {})
    whole = fit(model, data, method, checkpoint=tmp_path / "whole.pt", callbacks=[keep])
    stopped = tmp_path / "stopped.pt"
    assert_same(whole, fit(model, data, method, checkpoint=stopped, resume=True))
    with pytest.raises(InferenceError, match=r"belongs to another run: its labels is summed, alpha 0\.1"):
        fit(SemiSupervisedVAE(network(), {}, alpha=0.2), data, method, checkpoint=stopped, resume=True)


def test_real_inputs_may_have_noise_of_unknown_size() -> None:
    data = small()
    posterior = fit(SemiSupervisedVAE(network(), {}, Gaussian()), data, SVI(epochs=2, batch_size=20))
    assert "noise" in posterior.latents and posterior.kind == "guide"


def test_what_does_not_go_together_is_refused() -> None:
    data, one = small().binarised("static"), SVI(epochs=1)
    with pytest.raises(NetworkError, match=r"takes pc\.models\.LabelledEncoderDecoder\(.*found a Linear"):
        SemiSupervisedVAE(nn.Linear(2, 2), {})
    with pytest.raises(PriorError, match=r"'\*\.weight' matches classifier\.0\.weight, and priors cover 'decoder\.\*'"):
        SemiSupervisedVAE(network(), {"*.weight": Normal()})
    with pytest.raises(InferenceError, match=r"found alpha=-1, temperature=0\.5"):
        SemiSupervisedVAE(network(), {}, alpha=-1)
    for share in (-0.1, 1, math.nan):
        with pytest.raises(InferenceError, match=rf"at least 0 and below 1; found {share}"):
            SemiSupervisedVAE(network(), {}, labelled_share=share)
    with pytest.raises(InferenceError, match=r"unknown treatment of missing labels 'sumed'.*Did you mean 'summed'"):
        SemiSupervisedVAE(network(), {}, labels="sumed")
    model = SemiSupervisedVAE(network(), {})
    with pytest.raises(DataError, match=r"inputs: .* Bernoulli likelihood"):
        fit(model, small(), one)
    with pytest.raises(DataError, match="no training example has one"):
        fit(model, (inputs(9), torch.full((9,), -1)), one)
    with pytest.raises(DataError, match="label -2 is outside"):
        fit(model, (inputs(9), torch.arange(9) - 2), one)
    with pytest.raises(InferenceError, match="a batch of 1 example has no place"):
        fit(model, data, SVI(epochs=1, batch_size=1))
    for taught in (data.taught(torch.ones(40, 3) / 3), small().binarised("dynamic").taught_by(lambda x, *_: x)):
        with pytest.raises(DataError, match="takes no outputs of a teacher"):
            fit(model, taught, one)
    with pytest.raises(DataError, match="labels are missing, which a SemiSupervisedVAE takes and a BayesianNetwork"):
        fit(BayesianNetwork(network().classifier, Normal()), data, one)
    for method in (MAP(epochs=1), NUTS(draws=1, warmup=1)):
        with pytest.raises(InferenceError, match="a SemiSupervisedVAE has a latent code per example"):
            fit(model, data, method)
    for other in (SVI(epochs=1, estimator="score"), SVI(epochs=1, code_samples=2)):
        with pytest.raises(InferenceError, match="SemiSupervisedVAE has"):
            fit(model, data, other)
    with pytest.raises(DecisionError, match="a SemiSupervisedVAE's classifier is a network of its own"):
        decide(fit(model, data, one), model, data)
