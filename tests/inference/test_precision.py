"""Networks in bfloat16 while they train: near the numbers of float32, and nothing else is touched."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_compress as pc
from pyro_compress.errors import DecisionError, InferenceError
from pyro_compress.inference import MAP, SVI, BayesByBackprop
from pyro_compress.inference.finetuning.grid import GridSite, fine_tune
from pyro_compress.inference.fit import fit
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.models.networks import vae_digits
from pyro_compress.models.precision import called, networks_in
from pyro_compress.network.quantizers import power_of_two


@pytest.fixture(scope="module")
def digits() -> pc.DataSet:
    return pc.data.load("digits")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10)
    )


def gradient(method: Any, data: pc.DataSet) -> tuple[Tensor, Any]:
    """Of the first step, and what was said of it."""
    torch.manual_seed(1)
    state = method.init(pc.BayesianNetwork(network(), "log-uniform"), data.N, 0)
    state.model.network.train()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        info = method.step(state, (data.train_x[:100], data.train_y[:100]))
    return torch.cat([moved.grad.flatten() for moved in state.moved() if moved.grad is not None]), info


@pytest.mark.parametrize("kind", [MAP, SVI, BayesByBackprop])
def test_gradients_are_those_of_float32_but_for_rounding(kind: Any, digits: pc.DataSet) -> None:
    (exact, said), (rounded, in_half) = (
        gradient(kind(epochs=1, batch_size=100, precision=precision), digits) for precision in ("single", "bfloat16")
    )
    assert not torch.equal(exact, rounded) and said.data_nats != in_half.data_nats
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.995
    assert in_half.data_nats == pytest.approx(said.data_nats, rel=0.01)
    assert in_half.complexity_nats == said.complexity_nats, "the prior has nothing to do with it"


def test_likelihoods_see_float32_and_validation_is_of_float32(digits: pc.DataSet) -> None:
    plain, seen = network(), []
    plain[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    x = digits.train_x[:4]
    with networks_in("bfloat16"):
        assert called(lambda: plain(x), x.device).dtype == torch.float32
    assert called(lambda: plain(x), x.device).dtype == torch.float32
    assert seen == [torch.bfloat16, torch.float32]
    model = pc.BayesianNetwork(network(), {})
    method = MAP(epochs=3, batch_size=64, learning_rate=5e-3, precision="bfloat16")
    posterior = pc.fit(model, digits, method)
    values = {name: torch.from_numpy(site.mean) for name, site in posterior.parameters.items()}
    model.network.load_state_dict(values | {n: torch.from_numpy(b) for n, b in posterior.buffers.items()}, strict=False)
    model.network.eval()
    wrong = (model.network(digits.validation_x).argmax(1) != digits.validation_y).double().mean()
    history = posterior.provenance["history"]
    assert isinstance(history, list) and history[-1]["validation_error"] == pytest.approx(float(wrong))
    assert wrong < 0.1


def test_fine_tuning_on_the_grid_trains_in_it(digits: pc.DataSet) -> None:
    found = []
    for precision in ("single", "bfloat16"):
        tuned = network()
        sites = {
            name: GridSite(value.detach().clone(), torch.ones_like(value, dtype=torch.bool), power_of_two(-5))
            for name, value in tuned.named_parameters()
            if value.ndim > 1
        }
        values = fine_tune(
            tuned, sites, digits, Categorical(), epochs=1, rate_weight=0.1, learning_rate=5e-3, precision=precision
        )
        found.append(torch.cat([value.flatten() for value in values.values()]))
    assert not torch.equal(*found) and all(value.dtype == torch.float32 for value in found)
    assert torch.cosine_similarity(found[0], found[1], dim=0) > 0.99


def test_what_has_no_other_precision_says_so(digits: pc.DataSet) -> None:
    with pytest.raises(InferenceError, match="unknown precision 'half': known are bfloat16, single"):
        SVI(epochs=1, precision="half")
    with pytest.raises(InferenceError, match="steps in bfloat16 are not compiled: leave out compile='always' or"):
        SVI(epochs=1, precision="bfloat16", compile="always")
    with pytest.raises(DecisionError, match="fine_tune_precision is one of single, bfloat16, found 'half'"):
        pc.DecisionSettings(fine_tune_precision="half")

    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    with pytest.raises(InferenceError, match="a function is fitted in single precision, and precision='bfloat16' is"):
        pc.fit(model, (torch.zeros(4),), SVI(epochs=1, precision="bfloat16"))
    vae = pc.VAE(vae_digits(), {}, "bernoulli")
    with pytest.raises(InferenceError, match="a VAE is fitted in single precision"):
        pc.fit(vae, digits.reconstructing("static"), SVI(epochs=1, precision="bfloat16"))


def test_a_run_resumes_and_ends_alike(digits: pc.DataSet, tmp_path: Any) -> None:
    method = SVI(epochs=2, batch_size=128, precision="bfloat16")
    model = pc.BayesianNetwork(network(), "log-uniform")
    whole = pc.fit(model, digits, method)
    half = tmp_path / "half.pt"

    def stop(record: Any, state: Any) -> None:
        if record.epoch == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, digits, method, checkpoint=half, callbacks=[stop])
    resumed = fit(model, digits, method, checkpoint=half, resume=True)
    for name, site in whole.parameters.items():
        assert np.array_equal(site.mean, resumed.parameters[name].mean)


@pytest.mark.parametrize("precision", ["single", "double"])
def test_the_precision_of_samplers_is_another(precision: str) -> None:
    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    method = pc.inference.NUTS(warmup=20, draws=20, chains=2, precision=precision)
    assert fit(model, (torch.zeros(4),), method).draws is not None
