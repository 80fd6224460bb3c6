"""Codes that are drawn without torch have the moments of those that a fit knows."""

import numpy as np
import pytest
import torch

from pyro_compress.models.generative.codes import Codes, GaussianCodes
from pyro_compress.models.generative.simplex import DirichletCodes, LogisticNormalCodes
from pyro_compress.network.input_codes import InputCode


@pytest.mark.parametrize(
    "codes", [GaussianCodes(3), DirichletCodes(3, concentration=0.7), LogisticNormalCodes(3, scale=1.7)], ids=str
)
def test_draws_are_of_the_prior(codes: Codes) -> None:
    stored = codes.stored()
    assert stored is not None
    drawn = stored.draw(3, 40_000, np.random.default_rng(0))
    assert drawn.shape == (40_000, 3) and drawn.dtype == np.float32
    torch.manual_seed(0)
    expected = codes.prior().sample(torch.Size([40_000])).numpy()
    np.testing.assert_allclose(drawn.mean(0), expected.mean(0), atol=0.02)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(expected.T), atol=0.03)


def test_what_is_no_code_is_refused() -> None:
    for arguments in (("gaussian", 1.0), ("dirichlet",), ("dirichlet", 0.0), ("laplace", 1.0)):
        with pytest.raises(ValueError, match=r"code"):
            InputCode(*arguments)
