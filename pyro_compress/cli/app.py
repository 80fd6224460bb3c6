"""The command line: `pyro-compress zoo`, `run`, `fit`, … `evaluate`, `inspect`, `export`: one function each."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from pyro_compress import __version__, shipped
from pyro_compress.cli.fitting import fit, report, run
from pyro_compress.cli.many_runs import sweep, table
from pyro_compress.cli.options import (
    DataDirOption,
    DecisionSetOption,
    DeviceOption,
    FileArgument,
    JsonOption,
    KeepDeviationsOption,
    LogLikelihoodOption,
    RunArgument,
    SitesOption,
    TargetBytesOption,
    TargetErrorOption,
)
from pyro_compress.cli.printing import OneSentenceErrors, ranks_asked_for, replace_what_cannot_be_written, say, show
from pyro_compress.errors import RunError
from pyro_compress.posterior.error_unit import unit_of

# Everything else is imported by the command that needs it: `--help` loads no torch.
if TYPE_CHECKING:
    from pyro_compress.models.zoo.entry import Entry
    from pyro_compress.pipeline.settings import RunSettings

app = typer.Typer(
    cls=OneSentenceErrors,
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
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself; its help is the program's own."""
    command = context.invoked_subcommand
    if ranks_asked_for() > 1 and command not in ("run", "fit"):
        raise RunError(f"run and fit can share their work among ranks, {command} does not: start it without torchrun")


@app.command()
def zoo() -> None:
    """List the zoo's entries, and the files that are shipped of them."""
    from pyro_compress.models import zoo as models_zoo

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("entry, and a published figure to beat")
    table.add_column("data", no_wrap=True)
    for heading in ("bytes", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in models_zoo.entries().values():
        size, rate, error = _shipped_figures(entry.name)
        said = [part for part in (rate, _figure_to_beat(entry)) if part]
        table.add_row("\n  ".join([entry.name, *said]), entry.data, size, error)
    show(table)
    show("Entries with bytes and error are shipped as files: pyro-compress card ENTRY, pyro-compress evaluate ENTRY")


def _figure_to_beat(entry: "Entry") -> str:
    """The first published figure of an entry, or nothing."""
    if not entry.published:
        return ""
    best = entry.published[0]
    rate = f" at {best.maximum_compression:g}× (formula)" if best.maximum_compression else ""
    return f"{best.method}: {best.error_percent:g} %{rate}"


def _shipped_figures(name: str) -> tuple[str, str, str]:
    """Bytes, rate and error of what is shipped of an entry; nothing of the others."""
    if name not in shipped.names():
        return "", "", ""
    card = shipped.card(name)
    unit = unit_of(card)
    rate = f"shipped, {card['file_rate']:,.0f} times smaller than float32"
    return f"{card['file_bytes']:,}", rate, unit.shown(card[unit.key("error_after")])


app.command()(run)
app.command()(fit)
app.command()(sweep)
app.command()(table)


@app.command()
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
    asked = diagnosing.DiagnosisOptions(tuple(sites) if sites else None, log_likelihood)
    found = diagnosing.diagnose_run(run_directory, settings, data, asked, say=say(as_json))
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
        say=say(False),
    )
    show(f"{run_directory.file}: {len(artifact):,} bytes; next: pyro-compress evaluate {directory}")


