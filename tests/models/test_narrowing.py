"""A narrower network computes what the masked one does, under its own names."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyro_compress.models.narrowing import can_narrow, folds, follows_sizes, multiply_adds, narrowed
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.liveness import Signal, signals
from pyro_compress.network.numbers import Numbers
from pyro_compress.network.units import units_of


class Net(nn.Module):
    """With a forward pass of its own, a bias that makes dead filters constant, and a batch norm."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv1 = nn.Conv2d(2, 5, 3, bias=False)
        self.norm = nn.BatchNorm2d(5) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(5, 4, 2)
        self.fc1 = nn.Linear(16, 7)
        self.fc2 = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv1(x)))
        x = F.max_pool2d(torch.tanh(self.conv2(x)), 2)
        return self.fc2(F.softplus(self.fc1(x.flatten(1))))


def masked(norm: bool) -> nn.Module:
    network = Net(norm)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.copy_(torch.rand(tensor.shape) - 0.4)
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape) + 0.5)
        network.conv1.weight[1] = 0.0  # constant: zero, or the norm's shift
        network.conv2.weight[:, 3] = 0.0  # filter 3 of conv1 is not read
        network.conv2.weight[2] = 0.0  # constant: its bias
        network.fc1.weight[:, 4:8] = 0.0  # channel 1 of conv2 is not read
        network.fc1.weight[:, 13] = 0.0
        network.fc1.weight[4] = 0.0  # constant
        network.fc2.weight[:, 6] = 0.0  # not read
    return network.eval()


def flow_of(network: nn.Module) -> tuple[Architecture, list[Signal], Numbers]:
    architecture = trace(network, (2, 7, 7))
    values = {name: tensor.detach().numpy() for name, tensor in network.named_parameters()}
    numbers = Numbers(values, {name: buffer.numpy() for name, buffer in network.named_buffers()})
    return architecture, signals(architecture, numbers), numbers


@pytest.mark.parametrize("norm", [False, True])
def test_the_narrow_network_computes_the_same(norm: bool) -> None:
    network = masked(norm)
    architecture, flow, numbers = flow_of(network)
    found = narrowed(network, architecture, [signal.kept for signal in flow])
    narrow = found.network
    with torch.no_grad():
        for name, taken in folds(architecture, flow, numbers).items():
            narrow.get_parameter(name).add_(torch.from_numpy(taken[found.index[name][0]]).float())
    sizes = [narrow.get_parameter(f"{name}.weight").shape[:2] for name in ("conv1", "conv2", "fc1", "fc2")]
    assert sizes == [(3, 2), (2, 3), (5, 7), (3, 5)]
    x = torch.rand(6, 2, 7, 7)
    torch.testing.assert_close(narrow(x), network(x), rtol=1e-5, atol=1e-5)
    assert set(dict(narrow.named_parameters())) == set(dict(network.named_parameters()))


def test_indices_lead_back_to_the_original() -> None:
    network = masked(True)
    architecture, flow, _ = flow_of(network)
    found = narrowed(network, architecture, [signal.kept for signal in flow])
    originals = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    parts = {**dict(found.network.named_parameters()), **dict(found.network.named_buffers())}
    assert set(found.index) == {name for name, tensor in parts.items() if tensor.ndim}
    for name, index in found.index.items():
        assert torch.equal(originals[name][np.ix_(*index)], parts[name]), name
    assert network.get_parameter("fc1.weight").shape == (7, 16)  # not touched


def test_products_are_counted_by_position() -> None:
    architecture = trace(Net(False), (2, 7, 7))
    whole = [np.ones(shape[0], dtype=bool) for shape in architecture.shapes()]
    expected = 5 * 2 * 9 * 25 + 4 * 5 * 4 * 16 + 16 * 7 + 7 * 3
    assert multiply_adds(architecture, whole) == expected


class Residual(nn.Module):
    """Batch norms, a shortcut with a convolution of its own, a depthwise convolution, slopes, and channels weighed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 5, 3, padding=1)
        self.slopes = nn.PReLU(5)
        self.depthwise = nn.Conv2d(5, 5, 3, padding=1, groups=5)
        self.outer = nn.Conv2d(5, 7, 1)
        self.shortcut = nn.Conv2d(6, 7, 1, bias=False)
        self.squeeze, self.excite = nn.Linear(7, 4), nn.Linear(4, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = self.outer(self.depthwise(self.slopes(self.inner(x)))) + self.shortcut(x)
        x = x * self.excite(F.relu(self.squeeze(x.mean((2, 3))))).sigmoid()[:, :, None, None]
        return self.head(F.adaptive_avg_pool2d(F.relu(x), 1).flatten(1))


class Concatenated(nn.Module):
    """A U: what is halved is made large again by a transposed convolution, and laid beside what was there."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 5, 3, padding=1)
        self.second = nn.Conv2d(5, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.norm = nn.BatchNorm2d(9)
        self.last = nn.Conv2d(9, 5, 1)
        self.head = nn.Linear(5 * 64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.first(x))
        x = torch.cat([x, self.up(F.relu(self.second(x)))], 1)
        return self.head(F.relu(self.last(F.relu(self.norm(x)))).flatten(1))


BRANCHED = {"residual": Residual, "concatenated": Concatenated}


def thinned(kind: str, seed: int) -> nn.Module:
    """Random numbers, of which whole rows and columns are zero, biases and shifts with some of the rows."""
    generator = torch.Generator().manual_seed(seed)
    network = BRANCHED[kind]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.4)
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
        for name, module in network.named_modules():
            parameters = dict(module.named_parameters(recurse=False))
            if name == "head" or not parameters:
                continue
            rows = torch.rand(len(parameters["weight"]), generator=generator) < 0.5
            for parameter in parameters.values():
                parameter[rows[: len(parameter)]] = 0.0
            if parameters["weight"].ndim > 1:
                parameters["weight"][:, torch.rand(parameters["weight"].shape[1], generator=generator) < 0.3] = 0.0
    return network.eval()


