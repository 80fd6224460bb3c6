"""Default arguments on programs as users write them: right, flagged or silent.

    python -m benchmarks.posterior_accuracy --targets user
    python -m benchmarks.posterior_accuracy --targets user --methods svi map

Truth is importance sampling from a wide proposal, with 3,000 effective draws and more, or NUTS; for variational
methods also the best member of the family: L-BFGS on the ELBO over 4,096 points of noise, started at the true moments.
A row is

    right     variational: means within 0.1 sds and sds within 10 % of the best of the family;
              samplers: means within 0.3 sds and sds within 25 % of the posterior's;
              point estimates: within 0.1 sds of the normal approximation at the mode that BFGS finds from the true mean
    flagged   not right, and `pyro_compress.fit` says something or stops with a sentence
    SILENT    not right, and nothing is said

all in unconstrained space, the worst coordinate counts.  The defaults were made looking at one half of the programs;
the other half, held out, is counted by itself.
"""

import json
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

import pyro_compress as pc
from benchmarks.accuracy_guides import SAMPLES, optimal
from benchmarks.accuracy_programs import HELD_OUT, PROGRAMS, Written
from pyro_compress.errors import PyroCompressError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.guides.joint import FullRank, JointGuide, MeanField
from pyro_compress.inference.log_joint.at_draws import at_draws, jacobian_gradient, values_of
from pyro_compress.inference.log_joint.whole_data import WholeData
from pyro_compress.inference.loop.feed import Feed
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.inference.registry import METHODS as REGISTERED
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.program import Program
from pyro_compress.posterior.posterior import Posterior

METHODS = ("svi", "bbb", "map", "sgld", "psgld", "sghmc", "csgld", "csghmc")
VARIATIONAL = ("svi", "bbb")
PROPOSALS, FREEDOM, LEAST_EFFECTIVE = 30_000, 8, 3000


@dataclass(frozen=True)
class Row:
    """One method on one program; errors are the worst over coordinates.

    Attributes:
        bias, ratio: of means in sds and of sds, against what the method is judged by.
        posterior_bias, posterior_ratio: against the posterior.
        flags: by name.
        message: of a run that was stopped.
        seconds: of the fit with its flags.
    """

    method: str
    program: str
    bias: float = float("nan")
    ratio: float = float("nan")
    posterior_bias: float = float("nan")
    posterior_ratio: float = float("nan")
    flags: tuple[str, ...] = ()
    message: str = ""
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """'right', 'flagged' or 'SILENT'."""
        most, wide = (0.1, 1.1) if self.method in (*VARIATIONAL, "map") else (0.3, 1.25)
        near = abs(self.bias) <= most and (self.method == "map" or abs(np.log(self.ratio)) <= np.log(wide))
        if not self.message and near:
            return "right"
        return "flagged" if self.flags or self.message else "SILENT"


