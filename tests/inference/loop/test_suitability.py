"""Before the first step: a network, its likelihood and the data go together, or a sentence says why not."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pyro_compress import fit
from pyro_compress.data.dataset import DataSet
from pyro_compress.errors import DataError, NetworkError, UnstorableWarning
from pyro_compress.inference import MAP, SVI
from pyro_compress.inference.loop.feed import Feed
from pyro_compress.inference.loop.suitability import check_fit
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Gaussian, Likelihood, Poisson
from pyro_compress.models.priors.normal import Normal

UNSTORABLE = "the network is fitted, and a file will hold its weights alone, to be put into the module: "


def plain(outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs))


def examples(count: int = 12, classes: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(1)), torch.arange(count) % classes


def check(network: nn.Module, data: Any = None, likelihood: Likelihood | None = None) -> None:
    model = BayesianNetwork(network, {"*": Normal()} if [*network.parameters()] else {}, likelihood or Categorical())
    check_fit(model, Feed.of(model, examples() if data is None else data))


class Net(nn.Module):
    """A layer, and whatever is made of its result."""

    def __init__(self, rest: Any, **modules: nn.Module) -> None:
        super().__init__()
        self.layer, self.rest = nn.Linear(4, 3), rest
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self.rest(self, x)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.layer(x) * mask


class Recomputing(nn.Module):
    """Keeps nothing of its middle for the backward pass."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = checkpoint(self.middle, x, use_reentrant=self.use_reentrant) if self.training else self.middle(x)
        found: Tensor = self.last(x.tanh())
        return found


