"""The one loop over rounds and batches: progress, validation, ranks, resume.

Batches depend on (seed, epoch) alone and the random state is saved with every checkpoint, so a run that was
stopped and resumed gives the same numbers as one that was not, on as many ranks.
"""

import copy
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_compress.config.keyword_options import whole_number
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.sources import Examples
from pyro_compress.errors import InferenceError, PosteriorWarning, warn
from pyro_compress.inference.abilities import refuse_drawn_anew, refuse_model, refuse_parameters, refuse_unscaled
from pyro_compress.inference.checkpoints import (
    draws_beside,
    fingerprint_of,
    read_checkpoint,
    save_checkpoint,
    settings_text,
)
from pyro_compress.inference.contract import Info, Method, MinibatchMethod, Model, State
from pyro_compress.inference.finetuning.batch_norm import refuse_batches_of_one
from pyro_compress.inference.gradient.gradient_method import ADVICE, GradientState, as_array
from pyro_compress.inference.loop.alone import alone
from pyro_compress.inference.loop.devices import (
    device_named,
    on_device,
    random_state,
    restore_random_state,
    seed_generators,
)
from pyro_compress.inference.loop.dtypes import in_network_type
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.inference.loop.processes import Ranks
from pyro_compress.inference.loop.records import EpochRecord as EpochRecord
from pyro_compress.inference.loop.suitability import check_before_copying, check_fit
from pyro_compress.inference.loop.watching import Watcher
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.failures import FAILURES, described, is_of_a_point
from pyro_compress.models.program import Program
from pyro_compress.models.trained import module_behind
from pyro_compress.posterior.posterior import Posterior

Callback = Callable[[EpochRecord, State], None]


@alone()
@in_network_type
def fit(
    model: BayesianNetwork | Callable[..., Any],
    data: DataSet | Examples | Mapping[str, Any] | Any,
    method: Method | str,
    *,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    callbacks: Iterable[Callback] = (),
    watcher: Watcher | None = None,
) -> Posterior:
    """Fit `model` to `data.train_*` with `method`.

    `pyro_compress.fit` also says whether to believe the result.  What speaks against the posterior (it has not
    converged, the guide is far from the posterior, a step is too long, β is not 1) is one `PosteriorWarning`, and in
    `posterior.flags` with a name and a sentence each.  No flag is no proof.

    Args:
        model: the Bayesian network, or any Pyro model; a copy of it is trained.
        data: training and validation examples, the test part is not looked at; or what `data.examples.as_data` takes.
            For a Pyro model a tuple of its arguments, a dict of them by name, or None where it takes none; tensors and
            arrays are data, all else is handed on as it is (`models.arguments`).  None of it is written to.
        method: SVI(...), MAP(...), ...; or a name, such as 'nuts', for a method as it comes.
        seed: decides batches and noise; nothing outside this call is touched.
        device: 'cpu', 'cuda' or 'mps': where model, data and noise are.
        checkpoint: file that is written after every round, or None; a sampler's draws lie in a folder beside it.
        resume: go on from `checkpoint` if it is there.
        callbacks: called after every round.
        watcher: told of every chain of a sampler as it goes, some ten times a second.

    Where ranks have been joined (`inference.loop.processes.joined`), all of them call this alike: each sees its share
    of every batch, all end with the same posterior, and the first alone writes the checkpoint and tells callbacks and
    watcher.

    Threads take turns (`inference.loop.alone`), and gradients are on, whatever surrounds the call.

    Raises:
        NetworkError, DataError: the network is none that can be fitted, or does not go with the data and the
            likelihood, see `inference.loop.suitability`; before the first step.
        InferenceError: a non-finite loss (the checkpoint keeps the last good epoch), a checkpoint of
            another run, or a method that does not run on several ranks or on that device.
    """
    method, seed = _method(method), whole_number(seed, "the seed", InferenceError)
    ranks, place = Ranks.here(), device_named(device)
    refuse_unscaled(method, ranks.count, place)
    refuse_model(method, model)
    if isinstance(model, BayesianNetwork):
        refuse_drawn_anew(method, data, type(method).__name__)
    feed, model = _ready(model, data, method, ranks, place)
    saved_in = None if checkpoint is None else Path(checkpoint)
    fingerprint = {} if saved_in is None else fingerprint_of(model, feed, method, seed)
    with on_device(place):
        # where a method was left to choose, another runs in its place under its name
        asked, method = method, method.for_model(model, feed)
        refuse_drawn_anew(method, data, type(asked).__name__)
        seed_generators(seed, place)
        state = method.init(model, feed.size, seed, feed.in_batches)
        if isinstance(model, Program):
            # a guide has said by now which latent sites come with the rows
            model.refuse_share(feed.tensors, feed.size)
        state.join(ranks)
        if saved_in is not None:
            state.keep_in(draws_beside(saved_in))
        if watcher is not None and ranks.first:
            state.watched_by(watcher)
        history = _begin(state, ranks, seed, place, saved_in if resume else None, fingerprint)
        if saved_in is not None and ranks.first and not history:
            # an older one would be resumed with draws that this run has replaced
            saved_in.unlink(missing_ok=True)
        for round in range(len(history), method.rounds):
            if method.finished(state):
                break
            record = _one_round(model, feed, method, state, seed, round)
            _refuse_unequal(state, ranks, f"{method.round_name} {round}")
            history.append(record)
            if round + 1 < method.rounds:
                method.between_rounds(state)
            if saved_in is not None:
                own = ranks.of_all({"random": random_state(place), "state": state.capture_of_rank()})
                if ranks.first:
                    save_checkpoint(saved_in, state, own, fingerprint, history)
            for callback in callbacks if ranks.first else ():
                callback(record, state)
                # validation left it as it predicts, which is no change of the model
                _set_mode(model, method)
                state.check_recordings_again()
        posterior = method.draw(state)
    learned = {name: as_array(value) for name, value in model.hyper.values().items()}
    return _with_provenance(replace(posterior, hyperparameters=learned), feed, asked, seed, history)


