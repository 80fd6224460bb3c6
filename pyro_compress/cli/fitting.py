"""The commands that fit: `run` and `fit`."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pyro_compress.cli.options import (
    BinarisationOption,
    ChainsOption,
    DataDirOption,
    DataOption,
    DeviceOption,
    DrawsOption,
    EntryArgument,
    EpochsOption,
    ExamplesOption,
    JsonOption,
    KindOption,
    KlWeightOption,
    LikelihoodOption,
    MethodOption,
    NetworkOption,
    OutOption,
    PretrainOption,
    PriorOption,
    ResumeOption,
    RetrainOption,
    RewriteOption,
    SeedOption,
    SetOption,
    TeacherOption,
    TeacherWeightOption,
    TemperatureOption,
    ThreadsOption,
    WeightsOption,
)
from pyro_compress.cli.printing import err, say, show

# Everything else is imported by the command that needs it: `--help` loads no torch.
if TYPE_CHECKING:
    from pyro_compress.data.dataset import DataSet
    from pyro_compress.inference.loop.processes import Ranks
    from pyro_compress.pipeline.settings import RunSettings
    from pyro_compress.pipeline.steps import RunDirectory


def _options_of_a_fit(
    entry: EntryArgument = None,
    network: NetworkOption = None,
    weights: WeightsOption = None,
    kind: KindOption = None,
    prior: PriorOption = None,
    inference: MethodOption = None,
    likelihood: LikelihoodOption = None,
    data: DataOption = None,
    data_dir: DataDirOption = None,
    examples: ExamplesOption = None,
    binarisation: BinarisationOption = None,
    epochs: EpochsOption = None,
    pretrain_epochs: PretrainOption = None,
    rewrite: RewriteOption = None,
    retrain_epochs: RetrainOption = None,
    teacher: TeacherOption = None,
    teacher_weight: TeacherWeightOption = None,
    temperature: TemperatureOption = None,
    kl_weight: KlWeightOption = None,
    chains: ChainsOption = None,
    draws: DrawsOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    options: SetOption = None,
    out_dir: OutOption = None,
    resume: ResumeOption = None,
) -> None:
    """What `run` and `fit` take, in the order of their help."""


def _takes_options_of_a_fit(command: Callable[..., None]) -> Callable[..., None]:
    """A command that is given the options of a fit by name, in one mapping, and its own ones behind it."""
    own = list(inspect.signature(command).parameters.values())[1:]

    @wraps(command)
    def taking(**given: Any) -> None:
        command(given, **{option.name: given.pop(option.name) for option in own})

    # what typer reads the command line by
    every = [*inspect.signature(_options_of_a_fit).parameters.values(), *own]
    taking.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    taking.__annotations__ = {option.name: option.annotation for option in every}
    return taking


@_takes_options_of_a_fit
def run(given: dict[str, Any], as_json: JsonOption = False) -> None:
    """Fit, analyse, compress and evaluate: the whole road with one command."""
    from pyro_compress.inference.loop import processes
    from pyro_compress.pipeline import steps

    with processes.joined() as here:
        data_dir, resumed = given.pop("data_dir"), given["resume"] is not None
        settings, directory = _settings(here, given)
        run_directory = steps.RunDirectory(directory)
        with _resumable(run_directory, "run"):
            loaded = _load(here, settings, data_dir)
            # what the steps behind the fit need, before it costs its time
            loaded.part("validation")
            _fit(here, run_directory, settings, loaded, resume=resumed, quiet=as_json)
            if not resumed or not here.from_first(run_directory.decision.exists):
                steps.analyse_step(run_directory, settings, loaded, say=say(as_json))
            # short, and nothing in it to share: the other ranks wait
            if here.first:
                # a file that is there may have been written to a target, or with deviations: it stays
                if not resumed or not run_directory.file.exists():
                    steps.compress_step(run_directory, settings, loaded)
                report(run_directory, settings, loaded, as_json, again=not resumed)


@_takes_options_of_a_fit
def fit(given: dict[str, Any]) -> None:
    """Fit the posterior and write it to a run directory."""
    from pyro_compress.inference.loop import processes
    from pyro_compress.pipeline import steps

    with processes.joined() as here:
        data_dir, resumed = given.pop("data_dir"), given["resume"] is not None
        settings, directory = _settings(here, given)
        run_directory = steps.RunDirectory(directory)
        with _resumable(run_directory, "fit"):
            loaded = _load(here, settings, data_dir)
            _fit(here, run_directory, settings, loaded, resume=resumed, quiet=False)
        show(f"posterior in {directory}; next: pyro-compress analyse {directory}")


def report(run: "RunDirectory", settings: "RunSettings", data: "DataSet", as_json: bool, *, again: bool = True) -> None:
    """Evaluate a run and print its results; with `again` false, those that are there."""
    from pyro_compress.pipeline import evaluation
    from pyro_compress.pipeline.run_directory import results_in

    results = results_in(run.results) if run.results.exists() and not again else None
    if results is None or not run.file.exists() or len(run.artifact()) != results["file_bytes"]:
        # a file that was changed since is measured as it is
        results = evaluation.evaluate_run(run, settings, data)
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        from pyro_compress.report.table import results_table

        show(results_table(results))
        show(f"everything is in {run.path}")


def _settings(here: "Ranks", given: Mapping[str, Any]) -> "tuple[RunSettings, Path]":
    """The run's settings and directory from the options of `run` and `fit`, the same on every rank."""
    from pyro_compress.pipeline.run_options import choose_settings

    return here.from_first(lambda: choose_settings(**given))


def _load(here: "Ranks", settings: "RunSettings", data_dir: Path | None) -> "DataSet":
    """The data; the first rank reads them first, which may download them."""
    from pyro_compress.pipeline import steps

    held: list[DataSet] = []
    here.from_first(lambda: held.append(steps.load_data(settings, data_dir)))
    return held[0] if held else steps.load_data(settings, data_dir)


def _fit(
    here: "Ranks", run: "RunDirectory", settings: "RunSettings", data: "DataSet", *, resume: bool, quiet: bool
) -> None:
    from pyro_compress.pipeline import progress, steps

    if resume and here.from_first(run.posterior.exists):
        return
    method = settings.build_method()
    with progress.epoch_bars(err, quiet=quiet or not here.first, unit=settings.error_unit) as bars:
        pretrains = settings.pretrain_epochs and not run.initial.exists()
        retrains = settings.retrain_epochs and not run.rewritten.exists()
        teaching = steps.rounds_of_teacher(run, settings)
        steps.fit_step(
            run,
            settings,
            data,
            resume=resume,
            pretrain_callbacks=[bars.phase("pretraining epoch", settings.pretrain_epochs)] if pretrains else [],
            teacher_callbacks=[bars.phase("teacher epoch", teaching)] if teaching else [],
            retrain_callbacks=[bars.phase("retraining epoch", settings.retrain_epochs)] if retrains else [],
            callbacks=[bars.phase(method.round_name, method.rounds)],
            watcher=bars.watcher,
            say=say(quiet),
        )


@contextmanager
def _resumable(run: "RunDirectory", command: str) -> Iterator[None]:
    """Ctrl-C ends with one line that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if not run.settings.exists():
            raise
        show(f"\nstopped; finished epochs are kept: go on with  pyro-compress {command} --resume {run.path}", err)
        raise typer.Exit(130) from None
