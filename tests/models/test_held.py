"""The network that a model holds: modes, buffers and state dicts reach it, its parameters are listed once."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from pyro_compress.inference.fit import fit
from pyro_compress.inference.point.map import MAP
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
PRIORS: Any = {"*.weight": Normal()}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))


def model(seed: int = 0) -> BayesianNetwork:
    return BayesianNetwork(network(seed), PRIORS, Gaussian(noise=1.0))


def output(one: BayesianNetwork) -> torch.Tensor:
    """With the values that the network was given in place of what priors cover."""
    values = dict(one.network.named_parameters()) | one.free_values()
    return one.call_network(values, X).detach()


def test_modes_reach_the_network() -> None:
    one = model()
    assert one.eval() is one and not any(module.training for module in one.network.modules())
    assert torch.equal(output(one), output(one))
    before = {name: value.clone() for name, value in one.network.named_buffers()}
    assert all(torch.equal(value, before[name]) for name, value in one.network.named_buffers())
    one.train()
    assert all(module.training for module in one.network.modules())
    assert not torch.equal(output(one), output(one))
    assert not torch.equal(one.network.get_buffer("1.running_mean"), before["1.running_mean"])


def test_functions_over_modules_reach_the_network() -> None:
    one, seen = model(), []
    one.apply(lambda module: seen.append(type(module).__name__))
    assert {"BatchNorm1d", "Linear", "BayesianNetwork"} <= set(seen)


def test_parameters_are_listed_once_and_those_that_are_replaced_not_at_all() -> None:
    one = model()
    assert [name for name, _ in one.named_parameters()] == ["free.0__bias", "free.1__bias", "free.3__bias"]
    names = [name for name, _ in one.named_buffers()]
    assert names == ["network.1.running_mean", "network.1.running_var", "network.1.num_batches_tracked"]
    assert len(list(one.buffers())) == 3


def test_state_dicts_bring_a_model_back_with_its_buffers() -> None:
    one, other = model(0), model(1)
    output(one.train())
    with torch.no_grad():
        for value in one.parameters():
            value.add_(0.5)
    assert not torch.equal(output(one.eval()), output(other.eval()))
    found = other.load_state_dict(one.state_dict())
    assert not found.missing_keys and not found.unexpected_keys
    assert torch.equal(output(one), output(other))
    for site, expected in zip(other.latents(), one.latents(), strict=True):
        assert torch.equal(site.loc, expected.loc)


def test_state_dicts_survive_files_and_prefixes(tmp_path: Any) -> None:
    one, holder, other = model(0), nn.ModuleDict({"inner": model(0)}), nn.ModuleDict({"inner": model(1)})
    torch.save(holder.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    inner: Any = other["inner"]
    assert torch.equal(output(inner.eval()), output(one.eval()))
    assert {name for name, _ in other.named_parameters()} == {f"inner.{name}" for name, _ in one.named_parameters()}


def test_what_is_missing_superfluous_or_of_another_shape_is_said() -> None:
    state = model().state_dict()
    state.pop("network.1.running_var")
    with pytest.raises(RuntimeError, match=r"Missing key.*network\.1\.running_var"):
        model(1).load_state_dict(state)
    assert model(1).load_state_dict(state, strict=False).missing_keys == ["network.1.running_var"]
    with pytest.raises(RuntimeError, match=r"Unexpected key.*network\.9\.bias"):
        model(1).load_state_dict({**model().state_dict(), "network.9.bias": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"size mismatch for 1\.running_mean"):
        model(1).load_state_dict({**model().state_dict(), "network.1.running_mean": torch.zeros(7)})


def test_state_dicts_of_before_still_load() -> None:
    other = model(1)
    before = {name: value.clone() for name, value in other.network.state_dict().items()}
    old = {name: value for name, value in model(0).state_dict().items() if not name.startswith("network.")}
    found = other.load_state_dict(old)
    assert not found.missing_keys and not found.unexpected_keys
    assert torch.equal(other.free_values()["0.bias"], model(0).free_values()["0.bias"])
    assert all(torch.equal(value, before[name]) for name, value in other.network.state_dict().items())


def test_copies_share_nothing() -> None:
    one = model()
    other = copy.deepcopy(one)
    output(other.train())
    with torch.no_grad():
        for value in (*other.parameters(), *other.network.parameters()):
            value.add_(1.0)
    assert torch.equal(output(one.eval()), output(model().eval()))
    assert not torch.equal(output(other.eval()), output(one))


def test_types_and_devices_reach_the_network() -> None:
    one = model().to(torch.float64)
    assert {value.dtype for value in (*one.parameters(), *one.network.parameters())} == {torch.float64}
    assert one.network.get_buffer("1.running_mean").dtype == torch.float64
    assert {value.device.type for value in (*model().to("meta").buffers(),)} == {"meta"}


def test_fits_are_the_same_whatever_mode_the_model_was_in() -> None:
    method = MAP(epochs=2, batch_size=6)
    y = X[:, :3]
    found = [fit(one, (X, y), method, seed=0) for one in (model(), model().eval())]
    for name, site in found[0].parameters.items():
        assert (site.mean == found[1].parameters[name].mean).all()
