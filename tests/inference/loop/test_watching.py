"""Every chain is told of as it goes, and what is told changes nothing."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_compress.inference.fit import fit
from pyro_compress.inference.loop import watching
from pyro_compress.inference.loop.watching import ChainProgress, Watch
from pyro_compress.inference.mcmc.hmc import HMC
from pyro_compress.inference.mcmc.metropolis import Metropolis
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.inference.stochastic_gradient.sgld import SGLD

X = torch.linspace(-1, 1, 20)
METHODS: dict[str, Any] = {
    "nuts": NUTS(chains=2, warmup=30, draws=40, compile="never"),
    "hmc": HMC(chains=2, warmup=30, draws=40, compile="never"),
    "metropolis": Metropolis(chains=2, warmup=30, draws=20, thin=2),
    "sgld": SGLD(chains=2, epochs=7, batch_size=2, warmup=3 / 7, draws=40),
}


def line(x: torch.Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(slope * x, 0.5), obs=0.7 * x)


@pytest.mark.parametrize("name", METHODS)
def test_every_chain_is_told_of_to_its_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PAUSE_SECONDS", 0.0)
    seen: list[ChainProgress] = []
    watched = fit(line, (X,), METHODS[name], seed=1, watcher=seen.append)
    alone = fit(line, (X,), METHODS[name], seed=1)
    assert watched.draws is not None and alone.draws is not None
    np.testing.assert_array_equal(watched.draws.flat, alone.draws.flat)
    for chain in (0, 1):
        own = [glance for glance in seen if glance.chain == chain]
        assert [glance.done for glance in own] == list(range(1, 71))
        assert [glance.in_warmup for glance in own] == [True] * 30 + [False] * 40
        assert {glance.planned for glance in own} == {70}
    last = seen[-1].numbers
    assert last["step_size"] > 0
    if name in ("nuts", "hmc"):
        assert set(last) == {"acceptance_rate", "n_steps", "step_size", "divergences"}
        assert last["divergences"] == watched.draws.statistics["diverging"][seen[-1].chain].sum()
        # a block is 50 transitions, so 20 of the last ones are averaged
        means = {name: watched.draws.statistics[name][seen[-1].chain, -20:].mean() for name in ("acceptance_rate",)}
        assert last["acceptance_rate"] == pytest.approx(means["acceptance_rate"])
    else:
        assert last["lp"] == watched.draws.statistics["lp"][seen[-1].chain, -1]


def test_divergences_are_counted_after_the_warmup() -> None:
    seen: list[ChainProgress] = []
    steep = HMC(chains=1, warmup=10, draws=10, step_size=50.0, target_acceptance=0.0, leapfrog_steps=5, compile="never")
    found = fit(line, (X,), steep, seed=1, watcher=seen.append)
    assert found.draws is not None
    assert seen[-1].numbers["divergences"] == found.draws.statistics["diverging"].sum() == 10


def test_a_watcher_is_not_told_more_often_than_it_can_read() -> None:
    seen: list[ChainProgress] = []
    watch = Watch(planned=1000)
    assert not watch.is_due(0, 1)
    watch.watcher = seen.append
    for done in range(1, 1001):
        watch.tell_all(2, done, False, {"lp": np.array([0.0, 1.0])})
    assert [(glance.chain, glance.done) for glance in seen[:2]] == [(0, 1), (1, 1)]
    assert [(glance.chain, glance.done) for glance in seen[-2:]] == [(0, 1000), (1, 1000)]
    assert len(seen) < 100 and seen[-1].numbers == {"lp": 1.0}
