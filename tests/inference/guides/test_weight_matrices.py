"""Recurrent layers, attention and embeddings: covered by every prior, drawn once, and really used."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

import pyro_compress as pc
from pyro_compress.errors import SharedDrawsWarning
from pyro_compress.inference.fit import fit
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.falling_back import sites_drawn_once
from pyro_compress.inference.guides.flipout import Flipout
from pyro_compress.inference.guides.lazy_values import Lazy
from pyro_compress.inference.guides.local_reparameterization import LocalReparameterization
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.parameters import parameters_of
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.registry import PRIORS

# said once per process
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
GENERATOR = torch.Generator().manual_seed(3)
SEQUENCES = torch.randn(6, 4, 3, generator=GENERATOR)
TOKENS = torch.randint(0, 5, (6, 4), generator=GENERATOR).float()


class Mean(nn.Module):
    """What a recurrent layer gives, over all places."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)[0].mean(1)
        return found


class Looped(nn.Module):
    """A cell, called at every place."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for place in x.unbind(1):
            state = self.cell(place, state)
        found: Tensor = state[0] if isinstance(state, tuple) else state
        return found


class Attending(nn.Module):
    """Attention of a sequence to parts of itself."""

    def __init__(self, keys: int | None = None, **options: Any) -> None:
        super().__init__()
        self.keys = keys
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True, kdim=keys, vdim=keys, **options)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.attention(x, x[..., : self.keys], x[..., : self.keys])[0].mean(1)
        return found


class Reading(nn.Module):
    """A table of tokens."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.table(x.long())
        return found if found.ndim == 2 else found.mean(1)


