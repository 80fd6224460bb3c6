"""The commands over many runs: `sweep` and `table`."""

from pathlib import Path
from typing import Annotated

import typer

from pyro_compress.cli.options import (
    DataDirOption,
    DeviceOption,
    EpochsOption,
    KlWeightOption,
    PretrainOption,
    SetOption,
)
from pyro_compress.cli.printing import say, show
from pyro_compress.errors import RunError

# Everything else is imported by the command that needs it: `--help` loads no torch.


def sweep(
    entries: Annotated[
        list[str] | None,
        typer.Argument(metavar="ENTRY...", help="Zoo entries; none prints the table of what is there."),
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the run directories.")] = Path("runs/sweep"),
    seeds: Annotated[str, typer.Option("--seeds", metavar="SEED...", help="One or more: --seeds 0 1 2.")] = "0",
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes", "--jobs", min=1, help="Runs at a time; as many as there are cores for if not given."
        ),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Torch threads of each run.")] = 2,
    through: Annotated[
        str, typer.Option("--through", help="ray, processes, or auto: Ray where it is installed.")
    ] = "auto",
    data_dir: DataDirOption = None,
    epochs: EpochsOption = None,
    pretrain_epochs: PretrainOption = None,
    kl_weight: KlWeightOption = None,
    device: DeviceOption = None,
    options: SetOption = None,
) -> None:
    """Run zoo entries with several seeds, some at a time, and print the median and the worst over seeds.

    Given again it goes on: finished runs are not repeated, interrupted ones are resumed.
    """
    from pyro_compress.pipeline import running, sweeping

    names, numbers = sweeping.entries_and_seeds(entries or [], seeds)
    own = {"epochs": epochs, "pretrain_epochs": pretrain_epochs, "kl_weight": kl_weight, "device": device}
    given = {"data_dir": data_dir and data_dir.resolve(), **own}
    words = [("--" + name.replace("_", "-"), value) for name, value in given.items() if value is not None]
    run_arguments = [str(word) for pair in words for word in pair]
    run_arguments += [word for option in options or [] for word in ("--set", option)]
    tasks = sweeping.tasks_of(names, numbers, out_dir, threads, run_arguments)
    sweeping.refuse_other_settings(tasks, options or [], own)
    failed = running.run_all(tasks, processes=processes, through=through, say=say(False))
    rows = [*sweeping.table(sweeping.collect(out_dir))]
    if not rows and not tasks:
        raise RunError(f"no run in {out_dir} has finished: name zoo entries to run there")
    for row in rows:
        show(row)
    running.refuse_failures(failed, len(tasks))


def table(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Of the table; none lists them."),
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the runs, and of what is written.")] = Path(
        "runs/tables"
    ),
    seeds: Annotated[str, typer.Option("--seeds", metavar="SEED...", help="One or more: --seeds 0 1 2.")] = "0",
    processes: Annotated[
        int | None,
        typer.Option("--processes", "--jobs", min=1, help="Runs at a time; as many as cores allow if not given."),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Torch threads of each run.")] = 1,
    through: Annotated[
        str, typer.Option("--through", help="ray, processes, or auto: Ray where it is installed.")
    ] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Few examples and epochs: shows that all works.")] = False,
    ready: Annotated[bool, typer.Option("--ready", help="Show what is there, and run nothing.")] = False,
    earlier: Annotated[
        list[Path] | None,
        typer.Option("--earlier", metavar="NAME.json", help="Cells without a run here, as a table of before has them."),
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Run all that a reference table holds, and show it beside the published figures.

    Given again it goes on: finished runs are not repeated, interrupted ones are resumed.  Writes NAME.md, NAME.csv,
    NAME.json and figures into the folder.
    """
    from pyro_compress.pipeline import running, sweeping
    from pyro_compress.tables import collecting, rendering, work, zoo
    from pyro_compress.tables.earlier import Earlier
    from pyro_compress.tables.registry import TABLES, tables_named

    names, numbers = sweeping.entries_and_seeds(words or [], seeds)
    if not names:
        for name, named in TABLES.items():
            show(f"{name}: {named.title}")
        show(f"{zoo.NAME}: {zoo.TITLE}; runs nothing")
        return
    if len(names) > 1:
        raise RunError(f"a table at a time: found {' and '.join(names)}")
    if names == [zoo.NAME]:
        show(zoo.terminal())
        show(f"written: {', '.join(str(path) for path in zoo.save(out_dir))}")
        return
    named = tables_named(names[0])
    tables = [one.quick() if quick else one for one in named.tables()]
    before = Earlier.read(earlier or [])
    if before.outdated:
        show(f"left out, since their settings are others now: {', '.join(before.outdated)}")
    every = work.work_of(tables, numbers, out_dir, threads, data_dir)
    for fit in every:
        fit.refuse_other_settings()
    todo = [] if ready else every
    todo = [one for one in todo if not before.holds(one.fit, dict(one.variants).values(), one.seed)]
    failed = running.run_all(todo, processes=processes, through=through, say=say(False)) if todo else {}
    found = [(one, collecting.collect(one, numbers, out_dir, before)) for one in tables]
    for one, lines in found:
        show(rendering.terminal(one, lines))
    name = names[0] + ("-quick" if quick else "")
    command = f"pyro-compress table {names[0]}" + (" --quick" if quick else "")
    command += f" --seeds {' '.join(map(str, numbers))}" if numbers != [0] else ""
    from pyro_compress.tables.figures import save_figures

    figures = save_figures(out_dir / "images", name, found)
    pages = rendering.save_all(out_dir, name, found, numbers, command, named.title, figures)
    show(f"written: {', '.join(str(path) for path in (*pages, *figures))}")
    running.refuse_failures(failed, len(todo))
