"""Targets per position: likelihoods whose outputs have further axes, held against torch's own losses."""

from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.nn import functional

from pyro_compress.data.labels import IGNORED
from pyro_compress.errors import DataError, InferenceError
from pyro_compress.models.likelihoods import Bernoulli, Categorical, Gaussian

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(5, 3, 4, 2, generator=GENERATOR)
LABELS = torch.randint(0, 3, (5, 4, 2), generator=GENERATOR)
LABELS[0, 1] = LABELS[2, 3, 0] = IGNORED
TORCH, LANGUAGE = Categorical(), Categorical(class_axis=-1)


def expected(logits: Tensor, labels: Tensor) -> Tensor:
    return -functional.cross_entropy(logits, labels, reduction="none").flatten(1).sum(1)


def test_an_example_is_the_sum_over_its_positions_that_count() -> None:
    torch.testing.assert_close(TORCH.log_prob(LOGITS, LABELS), expected(LOGITS, LABELS))
    torch.testing.assert_close(LANGUAGE.log_prob(LOGITS.movedim(1, -1), LABELS), expected(LOGITS, LABELS))
    # a length that is the number of classes does not matter to an axis that is named
    square, labels = LOGITS[:, :, :3, 0], LABELS[:, :3, 0]
    torch.testing.assert_close(TORCH.log_prob(square, labels), expected(square, labels))
    torch.testing.assert_close(LANGUAGE.log_prob(square.mT, labels), expected(square, labels))
    assert not torch.allclose(LANGUAGE.log_prob(square, labels), expected(square, labels))


def test_positions_that_do_not_count_have_no_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    TORCH.log_prob(logits, LABELS).sum().backward()
    assert logits.grad is not None
    assert bool((logits.grad.movedim(1, -1)[LABELS == IGNORED] == 0).all())
    assert bool((logits.grad.movedim(1, -1)[LABELS != IGNORED] != 0).all())


def test_the_error_is_the_share_of_wrong_positions() -> None:
    wrong = (LOGITS.argmax(1) != LABELS) & (LABELS != IGNORED)
    counted = torch.tensor([6, 8, 7, 8, 8])
    torch.testing.assert_close(TORCH.error(LOGITS, LABELS), wrong.flatten(1).sum(1) / counted)
    assert TORCH.target_count(LABELS) is None and TORCH.target_count(LABELS[3:]) == 8
    nothing = torch.full_like(LABELS, IGNORED)
    assert TORCH.error(LOGITS, nothing).tolist() == TORCH.log_prob(LOGITS, nothing).tolist() == [0.0] * 5


@pytest.mark.parametrize(("likelihood", "axis"), [(TORCH, 1), (LANGUAGE, -1)])
def test_shares_of_classes_per_position(likelihood: Categorical, axis: int) -> None:
    output = LOGITS if axis == 1 else LOGITS.movedim(1, -1)
    labels = LABELS.clamp(min=0)
    hard = functional.one_hot(labels, 3).float()
    hard = hard.movedim(-1, 1) if axis == 1 else hard
    torch.testing.assert_close(likelihood.log_prob(output, hard), expected(LOGITS, labels))
    torch.testing.assert_close(likelihood.error(output, hard), likelihood.error(output, labels))
    mean = likelihood.mean(output.flip(0))
    torch.testing.assert_close(mean.sum(axis), torch.ones(5, 4, 2))
    by_label = (mean * output.log_softmax(axis)).flatten(1).sum(1)
    torch.testing.assert_close(likelihood.cross_entropy(output, mean), -by_label)
    torch.testing.assert_close(likelihood.entropy(mean), likelihood.cross_entropy(output.flip(0), mean))
    assert likelihood.target_count(mean) == 8
    likelihood.check_teacher(mean, "here")
    with pytest.raises(DataError, match=r"no distribution over classes"):
        likelihood.check_teacher(2 * mean, "here")


def test_there_is_one_plate_and_positions_are_an_event() -> None:
    def program() -> None:
        with pyro.plate("data", 20, subsample=torch.arange(5)):
            TORCH.observe(LOGITS, LABELS, None)

    trace = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    site: Any = trace.nodes["y"]
    assert site["fn"].batch_shape == (5,) and site["fn"].event_shape == (4, 2)
    torch.testing.assert_close(site["log_prob_sum"], 4 * expected(LOGITS, LABELS).sum())


def test_binary_and_real_targets_per_position_are_sums_too() -> None:
    target = torch.rand(5, 3, 4, 2, generator=GENERATOR).round()
    found = Bernoulli().log_prob(LOGITS, target)
    each = functional.binary_cross_entropy_with_logits(LOGITS, target, reduction="none")
    torch.testing.assert_close(found, -each.flatten(1).sum(1))
    assert Bernoulli().target_count(target) == 24
    normal = torch.distributions.Normal(LOGITS, 0.4).log_prob(target)
    torch.testing.assert_close(Gaussian(noise=0.4).log_prob(LOGITS, target), normal.flatten(1).sum(1))


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(DataError, match=r"outputs of shape \(5, 3, 4, 2\) go with targets of shape \(5, 4, 2\), found"):
        TORCH.check(LOGITS, LABELS[:, :3])
    with pytest.raises(DataError, match=r"go with targets of shape \(5, 3, 4\), found \(5, 4, 2\)"):
        LANGUAGE.check(LOGITS, LABELS)
    with pytest.raises(DataError, match=r"target 7 at index \(1, 0, 0\) has no probability under the Categorical"):
        TORCH.check_support(LOGITS, LABELS.index_put((torch.tensor(1),) * 1, torch.tensor(7)), "here")
    with pytest.raises(InferenceError, match=r"class_axis is 1 .* or -1 .*, found 2"):
        Categorical(class_axis=2)
