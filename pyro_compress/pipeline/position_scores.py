"""What results say of targets per position, beside the error that is averaged over examples."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_compress.data.labels import IGNORED
from pyro_compress.data.splits import EXAMPLES_PER_PASS
from pyro_compress.data.untouched import Untouched
from pyro_compress.models.likelihoods import Categorical, Likelihood
from pyro_compress.report.measure import Predictions


def position_scores(
    network: nn.Module, x: Tensor, y: Tensor, likelihood: Likelihood, found: Predictions, chunk: int = EXAMPLES_PER_PASS
) -> dict[str, Any]:
    """Under the key `positions` scores of all positions that count, each the same; nothing where there are none.

    `error_percent` is that of all positions together, where the headline averages over examples; `bits` are
    −log₂ p(y) of a position, bits per character of a text; `mean_intersection_over_union` is the mean of
    |A ∩ B| / |A ∪ B| over the classes that are predicted or there, A and B the positions of that class.

    Args:
        network: the decoded one.
        x, y: inputs and targets, (examples, *positions).
        likelihood: p(y | output).
        found: predictions of the network on these.
        chunk: examples per pass.
    """
    if not isinstance(likelihood, Categorical) or y.ndim == 1 or y.is_floating_point():
        return {}
    from torchmetrics.functional.classification import multiclass_jaccard_index

    untouched = Untouched()
    network.eval()
    with torch.no_grad():
        classes = (first := untouched(network, x[:1])).shape[likelihood.axis_of(first)]
        labels = torch.cat([likelihood.labels(untouched(network, part)) for part in x.split(chunk)])
    known = y != IGNORED
    count = int(known.sum())
    nats = float(np.sum(found.nll_nats)) / max(1, count)
    return {
        "positions": {
            "per_example": count / len(y),
            "error_percent": 100 * float(((labels != y) & known).sum()) / max(1, count),
            "nll_nats": nats,
            "bits": nats / math.log(2),
            "mean_intersection_over_union": float(
                multiclass_jaccard_index(labels, y, num_classes=classes, ignore_index=IGNORED)
            ),
        }
    }
