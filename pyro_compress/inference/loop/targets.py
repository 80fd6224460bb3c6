"""Whether a network's likelihood gives the targets of a data set any probability, asked before the first step."""

import copy

import torch

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.labels import UNLABELLED
from pyro_compress.errors import DataError
from pyro_compress.inference.loop.alone import own
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Categorical


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
        if _does_not_fit(model, output, data):
            return
        for part, y in (("train", data.train_y), ("validation", data.validation_y), ("test", data.test_y)):
            if len(y):
                if data.partly_labelled:
                    y = y[y != UNLABELLED]
                if part == "train" and data.binarised_anew is not None and data.reconstructs:
                    # these are the probabilities of what is drawn
                    y = data.binarised_anew.draw(y)
                model.likelihood.check_support(output, y, f"{data.name}: {part}")


def _does_not_fit(model: BayesianNetwork, output: torch.Tensor, data: DataSet) -> bool:
    """Whether outputs and targets are of shapes, or numbers of classes, that the check of the network speaks of."""
    likelihood, classes = model.likelihood, data.classes or ()
    if isinstance(likelihood, Categorical) and output.shape[likelihood.axis_of(output)] < len(classes):
        return True
    try:
        model.likelihood.check(output, data.train_y[: len(output)])
    except DataError:
        return True
    return False
