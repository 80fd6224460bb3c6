"""Attention as people write it: one layer that computes the same, or a refusal; masks above all."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.errors import UnstorableError
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.sequence_layers import Attention
from pyro_compress.pipeline.as_layers import as_it_is

PLACES, WIDTH, HEADS = 5, 6, 2
Attend = Callable[["Written", Tensor, Tensor, Tensor], Tensor]


class Written(nn.Module):
    """Heads of q, k and v, and a way to attend."""

    seen: Tensor
    bias: nn.Parameter

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.attend = attend
        self.qkv, self.last = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 2)
        self.register_buffer("seen", torch.ones(PLACES, PLACES).tril().bool())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        y = (
            self.attend(self, self.heads(q), self.heads(k), self.heads(v))
            .transpose(1, 2)
            .reshape(x.shape[0], PLACES, WIDTH)
        )
        return self.last(y.mean(1))

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], PLACES, HEADS, WIDTH // HEADS).transpose(1, 2)


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-2, -1) / math.sqrt(WIDTH // HEADS)


def summed(first: str, second: str, q: Tensor, k: Tensor, v: Tensor, turned: bool = False) -> Tensor:
    """Attention by `torch.einsum`; `turned` if the values come first."""
    shares = torch.einsum(first, q, k).div(math.sqrt(WIDTH // HEADS)).softmax(-1)
    return torch.einsum(second, v, shares) if turned else torch.einsum(second, shares, v)


def _other_axes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Places in front of heads, as in many papers' code."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return summed("blhe,bshe->bhls", "bhls,bshd->blhd", q, k, v).transpose(1, 2)


def _filled_by_name(m: Written, x: Tensor) -> Tensor:
    return x.masked_fill(mask=~m.seen, value=-math.inf)


WAYS: dict[str, tuple[bool, Attend]] = {
    "function": (False, lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v)),
    "causal function": (True, lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
    "function with a mask": (True, lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=m.seen)),
    "written out": (False, lambda m, q, k, v: scores(q, k).softmax(-1) @ v),
    "filled": (True, lambda m, q, k, v: F.softmax(scores(q, k).masked_fill(~m.seen, -math.inf), dim=-1) @ v),
    "filled by name": (True, lambda m, q, k, v: _filled_by_name(m, scores(q, k)).softmax(-1) @ v),
    "where seen": (True, lambda m, q, k, v: torch.where(m.seen, scores(q, k), -math.inf).softmax(-1) @ v),
    "sums": (False, lambda m, q, k, v: summed("bhqd,bhkd->bhqk", "bhqk,bhkd->bhqd", q, k, v)),
    "sums, keys first": (False, lambda m, q, k, v: summed("bhkd,bhqd->bhqk", "bhkd,bhqk->bhqd", k, q, v, True)),
    "sums, other axes": (False, lambda m, q, k, v: _other_axes(q, k, v)),
    "where unseen": (True, lambda m, q, k, v: torch.where(~m.seen, -math.inf, scores(q, k)).softmax(-1) @ v),
}


@pytest.mark.parametrize("name", WAYS)
def test_attention_is_one_layer_that_computes_the_same(name: str) -> None:
    causal, attend = WAYS[name]
    torch.manual_seed(0)
    network = Written(attend).eval()
    (layer,) = [each for each in trace(network, (PLACES, WIDTH)).layers if isinstance(each, Attention)]
    assert (layer.heads, layer.causal) == (HEADS, causal)
    assert layer.scale == pytest.approx((WIDTH // HEADS) ** -0.5)
    x = torch.randn(7, PLACES, WIDTH)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(forward(as_it_is(network, (PLACES, WIDTH)))(x.numpy())), network(x), rtol=1e-5, atol=1e-6
        )


def _as_mask(x: Tensor) -> Tensor:
    return torch.cat([x, x], -1)[..., :PLACES]


REFUSED: dict[str, Attend] = {
    "hides what came before": lambda m, q, k, v: torch.where(m.seen, -math.inf, scores(q, k)).softmax(-1) @ v,
    "hides what came before, filled": lambda m, q, k, v: scores(q, k).masked_fill(m.seen, -math.inf).softmax(-1) @ v,
    "masks shares": lambda m, q, k, v: scores(q, k).softmax(-1).masked_fill(~m.seen, -math.inf) @ v,
    "no softmax": lambda m, q, k, v: scores(q, k) @ v,
    "softmax over queries": lambda m, q, k, v: scores(q, k).softmax(-2) @ v,
    "mask with small numbers": lambda m, q, k, v: scores(q, k).masked_fill(~m.seen, -1.0).softmax(-1) @ v,
    "mask made of the input": lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=q @ k.mT),
    "mask of results": lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=_as_mask(q)),
    "filled by name, with small numbers": lambda m, q, k, v: scores(q, k).masked_fill(mask=m.seen, value=-1.0) @ v,
    "scaled behind the mask": lambda m, q, k, v: (2 * scores(q, k).masked_fill(~m.seen, -1e9)).softmax(-1) @ v,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_attention_of_the_format_is_refused(name: str) -> None:
    with pytest.raises(UnstorableError, match=r"supported|attention|softmax|scores"):
        trace(Written(REFUSED[name]).eval(), (PLACES, WIDTH))


def test_a_mask_that_is_learned_is_refused_though_it_starts_at_zero() -> None:
    network = Written(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=m.bias))
    network.bias = nn.Parameter(torch.zeros(PLACES, PLACES))
    with pytest.raises(UnstorableError, match="has a mask that is learned or made of the network's input"):
        trace(network.eval(), (PLACES, WIDTH))


class Pooling(nn.Module):
    """Few places that attend to all: a class token, as in CaiT (Touvron et al. 2021), and learned queries."""

    def __init__(self, way: str, batch_first: bool = True) -> None:
        super().__init__()
        self.way, self.token, self.queries = way, nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 3, 6))
        self.q, self.kv, self.last = nn.Linear(6, 6), nn.Linear(6, 12), nn.Linear(6, 2)
        self.attn = nn.MultiheadAttention(6, 2, batch_first=batch_first)
        for name in {"cait": ("queries", "attn"), "learned": ("token", "q", "kv")}.get(way, ("queries", "q", "kv")):
            delattr(self, name)

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[0]
        if self.way == "learned":
            found, _ = self.attn(self.queries.expand(count, -1, -1), x, x, need_weights=False)
            return self.last(found).flatten(1)
        x = torch.cat([self.token.expand(count, -1, -1), x], 1)
        if self.way == "module":
            x = x if self.attn.batch_first else x.transpose(0, 1)
            found = self.attn(x[:, :2] if self.attn.batch_first else x[:2], x, x)[0]
            return self.last(found if self.attn.batch_first else found.transpose(0, 1))
        q = self.q(x[:, 0]).unsqueeze(1).reshape(count, 1, 2, 3).permute(0, 2, 1, 3)
        k, v = self.kv(x).reshape(count, -1, 2, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        found = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        return self.last(found.transpose(1, 2).reshape(count, 6))


@pytest.mark.parametrize(
    ("way", "batch_first"), [("cait", True), ("learned", True), ("module", True), ("module", False)]
)
def test_fewer_queries_than_keys(way: str, batch_first: bool) -> None:
    torch.manual_seed(0)
    network = Pooling(way, batch_first).eval()
    (layer,) = [each for each in trace(network, (5, 6)).layers if isinstance(each, Attention)]
    assert layer.heads == 2
    x = torch.randn(7, 5, 6)
    with torch.no_grad():
        found = torch.from_numpy(forward(as_it_is(network, (5, 6)))(x.numpy()))
        torch.testing.assert_close(found, network(x), rtol=1e-5, atol=1e-6)
