"""What is taken out of traced graphs, and log densities in closed form."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_compress.inference.log_joint.densities import compute_log_prob
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.speed.compiling import compiled
from pyro_compress.inference.speed.graph_passes import simplify, untranspose
from pyro_compress.inference.speed.recording import Replayed
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.priors.normal import Normal

GENERATOR = torch.Generator().manual_seed(2)


def called(graph: GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def test_what_no_input_enters_is_worked_out_once() -> None:
    def function(x: Tensor) -> Tensor:
        scale = torch.tensor(2.0).expand(3).log().square()
        return (x - 0.0) / 1.0 * scale + torch.zeros(()) + torch.ones_like(x)

    x = torch.randn(3, generator=GENERATOR)
    graph = simplify(make_fx(function)(x))
    assert len(called(graph)) == 2  # a product and a sum
    torch.testing.assert_close(graph(x), function(x))


@pytest.mark.parametrize("exact", [False, True])
def test_numbers_that_are_the_same_all_over_are_numbers(exact: bool) -> None:
    def function(x: Tensor) -> Tensor:
        zero, one, three = torch.zeros(()).expand(2, 3), torch.ones(3), torch.tensor(3.0).expand(2, 3)
        uneven, dense = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([[1.0]] * 2)
        return zero + (one * (x - zero) / one * dense) / three * uneven / torch.tensor(0.0)

    x = torch.randn(2, 3, generator=GENERATOR)
    graph = simplify(make_fx(function)(x), exact=exact)
    third = "aten.div.Tensor" if exact else "aten.mul.Tensor"
    assert called(graph) == [third, "aten.mul.Tensor", "aten.div.Tensor"]
    torch.testing.assert_close(graph(x), function(x))


def test_numbers_that_are_written_over_are_not_what_they_were() -> None:
    def function(x: Tensor) -> Tensor:
        held = torch.zeros(2, 3)
        held[0] = x[1]
        total = torch.zeros_like(x)
        total += x
        return x + held + (held + 1.0).square() + total.exp()

    x = torch.randn(2, 3, generator=GENERATOR)
    graph = simplify(make_fx(function)(x))
    for times in (1.0, 2.0):
        torch.testing.assert_close(graph(times * x), function(times * x))


def test_quotients_of_whole_numbers_and_of_broadcast_ones_stay() -> None:
    def function(x: Tensor, n: Tensor) -> tuple[Tensor, ...]:
        return n / 3.0, x.sum() / torch.full((2, 3), 4.0), 3.0 / x

    x, n = torch.randn(2, 3, generator=GENERATOR), torch.arange(3)
    graph = simplify(make_fx(function)(x, n))
    assert called(graph).count("aten.div.Tensor") == 2
    for found, expected in zip(graph(x, n), function(x, n), strict=True):
        torch.testing.assert_close(found, expected)


def test_operations_that_change_the_type_or_the_shape_stay() -> None:
    def function(x: Tensor, n: Tensor) -> tuple[Tensor, ...]:
        return x.sum() + torch.zeros(4), n / 1.0, n + n * 0.5, x + n * 2

    x, n = torch.randn(3, generator=GENERATOR), torch.arange(3)
    graph = simplify(make_fx(function)(x, n))
    for found, expected in zip(graph(x, n), function(x, n), strict=True):
        assert found.dtype == expected.dtype and torch.equal(found, expected)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_sum_with_a_multiple_is_one_operation(swapped: bool) -> None:
    def function(a: Tensor, b: Tensor) -> Tensor:
        multiple = (b * torch.tensor(0.5).neg()).view(2, 3)
        return multiple + a if swapped else a + multiple

    a, b = torch.randn(2, 3, generator=GENERATOR), torch.randn(6, generator=GENERATOR)
    graph = simplify(make_fx(function)(a, b))
    assert called(graph) == ["aten.view.default", "aten.add.Tensor"]
    torch.testing.assert_close(graph(a, b), function(a, b))


@pytest.mark.parametrize("product_first", [False, True])
def test_compiled_sums_of_a_matrix_product_keep_their_multiple(product_first: bool) -> None:
    def function(a: Tensor, b: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        terms = (a @ b, x) if product_first else (x, a @ b)
        return (torch.add(*terms, alpha=-2.5),)

    examples = tuple(torch.randn(*shape, generator=GENERATOR) for shape in ((2, 20), (20, 3), (2, 3)))
    function_compiled = compiled(make_fx(function)(*examples), examples)
    torch.testing.assert_close(function_compiled(*examples), function(*examples))


def test_multiples_that_others_read_or_that_broadcast_stay() -> None:
    def function(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        double, triple = 2.0 * b, b * 3.0
        return a + double, double, a[:, :1] + triple, a + b * a

    a, b = torch.randn(2, 3, generator=GENERATOR), torch.randn(2, 3, generator=GENERATOR)
    graph = simplify(make_fx(function)(a, b))
    for found, expected in zip(graph(a, b), function(a, b), strict=True):
        torch.testing.assert_close(found, expected)


def test_random_numbers_are_drawn_anew() -> None:
    graph = simplify(make_fx(lambda x: x + torch.rand(3))(torch.zeros(3)))
    assert not torch.equal(graph(torch.zeros(3)), graph(torch.zeros(3)))


def test_a_graph_of_a_network_has_no_trace_of_its_priors_constants() -> None:
    model = BayesianNetwork(nn.Linear(3, 2), Normal(0.3))
    log_joint = LogJoint(model, 20)
    x, y = torch.randn(4, 3, generator=GENERATOR), torch.tensor([0, 1, 1, 0])
    graph = log_joint.graph(log_joint.start()[None], (x, y))
    assert isinstance(graph, Replayed) and isinstance(graph.graph, GraphModule)
    names = called(graph.graph)
    assert not any("lift_fresh" in name or "aten.log." in name or "aten.pow" in name for name in names)
    assert sum("aten.dot" in name for name in names) == 2


SHARED = torch.randn(3, 2, generator=GENERATOR)
MASK = torch.tensor([True, False, True])


@pytest.mark.parametrize("case", ["one number", "many numbers", "hierarchy", "scaled", "masked", "scalar", "student"])
def test_sums_of_log_densities_and_their_gradients_are_pyros(case: str) -> None:
    value = torch.randn(3, generator=GENERATOR).requires_grad_()
    parent = torch.tensor(0.8, requires_grad=True)

    def model() -> None:
        spread = pyro.sample("spread", dist.LogNormal(0.1, 0.7))
        family = {
            "one number": dist.Normal(0.4, 0.3).expand([3]).to_event(1),
            "many numbers": dist.Normal(SHARED[:, 0], 0.3).to_event(1),
            "hierarchy": dist.Normal(spread, 2 * spread).expand([3]).to_event(1),
            "scaled": dist.Normal(0.4, 0.3).expand([3]).to_event(1),
            "masked": dist.Normal(0.4, 0.3).expand([3]).mask(MASK).to_event(1),
            "scalar": dist.Normal(0.4, 0.3),
            "student": dist.StudentT(3.0, 0.4, 0.3).expand([3]).to_event(1),
        }[case]
        with poutine.scale(scale=2.5 if case == "scaled" else 1.0):
            pyro.sample("x", family)

    def log_joint(own: bool) -> tuple[Tensor, ...]:
        at = {"x": value[0] if case == "scalar" else value, "spread": parent}
        trace = poutine.trace(poutine.condition(model, data=at)).get_trace()
        if own:
            compute_log_prob(trace)
        else:
            trace.compute_log_prob()
        found = trace.nodes["x"]["log_prob_sum"] + trace.nodes["spread"]["log_prob_sum"]
        return (found, *torch.autograd.grad(found, [value, parent]))

    for found, expected in zip(log_joint(True), log_joint(False), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_transposed_product_is_the_product_of_transposes() -> None:
    def function(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        read_twice = x @ w.square().T
        return (x @ w.T).T.exp().sum(1), (w @ x.T).T, read_twice.T, read_twice.sum()

    x, w = torch.randn(5, 3, generator=GENERATOR), torch.randn(2, 3, generator=GENERATOR)
    graph = untranspose(make_fx(function)(x, w))
    for found, expected in zip(graph(x, w), function(x, w), strict=True):
        torch.testing.assert_close(found, expected)
    assert graph(x, w)[1].is_contiguous() and not graph(x, w)[2].is_contiguous()
