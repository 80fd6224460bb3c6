"""Replayed steps are the steps of the program, bit for bit; what cannot be traced runs as before."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_compress.data import as_data
from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import EpochRecord, fit
from pyro_compress.inference.variational import base as variational
from pyro_compress.inference.variational import recorded_step
from pyro_compress.inference.variational.base import VariationalMethod
from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.variational.recorded_step import TracedTerms
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys
from pyro_compress.models.priors.scale_mixture import ScaleMixture
from pyro_compress.posterior.posterior import Posterior

EXAMPLES = 40


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)
    )


def examples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(EXAMPLES, 1, 6, 6, generator=generator), torch.randint(0, 3, (EXAMPLES,), generator=generator)


def fitted(method: VariationalMethod, prior: Prior, module: nn.Module | None = None) -> Posterior:
    return fit(BayesianNetwork(module or network(), prior, Categorical()), examples(), method, seed=2)


def patience(monkeypatch: pytest.MonkeyPatch, calls: int) -> list[Any]:
    """Trace after so many steps of one shape; the list receives what each tracing came to."""
    found: list[Any] = []
    original = TracedTerms._traced

    def noted(self: TracedTerms, *arguments: Any, **options: Any) -> Any:
        found.append(original(self, *arguments, **options))
        return found[-1]

    monkeypatch.setattr(TracedTerms, "_traced", noted)
    for module in (recorded_step, variational):
        monkeypatch.setattr(module, "TRACE_AFTER", calls)
    return found


def assert_same(first: Posterior, second: Posterior) -> None:
    for name, site in first.parameters.items():
        assert (site.mean == second.parameters[name].mean).all(), name
        assert (site.variance == second.parameters[name].variance).all(), name
    for name in ("data_nats", "complexity_nats"):
        assert first.statistics[name] == second.statistics[name]


@pytest.mark.parametrize(
    ("prior", "options"),
    [
        (GroupHorseshoe(), {"kl_weight": 0.3}),
        (GroupNormalJeffreys(), {"particles": 2}),
        (LogUniform(), {"clip": 0.1}),
        (ScaleMixture(), {"optimizer": "sgd"}),
        (Normal(), {"estimator": "shared"}),
        # signs are drawn as well, so that noise stays inside the graph
        (Normal(), {"estimator": "flipout"}),
        (Normal(), {"guide": "low-rank", "rank": 2, "draws": 5}),
        (GroupHorseshoe(), {"guide": "full-rank", "particles": 3, "entropy": "exact", "averaging": 0.7, "draws": 5}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Prior) else "-".join(value),
)
def test_replayed_steps_are_the_programs_bit_for_bit(
    prior: Prior, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # batches of 16, 16 and 8, so two shapes
    method = SVI(epochs=3, batch_size=16, kl_warmup=0.5, **options)
    programs = fitted(method, prior)
    traced = patience(monkeypatch, 1)
    assert_same(fitted(method, prior), programs)
    assert len(traced) == 2 and None not in traced


@pytest.mark.parametrize(
    ("prior", "options"),
    [
        (GroupHorseshoe(), {"kl_weight": 0.3, "shrink": False}),
        # draws signs inside the graph; gradients are clipped, so the optimizer moves outside of it
        pytest.param(Normal(), {"estimator": "flipout", "clip": 0.1}, marks=pytest.mark.nightly),
    ],
    ids=["local", "flipout-clipped"],
)
def test_compiled_steps_are_the_programs_up_to_rounding_and_resume_bit_for_bit(
    prior: Prior, options: dict[str, Any], tmp_path: Path
) -> None:
    path, left = tmp_path / "checkpoint.pt", tmp_path / "left.pt"

    def leave(record: EpochRecord, state: Any) -> None:
        assert state.compiled
        assert {traced.moves for traced in state.traced._graphs.values() if traced.moves} == (
            set() if "clip" in options else {True}
        )
        if record.epoch == 1:
            # as a run that is stopped here would; one fit less to compile for
            shutil.copy(path, left)

    def method(compile: str) -> SVI:
        # batches of one size, as every further one is compiled for a quarter of a minute
        return SVI(epochs=3, batch_size=20, kl_warmup=0.5, compile=compile, **options)

    model, programs = BayesianNetwork(network(), prior, Categorical()), fitted(method("never"), prior)
    compiled = fit(model, examples(), method("always"), seed=2, checkpoint=path, callbacks=[leave])
    for name, site in compiled.parameters.items():
        torch.testing.assert_close(site.mean, programs.parameters[name].mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(site.variance, programs.parameters[name].variance, rtol=1e-4, atol=1e-7)
    assert compiled.statistics["data_nats"] == pytest.approx(programs.statistics["data_nats"], rel=1e-5)
    assert_same(fit(model, examples(), method("always"), seed=2, checkpoint=left, resume=True), compiled)


def test_compiling_begins_where_the_steps_that_are_left_pay_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch, 1)
    batch = examples()
    for epochs, worth in ((1000, False), (10_000_000, True)):
        method = SVI(epochs=epochs, batch_size=EXAMPLES)
        state = method.init(BayesianNetwork(network(), Normal(), Categorical()), EXAMPLES, 0)
        monkeypatch.setattr(recorded_step, "compiled", lambda graph, examples: graph)
        for _ in range(3):
            method.step(state, batch)
        assert state.compiled is worth


def test_minibatch_weights_are_inputs_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    method = BayesByBackprop(epochs=3, batch_size=16, kl_weight=0.5)
    programs = fitted(method, ScaleMixture())
    traced = patience(monkeypatch, 0)
    assert_same(fitted(method, ScaleMixture()), programs)
    assert len(traced) == 2


def test_runs_resume_bit_for_bit_where_steps_were_replayed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, left = tmp_path / "checkpoint.pt", tmp_path / "left.pt"

    def leave(record: EpochRecord, state: Any) -> None:
        if record.epoch == 1:
            shutil.copy(path, left)

    patience(monkeypatch, 2)
    method, model = SVI(epochs=4, batch_size=16), BayesianNetwork(network(), GroupHorseshoe(), Categorical())
    straight = fit(model, examples(), method, seed=2, checkpoint=path, callbacks=[leave])
    assert_same(fit(model, examples(), method, seed=2, checkpoint=left, resume=True), straight)


def test_any_pyro_model_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(y: torch.Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Exponential(rate), obs=y)

    y = torch.tensor([0.3, 1.2, 0.7, 0.1])
    method = SVI(epochs=8, batch_size=4, draws=3)
    programs = fit(model, (y,), method, seed=3).statistics["data_nats"]
    traced = patience(monkeypatch, 1)
    assert fit(model, (y,), method, seed=3).statistics["data_nats"] == programs
    assert len(traced) == 1 and traced[0] is not None


def test_what_looks_at_values_runs_as_a_program_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Choosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(4)
            self.layer = nn.Linear(36, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = self.layer(x.flatten(1))
            return found if bool(found.detach().mean() > 0) else -found

    method = SVI(epochs=2, batch_size=20)
    programs = fitted(method, Normal(), Choosy())
    traced = patience(monkeypatch, 1)
    with pytest.warns(UserWarning, match="the program cannot be traced and runs step by step, which is slower"):
        found = fitted(method, Normal(), Choosy())
    assert traced == [None]
    assert_same(found, programs)


class Residual(nn.Module):
    """Two batch norms, one of them behind a sum."""

    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.second = nn.Conv2d(1, 3, 3, bias=False), nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, affine=False)])
        self.head = nn.Linear(48, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norms[0](self.first(x)).relu()
        return self.head(self.norms[1](x + self.second(x)).relu().flatten(1))


def assert_same_statistics(first: Posterior, second: Posterior) -> None:
    assert set(first.buffers) == set(second.buffers) and first.buffers
    for name, buffer in first.buffers.items():
        assert (buffer == second.buffers[name]).all(), name


@pytest.mark.parametrize(
    ("prior", "options"),
    [(GroupHorseshoe(), {"kl_weight": 0.3}), (Normal(), {"particles": 2, "estimator": "shared"})],
    ids=["local", "particles"],
)
def test_statistics_of_batches_move_in_recorded_steps_as_in_the_program(
    prior: Prior, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = SVI(epochs=4, batch_size=16, kl_warmup=0.5, **options)
    programs = fitted(method, prior, Residual())
    traced = patience(monkeypatch, 1)
    found = fitted(method, prior, Residual())
    assert_same(found, programs)
    assert_same_statistics(found, programs)
    # a batch of 8 comes seldom
    assert len(traced) == 2 and None not in traced


def test_statistics_of_batches_in_compiled_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the program's up to rounding, and a run that was interrupted goes on bit for bit."""
    programs = fitted(SVI(epochs=6, batch_size=20), LogUniform(), Residual())
    traced = patience(monkeypatch, 1)
    found = fitted(SVI(epochs=6, batch_size=20, compile="always"), LogUniform(), Residual())
    assert traced and None not in traced
    for name, site in programs.parameters.items():
        np.testing.assert_allclose(found.parameters[name].mean, site.mean, rtol=1e-3, atol=1e-5)
    for name, buffer in programs.buffers.items():
        np.testing.assert_allclose(found.buffers[name], buffer, rtol=1e-4, atol=1e-6)
    assert float(found.buffers["norms.0.running_var"].max()) != 1.0


