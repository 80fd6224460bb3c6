"""`inspect`, `pack`, `unpack`, `annotate`, `card`, `generate`, `score`, `export`: what is done with a file."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pyro_compress import shipped
from pyro_compress.cli.options import DataDirOption, FileArgument, JsonOption
from pyro_compress.cli.printing import show
from pyro_compress.errors import RunError


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


def unpack(
    file: FileArgument,
    out: Annotated[Path, typer.Option("--out", help="File to write; ends in .safetensors.")],
) -> None:
    """Write the tensors of a compressed file as safetensors."""
    from pyro_compress.pipeline import packing

    length = packing.unpack_file(_compressed_file(file), out)
    show(f"{out}: {length:,} bytes")


def annotate(
    file: FileArgument,
    entries: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE ...", help="What the file is to say; VALUE may be JSON, and NAME= removes."),
    ],
) -> None:
    """Let a compressed file say something of itself: class names, normalisation, licence, source."""
    from pyro_compress.pipeline.annotating import annotate_file

    path = _compressed_file(file)
    before, after = annotate_file(path, entries)
    show(f"{path}: {after:,} bytes, {before:,} before")


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
