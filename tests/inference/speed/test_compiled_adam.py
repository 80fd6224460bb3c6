"""Adam as operations of a graph moves as torch's does, and either goes on where the other stopped."""

from typing import Any

import pytest
import torch
from torch import nn

from pyro_compress.inference.speed.compiled_adam import Adam


def held() -> tuple[list[nn.Parameter], torch.optim.Adam]:
    generator = torch.Generator().manual_seed(0)
    vectors = [nn.Parameter(torch.randn(size, generator=generator)) for size in (7, 40, 5)]
    groups: list[dict[str, Any]] = [{"params": vectors[:1], "lr": 0.01}, {"params": vectors[1:], "lr": 0.05}]
    return vectors, torch.optim.Adam(groups, betas=(0.8, 0.99), eps=1e-6, fused=True)


def gradients(vectors: list[nn.Parameter], step: int) -> list[torch.Tensor]:
    # of sizes that differ by orders of magnitude, and zero for some
    return [(vector.detach() - step).pow(3) * (vector.detach() > 0) for vector in vectors]


def by_torch(vectors: list[nn.Parameter], optimizer: torch.optim.Adam, step: int) -> None:
    for vector, gradient in zip(vectors, gradients(vectors, step), strict=True):
        vector.grad = gradient
    optimizer.step()


def by_operations(vectors: list[nn.Parameter], optimizer: torch.optim.Adam, step: int) -> None:
    adam = Adam(optimizer)
    with torch.no_grad():
        adam.move(vectors, gradients(vectors, step), adam.moments(), adam.numbers())


@pytest.mark.parametrize(
    "ways", [[by_operations] * 6, [by_operations] * 3 + [by_torch] * 3, [by_torch] * 2 + [by_operations] * 4]
)
def test_moves_are_torchs(ways: list[Any]) -> None:
    (expected, plain), (found, ours) = held(), held()
    for step, way in enumerate(ways):
        # rates that change from step to step, as schedules do
        for group in (*plain.param_groups, *ours.param_groups):
            group["lr"] *= 0.9
        by_torch(expected, plain, step)
        way(found, ours, step)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=2e-6, atol=1e-7)
    for vector, other in zip(found, expected, strict=True):
        for name, value in plain.state[other].items():
            torch.testing.assert_close(ours.state[vector][name], value, rtol=1e-5, atol=1e-9)
    assert [float(ours.state[vector]["step"]) for vector in found] == [6, 6, 6]


def test_one_that_is_kept_counts_what_torch_moved_in_between() -> None:
    (expected, plain), (found, ours) = held(), held()
    adam = Adam(ours)
    for step in range(6):
        by_torch(expected, plain, step)
        if step in (2, 5):
            by_torch(found, ours, step)
        else:
            with torch.no_grad():
                adam.move(found, gradients(found, step), adam.moments(), adam.numbers())
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=2e-6, atol=1e-7)
    assert [float(ours.state[vector]["step"]) for vector in found] == [6, 6, 6]


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda held: torch.optim.AdamW(held),
        lambda held: torch.optim.SGD(held),
        lambda held: torch.optim.Adam(held, weight_decay=0.1),
        lambda held: torch.optim.Adam(held, amsgrad=True),
        lambda held: torch.optim.Adam(held, maximize=True),
    ],
    ids=["AdamW", "SGD", "decay", "amsgrad", "maximize"],
)
def test_what_is_not_plain_adam(optimizer: Any) -> None:
    assert not Adam.is_plain(optimizer([nn.Parameter(torch.zeros(3))]))
    assert Adam.is_plain(torch.optim.Adam([nn.Parameter(torch.zeros(3))], fused=True))