class Both(nn.Module):
    """A bilinear layer of a place with the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Bilinear(3, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.pair(x[:, 0], x[:, 1])
        return found


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "lstm": (
        lambda: Mean(nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=4, batch_first=True)),
        SEQUENCES,
    ),
    "gru": (lambda: Mean(nn.GRU(3, 4, batch_first=True)), SEQUENCES),
    "rnn": (lambda: Mean(nn.RNN(3, 4, bias=False, batch_first=True)), SEQUENCES),
    "lstm-cell": (lambda: Looped(nn.LSTMCell(3, 4)), SEQUENCES),
    "gru-cell": (lambda: Looped(nn.GRUCell(3, 4)), SEQUENCES),
    "attention": (lambda: Attending(), SEQUENCES),
    "attention-other-keys": (lambda: Attending(keys=2, add_bias_kv=True), SEQUENCES),
    "embedding": (lambda: Reading(nn.Embedding(5, 2)), TOKENS),
    "embedding-bag": (lambda: Reading(nn.EmbeddingBag(5, 2)), TOKENS),
    "bilinear": (Both, SEQUENCES),
}


def network_of(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    build, x = NETWORKS[name]
    return build(), x


def values_of(model: BayesianNetwork, handler: Any) -> tuple[DeclaredGuide, dict[str, Any]]:
    guide = DeclaredGuide(model)
    torch.manual_seed(2)
    with handler:
        trace = poutine.trace(guide.forward).get_trace()
    return guide, poutine.replay(model.sample_weights, trace=trace)()


def test_every_weight_matrix_has_a_kind_and_an_axis_of_groups() -> None:
    network = nn.ModuleDict({name.replace("-", "_"): network_of(name)[0] for name in NETWORKS})
    network["bounded"] = nn.Embedding(3, 2, max_norm=1.0)
    found = {p.name: (p.kind, p.group_axis) for p in parameters_of(network) if p.group_axis is not None}
    expected: dict[str, tuple[str, int]] = {}
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        expected |= {f"lstm.layer.weight_{part}_{suffix}": ("recurrent", 1) for part in ("ih", "hh", "hr")}
    for name in ("gru.layer", "rnn.layer"):
        expected |= {f"{name}.weight_{part}_l0": ("recurrent", 1) for part in ("ih", "hh")}
    for name in ("lstm_cell.cell", "gru_cell.cell"):
        expected |= {f"{name}.weight_{part}": ("recurrent", 1) for part in ("ih", "hh")}
    expected["attention.attention.in_proj_weight"] = ("attention", 1)
    expected |= {f"attention_other_keys.attention.{one}_proj_weight": ("attention", 1) for one in "qkv"}
    expected |= {f"attention{one}.attention.out_proj.weight": ("linear", 1) for one in ("", "_other_keys")}
    expected |= {f"{one}.table.weight": ("embedding", 0) for one in ("embedding", "embedding_bag")}
    expected["bilinear.pair.weight"] = ("bilinear", 0)
    assert found == expected
    # bias_k and bias_v are (1, 1, features), a token of their own, and a bounded table is written into
    assert pc.BayesianNetwork(network, "log-uniform").coverage.matrices == ("bounded.weight",)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_module_computes_with_what_was_drawn(name: str, prior: str) -> None:
    network, x = network_of(name)
    model = BayesianNetwork(network, prior, Gaussian(noise=1.0))
    covered = {parameter.name for parameter, _ in model.parameters_covered}
    assert {p.name for p in parameters_of(network) if p.group_axis is not None} <= covered
    guide, values = values_of(model, LocalReparameterization())
    output = model.call_network(values, x)
    drawn = {name: value.materialise() if isinstance(value, Lazy) else value for name, value in values.items()}
    plain = copy.deepcopy(network)
    plain.load_state_dict({name: value.detach() for name, value in drawn.items()})
    torch.testing.assert_close(output, plain(x), rtol=1e-5, atol=1e-6)
    assert not torch.equal(plain(x), network(x)), "what was drawn is not what the guide starts from"
    output.square().sum().backward()
    for site, loc in guide.loc.named_parameters():
        assert loc.grad is not None and bool((loc.grad != 0).any()), site


def test_a_recurrent_module_is_left_as_it_was() -> None:
    network, x = network_of("lstm")
    model = BayesianNetwork(network, "normal", Gaussian(noise=1.0))
    layer: Any = model.network.layer
    before, expected = [id(weight) for weight in layer._flat_weights], network(x)
    _, values = values_of(model, LocalReparameterization())
    model.call_network(values, x)
    assert [id(weight) for weight in layer._flat_weights] == before
    assert "flatten_parameters" not in vars(layer)
    torch.testing.assert_close(model.network(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(model).network(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["lstm", "gru-cell", "attention", "embedding"])
def test_the_log_joint_of_several_chains_is_that_of_plain_modules(name: str) -> None:
    network, x = network_of(name)
    model = BayesianNetwork(network, Normal(scale=0.5), Gaussian(noise=0.7))
    y = torch.randn(network(x).shape, generator=torch.Generator().manual_seed(4))
    log_joint = LogJoint(model, 12)
    flat = log_joint.start() + 0.1 * torch.randn(2, log_joint.width, generator=torch.Generator().manual_seed(5))
    found = log_joint(flat, (x, y))
    for chain in range(2):
        values = {n: v.requires_grad_() for n, v in log_joint.constrained(flat[chain].clone()).items()}
        plain = copy.deepcopy(network)
        plain.load_state_dict(values)
        prior = sum(dist.Normal(0.0, 0.5).log_prob(value).sum() for value in plain.parameters())
        data = 12 / 6 * dist.Normal(plain(x), 0.7).log_prob(y).sum()
        assert float(found.data[chain]) == pytest.approx(data.item(), rel=1e-4)
        (data + prior).backward()
        expected = {n: parameter.grad for n, parameter in plain.named_parameters()}
        for site in log_joint.sites:
            gradient = found.gradient[chain, site.where].reshape(site.unconstrained)
            torch.testing.assert_close(gradient, expected[site.name], rtol=1e-3, atol=1e-4)


class Tagger(nn.Module):
    """A dense layer in front, an LSTM, a dense layer at every place by turns, and one of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Linear(3, 3)
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.each = nn.Linear(4, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(torch.tanh(self.front(x)))
        found: Tensor = self.out(torch.stack([torch.tanh(self.each(place)) for place in hidden.unbind(1)]).mean(0))
        return found


def test_sites_that_noise_per_example_cannot_serve_are_found() -> None:
    torch.manual_seed(1)
    model = BayesianNetwork(Tagger(), "normal", Gaussian(noise=1.0))
    guide, y = DeclaredGuide(model), torch.zeros(6, 2)
    before = torch.get_rng_state()
    for handler in (LocalReparameterization, Flipout):
        shared, names = sites_drawn_once(model, guide, handler, (SEQUENCES, y))
        assert shared == {"each.weight", "each.bias"}
        assert names == ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "each.weight")
    assert torch.equal(torch.get_rng_state(), before)
    _, values = values_of(model, LocalReparameterization(shared))
    lazy = {name for name, value in values.items() if isinstance(value, Lazy)}
    assert lazy == {name for name, _ in model.network.named_parameters()} - shared
    # one draw of `each` for all examples and places, others for `front` and `out`: equal examples come out unlike
    output = model.call_network(values, SEQUENCES[:1].expand(2, -1, -1))
    assert not torch.equal(output[0], output[1])


