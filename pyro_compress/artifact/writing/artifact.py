"""A compressed network as a value: bytes, the file they go to, and the network, or weights alone, that they hold."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np

from pyro_compress import shipped
from pyro_compress.artifact.format.container import contained, parted, read_note, write_note
from pyro_compress.artifact.format.decode import NO_LAYERS, Section, decode_sections
from pyro_compress.artifact.format.decode_weights import decode_any, decode_weights_sections
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.artifact.writing.encode_weights import encode_weights
from pyro_compress.errors import ArtifactError
from pyro_compress.files import write_atomically
from pyro_compress.network.stored import StoredNetwork
from pyro_compress.network.stored_weights import StoredWeights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pyro_compress.artifact.runtimes.numpy_runtime import Step

    M = TypeVar("M", bound=nn.Module)

EXTENSION = ".pyrc"


Kind = Literal["runnable", "weights"]


@dataclass(frozen=True)
class Artifact:
    """The bytes of a valid compressed file: they are decoded once, when the artifact is made.

    A file is *runnable*, with layers in order, or holds *weights*: the tensors of any module, which has the forward
    pass.

    Attributes:
        data: the file's content; ArtifactError if it is not a complete and intact compressed network.
        held: what was decoded from it.
        metadata: what the file says of itself, see `with_metadata`; empty if it says nothing.
    """

    data: bytes
    held: StoredNetwork | StoredWeights = field(init=False, repr=False, compare=False)
    metadata: Mapping[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "held", decode_any(self.data))
        object.__setattr__(self, "metadata", read_note(parted(self.data)[1]))

    @staticmethod
    def of(network: StoredNetwork | StoredWeights) -> "Artifact":
        """Encode a stored network, or weights."""
        return Artifact(encode(network) if isinstance(network, StoredNetwork) else encode_weights(network))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Artifact":
        """The only .pyrc file of a folder, such as that of a run; a hub's habit, and the same as `load(folder)`."""
        return load(folder)

    def with_metadata(self, entries: Mapping[str, Any]) -> "Artifact":
        """The same network in a file that says of itself what is given, in place of what it said.

        Args:
            entries: what JSON can say, under any names; usual ones are 'classes' (their names in order),
                'normalisation' (mean and deviation of inputs), 'licence' and 'source'.  They cost their length as JSON
                and a byte or two; with none the file is what it was without.

        Raises:
            ArtifactError: JSON cannot say it, or it takes more than 64 KiB.
        """
        return Artifact(contained(parted(self.data)[0], write_note(entries)))

    def __len__(self) -> int:
        """Size of the file in bytes."""
        return len(self.data)

    @property
    def kind(self) -> Kind:
        """Which of the two it is."""
        return "runnable" if isinstance(self.held, StoredNetwork) else "weights"

    @property
    def network(self) -> StoredNetwork:
        """The network of a runnable file.

        Raises:
            ArtifactError: the file holds weights alone.
        """
        if isinstance(self.held, StoredWeights):
            raise ArtifactError(NO_LAYERS)
        return self.held

    def numbers(self) -> dict[str, np.ndarray]:
        """Every tensor by name as numpy has it, bfloat16 as float32: what `state_dict` gives, without torch."""
        if isinstance(self.held, StoredWeights):
            return self.held.numbers()
        return {name: tensor.dense() for name, tensor in self.held.tensors.items()}

    def state_dict(self) -> "dict[str, torch.Tensor]":
        """Every tensor by name, of its element type; of a runnable file those of its layers."""
        from pyro_compress.artifact.runtimes.state_dicts import to_tensors

        if isinstance(self.held, StoredWeights):
            return to_tensors(self.numbers(), {name: tensor.dtype for name, tensor in self.held.tensors.items()})
        return to_tensors(self.numbers(), dict.fromkeys(self.held.tensors, "float32"))

    def load_into(self, module: "M") -> "M":
        """Put the file's numbers into a module, buffers too, and return it; either all are taken over or none.

        Floating numbers become those of the module's type.

        Raises:
            ArtifactError: names or shapes are not those of the module's state dict; names the first difference.
        """
        from pyro_compress.artifact.runtimes.state_dicts import load_into

        load_into(module, self.state_dict())
        return module

    @overload
    def to_torch(self, module: None = None, *, sparse: bool = False) -> "nn.Sequential": ...

    @overload
    def to_torch(self, module: "M") -> "M": ...

    def to_torch(self, module: "M | None" = None, *, sparse: bool = False) -> "M | nn.Sequential":
        """A new torch module in evaluation mode that takes (batch, *input_shape).

        Args:
            module: of a file of weights, which has the forward pass: a copy is given back, as `load_into` fills it.
            sparse: large dense layers that are nearly empty are sparse tensors; they cannot be trained.

        Raises:
            ArtifactError: the file holds weights alone, and no module is given.
        """
        if module is not None:
            filled = self.load_into(copy.deepcopy(module))
            filled.eval()
            return filled
        from pyro_compress.artifact.runtimes.torch_runtime import to_torch

        return to_torch(self.network, sparse=sparse)

    def to_numpy(self) -> "Step":
        """The forward pass by numpy alone: a function of arrays, (batch, *input_shape) → (batch, *outputs), float32.

        Raises:
            ArtifactError: the file holds weights alone.
        """
        from pyro_compress.artifact.runtimes.numpy_runtime import forward

        return forward(self.network)

    def sample(self, generator: "torch.Generator") -> "nn.Sequential":
        """A module like that of `to_torch`, drawn from the posterior that the file keeps: w + σ ε.

        Args:
            generator: of the noise, a new network with every call.

        Raises:
            ArtifactError: the file keeps no deviations.
        """
        from pyro_compress.artifact.runtimes.sampling import sample

        return sample(self.network, generator)

    def sections(self) -> list[Section]:
        """What each part of the file costs, beside the entropy of its numbers; sums to `len(self)`."""
        sections = (decode_sections if self.kind == "runnable" else decode_weights_sections)(self.data)[1]
        if not self.metadata:
            return sections
        container, *others = sections
        size = float(len(self.data) - len(contained(parted(self.data)[0])))
        without = replace(
            container, file_bytes=container.file_bytes - size, entropy_bytes=container.entropy_bytes - size
        )
        return [without, Section("metadata", (), 0, 0, size, size), *others]

    def save(self, path: str | Path) -> Path:
        """Write the file so that at every moment `path` holds the whole old file or the whole new one.

        Raises:
            ArtifactError: the name does not end in .pyrc, or the file cannot be written.
        """
        target = Path(path)
        if target.suffix != EXTENSION:
            raise ArtifactError(f"compressed networks end in {EXTENSION}, '{target.name}' does not: rename it")
        try:
            write_atomically(target, self.data)
        except OSError as error:
            raise ArtifactError(f"cannot write {target}: {error.strerror or error}") from error
        return target


def load(given: str | Path | bytes) -> Artifact:
    """Read and check a compressed file, or one that is shipped.

    Args:
        given: the path of a .pyrc file, the name of a shipped network, 'lenet-5/log-uniform' (`pyro_compress.shipped`),
            the folder that holds one such file, as that of a run does, or the file's bytes.

    Raises:
        ArtifactError: the file is missing, or not a complete and intact compressed network.
    """
    if isinstance(given, bytes):
        return Artifact(given)
    if Path(given).is_dir():
        files = sorted(Path(given).glob(f"*{EXTENSION}"))
        if len(files) != 1:
            raise ArtifactError(
                f"the folder {given} holds {len(files)} files that end in {EXTENSION}: name one of them"
            )
        given = files[0]
    try:
        return Artifact(shipped.path_of(given).read_bytes())
    except OSError as error:
        raise ArtifactError(f"cannot read {given}: {error.strerror or error}") from error
    except ArtifactError as error:
        raise ArtifactError(f"{given}: {error}") from error