@app.command()
def evaluate(
    target: Annotated[Path, typer.Argument(help="Run directory, a .pyrc file, or a shipped network's name.")],
    data: Annotated[
        str | None,
        typer.Option("--data", help="For a file: digits, mnist, fashion-mnist, cifar10, or module:factory."),
    ] = None,
    likelihood: Annotated[
        str | None,
        typer.Option("--likelihood", help="For a file: categorical (if not given), gaussian, bernoulli, poisson."),
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
def pack(
    source: Annotated[
        Path, typer.Argument(metavar="MODEL", help="State dict: .safetensors, or torch.save(module.state_dict(), …).")
    ],
    out: Annotated[Path, typer.Option("--out", help="File to write; ends in .pyrc.")],
    bits: Annotated[
        int | None,
        typer.Option(
            "--bits", metavar="N", help="Round matrices and filters to so many bits, each row by its own step."
        ),
    ] = None,
    step: Annotated[
        float | None, typer.Option("--step", metavar="Δ", help="Round matrices and filters to multiples of one step.")
    ] = None,
    float16: Annotated[bool, typer.Option("--float16", help="Round what is on no grid to float16.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the tensors of any network as a compressed file: exactly, or rounded by a rule; nothing is fitted."""
    from pyro_compress.pipeline import packing

    found = packing.as_dict(out, *packing.pack_file(source, out, bits=bits, step=step, float16=float16))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for renderable in packing.describe(found):
        show(renderable)


@app.command()
def unpack(
    file: FileArgument,
    out: Annotated[Path, typer.Option("--out", help="File to write; ends in .safetensors.")],
) -> None:
    """Write the tensors of a compressed file as safetensors."""
    from pyro_compress.pipeline import packing

    length = packing.unpack_file(_compressed_file(file), out)
    show(f"{out}: {length:,} bytes")


@app.command()
def annotate(
    file: FileArgument,
    entries: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE ...", help="What the file is to say; VALUE may be JSON, and none removes."),
    ],
) -> None:
    """Let a compressed file say something of itself: class names, normalisation, licence, source."""
    from pyro_compress.pipeline.annotating import annotate_file

    path = _compressed_file(file)
    before, after = annotate_file(path, entries)
    show(f"{path}: {after:,} bytes, {before:,} before")


@app.command()
def card(
    target: Annotated[str, typer.Argument(metavar="NAME", help="Shipped network, or the directory of a finished run.")],
    as_json: JsonOption = False,
) -> None:
    """Print the model card of a shipped network, or of a finished run, as Markdown."""
    from pyro_compress.pipeline import cards

    found = cards.card_named(target)
    print(
        json.dumps(found, indent=2, ensure_ascii=False) if as_json else cards.markdown(found),
        end="\n" if as_json else "",
    )


@app.command()
def generate(
    file: FileArgument,
    out: Annotated[Path, typer.Option("--out", help="Image to write; ends in .png.")],
    rows: Annotated[int, typer.Option("--rows", min=1, help="Of images.")] = 10,
    columns: Annotated[int, typer.Option("--columns", min=1, help="Of images.")] = 10,
    likelihood: Annotated[
        str | None,
        typer.Option(
            "--likelihood", help="For a file: bernoulli, continuous-bernoulli, gaussian; bernoulli if not given."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the codes.")] = 0,
) -> None:
    """Draw codes, decode them with the decoder of a compressed file, and write the images as one."""
    from pyro_compress.pipeline import generating, steps
    from pyro_compress.pipeline.settings import RunSettings
    from pyro_compress.report.image_sheets import images_of, save_sheet

    if file.is_dir() and likelihood is not None:
        raise RunError(f"the run in {file} says its likelihood: leave out --likelihood")
    known = RunSettings.load(steps.RunDirectory(file).settings).build_likelihood() if file.is_dir() else None
    made = generating.generate(
        _compressed_file(file), rows * columns, likelihood=known or likelihood or "bernoulli", seed=seed
    )
    save_sheet(out, images_of(made), columns)
    show(f"{out}: {rows} × {columns} images")


@app.command()
def score(
    file: FileArgument,
    reference: Annotated[
        str, typer.Option("--reference", help="What it is relative to: cifar-100, imagenet, wikitext-103.")
    ] = "cifar-100",
    activation_bits: Annotated[
        int, typer.Option("--activation-bits", metavar="N", help="Width of inputs and activations; 32 here.")
    ] = 32,
    freebie: Annotated[
        bool, typer.Option("--freebie/--no-freebie", help="Count 16 bits where nothing has fewer.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Count parameters and operations of a compressed file by the rules of the MicroNet Challenge."""
    from pyro_compress.pipeline import scoring

    found = scoring.score(_compressed_file(file), reference=reference, activation_bits=activation_bits, freebie=freebie)
    if as_json:
        print(json.dumps(scoring.as_dict(found), indent=2))
    else:
        for renderable in scoring.describe(found):
            show(renderable)


@app.command()
def export(
    file: FileArgument,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write; ends in .onnx or .safetensors.")],
    to: Annotated[str, typer.Option("--to", help="onnx or safetensors.")],
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="DATA",
            help="For onnx: activations of 8 bits, by their ranges on training examples of digits, mnist, …",
        ),
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Write a compressed file in a format that other programs run or read."""
    from pyro_compress.pipeline import exporting

    source = _compressed_file(file)
    length = exporting.export_file(source, to, target, calibrate=calibrate, data_dir=data_dir, say=show)
    show(f"{target}: {length:,} bytes")


def _compressed_file(given: Path) -> Path:
    """The file itself, that of a run directory, or a shipped one by name."""
    from pyro_compress.pipeline.run_directory import RunDirectory

    path = RunDirectory(given).file if given.is_dir() else shipped.path_of(given)
    if given.is_dir() and not path.exists():
        raise RunError(f"{given} holds no compressed file yet: run `pyro-compress compress {given}`")
    return path


def _on_device(settings: "RunSettings", device: str | None) -> "RunSettings":
    """The settings of a run, for one step on another device; settings.json keeps the run's own."""
    return settings if device is None else replace(settings, device=device)


def main() -> None:
    """Entry point of the console script and of `python -m pyro_compress`."""
    replace_what_cannot_be_written()
    app(prog_name="pyro-compress")


if __name__ == "__main__":
    main()