class Reference:
    """What is known of a program: its moments, kept in a folder, and what is found from there."""

    def __init__(self, name: str, folder: Path) -> None:
        self.written: Written = PROGRAMS[name]()
        feed = Feed.of(self.written.model, self.written.data)
        self.program = Program(self.written.model, feed.tensors)
        self.batch, self.size = feed.tensors, feed.size
        path = folder / f"{name.replace(' ', '_')}.npz"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            found = self.weighted()
            mean, covariance, source = self.by_nuts() if found is None else found
            np.savez(path, mean=mean, covariance=covariance, source=source)
        with np.load(path) as held:
            self.mean, self.covariance, self.source = held["mean"], held["covariance"], str(held["source"])
        self.sd = np.sqrt(np.diag(self.covariance))
        self.best: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def weighted(self) -> tuple[np.ndarray, np.ndarray, str] | None:
        """Moments by importance sampling from Student's t around a full-rank fit; None where too few draws count."""
        method = SVI(guide="full-rank", draws=4000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            u = self.unconstrained(fit(self.written.model, self.written.data, method, seed=9))
        loc, factor = u.mean(0), np.linalg.cholesky(np.cov(u.T).reshape(u.shape[1], -1))
        generator, width = np.random.default_rng(9), len(loc)
        chi = generator.chisquare(FREEDOM, size=(PROPOSALS, 1)) / FREEDOM
        z = generator.standard_normal((PROPOSALS, width)) / np.sqrt(chi)
        log_q = -(FREEDOM + width) / 2 * np.log1p(np.square(z).sum(1) / FREEDOM)
        points = torch.from_numpy(loc + z @ factor.T)
        whole = WholeData(self.program, self.batch, self.size)
        values = torch.cat([whole(part).log_joint for part in points.split(1000)]).numpy()
        log_weight = np.where(np.isfinite(values), values, -np.inf) - log_q
        weights = np.exp(log_weight - log_weight.max())
        weights /= weights.sum()
        effective = 1 / np.square(weights).sum()
        if effective < LEAST_EFFECTIVE:
            return None
        mean = weights @ points.numpy()
        centred = points.numpy() - mean
        return mean, (centred.T * weights) @ centred, f"importance sampling, {effective:,.0f} effective draws"

    def by_nuts(self) -> tuple[np.ndarray, np.ndarray, str]:
        """Moments of four chains."""
        method = NUTS(chains=4, warmup=500, draws=1000, target_acceptance=0.9, compile="never")
        posterior = fit(self.written.model, self.written.data, method, seed=9)
        u = self.unconstrained(posterior)
        rows = pc.analysis.diagnose(posterior, pc.analysis.to_arviz(posterior)).rows
        source = (
            f"NUTS, largest R-hat {max(row.r_hat or 0 for row in rows):.3f}, least ESS {min(r.ess for r in rows):.0f}"
        )
        return u.mean(0), np.cov(u.T).reshape(u.shape[1], -1), source

    def unconstrained(self, posterior: Posterior, count: int = 8000) -> np.ndarray:
        """(S, D)."""
        return at_draws(self.program, values_of(posterior, count), self.batch, self.size).u

    def best_guide(self, family: str) -> tuple[np.ndarray, np.ndarray]:
        """(mean, sds) of the best member."""
        if family not in self.best:
            guide: JointGuide = (FullRank if family == "full-rank" else MeanField)(self.program)
            root = np.linalg.cholesky(self.covariance)
            scale = np.diag(root) if family == "full-rank" else 1 / np.sqrt(np.diag(np.linalg.inv(self.covariance)))
            with torch.no_grad():
                guide.loc.joint.copy_(torch.from_numpy(self.mean))
                guide.log_variance.joint.copy_(torch.from_numpy(2 * np.log(scale)))
                if isinstance(guide, FullRank):
                    guide.factor.copy_(torch.from_numpy(np.tril(root / scale[:, None], -1)))
            whole = WholeData(self.program, self.batch, self.size)
            # a model that runs at one point at a time
            samples = 512 if whole.log_joint.alone else SAMPLES
            found = optimal(guide.double(), whole.log_joint, whole.batch, samples)
            self.best[family] = (
                found.loc.joint.detach().numpy(),
                found.marginal_variance().detach().sqrt().numpy(),
            )
        return self.best[family]

    def mode(self) -> tuple[np.ndarray, np.ndarray]:
        """(mode, sds of the normal approximation there)."""
        whole = WholeData(self.program, self.batch, self.size)

        def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
            u = torch.from_numpy(self.mean + self.sd * point)[None]
            found = whole(u)
            gradient = (found.gradient - jacobian_gradient(whole.log_joint, u))[0].numpy()
            value = -float(found.data + found.prior)
            return (value, -gradient * self.sd) if np.isfinite(value) else (1e10, 0 * point)

        found = minimize(loss, 0 * self.mean, jac=True, method="BFGS", options={"gtol": 1e-6, "maxiter": 2000})
        return self.mean + self.sd * found.x, self.sd * np.sqrt(np.diag(found.hess_inv))


def worst(mean: np.ndarray, sd: np.ndarray, true_mean: np.ndarray, true_sd: np.ndarray) -> tuple[float, float]:
    """Of means in true sds, and of sds as a ratio."""
    off = (mean - true_mean) / true_sd
    ratio = sd / true_sd
    return float(off[np.argmax(np.abs(off))]), float(ratio[np.argmax(np.abs(np.log(np.maximum(ratio, 1e-12))))])


def measured(method: str, name: str, reference: Reference, seed: int) -> Row:
    """Fit with default arguments, and compare."""
    started, row = time.perf_counter(), Row(method, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            posterior = pc.fit(reference.written.model, reference.written.data, REGISTERED.build(method), seed=seed)
        except PyroCompressError as error:
            return replace(row, message=str(error), seconds=time.perf_counter() - started)
    row = replace(row, flags=tuple(flag.name for flag in posterior.flags), seconds=time.perf_counter() - started)
    if method == "map":
        values = {name: site.mean[None] for name, site in posterior.parameters.items()}
        place = at_draws(reference.program, values, reference.batch, reference.size).u[0]
        bias, _ = worst(place, place, *reference.mode())
        return replace(row, bias=bias, posterior_bias=worst(place, place, reference.mean, reference.sd)[0])
    guide: Any = posterior.provenance.get("guide")
    if guide is not None:
        mean, sd = np.array(guide["loc"]), np.array(guide["sd"])
        aim = reference.best_guide(guide["family"])
    else:
        u, weights = all_draws(reference, posterior)
        mean = weights @ u
        sd, aim = np.sqrt(weights @ np.square(u - mean)), (reference.mean, reference.sd)
    bias, ratio = worst(mean, sd, *aim)
    posterior_bias, posterior_ratio = worst(mean, sd, reference.mean, reference.sd)
    return replace(row, bias=bias, ratio=ratio, posterior_bias=posterior_bias, posterior_ratio=posterior_ratio)


def all_draws(reference: Reference, posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
    """((S, D), weights) of a sampler."""
    assert posterior.draws is not None
    count = posterior.draws.chains * posterior.draws.count
    return reference.unconstrained(posterior, count), posterior.draws.weights().ravel()


def run(methods: Sequence[str], programs: Sequence[str], seed: int, out: Path) -> list[Row]:
    """Print and save a table."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    print("| program | method | bias | sd ratio | against the posterior | flags | seconds | |")
    print("| --- | --- | ---: | ---: | --- | --- | ---: | --- |")
    for name in programs:
        reference = Reference(name, out / "references")
        print(f"| {name} | reference | | | {reference.source} | | | |", flush=True)
        for method in methods:
            row = measured(method, name, reference, seed)
            rows.append(row)
            apart = f"{row.posterior_bias:.2f}, {row.posterior_ratio:.2f}"
            cells = [
                name,
                method,
                f"{row.bias:.3f}",
                f"{row.ratio:.3f}",
                apart,
                ", ".join(row.flags) or row.message[:60],
            ]
            print(f"| {' | '.join(cells)} | {row.seconds:.1f} | {row.verdict} |", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "user.json").write_text(json.dumps([{**asdict(r), "verdict": r.verdict} for r in rows], indent=2) + "\n")
    print()
    for what, chosen in (
        ("held out", [row for row in rows if row.program in HELD_OUT]),
        ("looked at", [row for row in rows if row.program not in HELD_OUT]),
    ):
        for kind, among in (
            ("variational", [row for row in chosen if row.method in VARIATIONAL]),
            ("point", [row for row in chosen if row.method == "map"]),
            ("stochastic-gradient", [row for row in chosen if row.method not in (*VARIATIONAL, "map")]),
        ):
            if among:
                counted = Counter(row.verdict for row in among)
                shares = ", ".join(f"{v} {100 * counted[v] / len(among):.0f} %" for v in ("right", "flagged", "SILENT"))
                print(f"{what}, {kind}: {shares} of {len(among)}")
    return rows
