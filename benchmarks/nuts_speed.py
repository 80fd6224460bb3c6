"""Effective samples per second of NUTS: this package, Pyro's eager and jit-compiled NUTS, numpyro's.

    python benchmarks/nuts_speed.py                       # numpyro and jax must be installed for their rows
    python benchmarks/nuts_speed.py --targets logistic --samplers ours,pyro

All run the same model with the same chains, warm-up, draws, target acceptance and greatest tree depth, one after the
other in one process on one core, in single precision.  The effective sample size is ArviZ's bulk one, the smallest
over parameters and predictions at held-out inputs.  Seconds are those of warm-up and draws; tracing and compiling
have a column of their own.

A last table holds 16 chains of HMC, 20 leapfrog steps per transition, against one; the two take turns.
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch

from pyro_compress.inference.mcmc.hmc import HMC
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.models.program import Program

DEPTH = 10


@dataclass(frozen=True)
class Target:
    """A model for Pyro and the same for numpyro, its data, and predictions from its draws.

    Attributes:
        pyro_model, numpyro_model: functions of (x, y).
        data: (x, y).
        predict: from draws by site, (chain, draw, ...), to (chain, draw, points).
    """

    name: str
    pyro_model: Callable[..., None]
    numpyro_model: Callable[..., None]
    data: tuple[torch.Tensor, torch.Tensor]
    predict: Callable[[dict[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Row:
    """What one sampler did."""

    sampler: str
    smallest: float
    of_predictions: float
    steps: float
    seconds: float
    preparing_seconds: float

    @property
    def rate(self) -> float:
        return self.smallest / self.seconds

    @property
    def rate_of_predictions(self) -> float:
        return self.of_predictions / self.seconds


def logistic(features: int = 50, examples: int = 1000) -> Target:
    """Logistic regression, w ~ N(0, I)."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(examples + 10, features, generator=random)
    y = torch.bernoulli(torch.sigmoid(0.5 * x @ torch.randn(features, generator=random)), generator=random)
    held = x[examples:].numpy()

    def pyro_model(x: torch.Tensor, y: torch.Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(features), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    def numpyro_model(x: Any, y: Any) -> None:
        import numpyro
        import numpyro.distributions as ndist

        w = numpyro.sample("w", ndist.Normal(np.zeros(features), 1.0).to_event(1))
        with numpyro.plate("data", len(x)):
            numpyro.sample("y", ndist.Bernoulli(logits=x @ w), obs=y)

    return Target(
        "logistic regression, d = 50, N = 1,000",
        pyro_model,
        numpyro_model,
        (x[:examples], y[:examples]),
        lambda draws: 1 / (1 + np.exp(-draws["w"] @ held.T)),
    )


SHAPES = {"w1": (2, 20), "b1": (20,), "w2": (20,), "b2": ()}


def network(examples: int = 100, noise: float = 0.5) -> Target:
    """A 2-20-1 network with tanh, N(0, 1) on every weight and bias, Gaussian noise."""
    random = torch.Generator().manual_seed(1)
    x = 2 * torch.rand(examples + 10, 2, generator=random) - 1
    y = torch.sin(3 * x[:, 0]) * x[:, 1] + noise * torch.randn(len(x), generator=random)
    held = x[examples:].numpy()

    def pyro_model(x: torch.Tensor, y: torch.Tensor) -> None:
        w1, b1, w2, b2 = (
            pyro.sample(name, dist.Normal(torch.zeros(shape), 1.0).to_event(len(shape)))
            for name, shape in SHAPES.items()
        )
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(torch.tanh(x @ w1 + b1) @ w2 + b2, noise), obs=y)

    def numpyro_model(x: Any, y: Any) -> None:
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as ndist

        w1, b1, w2, b2 = (
            numpyro.sample(name, ndist.Normal(np.zeros(shape), 1.0).to_event(len(shape)))
            for name, shape in SHAPES.items()
        )
        with numpyro.plate("data", len(x)):
            numpyro.sample("y", ndist.Normal(jnp.tanh(x @ w1 + b1) @ w2 + b2, noise), obs=y)

    def predict(draws: dict[str, np.ndarray]) -> np.ndarray:
        hidden = np.tanh(np.einsum("ni,cdij->cdnj", held, draws["w1"]) + draws["b1"][:, :, None])
        return np.einsum("cdnj,cdj->cdn", hidden, draws["w2"]) + draws["b2"][..., None]

    return Target("2-20-1 Bayesian network, N = 100", pyro_model, numpyro_model, (x[:examples], y[:examples]), predict)


