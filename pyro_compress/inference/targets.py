"""Whether a network's likelihood gives the targets of a data set any probability, asked before the first step."""

import copy

import torch

from pyro_compress.data import DataSet
from pyro_compress.inference.alone import own
from pyro_compress.models.bayesian import BayesianNetwork


def refuse_targets(model: BayesianNetwork, data: DataSet) -> None:
    """Look at the targets of all three parts; the test part is for nothing else.

    Raises:
        DataError: names the likelihood, the first target without probability and its index.
    """
    network = copy.deepcopy(model.network).eval()
    with torch.no_grad():
        try:
            # two, where there are, since a network may lose the axis of a single one
            x = own(data.train_x[:2]).clone()
            output = network(x)
        except Exception:  # whatever is wrong with the network, the fit says of its first batch
            return
        if not isinstance(output, torch.Tensor) or output.ndim == 0 or len(output) != len(x):
            return
        for part, y in (("train", data.train_y), ("validation", data.validation_y), ("test", data.test_y)):
            if len(y):
                model.likelihood.check_support(output, y, f"{data.name}: {part}")
