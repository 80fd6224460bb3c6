"""Registered networks, and the user's own networks and weights."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pyro_compress.errors import NetworkError
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.networks import NETWORKS, build, lenet_300_100, load_network, load_weights
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.layers import Activation, Conv2d, Linear

PARAMETERS = {
    "lenet-300-100": 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10,
    "lenet-5": 20 * 25 + 20 + 50 * 20 * 25 + 50 + 800 * 500 + 500 + 500 * 10 + 10,
    "mlp-500-500": 784 * 500 + 500 + 500 * 500 + 500 + 500 * 10 + 10,
    "mlp-128-128": 100_480 + 16_512 + 1_290,
    "mnist-cnn": 320 + 18_496 + 1_179_776 + 1_290,
    "digits-cnn": 13_706,
    "digits-mlp": 64 * 100 + 100 + 100 * 50 + 50 + 50 * 10 + 10,
    "digits-softmax": 64 * 10 + 10,
    "digits-tanh": 64 * 16 + 16 + 16 * 10 + 10,
    "mnist-softmax": 784 * 10 + 10,
    "mnist-tanh": 784 * 16 + 16 + 16 * 10 + 10,
    "tiny-cnn": 208 + 1_168 + 2_320 + 3_480 + 250,
    # filters, batch norms, shortcuts, classes
    "resnet-20": 432
    + 9 * (6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2)
    + 2 * (7 * 16 + 6 * 32 + 6 * 64)
    + (16 * 32 + 2 * 32 + 32 * 64 + 2 * 64)
    + 650,
    "vgg-16": 14_987_210,
}
WITH_POSITIONS = ("text-gru", "text-transformer", "unet")
CLASSIFIERS = sorted(
    name for name, entry in NETWORKS.items() if entry.classes is not None and name not in WITH_POSITIONS
)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_registered_networks_trace_and_take_a_gradient_step(name: str) -> None:
    entry, network = NETWORKS[name], build(name)
    assert entry.classes is not None
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]
    assert trace(network, entry.input_shape).shapes()[-1] == (entry.classes,)
    outputs = network(torch.randn(2, *entry.input_shape))
    nn.functional.cross_entropy(outputs, torch.tensor([0, entry.classes - 1])).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_networks_for_other_data_put_out_what_their_targets_are() -> None:
    sizes = {name: sum(p.numel() for p in build(name).parameters()) for name in ("series", "tabular", *WITH_POSITIONS)}
    assert sizes == {
        "series": 51_640,
        "tabular": 11_777,
        "text-gru": 77_825,
        "text-transformer": 116_705,
        "unet": 29_571,
    }
    assert trace(build("series"), (3, 96)).shapes()[-1] == (24,)
    assert trace(build("tabular"), (26,)).shapes()[-1] == (1,)
    assert trace(build("unet"), (1, 24, 24)).shapes()[-1] == (11, 24, 24)


@pytest.mark.parametrize("name", ["text-gru", "text-transformer"])
def test_networks_for_text_see_nothing_behind_a_position(name: str) -> None:
    assert trace(build(name), (64,)).shapes()[-1] == (64, 97)
    network, x = build(name).eval(), torch.randint(97, (2, 64))
    with torch.no_grad():
        whole = network(x)
        changed = network(torch.cat([x[:, :40], (x[:, 40:] + 1) % 97], 1))
    assert whole.shape == (2, 64, 97)
    # what is behind a position changes nothing there
    torch.testing.assert_close(changed[:, :40], whole[:, :40])
    assert not torch.allclose(changed[:, 40:], whole[:, 40:])


@pytest.mark.parametrize("name", sorted(name for name in NETWORKS if name.startswith("vae")))
def test_encoders_put_out_what_codes_take_and_decoders_give_inputs_back(name: str) -> None:
    entry, network = NETWORKS[name], build(name)
    assert isinstance(network, EncoderDecoder)
    pixels = math.prod(entry.input_shape)
    assert trace(network.encoder, entry.input_shape).shapes()[-1] == (network.codes.outputs,)
    assert trace(network.decoder, network.codes.shape).shapes()[-1] == (pixels,)
    x = torch.rand(2, *entry.input_shape)
    assert network(x).shape == (2, pixels)
    sizes = [sum(p.numel() for p in part.parameters()) for part in (network, network.decoder)]
    assert sizes == {"vae-digits": [5_008, 2_400], "vae-mnist": [425_284, 207_984]}[name]


@pytest.mark.parametrize(
    ("name", "parameters", "images"),
    [
        ("autoencoder-mnist", 100_480 + 101_136, [28]),
        ("autoencoder-mnist-cnn", 4_385, [28, 28, 14, 14, 7, 7, 4, 4, 4, 8, 8, 16, 14, 28, 28]),
    ],
)
def test_autoencoders_have_the_published_sizes_and_codes_of_one_shape(
    name: str, parameters: int, images: list[int]
) -> None:
    network, shapes = build(name), trace(build(name), NETWORKS[name].input_shape)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    after = [layer for layer in shapes.layers if not isinstance(layer, Activation)]
    assert [shapes.shapes()[0], shapes.shapes()[-1]] == [(1, 28, 28), (784,)]
    encoder, decoder = network.get_submodule("encoder"), network.get_submodule("decoder")
    x = torch.rand(2, 1, 28, 28)
    assert encoder(x).shape == (2, 128)
    torch.testing.assert_close(network(x), decoder(encoder(x)))
    # heights of images, layer by layer, without what keeps them all
    kept = [shape for layer, shape in zip(shapes.layers, shapes.shapes()[1:], strict=True) if layer in after]
    assert [28, *(shape[1] for shape in kept if len(shape) == 3)] == images


def test_layers_have_the_published_sizes() -> None:
    sizes = {}
    for name in CLASSIFIERS:
        layers = trace(build(name), NETWORKS[name].input_shape).weighted()
        sizes[name] = [layer.out_features if isinstance(layer, Linear) else layer.out_channels for layer in layers]
    assert sizes["lenet-300-100"] == [300, 100, 10]
    assert sizes["lenet-5"] == [20, 50, 500, 10]
    assert sizes["vgg-16"] == [64, 64, 128, 128, *[256] * 3, *[512] * 6, 512, 10]
    lenet = trace(build("lenet-5"), (1, 28, 28)).weighted()
    assert [layer.name for layer in lenet] == ["conv1", "conv2", "fc1", "fc2"]
    assert [layer.kernel_size for layer in lenet if isinstance(layer, Conv2d)] == [(5, 5), (5, 5)]
    assert [layer.in_features for layer in lenet if isinstance(layer, Linear)] == [800, 500]


def test_float32_bytes_match_the_published_comparison() -> None:
    assert 4 * PARAMETERS["lenet-300-100"] == 1_066_440
    assert 4 * PARAMETERS["lenet-5"] == 1_724_320


def test_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(NetworkError, match=r"unknown network 'lenet5': known are .*Did you mean 'lenet-5'\?"):
        build("lenet5")


USER_CODE = """
from torch import nn

