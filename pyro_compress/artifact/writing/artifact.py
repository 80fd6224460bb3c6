"""A compressed network as a value: bytes, the file they go to, and the network that they hold."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_compress import shipped
from pyro_compress.artifact.format.decode import Section, decode, decode_sections
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.errors import ArtifactError
from pyro_compress.files import write_atomically
from pyro_compress.network.stored import StoredNetwork

if TYPE_CHECKING:
    import torch
    from torch import nn

EXTENSION = ".pyrc"


@dataclass(frozen=True)
class Artifact:
    """The bytes of a valid compressed network: they are decoded once, when the artifact is made.

    Attributes:
        data: the file's content; ArtifactError if it is not a complete and intact compressed network.
        network: what was decoded from it.
    """

    data: bytes
    network: StoredNetwork = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", decode(self.data))

    @staticmethod
    def of(network: StoredNetwork) -> "Artifact":
        """Encode a stored network."""
        return Artifact(encode(network))

    def __len__(self) -> int:
        """Size of the file in bytes."""
        return len(self.data)

    def to_torch(self, *, sparse: bool = False) -> "nn.Sequential":
        """A new torch module in evaluation mode that takes (batch, *input_shape).

        With `sparse`, large dense layers that are nearly empty are sparse tensors; they cannot be trained.
        """
        from pyro_compress.artifact.runtimes.torch_runtime import to_torch

        return to_torch(self.network, sparse=sparse)

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
        return decode_sections(self.data)[1]

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


def load(path: str | Path) -> Artifact:
    """Read and check a compressed file, or one that is shipped.

    Args:
        path: of a .pyrc file, or the name of a shipped network, 'lenet-5/log-uniform' (`pyro_compress.shipped`).

    Raises:
        ArtifactError: the file is missing, or not a complete and intact compressed network.
    """
    try:
        return Artifact(shipped.path_of(path).read_bytes())
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
