"""A VAE's codes as the inputs of another model: M1 of Kingma, Mohamed, Rezende & Welling (2014)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_compress.config.keyword_options import whole_number
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.generators import noise_of
from pyro_compress.errors import DataError, NetworkError
from pyro_compress.models.generative.activity import active_units
from pyro_compress.models.generative.vae import VAE

_ROWS = 1000


def coded(
    model: VAE,
    values: Mapping[str, Any],
    data: DataSet,
    *,
    draws: int = 0,
    threshold: float = 0.01,
    seed: int = 0,
) -> DataSet:
    """The same targets, with codes in the place of inputs.

    Numbers of the code that are constants, Var_x E_q[z_j | x] ≤ threshold over the training examples, are left out
    (`active_units`): with the default those are kept whose standard deviation is above 0.1, as in that paper.

    Args:
        model: its encoder gives the codes; is put into evaluation mode.
        values: of its parameters, by name.
        data: of any targets.
        draws: from q(z | x) that a training example is there with, one after the other, each with its target.  N
            counts it once, whatever their number, so that likelihood and code length of an example are means over its
            draws.  With 0 its mean stands for it, as for validation and test examples always.
        threshold: see above.
        seed: of the draws; torch's generator stays as it is.

    Raises:
        DataError: inputs that are drawn anew at every step, which have no codes of their own.
        NetworkError: all numbers of the code are constants.
    """
    draws = whole_number(draws, "draws of codes", NetworkError, least=0)
    if data.binarised_anew is not None:
        raise DataError(
            f"{data.name}: inputs that are drawn anew at every step have no codes: binarise them statically"
        )
    kept = active_units(model, values, data.train_x, threshold=threshold)
    if not bool(kept.any()):
        raise NetworkError(
            f"every number of the code has a variance of at most {threshold:g} over the training examples: the code "
            "says nothing of them, so fit the VAE longer, or lower threshold="
        )
    made: dict[str, Any] = {}
    with torch.no_grad():
        for part in ("train", "validation", "test"):
            x = getattr(data, f"{part}_x")
            means = [model.codes.mean(model.encode(values, rows)) for rows in x.split(_ROWS) if len(rows)]
            made[f"{part}_x"] = torch.cat(means)[:, kept] if means else x.new_zeros((0, int(kept.sum())))
        if draws:
            made["train_x"] = _drawn(model, values, data.train_x, draws, seed)[:, kept]
    if draws:
        repeats = data.repeats * draws
        made |= {"train_y": data.train_y.repeat(draws, *[1] * (data.train_y.ndim - 1)), "repeats": repeats}
        teacher = data.train_teacher
        made["train_teacher"] = None if teacher is None else teacher.repeat(draws, *[1] * (teacher.ndim - 1))
    return replace(data, **made, name=f"{data.name}, by codes", binarisation=None)


def _drawn(model: VAE, values: Mapping[str, Any], x: Tensor, draws: int, seed: int) -> Tensor:
    with noise_of(seed, x.device):
        each = [model.codes.posterior(model.encode(values, rows)).sample((draws,)) for rows in x.split(_ROWS)]
    return torch.cat(each, 1).flatten(0, 1)