@pytest.mark.parametrize("own", ["momentum", "buffer"])
def test_buffers_of_other_kinds_keep_steps_from_being_recorded(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = patience(monkeypatch, 0)
    module = Residual(None if own == "momentum" else 0.1)
    if own == "buffer":
        module.register_buffer("mean", torch.zeros(3))
    fitted(SVI(epochs=1, batch_size=20), Normal(), module)
    assert traced == []


def test_a_replayed_loss_that_is_not_finite_names_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = patience(monkeypatch, 0)
    method = SVI(epochs=2, batch_size=EXAMPLES)
    state = method.init(BayesianNetwork(network(), Normal(), Categorical()), EXAMPLES, 0)
    method.step(state, examples())
    with torch.no_grad():
        next(state.guide.loc.parameters()).fill_(float("nan"))
    with pytest.raises(InferenceError, match=r"step 1 .epoch 1.: the loss is nan and '0.weight' is the first term"):
        method.step(state, examples())
    assert len(traced) == 1


@pytest.mark.parametrize("training", [True, False])
def test_recordings_outlive_validation_and_callbacks(monkeypatch: pytest.MonkeyPatch, training: bool) -> None:
    """Validation runs the network as it predicts, which is no change of the model that a recording would miss."""
    traced = patience(monkeypatch, 2)
    x, y = examples()
    data = as_data((x, y), validation=0.25)
    states: list[Any] = []
    model = BayesianNetwork(network().train(training), Normal(), Categorical())
    # a warning that the program runs step by step would fail the test
    fit(model, data, SVI(epochs=6, batch_size=15), seed=2, callbacks=[lambda record, state: states.append(state)])
    assert len(traced) == 1 and traced[0] is not None
    assert not states[-1].traced._runs_as_program
