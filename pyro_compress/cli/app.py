"""The command line: `pyro-compress zoo`, `run`, `fit`, … `evaluate`, `inspect`, `export`: one function each."""

import atexit
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from pyro_compress import __version__, shipped
from pyro_compress.cli.files import annotate, card, export, generate, inspect, pack, score, unpack
from pyro_compress.cli.fitting import fit, run
from pyro_compress.cli.many_runs import sweep, table
from pyro_compress.cli.memory import keep_freed_memory
from pyro_compress.cli.printing import OneSentenceErrors, ranks_asked_for, replace_what_cannot_be_written, show
from pyro_compress.cli.run_steps import analyse, compress, diagnose, evaluate, uncertainty
from pyro_compress.errors import RunError
from pyro_compress.posterior.error_unit import unit_of

# Everything else is imported by the command that needs it: `--help` loads no torch.
if TYPE_CHECKING:
    from pyro_compress.models.zoo.entry import Entry

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


for command in (
    *(run, fit, sweep, table),
    *(analyse, diagnose, compress, evaluate, uncertainty),
    *(inspect, pack, unpack, annotate, card, generate, score, export),
):
    app.command()(command)


def main() -> None:
    """Entry point of the console script and of `python -m pyro_compress`."""
    replace_what_cannot_be_written()
    keep_freed_memory()
    try:
        app(prog_name="pyro-compress")
    except SystemExit as end:
        if ranks_asked_for() == 1:
            raise
        _leave_at_once(end.code)


def _leave_at_once(code: str | int | None) -> None:
    """End a rank when Python has tidied up: torch 2.14 aborts, one time in seven, when its threads are torn down."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
