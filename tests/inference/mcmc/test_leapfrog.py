"""Leapfrog steps: their order, their inverse, mass matrices, compiled and replayed."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_compress.inference.fit import fit
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.mcmc.hmc import HMC
from pyro_compress.inference.mcmc.leapfrog import GRADIENT, MOMENTUM, POSITION, Leapfrog
from pyro_compress.models.program import Program
from tests.inference.chain_targets import (
    COVARIANCE,
    LOCATION,
    X,
    Y,
    conjugate,
    gaussian,
)


def quartic() -> None:
    """Not Gaussian, so that energy errors do not cancel."""
    x = pyro.sample("x", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    pyro.factor("more", -(x**4).sum() / 4)


def test_energy_errors_are_of_second_order_and_steps_reversible() -> None:
    log_joint = LogJoint(Program(quartic, ()), 0, dtype=torch.float64)
    leapfrog = Leapfrog(log_joint, (), np.array([[1.0, 0.7, 1.3]] * 2))
    random = torch.Generator().manual_seed(2)
    position, momentum = torch.randn(2, 2, 3, generator=random, dtype=torch.float64)
    start = torch.stack([position, momentum, leapfrog.evaluate(position).gradient], 1)

    def walk(phase: torch.Tensor, size: float, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        energies = torch.zeros(2, 4)
        for _ in range(count):
            phase, energies = leapfrog(phase, torch.full((2,), size, dtype=torch.float64))
        return phase, energies[:, 1] - energies[:, 0]

    before = 0.5 * momentum.square().sum(1) - leapfrog.evaluate(position).log_joint
    coarse, fine = (walk(start, 0.4 / n, 2 * n)[1] - before for n in (8, 16))
    # halving the step quarters the error over a fixed time
    torch.testing.assert_close(coarse / fine, torch.full((2,), 4.0, dtype=torch.float64), rtol=0.15, atol=0)
    there, _ = walk(start, 0.1, 20)
    back, _ = walk(there, -0.1, 20)
    torch.testing.assert_close(back, start, rtol=1e-8, atol=1e-8)
    still, _ = walk(start, 0.0, 3)
    assert torch.equal(still[:, [POSITION, MOMENTUM, GRADIENT]], start)


def test_a_dense_scale_whitens_as_a_linear_map_does() -> None:
    scale = torch.linalg.cholesky(COVARIANCE.double())
    log_joint = LogJoint(Program(gaussian, ()), 0, dtype=torch.float64)
    leapfrog = Leapfrog(log_joint, (), scale.numpy()[None])
    position, momentum = LOCATION.double() + scale @ torch.ones(3).double(), torch.tensor([0.3, -0.2, 0.5]).double()
    start = torch.stack([position, momentum, leapfrog.evaluate(position[None]).gradient[0]])[None]
    (after, energies) = leapfrog(start, torch.tensor([0.2]).double())
    # in whitened coordinates the target is a standard normal and starts at (1, 1, 1)
    half = momentum - 0.1 * torch.ones(3)
    white = torch.ones(3) + 0.2 * half
    torch.testing.assert_close(after[0, POSITION], LOCATION + scale @ white, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after[0, MOMENTUM], half - 0.1 * white, rtol=1e-5, atol=1e-5)
    assert float(energies[0, 1]) == pytest.approx(0.5 * float((half - 0.1 * white).square().sum()), rel=1e-5)


def test_compiled_steps_are_the_replayed_ones() -> None:
    log_joint = LogJoint(Program(conjugate, (X, Y)), 20)
    scale = np.array([[1.0, 0.5, 2.0]] * 2)
    replayed, compiled = (Leapfrog(log_joint, (X, Y), scale, compile_it=compile_it) for compile_it in (False, True))
    phase = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(3))
    for left, right in zip(
        replayed(phase, torch.tensor([0.1, -0.2])), compiled(phase, torch.tensor([0.1, -0.2])), strict=True
    ):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-3)


def test_without_a_compiler_gradients_are_replayed_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.warns(UserWarning, match="replayed and not compiled, which is slower .there is no C\\+\\+ compiler"):
        found = fit(conjugate, (X, Y), HMC(warmup=10, draws=10, chains=2, compile="always")).draws
    assert found is not None and np.isfinite(found.flat).all()
