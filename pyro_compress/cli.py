"""The command line: `pyro-compress zoo`, `run`, `fit`, … `evaluate`, `inspect`, `export`: one function each."""

import errno
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from typer.core import TyperGroup

from pyro_compress import __version__
from pyro_compress.cli_options import (
    ChainsOption,
    DataDirOption,
    DataOption,
    DrawsOption,
    EntryArgument,
    EpochsOption,
    ExamplesOption,
    FileArgument,
    JsonOption,
    KeepDeviationsOption,
    KlWeightOption,
    LikelihoodOption,
    LogLikelihoodOption,
    MethodOption,
    NetworkOption,
    OutOption,
    PretrainOption,
    PriorOption,
    ResumeOption,
    RunArgument,
    SeedOption,
    SetOption,
    SitesOption,
    TargetBytesOption,
    TargetErrorOption,
    ThreadsOption,
    WeightsOption,
)
from pyro_compress.errors import PyroCompressError, RunError

# Everything else is imported by the command that needs it: `--help` loads no torch.
if TYPE_CHECKING:
    from pyro_compress.data import DataSet
    from pyro_compress.pipeline.settings import RunSettings
    from pyro_compress.pipeline.steps import RunDirectory

out = Console()
err = Console(stderr=True)


def show(part: RenderableType, console: Console = out) -> None:
    """Print text as it is, however long its lines, or a table."""
    if isinstance(part, str):
        console.print(part, markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(part)


class Sentences(TyperGroup):
    """Commands whose expected failures end with one sentence on stderr and exit status 1, Ctrl-C with 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a warning is one sentence as well, without the file and line that it came from."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *where, **more: show(f"warning: {message}", err)
                return super().invoke(ctx)
        except PyroCompressError as error:
            sentence = str(error)
        except KeyboardInterrupt:
            show("\nstopped; give the command again to go on", err)
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # `pyro-compress zoo | head`
                raise
            sentence = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        err.print(f"error: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)


app = typer.Typer(
    cls=Sentences,
    help="Bayesian neural network compression: from a declared prior to a file that really is that small.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        show(f"pyro-compress {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself; its help is the program's own."""


@app.command()
def zoo() -> None:
    """List the zoo's entries."""
    from pyro_compress.models import zoo as models_zoo

    table = Table()
    table.add_column("entry", no_wrap=True)
    table.add_column("data", no_wrap=True)
    table.add_column("published figure to beat")
    for entry in models_zoo.entries().values():
        best = entry.published[0] if entry.published else None
        figure = "" if best is None else f"{best.method}: {best.error_percent:g} %"
        if best is not None and best.maximum_compression:
            figure += f" at {best.maximum_compression:g}× (formula)"
        table.add_row(entry.name, entry.data, figure)
    show(table)


@app.command()
def run(
    entry: EntryArgument = None,
    network: NetworkOption = None,
    weights: WeightsOption = None,
    prior: PriorOption = None,
    inference: MethodOption = None,
    likelihood: LikelihoodOption = None,
    data: DataOption = None,
    data_dir: DataDirOption = None,
    examples: ExamplesOption = None,
    epochs: EpochsOption = None,
    pretrain_epochs: PretrainOption = None,
    kl_weight: KlWeightOption = None,
    chains: ChainsOption = None,
    draws: DrawsOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    options: SetOption = None,
    out_dir: OutOption = None,
    resume: ResumeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit, analyse, compress and evaluate: the whole road with one command."""
    from pyro_compress.pipeline import steps

    settings, directory = _settings(
        entry, resume, out_dir, network=network, weights=weights, prior=prior, inference=inference,
        likelihood=likelihood, data=data, examples=examples, epochs=epochs, pretrain_epochs=pretrain_epochs,
        kl_weight=kl_weight, chains=chains, draws=draws, seed=seed, threads=threads, options=options,
    )  # fmt: skip
    run_directory = steps.RunDirectory(directory)
    with _resumable(run_directory, "run"):
        loaded = steps.load_data(settings, data_dir)
        _fit(run_directory, settings, loaded, resume=resume is not None, quiet=as_json)
        if not (resume and run_directory.decision.exists()):
            steps.analyse_step(run_directory, settings, loaded, say=_say(as_json))
        steps.compress_step(run_directory, settings, loaded)
        _evaluate(run_directory, settings, loaded, as_json)


@app.command()
def fit(
    entry: EntryArgument = None,
    network: NetworkOption = None,
    weights: WeightsOption = None,
    prior: PriorOption = None,
    inference: MethodOption = None,
    likelihood: LikelihoodOption = None,
    data: DataOption = None,
    data_dir: DataDirOption = None,
    examples: ExamplesOption = None,
    epochs: EpochsOption = None,
    pretrain_epochs: PretrainOption = None,
    kl_weight: KlWeightOption = None,
    chains: ChainsOption = None,
    draws: DrawsOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    options: SetOption = None,
    out_dir: OutOption = None,
    resume: ResumeOption = None,
) -> None:
    """Fit the posterior and write it to a run directory."""
    from pyro_compress.pipeline import steps

    settings, directory = _settings(
        entry, resume, out_dir, network=network, weights=weights, prior=prior, inference=inference,
        likelihood=likelihood, data=data, examples=examples, epochs=epochs, pretrain_epochs=pretrain_epochs,
        kl_weight=kl_weight, chains=chains, draws=draws, seed=seed, threads=threads, options=options,
    )  # fmt: skip
    run_directory = steps.RunDirectory(directory)
    with _resumable(run_directory, "fit"):
        loaded = steps.load_data(settings, data_dir)
        _fit(run_directory, settings, loaded, resume=resume is not None, quiet=False)
    show(f"posterior in {directory}; next: pyro-compress analyse {directory}")


@app.command()
def analyse(directory: RunArgument, data_dir: DataDirOption = None) -> None:
    """Read the posterior and decide what to prune and with how many bits to store the rest."""
    from pyro_compress.pipeline import steps
    from pyro_compress.pipeline.settings import RunSettings

    run_directory = steps.RunDirectory(directory)
    settings = RunSettings.load(run_directory.settings)
    steps.analyse_step(run_directory, settings, steps.load_data(settings, data_dir), say=_say(False))
    show(f"decision in {directory}; next: pyro-compress compress {directory}")


@app.command()
def diagnose(
    directory: RunArgument,
    sites: SitesOption = None,
    log_likelihood: LogLikelihoodOption = False,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether to believe the posterior: summary, convergence, flags; writes diagnosis.json and figures."""
    from pyro_compress.pipeline import diagnosing, steps
    from pyro_compress.pipeline.settings import RunSettings

    run_directory = steps.RunDirectory(directory)
    settings = RunSettings.load(run_directory.settings)
    data = steps.load_data(settings, data_dir)
    asked = diagnosing.Asked(tuple(sites) if sites else None, log_likelihood)
    found = diagnosing.diagnose_run(run_directory, settings, data, asked, say=_say(as_json))
    if as_json:
        print(run_directory.diagnosis.read_text(), end="")
        return
    for part in diagnosing.describe(found):
        show(part)
    show(f"everything is in {run_directory.diagnosis} and {run_directory.figures / 'diagnose'}")


@app.command()
def compress(
    directory: RunArgument,
    target_bytes: TargetBytesOption = None,
    target_error: TargetErrorOption = None,
    keep_deviations: KeepDeviationsOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Write the compressed file that the decision says, or one refined to a size or to a validation error."""
    from pyro_compress.pipeline import steps
    from pyro_compress.pipeline.settings import RunSettings

    run_directory = steps.RunDirectory(directory)
    settings = RunSettings.load(run_directory.settings)
    artifact = steps.compress_step(
        run_directory,
        settings,
        steps.load_data(settings, data_dir),
        target_bytes=target_bytes,
        target_error=target_error,
        keep_deviations=keep_deviations,
        say=_say(False),
    )
    show(f"{run_directory.file}: {len(artifact):,} bytes; next: pyro-compress evaluate {directory}")


@app.command()
def evaluate(
    target: Annotated[Path, typer.Argument(help="Run directory, or a .pyrc file.")],
    data: Annotated[
        str | None,
        typer.Option("--data", help="For a file: digits, mnist, fashion-mnist, cifar10, or module:factory."),
    ] = None,
    likelihood: Annotated[
        str, typer.Option("--likelihood", help="For a file: categorical, gaussian, bernoulli, poisson.")
    ] = "categorical",
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decode the file, run it on the test set and report; with a run directory also writes results and figures."""
    from pyro_compress.pipeline import evaluation, steps
    from pyro_compress.pipeline.settings import RunSettings

    if target.is_dir():
        if data is not None or likelihood != "categorical":
            raise RunError(f"the run in {target} says its data and likelihood: leave out --data and --likelihood")
        run_directory = steps.RunDirectory(target)
        settings = RunSettings.load(run_directory.settings)
        _evaluate(run_directory, settings, steps.load_data(settings, data_dir), as_json)
        return
    if not target.exists():
        raise RunError(f"{target} is neither a run directory nor a file: there is nothing of that name")
    if data is None:
        raise RunError("evaluating a single file needs --data: the file does not say what it was trained on")
    found = evaluation.evaluate_file(target, data, data_dir, likelihood)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        show(f"{key}: {value:.5g}" if isinstance(value, float) else f"{key}: {value}")


@app.command()
def uncertainty(
    directory: RunArgument,
    out_of_distribution: Annotated[
        str | None,
        typer.Option("--out-of-distribution", metavar="DATA", help="Inputs of another kind: a data set, or noise."),
    ] = None,
    draws: Annotated[int, typer.Option("--draws", min=1, help="Draws that the posterior predictive averages.")] = 100,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether file and posterior are as sure as they are right; writes uncertainty.json and figures."""
    from pyro_compress.pipeline import steps
    from pyro_compress.pipeline import uncertainty as measuring
    from pyro_compress.pipeline.settings import RunSettings

    run_directory = steps.RunDirectory(directory)
    settings = RunSettings.load(run_directory.settings)
    data = steps.load_data(settings, data_dir)
    found = measuring.uncertainty_of_run(
        run_directory, settings, data, draws=draws, other=out_of_distribution, data_dir=data_dir
    )
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for part in measuring.describe(found):
        show(part)
    show(f"everything is in {directory / 'uncertainty.json'} and {run_directory.figures / 'uncertainty'}")


@app.command()
def inspect(
    file: FileArgument,
    as_json: JsonOption = False,
) -> None:
    """Show what a compressed file holds and what each part of it costs."""
    from pyro_compress.pipeline import inspection

    path = _compressed_file(file)
    if as_json:
        print(json.dumps(inspection.as_dict(path), indent=2))
    else:
        for renderable in inspection.describe_file(path):
            show(renderable)


@app.command()
def export(
    file: FileArgument,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write; ends in .onnx or .safetensors.")],
    to: Annotated[str, typer.Option("--to", help="onnx or safetensors.")],
) -> None:
    """Write a compressed file in a format that other programs run or read."""
    from pyro_compress.pipeline import exporting

    length = exporting.export_file(_compressed_file(file), to, target)
    show(f"{target}: {length:,} bytes")


def _compressed_file(given: Path) -> Path:
    """The file itself, or that of a run directory."""
    from pyro_compress.pipeline.steps import RunDirectory

    path = RunDirectory(given).file if given.is_dir() else given
    if given.is_dir() and not path.exists():
        raise RunError(f"{given} holds no compressed file yet: run `pyro-compress compress {given}`")
    return path


def _fit(run: "RunDirectory", settings: "RunSettings", data: "DataSet", *, resume: bool, quiet: bool) -> None:
    from pyro_compress.pipeline import progress, steps

    if resume and run.posterior.exists():
        return
    method = settings.build_method()
    with progress.epoch_bars(err, quiet=quiet) as bars:
        pretrains = settings.pretrain_epochs and not run.initial.exists()
        steps.fit_step(
            run,
            settings,
            data,
            resume=resume,
            pretrain_callbacks=[bars.phase("pretraining epoch", settings.pretrain_epochs)] if pretrains else [],
            callbacks=[bars.phase(method.round_name, method.rounds)],
            watcher=bars.watcher,
        )


def _evaluate(run: "RunDirectory", settings: "RunSettings", data: "DataSet", as_json: bool) -> None:
    from pyro_compress.pipeline import evaluation

    results = evaluation.evaluate_run(run, settings, data)
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        from pyro_compress.report.table import results_table

        show(results_table(results))
        show(f"everything is in {run.path}")


def _say(quiet: bool) -> Any:
    return (lambda line: None) if quiet else (lambda line: show(line, err))


def _settings(entry: str | None, resume: Path | None, out_dir: Path | None, **given: Any) -> "tuple[RunSettings, Path]":
    """The run's settings and directory from the options of `run` and `fit`."""
    from pyro_compress.pipeline.choosing import choose_settings

    return choose_settings(entry, resume, out_dir, **given)


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


def main() -> None:
    """Entry point of the console script and of `python -m pyro_compress`."""
    app(prog_name="pyro-compress")


if __name__ == "__main__":
    main()