def ours(target: Target, given: argparse.Namespace, seed: int, *, compile: str) -> Row:
    """Ours, by the contract that `fit` runs."""
    method = NUTS(
        chains=given.chains,
        warmup=given.warmup,
        draws=given.draws,
        target_acceptance=given.target_acceptance,
        max_tree_depth=DEPTH,
        compile=compile,
    )
    torch.manual_seed(seed)
    program = Program(target.pyro_model, target.data)
    started = time.perf_counter()
    state = method.init(program, len(target.data[0]), seed)
    state.leapfrog(target.data)
    ready = time.perf_counter()
    for _ in range(method.rounds):
        method.step(state, target.data)
    ended = time.perf_counter()
    draws = method.draw(state).draws
    assert draws is not None
    values = {name: draws.site(name) for name in draws.shapes}
    name = "ours, replayed" if compile == "never" else "ours, compiled"
    return row(name, target, values, draws.statistics["n_steps"].mean(), ended - ready, ready - started)


def pyros(target: Target, given: argparse.Namespace, seed: int, *, compile: bool) -> Row:
    """Pyro's, one chain after the other."""
    from pyro.infer import MCMC
    from pyro.infer import NUTS as PyroNUTS

    chains, seconds, preparing, steps = [], 0.0, 0.0, []
    for chain in range(given.chains):
        pyro.clear_param_store()
        pyro.set_rng_seed(1000 * seed + chain)
        kernel = PyroNUTS(
            target.pyro_model,
            target_accept_prob=given.target_acceptance,
            max_tree_depth=DEPTH,
            jit_compile=compile,
            ignore_jit_warnings=True,
        )
        times: list[float] = []

        def hook(kernel: Any, samples: Any, stage: str, index: int, times: list[float] = times) -> None:
            times.append(time.perf_counter())

        # counted where Pyro asks for a gradient, because it keeps no count itself
        with CountedGradients() as counter:
            mcmc = MCMC(
                kernel,
                num_samples=given.draws,
                warmup_steps=given.warmup,
                disable_progbar=True,
                hook_fn=hook,
            )
            started = time.perf_counter()
            mcmc.run(*target.data)
        # the first transition follows tracing at once, and is counted with it
        preparing += times[0] - started
        seconds += times[-1] - times[0]
        steps.append(counter[0] / (given.draws + given.warmup))
        chains.append({name: value.detach().numpy() for name, value in mcmc.get_samples().items()})
    values = {name: np.stack([chain[name] for chain in chains]) for name in chains[0]}
    name = "Pyro, jit_compile=True" if compile else "Pyro, eager"
    return row(name, target, values, statistics.mean(steps), seconds, preparing)


class CountedGradients:
    """Counts Pyro's calls of `potential_grad` in its integrator."""

    def __enter__(self) -> list[int]:
        import pyro.ops.integrator as integrator

        self.module, self.original, count = integrator, integrator.potential_grad, [0]

        def counting(*arguments: Any) -> Any:
            count[0] += 1
            return self.original(*arguments)

        self.module.potential_grad = counting
        return count

    def __exit__(self, *problem: object) -> None:
        self.module.potential_grad = self.original


def numpyros(target: Target, given: argparse.Namespace, seed: int, *, chain_method: str) -> Row:
    """numpyro's on the CPU: a first run compiles, a second one with the same program is timed."""
    import jax
    from numpyro.infer import MCMC
    from numpyro.infer import NUTS as NumpyroNUTS

    data = tuple(part.numpy() for part in target.data)
    mcmc = MCMC(
        NumpyroNUTS(
            target.numpyro_model,
            target_accept_prob=given.target_acceptance,
            max_tree_depth=DEPTH,
        ),
        num_warmup=given.warmup,
        num_samples=given.draws,
        num_chains=given.chains,
        chain_method=chain_method,
        progress_bar=False,
    )
    times = []
    for key in (seed + 100, seed):
        started = time.perf_counter()
        mcmc.run(jax.random.PRNGKey(key), *data, extra_fields=("num_steps",))
        jax.block_until_ready(mcmc.get_samples())
        times.append(time.perf_counter() - started)
    values = {name: np.asarray(value) for name, value in mcmc.get_samples(group_by_chain=True).items()}
    steps = float(np.asarray(mcmc.get_extra_fields()["num_steps"]).mean())
    return row(f"numpyro, {chain_method} chains", target, values, steps, times[1], max(0.0, times[0] - times[1]))


