"""What a recorded step would freeze runs as a program, and says so: counters, lists, random numbers, values."""

import itertools
import math
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_compress import fit
from pyro_compress.inference import NUTS, SGLD, SVI, Method
from pyro_compress.inference.speed import recording
from pyro_compress.inference.speed.moving import moved, reachable
from pyro_compress.inference.speed.recording import Replayed, is_due
from pyro_compress.inference.variational import recorded_step
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal

SLOWER = "the program cannot be traced and runs step by step, which is slower "
CALLS = [0]


class Counts:
    """A class of the user's, with a number on the instance and one on the class."""

    of_all = 0

    def __init__(self) -> None:
        self.own, self.draw = 0, np.random.default_rng(0)
        self.device_draw, self.numbers = random.Random(0), itertools.count()


def state_of(root: Any) -> dict[str, Any]:
    return reachable(("root", root))


def bump_class(held: Counts) -> None:
    Counts.of_all += 1


@pytest.mark.parametrize(
    ("move", "clause"),
    [
        (lambda held: setattr(held, "own", held.own + 1), "'root.own' changes while it runs"),
        (bump_class, "'Counts.of_all' changes while it runs"),
        (lambda held: held.draw.normal(), "'root.draw' changes while it runs"),
        (lambda held: held.device_draw.random(), "'root.device_draw' changes while it runs"),
        (lambda held: next(held.numbers), "'root.numbers' changes while it runs"),
        (lambda held: random.random(), "Python's random numbers are drawn while it runs"),
        (lambda held: np.random.rand(), "numpy's random numbers are drawn while it runs"),
    ],
)
def test_what_an_object_reaches_is_seen_to_move(move: Callable[[Counts], Any], clause: str) -> None:
    held = Counts()
    before = state_of(held)
    assert moved(before, state_of(held)) is None
    move(held)
    assert moved(before, state_of(held)) == clause


def test_what_a_function_reaches_is_seen_to_move() -> None:
    count, numbers, deep = [0], {"beta": torch.zeros(3)}, (Counts(),)

    def inner() -> int:
        return CALLS[0]

    def model(step: Any = count) -> Any:
        return numbers["beta"], deep, inner()

    def moves(change: Callable[[], Any]) -> str | None:
        before = state_of(model)
        change()
        return moved(before, state_of(model))

    assert moves(lambda: None) is None
    assert moves(lambda: count.append(1)) is not None
    assert moves(lambda: numbers["beta"].data.add_(1)) == "'numbers['beta']' changes while it runs"
    assert moves(lambda: setattr(deep[0], "own", 3)) == "'deep[0].own' changes while it runs"
    assert moves(lambda: CALLS.__setitem__(0, CALLS[0] + 1)) == "'CALLS[0]' changes while it runs"


def test_recordings_are_looked_at_ever_more_seldom() -> None:
    assert [uses for uses in range(1, 70) if is_due(uses)] == [2, 3, 5, 9, 17, 33, 65]


def test_a_recording_gives_way_where_it_differs() -> None:
    shift = [0.0]
    both = Replayed(lambda x: (x,), lambda x: (x + shift[0],))
    x = torch.ones(2)
    assert all(torch.equal(both(x)[0], x) for _ in range(4))
    shift[0] = 1.0
    with pytest.warns(UserWarning, match="a recorded step no longer gives what the program gives"):
        assert torch.equal(both(x)[0], x + 1)
    assert torch.equal(both(x)[0], x + 1)


class WarmUp(nn.Module):
    """Says nothing before it was called so many times, in training or always."""

    def __init__(self, where: str, always: bool) -> None:
        super().__init__()
        self.layer, self.where, self.always, self.calls = nn.Linear(4, 3), where, always, 0
        self.inner = {"calls": [0]}

    def forward(self, x: Tensor) -> Tensor:
        output = self.layer(x)
        if not self.training and not self.always:
            return output
        self.calls += self.where == "attribute"
        self.inner["calls"][0] += self.where == "list"
        CALLS[0] += self.where == "global"
        calls = self.calls + self.inner["calls"][0] + (CALLS[0] if self.where == "global" else 0)
        return output * 0.0 if calls < 40 else output


def examples() -> tuple[Tensor, Tensor]:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    return x, x[:, :3].argmax(1)


@pytest.mark.parametrize("where", ["attribute", "list", "global"])
@pytest.mark.parametrize("method", [SVI, SGLD])
def test_networks_that_count_are_fitted_as_they_would_be_without_recording(
    where: str, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded_step, "TRACE_AFTER", 10)
    torch.manual_seed(0)
    # samplers run a network as it predicts
    model = BayesianNetwork(WarmUp(where, always=method is SGLD), Normal())
    options = {"learning_rate": 0.05, "compile": "never"} if method is SVI else {"a": 20.0, "warmup": 0.9}
    CALLS[0] = 0
    with pytest.warns(UserWarning, match=r"which is slower \('.*' changes while it runs\)"):
        posterior = fit(model, examples(), method(epochs=150, batch_size=60, **options), seed=0)
    assert posterior.statistics["data_nats"] / 60 > -0.9 * math.log(3)


