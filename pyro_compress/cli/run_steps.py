"""`analyse`, `diagnose`, `compress`, `evaluate`, `uncertainty`: what is done with a run that has been fitted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyro_compress import shipped
from pyro_compress.cli.fitting import report
from pyro_compress.cli.options import (
    DataDirOption,
    DecisionSetOption,
    DeviceOption,
    JsonOption,
    KeepDeviationsOption,
    LogLikelihoodOption,
    RunArgument,
    SitesOption,
    TargetBytesOption,
    TargetErrorOption,
)
from pyro_compress.cli.printing import say, show
from pyro_compress.errors import RunError

# Everything else is imported by the command that needs it: `--help` loads no torch.
if TYPE_CHECKING:
    from pyro_compress.data.dataset import DataSet
    from pyro_compress.pipeline.run_directory import RunDirectory
    from pyro_compress.pipeline.settings import RunSettings


def analyse(
    directory: RunArgument,
    options: DecisionSetOption = None,
    device: DeviceOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Read the posterior and decide what to prune and with how many bits to store the rest; nothing is fitted again."""
    from pyro_compress.pipeline import steps
    from pyro_compress.pipeline.run_options import parse_decision_options
    from pyro_compress.pipeline.settings import RunSettings

    run_directory = steps.RunDirectory(directory)
    settings = _on_device(RunSettings.load(run_directory.settings), device)
    decision_options = parse_decision_options(options or [])
    loaded = steps.load_data(settings, data_dir)
    steps.analyse_step(run_directory, settings, loaded, decision_options=decision_options, say=say(False))
    show(f"decision in {directory}; next: pyro-compress compress {directory}")


def diagnose(
    directory: RunArgument,
    sites: SitesOption = None,
    log_likelihood: LogLikelihoodOption = False,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether to believe the posterior: summary, convergence, flags; writes diagnosis.json and figures."""
    from pyro_compress.pipeline import diagnosing

    run_directory, settings, data = _opened(directory, data_dir)
    asked = diagnosing.DiagnosisOptions(tuple(sites) if sites else None, log_likelihood)
    found = diagnosing.diagnose_run(run_directory, settings, data, asked, say=say(as_json))
    if as_json:
        print(run_directory.diagnosis.read_text(), end="")
        return
    for part in diagnosing.describe(found):
        show(part)
    show(f"everything is in {run_directory.diagnosis} and {run_directory.figures / 'diagnose'}")


def compress(
    directory: RunArgument,
    target_bytes: TargetBytesOption = None,
    target_error: TargetErrorOption = None,
    keep_deviations: KeepDeviationsOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Write the compressed file that the decision says, or one refined to a size or to a validation error."""
    from pyro_compress.pipeline import steps

    run_directory, settings, data = _opened(directory, data_dir)
    artifact = steps.compress_step(
        run_directory,
        settings,
        data,
        target_bytes=target_bytes,
        target_error=target_error,
        keep_deviations=keep_deviations,
        say=say(False),
    )
    show(f"{run_directory.file}: {len(artifact):,} bytes; next: pyro-compress evaluate {directory}")


def evaluate(
    target: Annotated[Path, typer.Argument(help="Run directory, a .pyrc file, or a shipped network's name.")],
    data: Annotated[
        str | None,
        typer.Option("--data", help="For a file: digits, mnist, fashion-mnist, cifar10, or module:factory."),
    ] = None,
    likelihood: Annotated[
        str | None,
        typer.Option("--likelihood", help="For a file: categorical (if not given), …; a wrong one lists all."),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            "--network", help="For a file of weights, what they go into: a registered network, module:factory."
        ),
    ] = None,
    device: DeviceOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decode the file, run it on the test set and report; with a run directory also writes results and figures."""
    from pyro_compress.data.named import load
    from pyro_compress.models.networks import named_or_own
    from pyro_compress.pipeline import evaluation, steps
    from pyro_compress.pipeline.settings import RunSettings

    if target.is_dir():
        if (data, likelihood, network) != (None, None, None):
            raise RunError(
                f"the run in {target} says its data, likelihood and network: leave out --data, --likelihood and "
                "--network, or name its file"
            )
        run_directory = steps.RunDirectory(target)
        settings = _on_device(RunSettings.load(run_directory.settings), device)
        report(run_directory, settings, steps.load_data(settings, data_dir), as_json)
        return
    file = shipped.path_of(target)
    if shipped.is_shipped(target):
        settings = shipped.card(str(target))["settings"]
        data, likelihood = data or settings["data"], likelihood or settings["likelihood"]
    if data is None:
        raise RunError("evaluating a single file needs --data: the file does not say what it was trained on")
    found = evaluation.evaluate(
        file,
        load(data, data_dir),
        likelihood=likelihood or "categorical",
        network=None if network is None else named_or_own(network),
        device=device or "cpu",
    )
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        show(f"{key}: {value:.5g}" if isinstance(value, float) else f"{key}: {value}")


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
    from pyro_compress.pipeline import uncertainty as measuring

    run_directory, settings, data = _opened(directory, data_dir)
    found = measuring.uncertainty_of_run(
        run_directory, settings, data, draws=draws, other=out_of_distribution, data_dir=data_dir
    )
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for part in measuring.describe(found):
        show(part)
    show(f"everything is in {run_directory.uncertainty} and {run_directory.figures / 'uncertainty'}")


def _opened(directory: Path, data_dir: Path | None) -> "tuple[RunDirectory, RunSettings, DataSet]":
    """A run with its settings and data."""
    from pyro_compress.pipeline import steps
    from pyro_compress.pipeline.settings import RunSettings

    run = steps.RunDirectory(directory)
    settings = RunSettings.load(run.settings)
    return run, settings, steps.load_data(settings, data_dir)


def _on_device(settings: "RunSettings", device: str | None) -> "RunSettings":
    """The settings of a run, for one step on another device; settings.json keeps the run's own."""
    return settings if device is None else replace(settings, device=device)
