"""The loop: resume, isolation from the rest of the process, and runs that cannot go on."""

import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.errors import InferenceError
from pyro_compress.inference.chains.chains import MinibatchChains
from pyro_compress.inference.contract import Method, State
from pyro_compress.inference.fit import EpochRecord, fit
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.inference.point.dropout import Dropout, MCDropout
from pyro_compress.inference.point.dynamic_network_surgery import DynamicNetworkSurgery
from pyro_compress.inference.point.group_lasso import GroupLasso
from pyro_compress.inference.point.learning_compression import LearningCompression
from pyro_compress.inference.point.magnitude_pruning import MagnitudePruning
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.stochastic_gradient.cyclical import CyclicalSGHMC, CyclicalSGLD
from pyro_compress.inference.stochastic_gradient.psgld import PreconditionedSGLD
from pyro_compress.inference.stochastic_gradient.sghmc import SGHMC
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.posterior.posterior import Posterior


def problem(prior: Prior | None = None) -> tuple[BayesianNetwork, DataSet]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(24, 3)
    )
    x = torch.randn(60, 1, 5, 4)
    y = (x.mean((1, 2, 3)) * 6).round().clamp(-1, 1).long() + 1
    return BayesianNetwork(network, prior or GroupHorseshoe()), as_data((x[:48], y[:48]), validation=(x[48:], y[48:]))


METHODS = [
    pytest.param(SVI(epochs=6, batch_size=20), id="svi-local"),
    pytest.param(SVI(epochs=6, batch_size=20, estimator="shared", optimizer="sgd", clip=1.0), id="svi-shared-sgd"),
    pytest.param(SVI(epochs=6, batch_size=20, estimator="flipout"), id="svi-flipout"),
    pytest.param(SVI(epochs=6, batch_size=20, averaging=0.8), id="svi-averaged"),
    pytest.param(SVI(epochs=6, batch_size=20, estimator="score"), id="svi-score"),
    pytest.param(SVI(epochs=6, batch_size=20, guide="full-rank", draws=5), id="svi-full-rank"),
    pytest.param(SVI(epochs=6, batch_size=20, guide="low-rank", rank=3, draws=5, entropy="exact"), id="svi-low-rank"),
    pytest.param(BayesByBackprop(epochs=6, batch_size=20), id="bbb"),
    pytest.param(MAP(epochs=6, batch_size=20), id="map"),
    pytest.param(Dropout(epochs=6, batch_size=20), id="dropout"),
    pytest.param(MCDropout(epochs=6, batch_size=20, draws=5), id="mc-dropout"),
    pytest.param(GroupLasso(epochs=6, batch_size=20, strength=1.0), id="group-lasso"),
    pytest.param(LearningCompression(epochs=6, batch_size=20, levels=3, projections=4), id="learning-compression"),
    pytest.param(DynamicNetworkSurgery(epochs=6, batch_size=20, gamma=0.1, rate=0.2), id="dynamic-network-surgery"),
    pytest.param(MagnitudePruning(epochs=6, batch_size=20, cuts=3, first=0.2, rate=0.2), id="magnitude-pruning"),
    # batches of one size, since samplers record the model for every size
    pytest.param(SGLD(epochs=6, batch_size=16, chains=2, a=0.002, warmup=0.1), id="sgld"),
    pytest.param(PreconditionedSGLD(epochs=6, batch_size=16, a=0.002, warmup=0.1), id="psgld"),
    pytest.param(SGHMC(epochs=6, batch_size=16, a=0.0001, warmup=0.1, temperature=0.5), id="sghmc"),
    pytest.param(CyclicalSGLD(epochs=6, batch_size=16, a=0.0004, cycles=2, exploration=0.3), id="csgld"),
    pytest.param(CyclicalSGHMC(epochs=6, batch_size=16, chains=2, a=2e-5, cycles=2, exploration=0.3), id="csghmc"),
]


def assert_identical(left: Posterior, right: Posterior) -> None:
    assert list(left.parameters) == list(right.parameters)
    for name, site in left.parameters.items():
        np.testing.assert_array_equal(site.mean, right.parameters[name].mean)
        np.testing.assert_array_equal(site.variance, right.parameters[name].variance)
    assert list(left.latents) == list(right.latents)
    for name, latent in left.latents.items():
        np.testing.assert_array_equal(latent.scale, right.latents[name].scale)
    np.testing.assert_equal(dict(left.buffers), dict(right.buffers))
    assert (left.draws is None) == (right.draws is None)
    if left.draws is not None and right.draws is not None:
        np.testing.assert_array_equal(left.draws.flat, right.draws.flat)
    assert without_seconds(left) == without_seconds(right)


