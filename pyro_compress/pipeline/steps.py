"""The steps on a run directory: fit, analyse, compress, evaluate.  Each reads what the one before it wrote."""

import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.named import load
from pyro_compress.data.splits import SPLIT_SEED, stratified_split
from pyro_compress.errors import DataError, UnstorableWarning
from pyro_compress.inference.abilities import refuse_model, refuse_unscaled
from pyro_compress.inference.checkpoints import draws_beside
from pyro_compress.inference.fit import Callback, fit
from pyro_compress.inference.loop.devices import device_named
from pyro_compress.inference.loop.processes import Ranks, threads_here
from pyro_compress.inference.loop.watching import Watcher
from pyro_compress.models import zoo
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.network.unlayered import Unlayered
from pyro_compress.pipeline.compressing import at_target
from pyro_compress.pipeline.decoders import architecture_of, road_of
from pyro_compress.pipeline.flagging import flags_to_say, with_flags
from pyro_compress.pipeline.kinds import announced, description_of, kind_of, stored, with_what_is_lost
from pyro_compress.pipeline.run_directory import RunDirectory as RunDirectory
from pyro_compress.pipeline.search import decide, teacher_of, without_draws
from pyro_compress.pipeline.settings import RunSettings, settings_from_entry
from pyro_compress.pipeline.starting import (
    build_network,
    fitted_network,
    rebuilt_network,
    rewritten,
    starts_of,
    timed,
    train_first,
)
from pyro_compress.pipeline.teachers import Teacher, taught, teacher_named, teacher_of_run
from pyro_compress.posterior.posterior import Posterior


def prepare(settings: RunSettings) -> None:
    """Process-wide torch settings that a run relies on."""
    torch.set_num_threads(threads_here(settings.threads))
    # dying weights become subnormal numbers, on which CPUs are many times slower
    torch.set_flush_denormal(True)


def load_data(settings: RunSettings, data_dir: Path | None) -> DataSet:
    """The run's data set, with as many of its training examples as the settings say; inputs an autoencoder's targets.

    Raises:
        DataError: it cannot be loaded, or has fewer than that.
    """
    data = load(settings.data, data_dir)
    data = data if settings.examples is None else with_examples(data, settings.examples)
    if settings.reconstructs:
        return data.reconstructing(settings.binarisation)
    return data.augmented(**settings.augmentation_options) if settings.augmentation_options else data


def with_examples(data: DataSet, count: int) -> DataSet:
    """The same with `count` training examples, stratified by class: its posterior is that given these alone.

    Which ones they are depends on no run's seed; validation and test parts stay whole.

    Raises:
        DataError: there are fewer.
    """
    held = len(data.train_x)
    if count > held:
        raise DataError(f"{data.name} has {held:,} training examples: --examples takes at most that, found {count:,}")
    if count == held:
        return data
    _, chosen = stratified_split(data.train_y, count, SPLIT_SEED)
    return replace(data, train_x=data.train_x[chosen], train_y=data.train_y[chosen], size=None, repeats=1)


