"""What programs train: which parameters are found, that the originals stay, and what cannot be trained."""

from typing import Any, cast

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.registry import METHODS
from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.program import Program

X = torch.linspace(-1.0, 1.0, 12)[:, None]
Y = 2.0 * X[:, 0] + 0.5


@pytest.fixture(autouse=True)
def store_stays_empty() -> Any:
    pyro.clear_param_store()
    yield
    assert not dict(pyro.get_param_store())


def observed(mean: Tensor, y: Tensor, scale: Any = 1.0) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 0.1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean + shift, scale), obs=y)


class Plain(nn.Module):
    """Has a layer that nothing depends on, one that is frozen and one whose weight is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.idle, self.fixed = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1).requires_grad_(False)
        self.again = nn.Linear(1, 1, bias=False)
        self.again.weight = self.line.weight

    def forward(self, x: Tensor, y: Tensor) -> None:
        observed((self.again(x) + self.line(x) + self.fixed(x))[:, 0], y)

    def method(self, x: Tensor, y: Tensor) -> None:
        self(x, y)


class Pyros(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.scale = PyroParam(torch.tensor(0.7), constraint=constraints.positive)

    def forward(self, x: Tensor, y: Tensor) -> None:
        observed(self.net(x)[:, 0], y, self.scale)


class OfLine(PyroModule):
    def __init__(self, line: Any) -> None:
        super().__init__()
        self.line = line

    def forward(self, x: Tensor, y: Tensor) -> None:
        observed(self.line(x)[:, 0], y)


LINE = nn.Linear(1, 1)
PYRO_LINE = cast(Any, PyroModule[nn.Linear])(1, 1)


def by_module(x: Tensor, y: Tensor) -> None:
    pyro.module("line", LINE)
    observed(LINE(x)[:, 0], y)


def by_pyro_module(x: Tensor, y: Tensor) -> None:
    observed(PYRO_LINE(x)[:, 0], y)


def by_params(x: Tensor, y: Tensor) -> None:
    slope = pyro.param("slope", lambda: torch.tensor([1.0]))
    scale = pyro.param("scale", torch.tensor(0.7), constraint=constraints.positive)
    observed(x @ slope, y, scale)


def unregistered(x: Tensor, y: Tensor) -> None:
    observed(LINE(x)[:, 0], y)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Plain(), {"line.weight", "line.bias"}),
        (Plain().method, {"line.weight", "line.bias"}),
        (Pyros(), {"net.weight", "net.bias", "scale_unconstrained"}),
        (by_module, {"line.weight", "line.bias"}),
        (by_pyro_module, {"weight", "bias"}),
        (by_params, {"slope", "scale"}),
        (unregistered, set()),
    ],
    ids=["module", "method", "PyroModule", "pyro.module", "closed-over PyroModule", "pyro.param", "unregistered"],
)
def test_what_is_trained_has_pyros_gradient_and_leaves_the_original(model: Any, names: set[str]) -> None:
    program = Program(model, (X, Y))
    assert set(program.free_values()) == names

    def density(run: Any) -> Tensor:
        total = poutine.trace(poutine.condition(run, data={"shift": torch.tensor(0.1)})).get_trace(X, Y).log_prob_sum()
        assert isinstance(total, Tensor)
        return total

    with pyro.get_param_store().scope():
        expected = density(model).detach()
    torch.testing.assert_close(density(program.run).detach(), expected)
    # moved copies move the density, and moving them back gives it again
    with torch.no_grad():
        for copy in program.free.parameters():
            copy.add_(0.3)
    assert not names or not torch.allclose(density(program.run).detach(), expected)
    with pyro.get_param_store().scope():
        torch.testing.assert_close(density(model).detach(), expected)
    if names:
        gradients = torch.autograd.grad(density(program.run), list(program.free.parameters()))
        assert all(float(gradient.abs().sum()) > 0 for gradient in gradients)


def test_sites_of_a_pyro_module_keep_their_names() -> None:
    model = cast(Any, PyroModule[nn.Linear])(1, 1)
    model.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 1]).to_event(2))
    whole = OfLine(model)
    # also of one that has run before
    whole(X, Y)
    pyro.clear_param_store()
    program = Program(whole, (X, Y))
    assert set(program.sites) == {"line.weight", "shift"} and set(program.free_values()) == {"line.bias"}


def test_values_are_taken_in_the_space_of_the_program() -> None:
    program = Program(by_params, (X, Y))
    program.free.take({"scale": 0.25, "slope": [3.0], "other": 1.0})
    assert {name: value.tolist() for name, value in program.free_values().items()} == {
        "slope": [3.0],
        "scale": pytest.approx(0.25),
    }


def test_a_parameter_that_no_copy_can_stand_for_is_refused() -> None:
    def beside(x: Tensor, y: Tensor) -> None:
        pyro.module("line", LINE)
        observed((x @ LINE.weight.T)[:, 0], y)

    with pytest.raises(InferenceError, match=r"uses the parameter 'line\.weight' without a call of the module"):
        Program(beside, (X, Y))


def test_params_that_come_and_go_are_refused() -> None:
    calls = []

    def sometimes(x: Tensor, y: Tensor) -> None:
        calls.append(1)
        mean = pyro.param("a", torch.tensor(0.0))
        if len(calls) > 1:
            mean = mean + pyro.param("b", torch.tensor(0.0))
        observed(mean.expand(len(x)), y)

    with pytest.raises(InferenceError, match=r"declares pyro\.param 'b' in some runs and not in others"):
        Program(sometimes, (X, Y))


def marginal(x: Tensor, y: Tensor) -> None:
    """The maximum of p(y | slope) over the slope is that of least squares without the intercept's direction."""
    observed(pyro.param("slope", torch.tensor(0.0)) * x[:, 0], y, 0.5)


@pytest.mark.parametrize("method", [SVI, BayesByBackprop, MAP], ids=lambda kind: kind.__name__)
def test_methods_that_descend_train_a_models_parameters(method: Any) -> None:
    settings = {} if method is MAP else {"draws": 50}
    found = fit(marginal, (X, Y), method(epochs=300, batch_size=12, learning_rate=0.05, **settings), seed=1)
    # x sums to zero, so slope and shift do not interact
    assert found.parameters["slope"].is_point
    assert found.parameters["slope"].mean == pytest.approx(2.0, abs=0.02)
    assert found.draws is None or "slope" not in found.draws.shapes


# these are methods of networks
OF_NETWORKS = {
    *("dropout", "mc-dropout", "magnitude-pruning"),
    *("dynamic-network-surgery", "group-lasso", "learning-compression"),
}


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"svi", "bbb", "map"} - OF_NETWORKS))
def test_other_methods_refuse_a_model_that_trains_parameters(method: str) -> None:
    with pytest.raises(InferenceError, match="the model marginal trains parameters beside its latent sites"):
        fit(marginal, (X, Y), METHODS.build(method, {}))
