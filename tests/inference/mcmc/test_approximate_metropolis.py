"""Metropolis–Hastings by sequential tests: exact at ε = 0, wrong as rarely as it says, cheaper, resumable."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import EpochRecord, fit
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.mcmc.approximate_metropolis import ApproximateMetropolis, wrong_sign
from pyro_compress.inference.mcmc.metropolis import Metropolis
from pyro_compress.models.program import Program
from tests.inference.chain_targets import X, Y, assert_gaussian, conjugate, exact_conjugate

GENERATOR = torch.Generator().manual_seed(4)
MANY = torch.randn(3000, 2, generator=GENERATOR)
LABELS = torch.bernoulli(torch.sigmoid(MANY @ torch.tensor([1.0, -0.5])), generator=GENERATOR)


def logistic(x: torch.Tensor, y: torch.Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    scale = pyro.sample("scale", dist.Gamma(5.0, 5.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=scale * (x @ weight)), obs=y)


def test_without_error_it_takes_every_decision_of_the_exact_sampler() -> None:
    settings: dict[str, Any] = {"warmup": 100, "draws": 200, "chains": 2, "temperature": 0.5, "step_size": 0.05}
    exact = fit(logistic, (MANY, LABELS), Metropolis(**settings), seed=3).draws
    found = fit(logistic, (MANY, LABELS), ApproximateMetropolis(**settings, error=0.0, batch_size=700), seed=3).draws
    assert exact is not None and found is not None
    np.testing.assert_array_equal(found.statistics["acceptance_rate"], exact.statistics["acceptance_rate"])
    np.testing.assert_allclose(found.flat, exact.flat, rtol=1e-5, atol=1e-6)
    assert (found.statistics["data_share"] == 1.0).all()


def test_without_error_it_has_the_closed_form() -> None:
    method = ApproximateMetropolis(warmup=300, draws=500, thin=4, chains=4, error=0.0, batch_size=7, temperature=0.3)
    assert_gaussian(fit(conjugate, (X, Y), method, seed=1).draws, "weight", *exact_conjugate(0.3))


def test_the_smaller_the_error_the_more_data_are_seen() -> None:
    shares = []
    for error in (0.3, 0.05, 0.001):
        method = ApproximateMetropolis(warmup=50, draws=150, chains=2, error=error, batch_size=100, step_size=0.05)
        found = fit(logistic, (MANY, LABELS), method, seed=3).draws
        assert found is not None
        share = found.statistics["data_share"]
        assert share.min() >= 100 / 3000 and share.max() <= 1
        shares.append(share.mean())
    assert shares[0] < shares[1] < shares[2] and shares[1] < 0.8


def test_a_single_look_is_wrong_as_often_as_it_says() -> None:
    """At a threshold that the mean of all values hardly passes, it is sure and wrong ε of the time."""
    random = np.random.default_rng(6)
    values = random.standard_normal(1000)
    threshold = values.mean() - 1e-9
    looks, wrong = 4000, {0.2: 0, 0.05: 0}
    for _ in range(looks):
        seen = random.permutation(values)[:300]
        claimed = wrong_sign(seen.mean() - threshold, seen.var(), 300, 1000)
        for error in wrong:
            wrong[error] += claimed < error and seen.mean() < threshold
    for error, count in wrong.items():
        assert count / looks == pytest.approx(error, abs=4 * np.sqrt(error / looks))
    assert wrong_sign(0.1, 0.0, 10, 100) == 0.0 and wrong_sign(0.0, 0.0, 10, 100) == 0.5
    seen = values[:50]
    error = seen.std(ddof=1) / np.sqrt(50) * np.sqrt(1 - 49 / 999)
    assert wrong_sign(0.3, seen.var(), 50, 1000) == pytest.approx(stats.t.sf(0.3 / error, 49))


def test_the_parts_add_up_to_the_log_joint() -> None:
    log_joint = LogJoint(Program(logistic, (MANY, LABELS)), 3000, temperature=0.5)
    flat = torch.tensor([0.3, -0.2, 0.1])
    each, prior = log_joint.apart(flat, MANY, LABELS)
    found = log_joint(flat[None], (MANY, LABELS))
    assert float(each.sum() / 0.5 + prior) == pytest.approx(float(found.log_joint[0]), rel=1e-5)


def test_runs_resumed_in_the_warm_up_and_after_it_are_bit_identical(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()

    def leave(record: EpochRecord, state: Any) -> None:
        # as a run that is stopped here
        if record.epoch in (0, 2):
            shutil.copytree(whole, tmp_path / f"stopped{record.epoch}")

    method, data = ApproximateMetropolis(warmup=80, draws=90, chains=2, batch_size=100), (MANY, LABELS)
    straight = fit(logistic, data, method, seed=4, checkpoint=whole / "checkpoint.pt", callbacks=[leave]).draws
    for epoch in (0, 2):
        torch.manual_seed(77)
        path = tmp_path / f"stopped{epoch}" / "checkpoint.pt"
        resumed = fit(logistic, data, method, seed=4, checkpoint=path, resume=True).draws
        assert straight is not None and resumed is not None
        np.testing.assert_array_equal(straight.flat, resumed.flat)
        np.testing.assert_array_equal(straight.statistics["data_share"], resumed.statistics["data_share"])


def without_examples() -> None:
    pyro.sample("x", dist.Normal(0.0, 1.0))


def without_plate(x: torch.Tensor, y: torch.Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    pyro.sample("y", dist.Bernoulli(logits=x @ weight).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "data", "settings", "text"),
    [
        (
            logistic,
            (MANY, LABELS),
            {"error": 0.5},
            r"error in \[0, 0.5\) and batch_size of at least 2; found error=0.5",
        ),
        (logistic, (MANY, LABELS), {"batch_size": 1}, "batch_size of at least 2"),
        (without_examples, None, {}, r"arguments are not that \(shapes none\): use Metropolis"),
        (without_plate, (MANY, LABELS), {}, "observed site 'y' is in no plate of the"),
    ],
)
def test_what_cannot_be_run_is_refused(model: Any, data: Any, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InferenceError, match=text):
        fit(model, data, ApproximateMetropolis(**settings))