def row(
    name: str, target: Target, values: dict[str, np.ndarray], steps: float, seconds: float, preparing: float
) -> Row:
    """Effective sample sizes of (chain, draw, ...) by site."""
    import arviz

    def smallest(array: np.ndarray) -> float:
        flat = array.reshape(*array.shape[:2], -1).astype(np.float64)
        return min(float(arviz.ess(flat[..., index], method="bulk")) for index in range(flat.shape[-1]))

    predictions = smallest(target.predict(values))
    return Row(name, min(predictions, *(smallest(v) for v in values.values())), predictions, steps, seconds, preparing)


TARGETS = {"logistic": logistic, "network": network}
SAMPLERS: dict[str, list[Callable[..., Row]]] = {
    "ours": [lambda *a: ours(*a, compile="always"), lambda *a: ours(*a, compile="never")],
    "numpyro": [
        lambda *a: numpyros(*a, chain_method="sequential"),
        lambda *a: numpyros(*a, chain_method="vectorized"),
    ],
    "pyro": [lambda *a: pyros(*a, compile=False), lambda *a: pyros(*a, compile=True)],
}


def table(target: Target, rows: list[Row]) -> Iterable[str]:
    """Markdown: every sampler's effective samples per second, and ours over theirs."""
    mine = [one for one in rows if one.sampler.startswith("ours")]
    best = max((one.rate for one in mine), default=float("nan"))
    predicting = max((one.rate_of_predictions for one in mine), default=float("nan"))
    yield f"{target.name}"
    yield ""
    yield (
        "| sampler | steps per draw | seconds | tracing and compiling, s "
        "| smallest ESS | per second | best of ours over it "
        "| smallest ESS of predictions | per second | best of ours over it |"
    )
    yield "| --- |" + " ---: |" * 9
    for one in rows:
        yield (
            f"| {one.sampler} | {one.steps:.1f} | {one.seconds:.2f} | {one.preparing_seconds:.1f} "
            f"| {one.smallest:.0f} | {one.rate:.2f} | {best / one.rate:.1f}× "
            f"| {one.of_predictions:.0f} | {one.rate_of_predictions:.2f} "
            f"| {predicting / one.rate_of_predictions:.1f}× |"
        )
    yield ""


def chains_table(targets: Iterable[Target]) -> Iterable[str]:
    """Markdown: what 16 chains of HMC cost, in steps of one chain."""
    yield "| HMC on | gradients | one chain, µs per step | 16 chains | ratio |"
    yield "| --- | --- | --- | --- | --- |"
    for target in targets:
        for compile in ("never", "always"):
            prepared = {}
            for chains in (1, 16):
                method = HMC(
                    chains=chains,
                    warmup=0,
                    draws=10_000,
                    step_size=0.01,
                    target_acceptance=0.0,
                    leapfrog_steps=20,
                    compile=compile,
                )
                torch.manual_seed(0)
                state = method.init(Program(target.pyro_model, target.data), len(target.data[0]), 0)
                method.step(state, target.data)
                prepared[chains] = (method, state)
            best = dict.fromkeys(prepared, float("inf"))
            for _ in range(10):
                for chains, (method, state) in prepared.items():
                    started = time.perf_counter()
                    method.step(state, target.data)
                    best[chains] = min(best[chains], (time.perf_counter() - started) / (20 * method.per_round))
            one, many = 1e6 * best[1], 1e6 * best[16]
            kind = "compiled" if compile == "always" else "replayed"
            yield f"| {target.name} | {kind} | {one:.0f} | {many:.0f} | {many / one:.1f}× |"


def main() -> None:
    """Parse the command line, run what is asked for, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default="logistic,network")
    parser.add_argument("--samplers", default="ours,numpyro,pyro")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=250)
    parser.add_argument("--draws", type=int, default=250)
    parser.add_argument("--target-acceptance", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cores", type=int, default=1, help="cores that the process may use")
    given = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])
    torch.set_num_threads(given.cores)
    warnings.filterwarnings("ignore")
    for name in given.targets.split(","):
        target, rows = TARGETS[name](), []
        for sampler in given.samplers.split(","):
            try:
                for run in SAMPLERS[sampler]:
                    rows.append(run(target, given, given.seed))
                    print(f"{rows[-1].sampler}, {target.name}: {rows[-1].seconds:.1f} s", file=sys.stderr, flush=True)
            except ImportError as missing:
                print(f"({sampler} left out: {missing})")
        print("\n".join(table(target, rows)), flush=True)
    print("\n".join(chains_table(TARGETS[name]() for name in given.targets.split(","))), flush=True)


if __name__ == "__main__":
    main()
