"""`pc.pack`, `pc.unpack`: the tensors of any module to a file and back, with no posterior and no forward pass."""

import importlib
import importlib.util
import math
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import RenderableType
from rich.table import Table

from pyro_compress.artifact.runtimes.safetensors_weights import as_given, read_safetensors, write_safetensors
from pyro_compress.artifact.writing.artifact import Artifact, load
from pyro_compress.artifact.writing.packing import packed
from pyro_compress.errors import ArtifactError, RunError
from pyro_compress.files import write_atomically
from pyro_compress.network.quantizers import Codebook, PerChannel, Uniform
from pyro_compress.network.stored import StoredTensor
from pyro_compress.network.stored_weights import Given, StoredWeights, WeightTensor, item_bytes

# torch is loaded where tensors of it come in or go out: files of safetensors need none.
if TYPE_CHECKING:
    import torch
    from torch import nn

    State = nn.Module | Mapping[str, torch.Tensor] | Mapping[str, np.ndarray]

SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class PackedTensor:
    """What became of one tensor.

    Attributes:
        name: its first one, where several are tied.
        shape, dtype: as it was, and as it comes back.
        stored: in words.
        bytes_before: of its numbers in its type.
        bytes_after: its share of the file.
        largest_error: max |w − ŵ|, 0 where all numbers come back exactly.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: str
    bytes_before: int
    bytes_after: float
    largest_error: float


def pack(
    given: "State | str | Path", *, bits: int | None = None, step: float | None = None, float16: bool = False
) -> Artifact:
    """A file of the tensors of any module, whatever its forward pass does.

    Without a rule the numbers come back exactly, and take fewer bytes where they lie on a grid or are few different
    ones; with one, matrices and filters are rounded (`artifact.writing.packing.packed` has the formulas).

    Args:
        given: a module, a state dict of torch tensors or numpy arrays, or the path of a file of one (`read_state`).
        bits: each row of a tensor of two axes or more on a grid of its own, of so many bits.
        step: all of these on multiples of one step.
        float16: float32 tensors that are on no grid to float16.

    Raises:
        ArtifactError: an entry is no tensor, of a type that a file does not hold, or holds NaN.
        DecisionError: bits and step are both given, or out of range.
        RunError: there is no such file, or it holds no state dict.
    """
    return Artifact.of(packed(state_of(given), bits=bits, step=step, float16=float16))


def unpack(file: Artifact | str | Path) -> "dict[str, torch.Tensor]":
    """The state dict that a file holds: tensors of the types that were given, numpy arrays where torch is missing.

    Of a runnable file these are the tensors of its layers, under their names.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    artifact = file if isinstance(file, Artifact) else load(file)
    if importlib.util.find_spec("torch") is None:
        return artifact.numbers()  # type: ignore[return-value]
    return artifact.state_dict()


def state_of(given: "State | str | Path") -> dict[str, Given]:
    """Tensors by name, of whatever `pack` takes; errors as there."""
    if isinstance(given, str | Path):
        return read_state(Path(given))
    state: Mapping[str, Any] = given if isinstance(given, Mapping) else given.state_dict()
    odd = next((name for name in state if not isinstance(name, str)), None)
    if odd is not None:
        raise ArtifactError(f"tensors have names, found {odd!r} in the place of one")
    if all(isinstance(tensor, np.ndarray) for tensor in state.values()):
        return as_given(state)
    return dict(importlib.import_module("pyro_compress.artifact.runtimes.state_dicts").given_of(state))


def read_state(path: Path) -> dict[str, Given]:
    """The state dict of a `.safetensors` file, or of what `torch.save(module.state_dict(), path)` wrote.

    Pickled code is never run (`weights_only=True`), so a whole module that was pickled is refused.

    Raises:
        RunError: there is no such file, it cannot be read, or holds something else.
        ArtifactError: a tensor is of a type that a file does not hold.
    """
    try:
        if path.suffix == SAFETENSORS:
            return read_safetensors(path.read_bytes())
        path.open("rb").close()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
    return _read_pickled(path)


def _read_pickled(path: Path) -> dict[str, Given]:
    if importlib.util.find_spec("torch") is None:
        raise RunError(f"{path} does not end in {SAFETENSORS}, and reading what torch.save wrote needs torch")
    import torch

    try:
        state = torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        # torch's advice on what it does not unpickle is to run it
        said = "" if isinstance(error, pickle.UnpicklingError) else f" ({said})"
        raise RunError(
            f"{path} cannot be read without running code that it holds, or is damaged: write module.state_dict() with "
            f"safetensors or torch.save, and not the module itself{said}"
        ) from error
    if not isinstance(state, Mapping):
        raise RunError(f"{path} holds a {type(state).__name__}, expected a state dict: save module.state_dict() alone")
    return state_of(state)


