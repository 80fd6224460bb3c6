"""Whether a network takes the inputs of a data set, tokens or real numbers, asked before the first step."""

import copy

import torch
from torch import Tensor, nn

from pyro_compress.data.dataset import DataSet
from pyro_compress.errors import DataError
from pyro_compress.inference.loop.alone import own
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.probing import rows_looked_up


def refuse_inputs(model: BayesianNetwork, data: DataSet) -> None:
    """Look at the inputs of all three parts; the test part is for nothing else.

    Raises:
        DataError: a token that an embedding has no row for, tokens where the network computes with real numbers, or
            real numbers where it looks up tokens.
    """
    are_tokens = data.train_x.dtype == torch.int64
    if not are_tokens and not any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in model.network.modules()):
        return
    network = copy.deepcopy(model.network)
    name, rows = type(network).__name__, rows_looked_up(network, data.input_shape)
    x = own(data.train_x[:2])
    if are_tokens and rows:
        for part, tokens in (("train", data.train_x), ("validation", data.validation_x), ("test", data.test_x)):
            _refuse_beyond(tokens, min(rows), f"{data.name}: {part}", name)
    elif are_tokens and not _runs(network, x) and _runs(network, x.float()):
        raise DataError(
            f"{data.name}: inputs of the type int64 are tokens, which {name} looks up in no embedding: give x.float()"
        )
    elif not are_tokens and rows is not None and not _runs(network, x):
        raise DataError(f"{data.name}: {name} takes tokens, and inputs are {x.dtype}: give them as torch.int64")


def _refuse_beyond(tokens: Tensor, rows: int, where: str, name: str) -> None:
    beyond = tokens >= rows
    if bool(beyond.any()):
        index = tuple(torch.nonzero(beyond)[0].tolist())
        raise DataError(
            f"{where}: the token {int(tokens[index])} at index {index} has no row in the embedding of {name}, which "
            f"takes tokens from 0 to {rows - 1}: give it more rows (num_embeddings), or other tokens"
        )


def _runs(network: nn.Module, x: Tensor) -> bool:
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            network.eval()(x.clone())
    except Exception:  # of whatever kind
        return False
    return True
