"""The one loop over rounds and batches: progress, validation, checkpoints, resume.

Batches depend on (seed, epoch) alone and the random state is saved with every checkpoint, so a run that was
stopped and resumed gives the same numbers as one that was not.
"""

import copy
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_compress.data import DataSet
from pyro_compress.data_sources import Examples
from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Batch, Method, Model, State
from pyro_compress.inference.feed import Feed
from pyro_compress.inference.optimisation import ADVICE
from pyro_compress.inference.watching import Watcher
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.program import Program
from pyro_compress.posterior import Posterior


@dataclass(frozen=True)
class EpochRecord:
    """What a human watches, once per round (an epoch, or some transitions of a sampler).

    Nats are totals over the data set, averaged over the round's steps; so is `extra`.
    """

    epoch: int
    epochs: int
    data_nats: float
    complexity_nats: float
    kl_weight: float
    learning_rate: float
    validation_error: float
    weights_left_percent: float
    seconds: float
    extra: Mapping[str, float] = field(default_factory=dict)
    round_name: str = "epoch"
    objective_name: str = "ELBO"

    @property
    def elbo_nats(self) -> float:
        """data − complexity at β = 1."""
        return self.data_nats - self.complexity_nats


Callback = Callable[[EpochRecord, State], None]


def fit(
    model: BayesianNetwork | Callable[..., Any],
    data: DataSet | Examples | Batch | None,
    method: Method,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    callbacks: Iterable[Callback] = (),
    watcher: Watcher | None = None,
) -> Posterior:
    """Fit `model` to `data.train_*` with `method`.

    Args:
        model: the Bayesian network, or any Pyro model; a copy of it is trained.
        data: training and validation examples, the test part is not looked at; or what `data.as_data` takes.  For a
            Pyro model a tuple of its arguments, or None where it takes none.
        method: SVI(...), MAP(...), ...
        seed: decides batches and noise; nothing outside this call is touched.
        checkpoint: file that is written after every round, or None; a sampler's draws lie in a folder beside it.
        resume: go on from `checkpoint` if it is there.
        callbacks: called after every round.
        watcher: told of every chain of a sampler as it goes, some ten times a second.

    Raises:
        InferenceError: a non-finite loss (the checkpoint keeps the last good epoch), or a checkpoint of
            another run.
    """
    feed, model = Feed.of(model, data), copy.deepcopy(model)
    if not isinstance(model, BayesianNetwork):
        model = Program(model, feed.tensors)
    fingerprint = _fingerprint(model, feed, method, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = method.init(model, feed.size, seed, feed.held)
        if checkpoint is not None:
            state.keep_in(checkpoint.with_suffix(".draws"))
        if watcher is not None:
            state.watched_by(watcher)
        history: list[EpochRecord] = []
        if resume and checkpoint is not None and checkpoint.exists():
            history = _restore(checkpoint, state, fingerprint)
        for round in range(len(history), method.rounds):
            record = _one_round(model, feed, method, state, seed, round)
            history.append(record)
            if round + 1 < method.rounds:
                method.between_rounds(state)
            if checkpoint is not None:
                _save(checkpoint, state, fingerprint, history)
            for callback in callbacks:
                callback(record, state)
    posterior = method.draw(state)
    return _with_provenance(posterior, feed, method, seed, history)


def _one_round(model: Model, feed: Feed, method: Method, state: State, seed: int, round: int) -> EpochRecord:
    started = time.perf_counter()
    if isinstance(model, BayesianNetwork):
        model.network.train()
    infos = [method.step(state, batch) for batch in method.batches(feed, seed, round)]
    posterior = method.look(state)
    _refuse_non_finite(posterior, f"{method.round_name} {round}")
    kept = [site.kept() for site in posterior.parameters.values() if site.mean.ndim > 1]
    error = float("nan")
    if isinstance(model, BayesianNetwork) and feed.validation is not None:
        values = {name: torch.from_numpy(site.mean) for name, site in posterior.parameters.items()}
        x, y = feed.validation
        error = float(np.mean(predictive_errors(model, values, x, y)))
    return EpochRecord(
        epoch=round,
        epochs=method.rounds,
        data_nats=float(np.mean([info.data_nats for info in infos])),
        complexity_nats=float(np.mean([info.complexity_nats for info in infos])),
        kl_weight=infos[-1].kl_weight,
        learning_rate=infos[-1].learning_rate,
        validation_error=error,
        weights_left_percent=100.0 * sum(int(k.sum()) for k in kept) / max(1, sum(k.size for k in kept)),
        seconds=time.perf_counter() - started,
        extra={name: float(np.mean([info.extra[name] for info in infos])) for name in infos[-1].extra},
        round_name=method.round_name,
        objective_name=method.objective_name,
    )


def _refuse_non_finite(posterior: Posterior, where: str) -> None:
    # a step with a finite loss can still have moved a parameter to NaN; it must not reach the checkpoint
    for name, site in posterior.parameters.items():
        if not np.isfinite(site.mean).all():
            raise InferenceError(f"{where}: parameter '{name}' is not finite any more; {ADVICE}")


def predictive_errors(
    model: BayesianNetwork, values: Mapping[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor, chunk: int = 1000
) -> np.ndarray:
    """Per-example errors (likelihood.error) of the network with `values` as its parameters, (examples,)."""
    model.network.eval()
    found = []
    with torch.no_grad():
        for start in range(0, len(x), chunk):
            output = model.call_network(values, x[start : start + chunk])
            found.append(model.likelihood.error(output, y[start : start + chunk]).numpy())
    return np.concatenate(found)


def _fingerprint(model: Model, feed: Feed, method: Method, seed: int) -> dict[str, str]:
    found = {
        "method": _settings(method),
        "seed": str(seed),
        "data": f"{feed.name}, {feed.held} of N = {feed.size}",
    }
    if isinstance(model, Program):
        sites = ", ".join(f"{name} {tuple(fn.shape())}" for name, fn in model.sites.items())
        return found | {"model": f"{model.name}: {sites}"}
    shapes = (f"{name} {tuple(tensor.shape)}" for name, tensor in model.network.named_parameters())
    return found | {
        "prior": repr(model.prior),
        "likelihood": repr(model.likelihood),
        "network": ", ".join(shapes),
    }


def _settings(method: Method) -> str:
    # a function's address says nothing and differs in every process
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(method))


def _save(path: Path, state: State, fingerprint: dict[str, str], history: list[EpochRecord]) -> None:
    partial = path.with_name(path.name + ".partial")
    torch.save(
        {
            "state": state.capture(),
            "random": torch.get_rng_state(),
            "history": [asdict(record) for record in history],
            "fingerprint": fingerprint,
        },
        partial,
    )
    partial.replace(path)


def _restore(path: Path, state: State, fingerprint: dict[str, str]) -> list[EpochRecord]:
    try:
        saved = torch.load(path, weights_only=True)
        found = dict(saved["fingerprint"])
    except Exception as error:
        raise InferenceError(
            f"{path} cannot be resumed from: it is damaged or no checkpoint ({type(error).__name__}); remove it to "
            "start afresh"
        ) from error
    for key, value in fingerprint.items():
        if found.get(key) != value:
            raise InferenceError(
                f"{path} belongs to another run: its {key} is {found.get(key)}, this run's is {value}; "
                "resume with the settings that it was started with"
            )
    state.restore(saved["state"])
    torch.set_rng_state(saved["random"])
    return [EpochRecord(**record) for record in saved["history"]]


def _with_provenance(
    posterior: Posterior, feed: Feed, method: Method, seed: int, history: list[EpochRecord]
) -> Posterior:
    settings: dict[str, Any] = {
        **posterior.provenance,
        "method": type(method).__name__,
        "settings": _settings(method),
        "kl_weight": getattr(method, "kl_weight", 1.0),
        "temperature": getattr(method, "temperature", 1.0),
        "seed": seed,
        "data": feed.name,
        "N": feed.size,
        "history": [asdict(record) for record in history],
    }
    last = history[-1]
    statistics = {
        **posterior.statistics,
        "data_nats": last.data_nats,
        "complexity_nats": last.complexity_nats,
        "elbo_nats": last.elbo_nats,
        "seconds": sum(record.seconds for record in history),
    }
    return replace(posterior, provenance=settings, statistics=statistics)