@pytest.mark.parametrize("estimator", ["local", "flipout", "shared"])
def test_a_fit_says_once_what_is_drawn_once(estimator: str) -> None:
    torch.manual_seed(1)
    model = pc.BayesianNetwork(Tagger(), "normal", Gaussian(noise=1.0))
    data = pc.data.as_data((SEQUENCES.repeat(4, 1, 1), torch.randn(24, 2, generator=GENERATOR)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, data, pc.inference.SVI(epochs=2, batch_size=8, estimator=estimator))
    said = [str(one.message) for one in caught if one.category is SharedDrawsWarning]
    assert len(said) == (estimator != "shared")
    if said:
        assert said[0] == (
            "SVI: drawn once per step, for all examples together: lstm.weight_ih_l0, lstm.weight_hh_l0, each.weight; "
            f"the estimator '{estimator}' serves weights of dense layers and convolutions that are used once per pass"
        )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["lstm", "attention", "embedding"])
def test_other_methods_fit_them_too(name: str) -> None:
    network, x = network_of(name)
    model = pc.BayesianNetwork(network, Normal(), Gaussian(noise=0.5))
    data = pc.data.as_data((x, torch.randn(network(x).shape, generator=torch.Generator().manual_seed(6))))
    methods = [
        pc.inference.MAP(epochs=2),
        pc.inference.SGLD(epochs=2, draws=2),
        pc.inference.HMC(chains=2, warmup=4, draws=2, leapfrog_steps=2),
        pc.inference.GroupLasso(epochs=2, strength=0.1),
    ]
    start = dict(network.named_parameters())
    for method in methods:
        posterior = fit(model, data, method)
        for parameter, _ in model.parameters_covered:
            mean = torch.from_numpy(posterior.parameters[parameter.name].mean)
            assert not torch.equal(mean, start[parameter.name]), (type(method), parameter.name)


@pytest.mark.filterwarnings("ignore::pyro_compress.errors.PosteriorWarning")
def test_a_network_of_tokens_goes_from_prior_to_file() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(Reading(nn.Embedding(5, 4)), nn.Linear(4, 2))
    labels = (TOKENS[:, 0] > 2).long()
    data = pc.data.as_data((TOKENS, labels), classes=2)
    model = pc.BayesianNetwork(network, "group-horseshoe")
    with pytest.warns(SharedDrawsWarning, match="0.table.weight"):
        posterior = fit(model, data, pc.inference.SVI(epochs=2))
    groups = posterior.parameters["0.table.weight"].groups
    assert groups is not None and groups.axis == 0 and groups.scale is not None and groups.scale.shape == (5,)
    cut = pc.analysis.prune(posterior, remove_percent=40.0)
    assert pc.compress(model, cut, data=data).kind == "runnable"
    file = pc.compress(model, cut, data=data, kind="weights")
    assert file.kind == "weights"
    assert (file.numbers()["0.table.weight"] == cut.sites["0.table.weight"].stored()).all()