def without_seconds(posterior: Posterior) -> list[dict[str, Any]]:
    history: Any = posterior.provenance["history"]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history]


def leave_after(epoch: int, folder: Path, left: Path) -> Any:
    """What a run that is stopped after that epoch would have left in its folder goes to `left`."""

    def callback(record: EpochRecord, state: State) -> None:
        if record.epoch == epoch:
            shutil.copytree(folder, left)

    return callback


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_bit_identical_resumed_or_run_again_and_touches_nothing(method: Method, tmp_path: Path) -> None:
    # MC dropout takes no prior that declares a weight as a product
    model, data = problem(Normal() if isinstance(method, MCDropout) else None)
    given = {name: value.clone() for name, value in model.state_dict().items()}
    buffers = {name: value.clone() for name, value in model.network.named_buffers()}
    pyro.clear_param_store()
    before, whole, left = torch.get_rng_state(), tmp_path / "whole", tmp_path / "left"
    whole.mkdir()
    straight = fit(
        model, data, method, seed=3, checkpoint=whole / "checkpoint.pt", callbacks=[leave_after(2, whole, left)]
    )
    other = fit(model, data, method, seed=2)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)  # whatever the process did in between
    # whose draws lie elsewhere by now, as those of a folder that was moved
    shutil.rmtree(whole)
    resumed = fit(model, data, method, seed=3, checkpoint=left / "checkpoint.pt", resume=True)
    assert_identical(straight, resumed)
    assert len(without_seconds(resumed)) == 6
    assert_identical(straight, fit(model, data, method, seed=3, checkpoint=left / "checkpoint.pt", resume=True))
    # without a checkpoint, after other fits
    assert_identical(straight, fit(model, data, method, seed=3))
    assert not np.array_equal(straight.parameters["0.weight"].mean, other.parameters["0.weight"].mean)
    assert len(pyro.get_param_store()) == 0
    assert all(torch.equal(value, given[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, buffers[name]) for name, value in model.network.named_buffers())
    # samplers run batch norm as predictions do, with its statistics fixed
    moves = not isinstance(method, MinibatchChains)
    assert np.array_equal(straight.buffers["1.running_mean"], buffers["1.running_mean"].numpy()) != moves


@pytest.mark.parametrize("method", METHODS)
def test_state_captured_in_memory_is_a_copy(method: Any) -> None:
    model, data = problem(LogUniform())
    state = method.init(model, data.N, 0)
    batch = (data.train_x[:20], data.train_y[:20])

    def advance(steps: int) -> Posterior:
        torch.manual_seed(5)
        for _ in range(steps):
            method.step(state, batch)
        return method.draw(state)

    method.step(state, batch)
    captured = state.capture()
    ahead = advance(3)
    state.restore(captured)
    assert state.steps_done == 1
    again = advance(3)
    for name, site in ahead.parameters.items():
        np.testing.assert_array_equal(site.mean, again.parameters[name].mean)


def test_training_learns_and_says_what_it_did() -> None:
    model, data = problem()
    records = []
    posterior = fit(
        model,
        data,
        SVI(epochs=8, batch_size=16, learning_rate=0.01, kl_weight=0.1),
        callbacks=[lambda r, _: records.append(r)],
    )
    assert [record.epoch for record in records] == list(range(8))
    assert records[-1].data_nats > records[0].data_nats
    assert records[-1].elbo_nats == records[-1].data_nats - records[-1].complexity_nats
    assert 0 <= records[-1].validation_error <= 1 and 0 < records[-1].weights_left_percent <= 100
    found = posterior.provenance
    assert (found["method"], found["kl_weight"], found["seed"], found["N"]) == ("SVI", 0.1, 0, 48)
    assert "learning_rate=0.01" in str(found["settings"])
    assert {name: site.prior for name, site in posterior.parameters.items()} == {
        "0.weight": "GroupHorseshoe",
        "0.bias": "point",
        "1.weight": "point",
        "1.bias": "point",
        "5.weight": "GroupHorseshoe",
        "5.bias": "point",
    }


def test_validation_error_is_that_of_the_posterior_mean() -> None:
    model, data = problem()
    posterior = fit(model, data, SVI(epochs=2, batch_size=16))
    network = model.network
    values = {name: torch.from_numpy(site.mean) for name, site in posterior.parameters.items()}
    with torch.no_grad():
        for name, buffer in posterior.buffers.items():
            dict(network.named_buffers())[name].copy_(torch.from_numpy(buffer))
    errors = model.errors(values, data.validation_x, data.validation_y, chunk=5)
    assert errors.shape == (12,)
    assert without_seconds(posterior)[-1]["validation_error"] == pytest.approx(errors.mean())


def test_plain_tensors_serve_as_data() -> None:
    model, data = problem()
    posterior = fit(model, (data.train_x, data.train_y), SVI(epochs=1, batch_size=16))
    assert posterior.provenance["N"] == 48
    assert math.isnan(without_seconds(posterior)[-1]["validation_error"])


def poison(name: str, epoch: int) -> Any:
    def callback(record: EpochRecord, state: Any) -> None:
        if record.epoch == epoch:
            with torch.no_grad():
                getattr(state.guide.loc, name).view(-1)[0] = math.nan

    return callback


@pytest.mark.parametrize("site", ["0__weight__unscaled", "5__weight__z_a"])
def test_nan_stops_with_epoch_and_site_and_keeps_the_last_good_state(site: str, tmp_path: Path) -> None:
    model, data = problem()
    path, method = tmp_path / "checkpoint.pt", SVI(epochs=6, batch_size=20)
    name = re.escape(site.replace("__", "."))
    text = rf"step 9 \(epoch 3\): .*{name}' is (the first term that is )?not finite( or has run away)?; the last good"
    with pytest.raises(InferenceError, match=text):
        fit(model, data, method, seed=3, checkpoint=path, callbacks=[poison(site, 2)])
    saved = torch.load(path, weights_only=True)
    assert len(saved["history"]) == 3
    assert_identical(fit(model, data, method, seed=3), fit(model, data, method, seed=3, checkpoint=path, resume=True))


def test_infinite_outputs_name_the_observation() -> None:
    model, data = problem()
    with torch.no_grad():
        data.train_x[5] = 1e38
    with pytest.raises(InferenceError, match=r"step \d \(epoch 0\): the loss is .* and 'y' is the first term"):
        fit(model, data, SVI(epochs=1, batch_size=48))


class LastStepBreaks(torch.optim.SGD):
    """Leaves NaN behind after the last step of a run, where no later loss can show it."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.fill_(math.nan)


@pytest.mark.parametrize("method", [SVI, MAP])
def test_nan_in_the_last_step_does_not_reach_the_posterior(method: Any, tmp_path: Path) -> None:
    model, data = problem()
    with pytest.raises(InferenceError, match=r"epoch 0: parameter '0\.weight' is not finite any more"):
        fit(model, data, method(epochs=1, batch_size=48, optimizer=LastStepBreaks), checkpoint=tmp_path / "c.pt")
    assert not (tmp_path / "c.pt").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"method": SVI(epochs=2, batch_size=48, kl_weight=0.5)},
            r"its method is SVI\(.*this run's is SVI\(.*kl_weight=0\.5",
        ),
        ({"method": MAP(epochs=2, batch_size=48)}, r"its method is SVI\(.*this run's is MAP\("),
        ({"seed": 8}, "its seed is 7, this run's is 8; resume with the settings that it was started with"),
        ({"prior": LogUniform()}, r"its prior is GroupHorseshoe\(.*this run's is LogUniform\("),
        ({"numbers": 1e-4}, r"its numbers is [0-9a-f]{8}, this run's is [0-9a-f]{8}"),
        ({"data": 40}, "its data is user data, 48 of N = 48, this run's is user data, 40 of N = 40"),
        ({"network": nn.Sequential(nn.Flatten(), nn.Linear(20, 3))}, r"its network is 0\.weight \(4, 1, 3, 3\)"),
    ],
    ids=["settings", "method", "seed", "prior", "numbers", "data", "network"],
)
def test_checkpoint_of_another_run_is_refused(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    model, data = problem()
    method, path = SVI(epochs=2, batch_size=48), tmp_path / "checkpoint.pt"
    fit(model, data, method, seed=7, checkpoint=path)
    if "network" in change:
        model = BayesianNetwork(change["network"], GroupHorseshoe())
    if "prior" in change:
        model = problem(change["prior"])[0]
    if "numbers" in change:
        x = data.train_x.clone()
        x[-1, 0, 0, -1] += change["numbers"]
        data = as_data((x, data.train_y))
    if "data" in change:
        data = as_data((data.train_x[:40], data.train_y[:40]))
    with pytest.raises(InferenceError, match=text) as caught:
        fit(model, data, change.get("method", method), seed=change.get("seed", 7), checkpoint=path, resume=True)
    assert "checkpoint.pt belongs to another run" in str(caught.value)


def test_a_checkpoint_from_before_numbers_were_noted_is_gone_on_from(tmp_path: Path) -> None:
    model, data = problem()
    method, path = SVI(epochs=2, batch_size=48), str(tmp_path / "checkpoint.pt")
    expected = fit(model, data, method, checkpoint=path)
    saved = torch.load(path, weights_only=True)
    del saved["fingerprint"]["numbers"]
    torch.save(saved, path)
    found = fit(model, data, method, checkpoint=path, resume=True)
    np.testing.assert_array_equal(found.parameters["0.weight"].mean, expected.parameters["0.weight"].mean)


def constant(y: torch.Tensor, scale: float) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, scale))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def test_constants_of_a_program_are_of_its_run(tmp_path: Path) -> None:
    y, path = torch.randn(10, generator=torch.Generator().manual_seed(0)), tmp_path / "checkpoint.pt"
    fit(constant, (y, 1.0), NUTS(chains=1, warmup=20, draws=20), checkpoint=path)
    with pytest.raises(InferenceError, match=r"its constants is 1\.0, this run's is 2\.0"):
        fit(constant, (y, 2.0), NUTS(chains=1, warmup=20, draws=20), checkpoint=path, resume=True)


def test_a_posterior_keeps_its_draws_when_its_checkpoint_is_written_anew(tmp_path: Path) -> None:
    y, path = torch.randn(10, generator=torch.Generator().manual_seed(0)), tmp_path / "fit.pt"
    method = NUTS(chains=1, warmup=20, draws=20)
    first = fit(constant, (y, 1.0), method, checkpoint=path)
    assert first.draws is not None and isinstance(first.draws.flat, np.memmap)
    before = np.array(first.draws.flat)
    first.save(tmp_path / "fit.safetensors")
    second = fit(constant, (y + 5.0, 9.0), method, checkpoint=path)
    assert second.draws is not None and second.draws.flat.min() > before.max()
    np.testing.assert_array_equal(first.draws.flat, before)
    loaded = Posterior.load(tmp_path / "fit.safetensors").draws
    assert loaded is not None
    np.testing.assert_array_equal(loaded.flat, before)


def test_a_run_that_starts_afresh_leaves_no_older_checkpoint(tmp_path: Path) -> None:
    """Its draws take the place of the older one's, which would be resumed with them."""

    def broken(*arguments: Any) -> None:
        raise RuntimeError

    y, path = torch.randn(10, generator=torch.Generator().manual_seed(0)), tmp_path / "fit.pt"
    method = NUTS(chains=1, warmup=20, draws=20)
    fit(constant, (y, 1.0), method, checkpoint=path)
    with pytest.raises(InferenceError, match="observes 10 of 10 values of site 'y' outside"):
        fit(constant, (math.nan * y, 1.0), method, checkpoint=path)
    assert path.exists()
    with pytest.raises(RuntimeError), pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_compress.inference.fit.save_checkpoint", broken)
        fit(constant, (y, 1.0), method, checkpoint=path)
    assert not path.exists()


def test_checkpoint_that_is_not_one_is_refused(tmp_path: Path) -> None:
    model, data = problem()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(
        InferenceError,
        match=r"checkpoint\.pt cannot be resumed from: it is damaged or no checkpoint .*; remove it to start afresh",
    ):
        fit(model, data, SVI(epochs=1), checkpoint=path, resume=True)


def test_settings_that_hold_functions_can_be_resumed(tmp_path: Path) -> None:
    """The text that identifies a run must not hold a function's address, which differs in every process."""
    model, data = problem()

    def run(resume: bool) -> Posterior:
        def steps_down(progress: float) -> float:
            return 1.0 if progress < 0.5 else 0.1

        method = SVI(epochs=2, batch_size=48, schedule=steps_down, optimizer=torch.optim.RAdam)
        return fit(model, data, method, checkpoint=tmp_path / "c.pt", resume=resume)

    assert_identical(run(False), run(True))