@pytest.mark.parametrize("kind", BRANCHED)
@pytest.mark.parametrize("seed", range(8))
def test_branches_are_narrowed_alike(kind: str, seed: int) -> None:
    network = thinned(kind, seed)
    architecture = trace(network, (2, 8, 8))
    assert can_narrow(architecture) and follows_sizes(network, architecture)
    values = {name: tensor.detach().numpy() for name, tensor in network.named_parameters()}
    buffers = {name: buffer.numpy() for name, buffer in network.named_buffers()}
    # no layer of the narrow network has a bias that the whole has not
    numbers = Numbers(values, buffers, adds_biases=False)
    flow = signals(architecture, numbers)
    found = narrowed(network, architecture, [signal.kept for signal in flow])
    with torch.no_grad():
        for name, taken in folds(architecture, flow, numbers).items():
            found.network.get_parameter(name).add_(torch.from_numpy(taken[found.index[name][0]]).float())
        x = torch.rand(4, 2, 8, 8)
        torch.testing.assert_close(found.network(x), network(x), rtol=1e-4, atol=1e-4)
    sizes = [sum(tensor.numel() for tensor in module.parameters()) for module in (found.network, network)]
    assert sizes[0] < 0.8 * sizes[1]
    left = multiply_adds(architecture, [signal.kept for signal in flow])
    counted = sum(hooked_products(found.network, x[:1]))
    assert left == counted


def hooked_products(network: nn.Module, x: torch.Tensor) -> list[int]:
    """Products of each dense layer and convolution, from the shapes that it sees."""
    found: list[int] = []

    def note(module: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        weight = module.get_parameter("weight")
        places = given[0] if isinstance(module, nn.ConvTranspose2d) else output
        found.append(weight.numel() * int(np.prod(places.shape[2:], dtype=int)))

    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(note)
    with torch.no_grad():
        network(x)
    return found


class Written(nn.Module):
    """Sizes in the forward pass."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv(x))
        match self.how:
            case "view":
                return self.head(x.view(-1, 64))
            case "reshape":
                return self.head(x.reshape(x.shape[0], 4 * 4 * 4))
            case "size":
                return self.head(x.view(x.size(0), -1))
        return self.head(torch.flatten(x, 1))


@pytest.mark.parametrize(("how", "follows"), [("view", False), ("reshape", False), ("size", True), ("flatten", True)])
def test_sizes_that_are_written_down_are_found_out(how: str, follows: bool) -> None:
    network = Written(how)
    architecture = trace(network, (1, 6, 6))
    assert can_narrow(architecture)
    assert follows_sizes(network, architecture) is follows


class Sums(nn.Module):
    def __init__(self, side: str) -> None:
        super().__init__()
        self.side = side
        self.a, self.b = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.c, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([self.a(x), self.b(x)], 1)
        return self.head(F.relu(self.c(joined) + x if self.side == "input" else self.c(x) + joined))


@pytest.mark.parametrize(
    ("network", "shape", "can"),
    [
        (Net(True), (2, 7, 7), True),
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False)), (4,), True),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(36, 2)), (4, 5, 5), False),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(36, 2)), (2, 5, 5), False),
        (Sums("input"), (4, 5, 5), False),
        (Sums("concatenation"), (4, 5, 5), False),
    ],
    ids=["chain", "no-bias", "grouped", "group-norm", "sum-with-the-input", "sum-with-a-concatenation"],
)
def test_what_can_be_narrowed(network: nn.Module, shape: tuple[int, ...], can: bool) -> None:
    assert can_narrow(trace(network, shape)) is can


class Gate(nn.Module):
    """A gate of one channel for all of an image, and one number for all features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem, self.gate, self.body = nn.Conv2d(2, 5, 3), nn.Conv2d(5, 1, 3, padding=1), nn.Conv2d(5, 4, 1)
        self.hidden, self.share, self.head = nn.Linear(4, 6), nn.Linear(4, 1), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.stem(x))
        x = torch.tanh(self.body(torch.sigmoid(self.gate(x)) * x)).mean((2, 3))
        return self.head(self.hidden(x) * torch.sigmoid(self.share(x)))


def test_what_goes_with_all_channels_stays() -> None:
    network = Gate().eval()
    with torch.no_grad():
        network.body.weight[:, 3] = network.gate.weight[:, 3] = 0.0
        network.body.weight[:, 2] = 0.0  # the gate alone reads channel 2
        network.head.weight[:, [0, 4]] = 0.0
    architecture, flow, _ = flow_of(network)
    assert can_narrow(architecture) and follows_sizes(network, architecture)
    narrow = narrowed(network, architecture, [signal.kept for signal in flow]).network
    sizes = [narrow.get_parameter(f"{name}.weight").shape[0] for name in ("stem", "gate", "body", "hidden", "share")]
    assert sizes == [4, 1, 4, 4, 1]
    x = torch.rand(6, 2, 7, 7)
    torch.testing.assert_close(narrow(x), network(x), rtol=1e-5, atol=1e-5)
    units = units_of(architecture)
    gates = [position for position, shape in enumerate(architecture.shapes()) if shape[0] == 1]
    assert gates and not any(units.free[units.of[position]].any() for position in gates)