@pytest.mark.parametrize("kind", [lambda n: n, lambda n: n.append(nn.Hardshrink()), lambda n: n.append(nn.RReLU())])
def test_networks_are_fitted_whether_a_file_can_hold_them_or_not(kind: Any) -> None:
    network = kind(plain())
    if len(network) == 3:
        check(network)
        return
    with pytest.warns(
        UnstorableWarning, match=f"{UNSTORABLE}module '3' .* is not supported: supported are Linear, Conv1d"
    ):
        check(network)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (Two(), "forward takes the arguments x, mask, expected one tensor of examples"),
        (nn.Linear(6, 3), r"does not accept examples of shape \(4,\): .*shapes cannot be multiplied"),
        (Net(lambda m, x: m.layer(x), spare=nn.Linear(2, 2)), "parameter spare.weight is not used by the forward pass"),
        (
            Net(lambda m, x: m.layer(x.exp()), spare=nn.Linear(2, 2)),
            "parameter spare.weight is not used by",
        ),
        (
            Net(lambda m, x: m.layer(x.exp().squeeze())),
            r"Net returns shape \(3,\) for a batch of 1 and \(11, 3\) for one of 11",
        ),
        (Net(lambda m, x: m.layer(x - x.mean(0))), "or mixes examples: what becomes of one example may not depend on"),
        (Net(lambda m, x: m.layer(x).softmax(0)), "or mixes examples: what becomes of one example may not depend on"),
        (
            Net(lambda m, x: m.layer(x.exp()).softmax(-1)),
            "Net returns probabilities in training mode: let the network return",
        ),
        (
            Net(lambda m, x: m.layer(x) if m.training else m.layer(x).softmax(-1)),
            "Net returns probabilities in evaluation mode: let the network return",
        ),
        (Recomputing(use_reentrant=False), r"computes a part of itself again .* \(torch.utils.checkpoint\), .* switch"),
        (Recomputing(use_reentrant=True), r"computes a part of itself again .* \(torch.utils.checkpoint\), .* switch"),
        (Net(lambda m, x: (m.layer(x), x)), "Net returns a tuple, expected one tensor with a row per example"),
        (Net(lambda m, x: m.layer(x).sum()), "Net returns a number, expected one tensor with a row per example"),
        (
            Net(lambda m, x: (m.layer(x), x) if m.training else m.layer(x)),
            "Net returns a tuple, expected one tensor with a row per example",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(network: nn.Module, sentence: str) -> None:
    with pytest.raises(NetworkError, match=sentence):
        check(network)


def test_a_function_that_holds_on_to_the_network_given_is_refused() -> None:
    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            # a copy of the network computes with the layer of the original
            self.rest = lambda x: self.layer(x)

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(x)

    with (
        pytest.warns(UnstorableWarning, match=UNSTORABLE),
        pytest.raises(NetworkError, match=r"parameter layer\.weight is not used by the forward pass"),
    ):
        check(Closed())


def test_networks_that_draw_are_taken() -> None:
    check(Net(lambda m, x: torch.nn.functional.dropout(m.layer(x), 0.5)))


def test_more_labels_than_outputs_are_refused_as_the_command_line_does() -> None:
    with pytest.raises(DataError, match=r"network Sequential returns outputs of shape \(2,\), user data has 3 classes"):
        check(plain(2))
    x, y = examples()
    empty = (x[:0], y[:0])
    # a class of which there is no example
    data = DataSet("mine", x, y, *empty, *empty, classes=tuple("abcd"))
    with pytest.raises(DataError, match=r"returns outputs of shape \(3,\), mine has 4 classes"):
        check(plain(3), data)
    check(plain(4), data)


def test_targets_without_classes_or_of_another_shape_are_refused() -> None:
    x, y = examples()
    with pytest.raises(DataError, match="user data has no class labels, which the categorical likelihood needs"):
        check(plain(), (x, y.float()))
    for likelihood in (Gaussian(), Bernoulli()):
        with pytest.raises(
            DataError, match=r"outputs of shape \(11, 3\) go with targets of shape \(11, 3\), found \(11,\)"
        ):
            check(plain(), (x, y.float()), likelihood)


@pytest.mark.parametrize("kind", [torch.int64, torch.bool])
def test_whole_numbers_are_class_labels_and_nothing_else(kind: torch.dtype) -> None:
    x, y = examples()
    several, one = (y[:, None] > torch.arange(3)).to(kind), nn.Sequential(nn.Linear(4, 1))
    for likelihood in (Bernoulli(), ContinuousBernoulli()):
        with pytest.raises(DataError, match=r"targets are whole numbers, .* zeros and ones too: give y\.float\(\)"):
            check(plain(), (x, several), likelihood)
    with pytest.raises(
        DataError, match=r"go with targets of shape \(11, 1\), found \(11,\).*give counts, .* y\.float\(\)"
    ):
        check(one, (x, y.to(kind)), Poisson())
    with pytest.raises(DataError, match=r"change the network's last layer$"):
        check(one, (x, y.float()), Poisson())
    check(plain(), (x, several), Poisson())
    check(plain(), (x, several.float()), Bernoulli())


def test_few_examples_and_statistics_of_batches_are_no_trouble() -> None:
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    before = copy.deepcopy(network.state_dict())
    for count in (3, 1):
        check(network, examples(count, classes=count))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("method", [SVI(epochs=1), MAP(epochs=1)], ids=["svi", "map"])
def test_fit_looks_before_its_first_step(method: Any) -> None:
    model = BayesianNetwork(plain(2), Normal())
    with pytest.raises(DataError, match="user data has 3 classes"):
        fit(model, examples(), method)
    # a hook on the network that the model holds
    model = BayesianNetwork(plain(), Normal())
    model.network[0].register_forward_hook(lambda module, x, y: 2 * y)  # type: ignore[index]
    with pytest.raises(NetworkError, match=r"module '0' \(Linear\) has forward hooks"):
        fit(model, examples(), method)
    model = BayesianNetwork(plain(), Normal())
    with torch.no_grad():
        model.network[0].weight[0, 0] = float("nan")  # type: ignore[index]
    with pytest.raises(NetworkError, match=r"parameter 0\.weight holds NaN"):
        fit(model, examples(), method)


def test_looking_takes_nothing_from_the_generators() -> None:
    network = nn.Sequential(plain(), nn.Dropout(0.5))
    before = torch.get_rng_state()
    check(network)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("likelihood", [Bernoulli(), ContinuousBernoulli()], ids=["bernoulli", "continuous"])
def test_a_sigmoid_that_the_likelihood_applies_again_is_refused(likelihood: Likelihood) -> None:
    x, y = examples()
    data = x, (y[:, None] > torch.arange(3)).float()

    def in_one_mode(training: bool) -> Net:
        return Net(lambda m, x: m.layer(x).sigmoid() if m.training == training else m.layer(x))

    for network, mode in (
        (plain().append(nn.Sigmoid()), "training"),
        (plain().append(nn.Hardtanh(0, 1)), "training"),
        (in_one_mode(True), "training"),
        (in_one_mode(False), "evaluation"),
    ):
        with pytest.raises(NetworkError, match=f"returns numbers from 0 to 1 alone in {mode} mode.*return the logits"):
            check(network, data, likelihood)
    check(plain().append(nn.Sigmoid()), data, Gaussian())


def test_logits_that_lie_between_0_and_1_to_begin_with_are_fine() -> None:
    x, y = examples()
    networks = [plain(), plain().append(nn.ReLU()), plain().append(nn.Softplus()), plain().append(nn.Tanh())]
    networks.append(nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 3, bias=False)))
    for network in networks:
        last = [module for module in network if isinstance(module, nn.Linear)][-1]
        with torch.no_grad():
            last.weight.abs_().mul_(0.01)
            if last.bias is not None:
                last.bias.fill_(0.5)
        check(network, (x, (y[:, None] > torch.arange(3)).float()), Bernoulli())
    with torch.no_grad():
        last.weight.zero_()
    check(network, (x, (y[:, None] > torch.arange(3)).float()), Bernoulli())
