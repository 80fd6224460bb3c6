"""Several processes that fit one model, each on its share of every batch: ranks of PyTorch's distributed engine.

A batch of n examples is dealt out, n_r of them to rank r.  Every rank estimates (N/n_r) Σ log p over its share and the
complexity with noise of its own, and what all of them descend is

    g  =  Σ_r (n_r / n) g_r

the gradient of data and complexity over the whole batch, also where n does not divide by the ranks.  A rank whose share
would be empty runs the whole batch with the weight 0, so that it meets the others all the same.
"""

import contextlib
import getpass
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pyro_compress.data.generators import generator_for
from pyro_compress.errors import InferenceError, PyroCompressError

T = TypeVar("T")
ENDED = (
    "another rank has ended or cannot be reached; what it printed says why.  Finished epochs are kept: start again "
    "with --resume"
)
# gloo and NCCL report a rank that is gone as one of these
_ENGINE_ERRORS = (RuntimeError, ValueError)


class Ranks:
    """One process among those that fit together; a process that is alone is rank 0 of 1, and sends nothing.

    Args:
        rank: of this process.
        count: of all.

    Attributes:
        weight: n_r / n of the batch that was dealt last, which is the one whose gradient `average` takes next.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count, self.weight = rank, count, 1.0

    @staticmethod
    def here() -> "Ranks":
        """The ranks that this process joined (`joined`), or itself alone."""
        if dist.is_available() and dist.is_initialized():
            return Ranks(dist.get_rank(), dist.get_world_size())
        return Ranks()

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes, prints and asks."""
        return self.rank == 0

    # ---- a batch and its gradient

    def share_of(self, chosen: Tensor) -> Tensor:
        """The part of a batch, its rows or their indices, that this rank sees; if empty, all of it without weight."""
        if self.count == 1:
            return chosen
        share = chosen.tensor_split(self.count)[self.rank]
        self.weight = len(share) / len(chosen)
        return share if len(share) else chosen

    def share_size(self, examples: int) -> int:
        """How many of a batch of that many `share_of` gives this rank."""
        return examples // self.count + (self.rank < examples % self.count) or examples

    def take_whole(self) -> None:
        """Every rank sees all there is, with noise of its own: each counts the same."""
        self.weight = 1.0 / self.count

    def average(self, trained: Iterable[nn.Parameter | Tensor], buffers: Iterable[Tensor] = ()) -> None:
        """Replace gradients and floating-point buffers by their weighted means over the ranks, in one message.

        Raises:
            InferenceError: a rank has stopped (`stopped`), or is gone.
        """
        if self.count == 1:
            return
        with torch.no_grad():
            # what nothing has reached yet takes its place all the same: the message has one length
            held = [torch.zeros_like(one) if one.grad is None else one.grad for one in trained]
            held += _moving(buffers)
            flat = torch.cat([one.reshape(-1) for one in held] + [held[0].new_zeros(1)])
            # a share without weight must not bring its infinities in
            flat = flat.mul_(self.weight) if self.weight else flat.zero_()
            self._sum(flat)
            if bool(flat[-1] != 0):
                raise self._said_elsewhere(None)
            means = flat[:-1].split([one.numel() for one in held])
            torch._foreach_copy_(held, [mean.view_as(one) for one, mean in zip(held, means, strict=True)])

    @contextlib.contextmanager
    def together(self, trained: Iterable[nn.Parameter | Tensor], buffers: Iterable[Tensor] = ()) -> Iterator[None]:
        """Around a step that calls `average` once: where one rank refuses to go on, all stop with its sentence."""
        try:
            yield
        except _SaidByAnotherRank:
            raise
        except PyroCompressError as error:
            if self.count == 1:
                raise
            tensors = [one.detach() for one in (*trained, *_moving(buffers))]
            # the others wait for a gradient; the mark at its end says that there is none
            self._sum(torch.cat([torch.zeros_like(one).reshape(-1) for one in tensors] + [tensors[0].new_ones(1)]))
            raise self._said_elsewhere(str(error)) from error

    def _said_elsewhere(self, sentence: str | None) -> "_SaidByAnotherRank":
        found: list[str | None] = [None] * self.count
        self._engine(lambda: dist.all_gather_object(found, sentence))
        rank, said = next((rank, one) for rank, one in enumerate(found) if one is not None)
        return _SaidByAnotherRank(f"rank {rank}: {said}")

    # ---- numbers, rows and objects

    def total(self, numbers: list[float]) -> list[float]:
        """Sums over the ranks."""
        if self.count == 1:
            return numbers
        held = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        self._sum(held)
        return held.tolist()

    def rows(self, count: int, part: Callable[[slice], np.ndarray]) -> np.ndarray:
        """One float64 number per row, each rank having made some: `part` makes those of the rows that it is given."""
        if self.count == 1:
            return part(slice(0, count))
        bounds = np.linspace(0, count, self.count + 1).round().astype(int)
        mine = slice(int(bounds[self.rank]), int(bounds[self.rank + 1]))
        held = torch.zeros(count, dtype=torch.float64, device="cpu")
        if mine.stop > mine.start:
            held[mine] = torch.from_numpy(np.asarray(part(mine), dtype=np.float64))
        self._sum(held)
        return held.numpy()

    def from_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank; its errors too."""
        if self.count == 1:
            return make()
        held: list[Any] = [None, None]
        if self.first:
            try:
                held[0] = make()
            except (PyroCompressError, OSError) as error:
                held[1] = error
        self._engine(lambda: dist.broadcast_object_list(held, src=0))
        if held[1] is not None:
            held[1].said_elsewhere = True
            raise held[1]
        made: T = held[0]
        return made

    def of_all(self, mine: T) -> list[T]:
        """Every rank's, by rank."""
        if self.count == 1:
            return [mine]
        found: list[Any] = [None] * self.count
        self._engine(lambda: dist.all_gather_object(found, mine))
        return found

    def wait(self) -> None:
        """Until all ranks are here."""
        self.of_all(None)

    # ---- the same everywhere

    def send_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""
        if self.count == 1:
            return
        with torch.no_grad():
            for tensor in tensors:
                held = tensor.detach().contiguous()
                self._engine(partial(dist.broadcast, held, src=0))
                tensor.copy_(held)

    def refuse_unequal(self, tensors: Iterable[Tensor], where: str) -> None:
        """Compare a sum over the bits of all tensors.

        Raises:
            InferenceError: they differ between ranks.
        """
        if self.count == 1:
            return
        found = self.of_all(_bits(tensors))
        if len(set(found)) > 1:
            raise InferenceError(
                f"{where}: the ranks' parameters have drifted apart ({len(set(found))} different sums of bits over "
                f"{self.count} ranks); run all ranks on the same kind of machine, with the same versions"
            )

    def stream(self, seed: int, *more: int) -> int:
        """Seed of this rank's noise: the first has that of a process that is alone, rank r one from (seed, r, ...)."""
        if self.first and not more:
            return seed
        return generator_for(seed, self.rank, *more).initial_seed()

    # ---- messages

    def _sum(self, held: Tensor) -> None:
        self._engine(lambda: dist.all_reduce(held))

    def _engine(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except _ENGINE_ERRORS as error:
            raise _SaidByAnotherRank(f"{ENDED} ({_first_line(error)})") from error


class _SaidByAnotherRank(InferenceError):
    """All ranks know already that the run stops."""

    said_elsewhere = True


def asked_for() -> int:
    """Number of ranks that this process was started among (by torchrun), 1 if by itself."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else 1


def threads_here(threads: int) -> int:
    """The share of one rank in the threads of a run, which the ranks on one machine divide."""
    return max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", 1))) if asked_for() > 1 else threads


@contextlib.contextmanager
def joined(timeout_seconds: float = 1800.0) -> Iterator[Ranks]:
    """Join the ranks that torchrun started this process among; gloo for what is on CPU, NCCL for what is on GPU.

    Args:
        timeout_seconds: that a rank waits for the others, at the start and at every message.

    Raises:
        InferenceError: the others cannot be reached.
    """
    count = asked_for()
    if count == 1 or dist.is_initialized():
        yield Ranks.here()
        return
    address = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    try:
        on_gpu = torch.cuda.is_available() and dist.is_nccl_available()
        if on_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        timeout = timedelta(seconds=timeout_seconds)
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise InferenceError(
            f"rank {os.environ['RANK']} of {count} cannot join the others at {address}: {_first_line(error)}; start "
            "all of them with torchrun, and see that this address can be reached"
        ) from error
    _compile_apart(int(os.environ.get("LOCAL_RANK", 0)))
    try:
        yield Ranks.here()
        # one that leaves while others still work takes its connections down under them
        Ranks.here().wait()
    finally:
        dist.destroy_process_group()


def _compile_apart(rank: int) -> None:
    """Keep what this rank compiles in a folder of its own: a library that another is writing cannot be loaded."""
    if rank > 0:
        # where torch compiles otherwise; asking it would load the compiler
        usual = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{os.environ.get('TORCHINDUCTOR_CACHE_DIR', usual)}-rank{rank}"


def _bits(tensors: Iterable[Tensor]) -> int:
    total = 0
    for tensor in tensors:
        held = tensor.detach()
        words = held.contiguous().view(torch.int32) if held.element_size() == 4 else held.double().view(torch.int64)
        # products with odd numbers, so that an exchange of two values shows
        total = (total * 31 + int(words.sum(dtype=torch.int64))) % 2**63
    return total


def _moving(buffers: Iterable[Tensor]) -> list[Tensor]:
    return [one for one in buffers if one.is_floating_point()]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