def annealed(count: list[int]) -> Any:
    def model(y: Tensor) -> None:
        count[0] += 1
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        shift = 0.0 if count[0] > 20 else 3.0
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean + shift, 1.0), obs=y)

    return model


def test_programs_that_count_are_fitted_as_they_would_be_without_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_step, "TRACE_AFTER", 10)
    y = torch.full((20,), 3.0)
    with pytest.warns(UserWarning, match=r"which is slower \('count\[0\]' changes while it runs\)"):
        found = fit(annealed([0]), (y,), SVI(epochs=300, batch_size=20, learning_rate=0.1, kl_warmup=0.0), seed=0)
    assert abs(float(found.parameters["mean"].mean) - 3.0) < 0.3


class Scaled(nn.Module):
    """Its output is that of the layer times what a function says."""

    def __init__(self, factor: Callable[[Tensor], float]) -> None:
        super().__init__()
        self.layer, self.factor = nn.Linear(4, 3), factor

    def forward(self, x: Tensor) -> Tensor:
        output = self.layer(x)
        return output * self.factor(output) if self.training else output


def fitted(network: nn.Module, **options: Any) -> dict[str, np.ndarray]:
    torch.manual_seed(1)
    for value in network.parameters():
        nn.init.normal_(value)
    method = SVI(epochs=20, batch_size=20, compile="never")
    posterior = fit(BayesianNetwork(network, Normal()), examples(), method, seed=0, **options)
    return {name: site.mean for name, site in posterior.parameters.items()}


def test_random_numbers_of_python_stay_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_step, "TRACE_AFTER", 5)
    with pytest.warns(UserWarning, match=r"slower \(Python's random numbers are drawn while it runs\)"):
        fitted(Scaled(lambda output: random.random()))
    with pytest.warns(UserWarning, match=r"slower \(numpy's random numbers are drawn while it runs\)"):
        fitted(Scaled(lambda output: float(np.random.rand())))


@pytest.mark.parametrize(
    "factor",
    [
        # neither passes through an operation that torch would see
        lambda output: float(output.detach().numpy().mean()),
        lambda output: time.perf_counter_ns() % 1000 / 1000,
        lambda output: output.detach().flatten().tolist()[0],
    ],
)
def test_what_torch_does_not_see_is_found_by_comparing(
    factor: Callable[[Tensor], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded_step, "TRACE_AFTER", 5)
    with pytest.warns(UserWarning, match="a recorded step no longer gives what the program gives|cannot be traced"):
        fitted(Scaled(factor))


def test_what_callbacks_change_between_epochs_is_not_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_step, "TRACE_AFTER", 5)

    class Tempered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.temperature = nn.Linear(4, 3), 1.0

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) / self.temperature

    def cool(record: Any, state: Any) -> None:
        if record.epoch == 12:
            state.model.network.temperature = 10.0

    with pytest.warns(UserWarning, match=r"slower \('network\.temperature' changes while it runs\)"):
        changed = fitted(Tempered(), callbacks=[cool])
    monkeypatch.setattr(recorded_step, "TRACE_AFTER", 10_000)
    expected = fitted(Tempered(), callbacks=[cool])
    assert all(np.array_equal(changed[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    "method", [SVI(epochs=3, batch_size=20), NUTS(warmup=5, draws=5, chains=2)], ids=["svi", "nuts"]
)
def test_nothing_is_needed_of_recordings(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """With recording switched off nothing is traced, and the fit is the same."""
    traced: list[Any] = []
    original = vars(recording)["graph_of"]

    def counted(function: Any, *examples: Any) -> Any:
        traced.append(function)
        return original(function, *examples)

    monkeypatch.setattr(recording, "graph_of", counted)
    monkeypatch.setattr(recorded_step, "TRACE_AFTER", 1)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(40, 3, generator=generator)
    y = x.sum(1, keepdim=True) + 0.5 * torch.randn(40, 1, generator=generator)
    model = BayesianNetwork(nn.Linear(3, 1), Normal(), Gaussian(noise=0.5))
    recorded = fit(model, (x, y), method, seed=1)
    assert traced
    traced.clear()
    with recording.programs_alone():
        plain = fit(model, (x, y), method, seed=1)
    assert not traced
    for name, site in plain.parameters.items():
        np.testing.assert_allclose(recorded.parameters[name].mean, site.mean, rtol=1e-4, atol=1e-6)