def make():
    return nn.Sequential(nn.Linear(2, 3))

def number():
    return 3

def broken():
    raise RuntimeError("no such luck")
"""


class TestLoadNetwork:
    @pytest.fixture(autouse=True)
    def user_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "user_nets_for_test.py").write_text(USER_CODE)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.path", ["/nowhere", *__import__("sys").path])

    def test_factory_in_the_current_folder(self) -> None:
        network = load_network("user_nets_for_test:make")
        assert [tuple(p.shape) for p in network.parameters()] == [(3, 2), (3,)]

    @pytest.mark.parametrize(
        ("reference", "sentence"),
        [
            ("user_nets_for_test", "module:factory"),
            ("user_nets_for_tset:make", "user_nets_for_tset"),
            ("user_nets_for_test:mkae", "mkae"),
            ("user_nets_for_test:number", "returned a int, expected a torch.nn.Module"),
            ("user_nets_for_test:broken", "RuntimeError: no such luck"),
        ],
    )
    def test_refusals(self, reference: str, sentence: str) -> None:
        with pytest.raises(NetworkError, match=re.escape(sentence)):
            load_network(reference)


class TestLoadWeights:
    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    def test_round_trip(self, tmp_path: Path, suffix: str) -> None:
        source, target, path = lenet_300_100(), lenet_300_100(), tmp_path / f"weights{suffix}"
        save = save_file if suffix == ".safetensors" else torch.save
        save(source.state_dict(), path)
        load_weights(target, path)
        for name, tensor in source.state_dict().items():
            assert torch.equal(target.state_dict()[name], tensor)

    def refused(self, path: Path, sentence: str) -> None:
        network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        with pytest.raises(NetworkError, match=sentence):
            load_weights(network, path)
        assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())

    def good(self) -> dict[str, torch.Tensor]:
        return {n: t.clone() + 1 for n, t in nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict().items()}

    def test_batch_counters_may_be_missing(self, tmp_path: Path) -> None:
        state = self.good()
        del state["1.num_batches_tracked"]
        save_file(state, tmp_path / "w.safetensors")
        network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        load_weights(network, tmp_path / "w.safetensors")
        assert torch.equal(network.state_dict()["1.running_mean"], torch.ones(3))

    def test_names_that_do_not_fit(self, tmp_path: Path) -> None:
        state = self.good()
        state["fc.bias"] = state.pop("0.bias")
        save_file(state, tmp_path / "w.safetensors")
        self.refused(tmp_path / "w.safetensors", "the file lacks 0.bias and has unknown fc.bias")

    def test_shapes_that_do_not_fit(self, tmp_path: Path) -> None:
        save_file(self.good() | {"0.weight": torch.zeros(2, 3)}, tmp_path / "w.safetensors")
        self.refused(tmp_path / "w.safetensors", r"0.weight has shape \(2, 3\), expected \(3, 2\)")

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (lambda v: (100 * v).to(torch.int8), "0.weight is torch.int8, expected torch.float32"),
            (lambda v: v.long(), "0.weight is torch.int64, expected torch.float32"),
            (lambda v: v > 1, "0.weight is torch.bool, expected torch.float32"),
            (lambda v: v.to(torch.complex64), "0.weight is torch.complex64, expected torch.float32"),
            (lambda v: v.to(torch.float8_e4m3fn), "0.weight is torch.float8_e4m3fn, expected torch.float32"),
            (lambda v: v.to(torch.float8_e5m2), "0.weight is torch.float8_e5m2, expected torch.float32"),
            (lambda v: torch.quantize_per_tensor(v, 0.01, 0, torch.qint8), "0.weight is torch.qint8, expected"),
            (lambda v: v.to_sparse(), "0.weight is a sparse_coo tensor, expected a dense one"),
            (lambda v: v.to_sparse_csr(), "0.weight is a sparse_csr tensor, expected a dense one"),
            (lambda v: v.double() * 1e200, "0.weight holds NaN or infinite values"),
        ],
    )
    def test_types_that_are_no_weights(self, tmp_path: Path, change: Any, sentence: str) -> None:
        state = self.good()
        torch.save(state | {"0.weight": change(state["0.weight"])}, tmp_path / "w.pt")
        self.refused(tmp_path / "w.pt", sentence)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_other_precisions_become_float32(self, tmp_path: Path, dtype: torch.dtype) -> None:
        # counters too, as `{name: tensor.half()}` leaves them
        state = {name: tensor.to(dtype) for name, tensor in self.good().items()}
        torch.save(state, tmp_path / "w.pt")
        network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        load_weights(network, tmp_path / "w.pt")
        found = network.state_dict()
        assert found["0.weight"].dtype == torch.float32 and found["1.num_batches_tracked"].dtype == torch.int64
        assert all(torch.equal(found[name].to(dtype), tensor) for name, tensor in state.items())

    def test_a_counter_that_is_no_whole_number(self, tmp_path: Path) -> None:
        torch.save(self.good() | {"1.num_batches_tracked": torch.tensor(1.5)}, tmp_path / "w.pt")
        self.refused(tmp_path / "w.pt", "1.num_batches_tracked is torch.float32 and no whole number")

    def test_values_that_are_not_finite(self, tmp_path: Path) -> None:
        torch.save(self.good() | {"0.bias": torch.tensor([0.0, float("nan"), 0.0])}, tmp_path / "w.pt")
        self.refused(tmp_path / "w.pt", "0.bias holds NaN or infinite values")

    def test_files_that_are_no_state_dict(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "none.pt", "there is no file of weights at .*none.pt")
        (tmp_path / "junk.safetensors").write_bytes(b"junk")
        self.refused(tmp_path / "junk.safetensors", "junk.safetensors cannot be read: .* expected a .safetensors file")
        torch.save([1, 2], tmp_path / "list.pt")
        self.refused(tmp_path / "list.pt", "hold a list, expected a state dict")
        torch.save({"epoch": 3, "state_dict": self.good()}, tmp_path / "nested.pt")
        self.refused(tmp_path / "nested.pt", "entry 'epoch' is a int, .* save network.state_dict\\(\\) alone")

    def test_pickled_code_is_not_run(self, tmp_path: Path) -> None:
        torch.save(nn.Linear(2, 3), tmp_path / "module.pt")
        sentence = r"module.pt cannot be read without running code that the file holds, .*and not the network itself$"
        self.refused(tmp_path / "module.pt", sentence)


def test_a_negative_running_variance_is_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    state = network.state_dict()
    state["1.running_var"] = torch.tensor([1.0, -0.5, 2.0])
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(NetworkError, match=r"1\.running_var holds -0\.5, and no variance is negative"):
        load_weights(network, tmp_path / "w.pt")