def _ready(
    given: Any, data: Any, method: Method, ranks: Ranks, place: torch.device
) -> tuple[Feed, BayesianNetwork | Program]:
    """The examples, and a copy of the model that goes with them and with the method; what does not is refused."""
    if isinstance(given, BayesianNetwork):
        check_before_copying(given)
    feed, own = Feed.of(given, data).on(place, ranks), copy.deepcopy(given)
    model: BayesianNetwork | Program
    if isinstance(own, BayesianNetwork):
        model = own
    else:
        owner = module_behind(own)
        if owner is not None:
            owner.to(place)
        model = Program(own, feed.tensors, feed.call)
        feed = replace(feed, may_split=model.rows)
        refuse_parameters(method, model)
    model.to(place)
    if model.hyper.declared and not method.trains_parameters:
        model.hyper.requires_grad_(False)
        warn(
            f"{type(method).__name__} does not learn the hyper-parameters {', '.join(model.hyper.declared)} and takes "
            "them as they are: learn them with SVI(...) and fit model.at(posterior.hyperparameters)",
            PosteriorWarning,
        )
    if isinstance(model, BayesianNetwork):
        if model.has_local_sites:
            model.see(*feed.drawn_once())
        check_fit(model, feed)
        if isinstance(method, MinibatchMethod):
            refuse_batches_of_one(model.network, feed.tensors[0], method.batch_size, ranks.count)
    return feed, model


def _method(given: Method | str) -> Method:
    if isinstance(given, str):
        # all methods are imported where one is named
        from pyro_compress.inference.registry import METHODS

        return METHODS.build(given)
    if not isinstance(given, Method):
        found = f"the class {given.__name__}" if isinstance(given, type) else repr(given)
        raise InferenceError(f"the method is an object such as SVI(...), or a name such as 'svi'; found {found}")
    return given


def _begin(
    state: State, ranks: Ranks, seed: int, device: torch.device, resumed: Path | None, fingerprint: dict[str, str]
) -> list[EpochRecord]:
    """The same state on every rank, the generator of each; the history of a fit that is resumed."""
    saved = None
    if resumed is not None:
        saved = ranks.from_first(lambda: read_checkpoint(resumed, fingerprint) if resumed.exists() else None)
    if saved is not None:
        state.restore(saved["state"])
    if isinstance(state, GradientState):
        ranks.send_from_first([*state.trained(), *state.moving_buffers()])
    if saved is None:
        if not ranks.first:
            _reseed(state, ranks.stream(seed), device)
        return []
    history = [EpochRecord(**record) for record in saved["history"]]
    own = saved["ranks"][ranks.rank] if ranks.rank < len(saved["ranks"]) else None
    if own is not None and len(own["random"]) == len(random_state(device)):
        restore_random_state(own["random"], device)
        state.restore_of_rank(own["state"])
    else:
        # this rank was not there, or the run was on another kind of device
        _reseed(state, ranks.stream(seed, len(history)), device)
    return history


