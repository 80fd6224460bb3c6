"""What the command line prints, and how its failures end: with one sentence."""

import errno
import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console, RenderableType
from typer.core import TyperGroup

from pyro_compress.errors import PyroCompressError
from pyro_compress.extras import missing

# text of the user's, such as `:x:` in a path, stays as it is
out = Console(emoji=False)
err = Console(stderr=True, emoji=False)


def show(part: RenderableType, console: Console = out) -> None:
    """Print text as it is, however long its lines, or a table; of several ranks the first alone does."""
    if not is_first_rank():
        return
    if isinstance(part, str):
        console.print(part, markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(part)


class OneSentenceErrors(TyperGroup):
    """Commands whose expected failures end with one sentence on stderr and exit status 1, Ctrl-C with 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a warning is one sentence as well, without the file and line that it came from."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *where, **more: show(f"warning: {message}", err)
                return super().invoke(ctx)
        except PyroCompressError as error:
            if error.said_elsewhere and not is_first_rank():
                raise typer.Exit(1) from None
            sentence = str(error)
        except ImportError as error:
            known = missing(f"pyro-compress {ctx.invoked_subcommand}", error)
            if known is None:
                raise
            sentence = str(known)
        except KeyboardInterrupt:
            show("\nstopped; give the command again to go on", err)
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # `pyro-compress zoo | head`
                raise
            sentence = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        err.print(f"error: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)


def replace_what_cannot_be_written() -> None:
    """Standard output and error whose encoding lacks a character, such as β in ASCII, get a question mark for it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def say(quiet: bool) -> Callable[[str], None]:
    """What prints a line of progress, or nothing."""
    return (lambda line: None) if quiet else (lambda line: show(line, err))


def ranks_asked_for() -> int:
    """How many ranks torchrun started, this process among them; 1 if it did not."""
    # as `inference.loop.processes.asked_for`, without torch
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def is_first_rank() -> bool:
    """Whether this process is the one that prints."""
    return ranks_asked_for() == 1 or int(os.environ["RANK"]) == 0