def fit_step(
    run: RunDirectory,
    settings: RunSettings,
    data: DataSet,
    *,
    resume: bool,
    callbacks: Iterable[Callback] = (),
    pretrain_callbacks: Iterable[Callback] = (),
    retrain_callbacks: Iterable[Callback] = (),
    teacher_callbacks: Iterable[Callback] = (),
    watcher: Watcher | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Posterior:
    """Fit the posterior and write it; an interrupted fit goes on from its checkpoint, a finished one is read.

    What speaks against the posterior is said, a line per flag.  Ranks that have been joined call this alike, on a
    directory that all of them see; the first alone writes, looks and says.
    """
    ranks = Ranks.here()
    if resume and ranks.from_first(run.posterior.exists):
        return Posterior.load(run.posterior)
    prepare(settings)
    method = settings.build_method()
    refuse_unscaled(method, ranks.count, device_named(settings.device))
    network, decision = build_network(settings, data), settings.build_decision()
    found = None if settings.reconstructs else description_of(network, data.input_shape, decision.kind)
    if ranks.first and found is not None:
        announcement = announced(found)
        if announcement is not None:
            say(announcement)
    # what is refused is refused before anything is written
    made = rewritten(settings, network, data)
    if found is not None:
        decision.check_units(found if made is network else description_of(made, data.input_shape, decision.kind))
    model = settings.build_model(made)
    if model.coverage.matrices and model.coverage.covered:
        say(str(model.coverage))
    refuse_model(method, model)
    teacher = _teacher_of(run, settings, data, say, resume=resume)
    if ranks.first:
        run.path.mkdir(parents=True, exist_ok=True)
        settings.save(run.settings)
        if not resume:
            for left_over in (run.timings, run.teacher):
                left_over.unlink(missing_ok=True)
    data = _with_teacher(run, settings, data, teacher, model, teacher_callbacks)
    if settings.pretrain_epochs:
        train_first(run, run.initial, network, settings, data, settings.pretrain_epochs, pretrain_callbacks)
    if settings.rewrites:
        network = rewritten(settings, network, data)
        train_first(run, run.rewritten, network, settings, data, settings.retrain_epochs, retrain_callbacks)
    if settings.pretrain_epochs or settings.rewrites:
        model = settings.build_model(network)
    how: dict[str, Any] = {"checkpoint": run.checkpoint, "resume": resume, "watcher": watcher}
    with timed(run, "fit") as note, warnings.catch_warnings():
        # whoever is killed keeps the epochs of the checkpoint, and their time
        how["callbacks"] = [lambda record, state: note(), *callbacks]
        # said already
        warnings.simplefilter("ignore", UnstorableWarning)
        posterior = fit(model, data, method, seed=settings.seed, device=settings.device, **how)
    if ranks.first:
        _finish_fit(run, with_flags(posterior, model, data), model, say)
    ranks.wait()
    return Posterior.load(run.posterior)


def _teacher_of(
    run: RunDirectory, settings: RunSettings, data: DataSet, say: Callable[[str], None], *, resume: bool
) -> Teacher | None:
    """The teacher that is to be asked; None where there is none, its outputs are there, or it is yet to be fitted."""
    if settings.teacher is None or settings.teacher in zoo.entries():
        return None
    if resume and not data.drawn_anew and Ranks.here().from_first(run.teacher.exists):
        return None
    teacher = teacher_named(settings.teacher)
    if isinstance(teacher, str):
        known = RunSettings.load(RunDirectory(Path(teacher)).settings).data
        if known != settings.data:
            say(
                f"warning: the teacher in {teacher} was fitted to {known}, this run's data are {settings.data}: nobody "
                "knows whether it has seen what this run holds out"
            )
    return teacher


def _with_teacher(
    run: RunDirectory,
    settings: RunSettings,
    data: DataSet,
    teacher: Teacher | None,
    model: BayesianNetwork,
    callbacks: Iterable[Callback],
) -> DataSet:
    """The data with the teacher's outputs; a teacher that is a zoo entry is fitted first, to the same examples."""
    if settings.teacher is None:
        return data
    own = teacher_settings(settings)
    if own is not None and (data.drawn_anew or not Ranks.here().from_first(run.teacher.exists)):
        fit_step(run.teacher_run, own, data, resume=True, callbacks=callbacks)
        teacher = teacher_of_run(run, settings)
    return taught(run, settings, data, teacher, model)


def teacher_settings(settings: RunSettings) -> RunSettings | None:
    """Of the run that fits a teacher which is a zoo entry; None for no teacher and for others."""
    if settings.teacher not in zoo.entries():
        return None
    names = ("data", "examples", "seed", "threads", "device")
    return settings_from_entry(settings.teacher, **{name: getattr(settings, name) for name in names})


def rounds_of_teacher(run: RunDirectory, settings: RunSettings) -> int:
    """Of the fit of a teacher that is yet to be fitted; 0 for none."""
    own = teacher_settings(settings)
    done = own is None or run.teacher.exists() or run.teacher_run.posterior.exists()
    return 0 if own is None or done else own.build_method().rounds


def _finish_fit(run: RunDirectory, posterior: Posterior, model: BayesianNetwork, say: Callable[[str], None]) -> None:
    """Write the posterior in the place of its checkpoint, and say its flags."""
    posterior.save(run.posterior)
    run.checkpoint.unlink(missing_ok=True)
    # the draws now lie beside the posterior
    shutil.rmtree(draws_beside(run.checkpoint), ignore_errors=True)
    for flag in flags_to_say(posterior, model):
        say(f"FLAG {flag.name}: {flag.sentence}")


def analyse_step(
    run: RunDirectory,
    settings: RunSettings,
    data: DataSet,
    *,
    decision_options: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Decision:
    """Read the posterior from disk and write the decision; the same bytes in any process.

    Where the posterior has draws, the moments within one mode that the decision rests on are written too.
    What a former decision led to is removed, so that a run directory never holds parts of two.  Ranks that have been
    joined call this alike: they share fine-tuning and validation, and the first alone writes.

    Args:
        run: with a posterior.
        settings, data: of the run.
        decision_options: settings of the decision that take the place of the run's own, and are recorded with it.
        say: told one line per choice.
    """
    settings = settings.deciding_by(decision_options or {})
    prepare(settings)
    with timed(run, "analyse", again=run.decision.exists()):
        posterior, how = Posterior.load(run.posterior), settings.build_decision()
        how = how.in_nats() if settings.reconstructs else how
        model = settings.build_model(fitted_network(run, settings, data))
        data = data if settings.teacher is None else taught(run, settings, data, None, model)
        data = data.on(device_named(settings.device))
        teacher = teacher_of(posterior, model, data, how, settings.seed)
        moments = without_draws(posterior, model.network, data, model.likelihood, how, say=say)
        decision = decide(
            moments,
            model,
            data,
            how,
            teacher=teacher,
            starts=starts_of(run, settings, data, model.network),
            seed=settings.seed,
            device=settings.device,
            say=say,
        )
    if Ranks.here().first:
        # in this order: stopped anywhere, the run has a decision by its own settings, or none
        for made_before in (run.results, run.file, run.refined, run.decision, run.moments):
            made_before.unlink(missing_ok=True)
        run.forget_seconds("compress")
        if decision_options:
            RunSettings.load(run.settings).deciding_by(decision_options).save(run.settings)
        if posterior.draws is not None:
            moments.save(run.moments)
        decision.save(run.decision)
    return decision


def compress_step(
    run: RunDirectory,
    settings: RunSettings,
    data: DataSet,
    *,
    target_bytes: int | None = None,
    target_error: float | None = None,
    keep_deviations: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Artifact:
    """Write the compressed file that the decision says, or one that is refined to a target (`pipeline.size_targets`).

    Args:
        run: with a decision; a refined one is written beside it, and results of a former file are removed.
        settings, data: of the run; the validation part judges a target of the error.
        target_bytes: the file has at most that many.
        target_error: its validation error is at most that many percent, or what else the likelihood counts it in.
        keep_deviations: the file also keeps the posterior's standard deviations; a target of bytes counts them.
        say: told one line per file that was tried.

    Raises:
        DecisionError: the target is out of reach (says what can be reached), or both are given.
    """
    prepare(settings)
    with run.timed("compress", again=run.file.exists()):
        decision, network = Decision.load(run.decision), fitted_network(run, settings, data)
        road = road_of(network, Posterior.load(run.posterior), data, settings.build_likelihood())
        architecture = architecture_of(network, data.input_shape, kind_of(decision))
        if isinstance(architecture, Unlayered):
            architecture = with_what_is_lost(architecture, decision, network, rebuilt_network(run, settings, data))
        decided = at_target(
            road.network,
            decision,
            architecture,
            road.data,
            target_bytes=target_bytes,
            target_error=target_error,
            likelihood=road.likelihood,
            keep_deviations=keep_deviations,
            say=say,
        )
        artifact = Artifact.of(stored(architecture, decided, keep_deviations=keep_deviations))
    for made_before in (run.results, run.file, run.refined):
        made_before.unlink(missing_ok=True)
    if target_bytes is not None or target_error is not None:
        decided.save(run.refined)
    artifact.save(run.file)
    return artifact