def _reseed(state: State, stream: int, device: torch.device) -> None:
    seed_generators(stream, device)
    state.reseed(stream)


def _refuse_unequal(state: State, ranks: Ranks, where: str) -> None:
    if isinstance(state, GradientState):
        ranks.refuse_unequal([*state.trained(), *state.moving_buffers()], where)


def _one_round(model: Model, feed: Feed, method: Method, state: State, seed: int, round: int) -> EpochRecord:
    started, ranks = time.perf_counter(), feed.ranks
    _set_mode(model, method)
    infos, weights = [], []
    for batch in method.batches(feed, seed, round):
        infos.append(_step(method, state, batch, ranks))
        weights.append(ranks.weight)
    posterior = method.draw_for_validation(state)
    _refuse_non_finite(posterior, f"{method.round_name} {round}")
    kept = [site.kept() for site in posterior.parameters.values() if site.mean.ndim > 1]
    means = _means_over_ranks(infos, weights, ranks)
    return EpochRecord(
        epoch=round,
        epochs=method.rounds,
        data_nats=means[0],
        complexity_nats=means[1],
        kl_weight=infos[-1].kl_weight,
        learning_rate=infos[-1].learning_rate,
        validation_error=_validation_error(model, feed, posterior),
        weights_left_percent=100.0 * sum(int(k.sum()) for k in kept) / max(1, sum(k.size for k in kept)),
        seconds=time.perf_counter() - started,
        extra={name: float(np.mean([info.extra[name] for info in infos])) for name in infos[-1].extra},
        round_name=method.round_name,
        objective_name=method.objective_name,
    )


def _set_mode(model: Model, method: Method) -> None:
    if isinstance(model, BayesianNetwork):
        model.network.train(method.trains_network)


def _step(method: Method, state: State, batch: Batch, ranks: Ranks) -> Info:
    if not isinstance(state, GradientState):
        return method.step(state, batch)
    try:
        with ranks.together(state.moved(), state.moving_buffers()):
            return method.step(state, batch)
    except FAILURES as error:
        if not is_of_a_point(error):
            raise
        raise InferenceError(
            f"step {state.steps_done}: the model cannot be computed at values that {type(method).__name__} came "
            f"to ({described(error)}), and has no finite objective: lower the learning rate, keep values where it can "
            "(a larger jitter on a covariance), or use a sampler that passes such points over, such as NUTS(...)"
        ) from error


def _means_over_ranks(infos: list[Info], weights: list[float], ranks: Ranks) -> list[float]:
    """Data and complexity of the whole batches, averaged over the round's steps."""
    nats = [[weight * info.data_nats for weight, info in zip(weights, infos, strict=True)]]
    nats.append([weight * info.complexity_nats for weight, info in zip(weights, infos, strict=True)])
    return ranks.total([float(np.mean(one)) for one in nats])


def _validation_error(model: Model, feed: Feed, posterior: Posterior) -> float:
    if not isinstance(model, BayesianNetwork) or feed.validation is None:
        return float("nan")
    x, y = feed.validation
    values = {name: value.to(x.device) for name, value in model.values_at(posterior).items()}
    return float(np.mean(feed.ranks.rows(len(x), lambda rows: model.errors(values, x[rows], y[rows]).cpu().numpy())))


def _refuse_non_finite(posterior: Posterior, where: str) -> None:
    # a step with a finite loss can still have moved a parameter to NaN; it must not reach the checkpoint
    for name, site in posterior.parameters.items():
        if not np.isfinite(site.mean).all():
            raise InferenceError(f"{where}: parameter '{name}' is not finite any more; {ADVICE}")


def _with_provenance(
    posterior: Posterior, feed: Feed, method: Method, seed: int, history: list[EpochRecord]
) -> Posterior:
    settings: dict[str, Any] = {
        **posterior.provenance,
        "method": type(method).__name__,
        "settings": settings_text(method),
        "kl_weight": getattr(method, "kl_weight", 1.0),
        "temperature": getattr(method, "temperature", 1.0),
        "seed": seed,
        "data": feed.name,
        "ranks": feed.ranks.count,
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