def pack_file(
    source: Path, target: Path, *, bits: int | None, step: float | None, float16: bool
) -> tuple[Artifact, list[PackedTensor]]:
    """Pack the state dict in one file into another; gives what became of every tensor too.  Errors as for `pack`."""
    given = read_state(source)
    artifact = Artifact.of(packed(given, bits=bits, step=step, float16=float16))
    found = comparison(given, artifact)
    artifact.save(target)
    return artifact, found


def unpack_file(source: Path, target: Path) -> int:
    """Write what a file holds as safetensors, whole or not at all; gives the number of bytes.

    Raises:
        ArtifactError: the file is missing or damaged.
        RunError: the target's name does not end in .safetensors.
        OSError: it cannot be written.
    """
    if target.suffix != SAFETENSORS:
        raise RunError(
            f"state dicts are written as safetensors, '{target.name}' does not end in {SAFETENSORS}: rename it"
        )
    held = load(source).held
    if not isinstance(held, StoredWeights):
        tensors = {
            name: WeightTensor("float32", tensor if tensor.integers is not None else tensor.dense())
            for name, tensor in held.tensors.items()
        }
        held = StoredWeights(tensors)
    data = write_safetensors(held)
    write_atomically(target, data)
    return len(data)


def comparison(given: Mapping[str, Given], artifact: Artifact) -> list[PackedTensor]:
    """What became of every tensor, of tied ones once."""
    held = artifact.held
    assert isinstance(held, StoredWeights)
    after = {section.name: section.file_bytes for section in artifact.sections()}
    found = []
    for name, tensor in held.single():
        before, back = given[name].numbers.astype(np.float64), tensor.numbers().astype(np.float64)
        changed = before != back
        error = float(np.abs(before[changed] - back[changed]).max(initial=0))
        size = math.prod(tensor.shape) * item_bytes(tensor.dtype)
        found.append(PackedTensor(name, tensor.shape, tensor.dtype, stored_as_text(tensor), size, after[name], error))
    return found


def stored_as_text(tensor: WeightTensor) -> str:
    """How a file holds a tensor, in words."""
    if not isinstance(tensor.held, StoredTensor):
        return str(tensor.held.dtype) if tensor.dtype == "float32" else tensor.dtype
    assert tensor.held.integers is not None
    if not tensor.held.integers.any():
        return "zeros"
    match tensor.held.quantizer:
        case PerChannel():
            return "steps per row"
        case Codebook(levels):
            return f"{len(levels)} levels"
        case Uniform(1.0):
            return "integers"
        case Uniform(step) as grid:
            return f"step {step:.4g}" if grid.exponent is None else f"step 2^{grid.exponent}"
    return "integers"


def as_dict(file: Path, artifact: Artifact, tensors: list[PackedTensor]) -> dict[str, Any]:
    """For programs."""
    before = sum(tensor.bytes_before for tensor in tensors)
    return {
        "file": str(file),
        "file_bytes": len(artifact),
        "bytes_before": before,
        "file_rate": before / len(artifact),
        "largest_error": max((tensor.largest_error for tensor in tensors), default=0.0),
        "tensors": [
            asdict(tensor) | {"shape": list(tensor.shape), "bytes_after": round(tensor.bytes_after, 2)}
            for tensor in tensors
        ],
    }


def describe(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The same as printable parts."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title="Bytes", title_justify="left")
    table.add_column("tensor", overflow="fold")
    for heading in ("shape", "stored as"):
        table.add_column(heading, no_wrap=True)
    for heading in ("before", "after", "largest error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found["tensors"]:
        shape = "×".join(str(extent) for extent in row["shape"])
        error = f"{row['largest_error']:.2g}" if row["largest_error"] else ""
        sizes = f"{row['bytes_before']:,}", f"{row['bytes_after']:,.1f}"
        stored = row["stored"] if row["dtype"] in ("float32", row["stored"]) else f"{row['dtype']}, {row['stored']}"
        table.add_row(row["name"], shape, stored, *sizes, error)
    yield table
    exact = "every number comes back exactly"
    error = f"the largest rounding error is {found['largest_error']:.3g}" if found["largest_error"] else exact
    yield (
        f"{found['file']}: {found['file_bytes']:,} bytes, {found['file_rate']:.1f} times smaller than the tensors' "
        f"{found['bytes_before']:,}; {error}"
    )
