"""What is packed comes back: exactly, or as near as the rule says; torch's tensors, numpy's and safetensors' alike."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from safetensors.torch import save_file
from torch import nn

import pyro_compress as pc
from benchmarks.weights_bytes import of_original_width
from pyro_compress.artifact.runtimes.safetensors_weights import read_safetensors, write_safetensors
from pyro_compress.artifact.writing.packing import packed
from pyro_compress.errors import ArtifactError, DecisionError, RunError
from pyro_compress.models.networks import build
from pyro_compress.network.stored_weights import ELEMENT_TYPES, Given, StoredWeights
from pyro_compress.pipeline.packing import comparison, read_state, state_of, unpack_file
from tests.pipeline.conftest import Cli

SHIPPED = ["lenet-300-100/spike-and-slab", "lenet-300-100/log-uniform", "lenet-5/l0", "lenet-5/log-uniform"]


class Tagger(nn.Module):
    """An embedding that is tied to the output, a recurrent layer, a norm, a mask, a counter: nothing that is traced."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.norm = nn.BatchNorm1d(16)
        self.out = nn.Linear(16, 30, bias=False)
        self.out.weight = self.embed.weight
        self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(self.embed(x))
        hidden = hidden[:, -1] if hidden.mean() > 0 else hidden.sum(1)
        found: torch.Tensor = self.out(self.norm(hidden))
        return found


def tagger(seed: int) -> Tagger:
    torch.manual_seed(seed)
    network = Tagger()
    network(torch.randint(0, 30, (5, 4)))  # the norm counts
    return network.eval()


def test_a_module_comes_back_exactly_and_computes_the_same() -> None:
    network, other, x = tagger(0), tagger(1), torch.randint(0, 30, (3, 4))
    before, expected = {k: v.clone() for k, v in network.state_dict().items()}, network(x)
    artifact = pc.pack(network)
    assert artifact.kind == "weights"
    assert len(artifact) < 4 * sum(p.numel() for p in network.parameters()) + 700
    found = pc.unpack(artifact)
    assert list(found) == list(before)
    for name, tensor in before.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
    assert artifact.load_into(other) is other
    assert torch.equal(other(x), expected)
    assert other.out.weight is other.embed.weight
    fresh = tagger(2)
    copied = artifact.to_torch(fresh)
    assert torch.equal(copied(x), expected) and not torch.equal(fresh(x), expected)


def test_bits_round_each_row_by_its_own_step() -> None:
    network = tagger(0)
    artifact = pc.pack(network, bits=6)
    found, rows = pc.unpack(artifact), {}
    for name, tensor in network.state_dict().items():
        if tensor.ndim < 2 or name == "mask":
            assert torch.equal(found[name], tensor), name
            continue
        step = tensor.abs().amax(1, keepdim=True).double() / 31
        assert ((found[name] - tensor).abs() <= step / 2 * (1 + 1e-5)).all(), name
        rows[name] = (found[name] / step).round().unique().numel()
        torch.testing.assert_close(found[name].double(), (found[name] / step).round() * step)
    assert rows and all(40 < count <= 63 for count in rows.values()), rows
    # 6 bits of each number, and a step per row
    numbers = sum(p.numel() for p in network.parameters() if p.ndim > 1)
    assert len(artifact) < 6 / 8 * numbers + 4 * (30 + 128) + 1200
    again = pc.pack(found, bits=8)
    assert all(torch.equal(tensor, found[name]) for name, tensor in pc.unpack(again).items())


def test_one_step_and_float16() -> None:
    network = tagger(0)
    stepped, halved = pc.unpack(pc.pack(network, step=0.05)), pc.unpack(pc.pack(network, float16=True))
    both = pc.unpack(pc.pack(network, step=0.05, float16=True))
    for name, tensor in network.state_dict().items():
        half = tensor.half().float() if tensor.dtype == torch.float32 else tensor
        rounded = (tensor / 0.05).round() * 0.05 if tensor.ndim > 1 and name != "mask" else tensor
        torch.testing.assert_close(stepped[name], rounded)
        assert torch.equal(halved[name], half) and halved[name].dtype == tensor.dtype
        torch.testing.assert_close(both[name], rounded if tensor.ndim > 1 and name != "mask" else half)
    assert len(pc.pack(network, float16=True)) < 2 * sum(p.numel() for p in network.parameters()) + 400


def test_a_number_beyond_float16_keeps_its_tensor_as_it_is() -> None:
    state = {"a": torch.tensor([1e6, 0.1]), "b": torch.tensor([6e4, 0.1])}
    found = pc.unpack(pc.pack(state, float16=True))
    assert torch.equal(found["a"], state["a"])
    assert found["b"].tolist() == state["b"].half().float().tolist()


def test_a_pruned_and_shared_network_of_somebody_else_is_found_out() -> None:
    """Few different numbers, most of them zero: Deep Compression's network, known by its float32 numbers alone."""
    random = np.random.default_rng(0)
    levels = random.normal(size=16).astype(np.float32)
    weight = levels[random.integers(0, 16, (100, 200))] * (random.random((100, 200)) < 0.1)
    artifact = pc.pack({"fc.weight": weight.astype(np.float32)})
    assert np.array_equal(artifact.numbers()["fc.weight"], weight)
    entropy = 20_000 * (0.1 * np.log2(16 / 0.1) + 0.9 * np.log2(1 / 0.9)) / 8
    assert len(artifact) < 1.05 * entropy + 100


@pytest.mark.parametrize("dtype", list(ELEMENT_TYPES))
def test_every_element_type_in_torch_numpy_and_safetensors(dtype: str) -> None:
    numbers = torch.linspace(-3, 3, 24).reshape(2, 3, 4)
    tensor = (numbers > 0 if dtype == "bool" else numbers.abs() * 9 if dtype == "uint8" else numbers * 9).to(
        getattr(torch, dtype)
    )
    state = {"a": tensor, "b": tensor[0, 0, 0].clone(), "c": tensor[:, :0].clone()}
    artifact = pc.pack(state)
    found = pc.unpack(artifact)
    written = load_safetensors(write_safetensors(artifact.held))  # type: ignore[arg-type]
    read = packed(read_safetensors(save_safetensors({k: v.contiguous() for k, v in state.items()})))
    for name, expected in state.items():
        assert found[name].dtype == expected.dtype == written[name].dtype
        assert torch.equal(found[name], expected) and torch.equal(written[name], expected)
    assert read.same_as(artifact.held)  # type: ignore[arg-type]
    if dtype != "bfloat16":
        arrays = {name: value.numpy() for name, value in state.items()}
        assert pc.pack(arrays).data == artifact.data
        for name, array in artifact.numbers().items():
            np.testing.assert_array_equal(array, arrays[name], strict=True)


def test_counters_of_any_size() -> None:
    state = {"n": torch.tensor(9380), "far": torch.tensor([2**62, -(2**62)]), "ids": torch.arange(2000)[None]}
    artifact = pc.pack(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in pc.unpack(artifact).items())
    assert len(artifact) < 4300  # where numbers stand 16,000 bytes are taken


def test_what_became_of_every_tensor() -> None:
    network = tagger(0)
    given = state_of(network)
    artifact = pc.pack(network, bits=4)
    rows = {row.name: row for row in comparison(given, artifact)}
    assert list(rows) == [name for name in network.state_dict() if name != "out.weight"]
    assert rows["embed.weight"].stored == "steps per row" and rows["embed.weight"].bytes_before == 4 * 30 * 16
    assert rows["mask"].stored == "float32" and rows["mask"].largest_error == 0
    assert rows["norm.num_batches_tracked"].stored == "integers"
    assert rows["norm.num_batches_tracked"].bytes_before == 8
    error = (network.embed.weight - pc.unpack(artifact)["embed.weight"]).abs().max().detach()
    assert rows["embed.weight"].largest_error == pytest.approx(float(error), rel=1e-6)
    sizes = {section.name: section.file_bytes for section in artifact.sections()}
    assert all(row.bytes_after == sizes[row.name] for row in rows.values())


def test_a_module_that_differs_is_refused_whole() -> None:
    artifact = pc.pack(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    cases = [
        (nn.Sequential(nn.Linear(3, 4)), "the module lacks 1.weight, 1.bias, 1.running_mean and 2 more"),
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), "the file lacks 2.weight, 2.bias; build"),
        (nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)), r"0\.weight has shape \(4, 2\) in the module, \(4, 3\) in"),
    ]
    for module, sentence in cases:
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        with pytest.raises(ArtifactError, match=sentence):
            artifact.load_into(module)
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_numbers_of_other_precisions_become_the_modules() -> None:
    network, half = tagger(0), tagger(1).half()
    pc.pack(network).load_into(half)
    assert torch.equal(half.state_dict()["lstm.weight_ih_l0"], network.state_dict()["lstm.weight_ih_l0"].half())


def test_numbers_that_the_module_cannot_hold_are_refused() -> None:
    class Held(nn.Module):
        def __init__(self, floats: torch.Tensor, count: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("floats", floats)
            self.register_buffer("count", count)

    given = pc.pack(Held(torch.tensor([1e30, -torch.inf]), torch.tensor(300)))
    for module, sentence in (
        (Held(torch.zeros(2), torch.zeros((), dtype=torch.int8)), r"count is torch\.int8 in the .* cannot hold 300 of"),
        (
            Held(torch.zeros(2).half(), torch.tensor(0)),
            r"floats is torch\.float16 in .* cannot hold 1e\+30 of",
        ),
    ):
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        with pytest.raises(ArtifactError, match=sentence):
            given.load_into(module)
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    found = given.load_into(Held(torch.zeros(2).double(), torch.zeros((), dtype=torch.int16)))
    assert found.get_buffer("count") == 300 and found.get_buffer("floats").isinf().tolist() == [False, True]


def test_a_tied_module_takes_no_file_of_two_weights() -> None:
    untied, tied = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(2))
    tied[1].weight = tied[0].weight
    with pytest.raises(ArtifactError, match=r"0\.weight and 1\.weight are one tensor in the module and have different"):
        pc.pack(untied).load_into(tied)
    untied.get_submodule("1").load_state_dict({**untied[0].state_dict(), "bias": torch.zeros(3)})
    pc.pack(untied).load_into(tied)
    assert torch.equal(tied.get_parameter("0.weight"), untied.get_parameter("0.weight"))


def test_tensors_that_a_mapping_makes_when_asked_are_not_taken_for_one() -> None:
    class Lazy(Mapping[str, torch.Tensor]):
        def __getitem__(self, name: str) -> torch.Tensor:
            return torch.full((100,), float(name))

        def __iter__(self) -> Iterator[str]:
            return iter(map(str, range(20)))

        def __len__(self) -> int:
            return 20

    found = pc.unpack(pc.pack(Lazy()))
    assert all(torch.equal(tensor, torch.full((100,), float(name))) for name, tensor in found.items())


def test_a_lazy_negative_is_not_the_tensor_that_it_lies_on() -> None:
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    found = pc.unpack(pc.pack({"a": numbers.imag, "b": numbers.conj().imag}))
    assert found["a"].tolist() == [2, -4] and found["b"].tolist() == [-2, 4]


def test_matrices_of_tiny_numbers_stay_as_they_are() -> None:
    matrix = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    tiny = matrix * 1e-22
    mixed = torch.cat([matrix, tiny[:1]])
    found = pc.unpack(pc.pack({"tiny": tiny, "on a grid": 2.0**-70 * matrix.sign(), "mixed": mixed}, bits=8))
    assert torch.equal(found["tiny"], tiny)
    assert torch.equal(found["on a grid"], 2.0**-70 * matrix.sign())
    # beside the others a row of them is nothing
    assert not found["mixed"][6].any() and not torch.equal(found["mixed"], mixed)
    torch.testing.assert_close(found["mixed"], mixed, rtol=0, atol=0.02)


REFUSED = {
    "NaN": ({"a": torch.tensor([torch.nan])}, {}, ArtifactError, "tensor a holds NaN"),
    "no tensor": ({"a": torch.zeros(1), "b": {"c": 1}}, {}, ArtifactError, "entry 'b' is a dict"),
    "complex": ({"a": torch.zeros(2, dtype=torch.complex64)}, {}, ArtifactError, r"a is of type torch\.complex64"),
    "complex in numpy": ({"a": np.zeros(2, np.complex64)}, {}, ArtifactError, "a is of type complex64"),
    "sparse": ({"a": torch.eye(2).to_sparse()}, {}, ArtifactError, "tensor a is no plain dense one"),
    "two rules": ({}, {"bits": 8, "step": 0.1}, DecisionError, "not both"),
    "one bit": ({}, {"bits": 1}, DecisionError, "rounded to 2 to 16 bits, found 1"),
    "no step": ({}, {"step": 0.0}, DecisionError, "a grid step is at least"),
    "a step too small": (
        {"a": torch.eye(2)},
        {"step": 1e-9},
        ArtifactError,
        "tensor a has multiples of the step beyond",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_packed(case: str) -> None:
    state, rule, error, sentence = REFUSED[case]
    with pytest.raises(error, match=sentence):
        pc.pack(state, **rule)  # type: ignore[arg-type]


def test_state_dicts_in_files(tmp_path: Path) -> None:
    network = tagger(0)
    torch.save(network.state_dict(), tmp_path / "a.pt")
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    by_pickle, by_safetensors = pc.pack(tmp_path / "a.pt"), pc.pack(tmp_path / "a.safetensors")
    assert by_pickle.data == pc.pack(network).data
    assert all(torch.equal(tensor, state[name]) for name, tensor in pc.unpack(by_safetensors).items())
    torch.save(network, tmp_path / "whole.pt")
    torch.save([1], tmp_path / "list.pt")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "nested.pt")
    (tmp_path / "noise.safetensors").write_bytes(b"nothing of the kind")
    for name, error, sentence in (
        ("missing.pt", RunError, "No such file"),
        ("missing.safetensors", RunError, "No such file"),
        (
            "whole.pt",
            RunError,
            r"cannot be read without running code that it holds.*write module\.state_dict\(\).*itself$",
        ),
        ("list.pt", RunError, r"holds a list, expected a state dict"),
        ("nested.pt", ArtifactError, "entry 'state_dict' is a"),
        ("noise.safetensors", ArtifactError, "not a safetensors file"),
    ):
        with pytest.raises(error, match=sentence):
            read_state(tmp_path / name)


def test_runnable_files_are_unpacked_too(tmp_path: Path) -> None:
    artifact = pc.load("lenet-300-100/spike-and-slab")
    found = pc.unpack("lenet-300-100/spike-and-slab")
    assert list(found) == list(artifact.network.tensors)
    for name, tensor in artifact.network.tensors.items():
        np.testing.assert_array_equal(found[name].numpy(), tensor.dense())
    path = artifact.save(tmp_path / "a.pyrc")
    unpack_file(path, tmp_path / "a.safetensors")
    written = load_safetensors((tmp_path / "a.safetensors").read_bytes())
    assert all(torch.equal(written[name], tensor) for name, tensor in found.items())
    again = pc.pack(tmp_path / "a.safetensors")
    assert all(torch.equal(tensor, found[name]) for name, tensor in pc.unpack(again).items())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_takes_as_few_bytes_as_weights(name: str) -> None:
    """Known by its float32 numbers alone, without the layers: grids and images are found, names cost a little."""
    artifact = pc.load(name)
    given = of_original_width(artifact.network)
    again = pc.pack(given)
    for tensor, numbers in again.numbers().items():
        np.testing.assert_array_equal(numbers, given[tensor])
    assert len(again) < 1.02 * len(artifact) + 50


def test_names_that_share_memory_are_tied_and_copies_are_not() -> None:
    table = torch.randn(20, 10)
    given = state_of({"a": table, "b": table, "c": table.clone(), "d": table[:10], "e": torch.zeros(0)})
    assert given["a"] is given["b"] and len({id(tensor) for tensor in given.values()}) == 4
    held = packed(given)
    assert held.tensors["a"] is held.tensors["b"] is not held.tensors["c"]
    assert held.count == 20 * 10 * 2 + 10 * 10


def test_packing_safetensors_needs_no_torch(tmp_path: Path) -> None:
    save_file({"a.weight": torch.randn(30, 20), "b": torch.ones(3, dtype=torch.bfloat16)}, tmp_path / "a.safetensors")
    program = (
        "import sys; from pathlib import Path; from pyro_compress.pipeline.packing import pack_file, unpack_file; "
        f"folder = Path({str(tmp_path)!r}); "
        "pack_file(folder / 'a.safetensors', folder / 'a.pyrc', bits=8, step=None, float16=False); "
        "unpack_file(folder / 'a.pyrc', folder / 'b.safetensors'); "
        "assert not {'torch', 'pyro'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    found = load_safetensors((tmp_path / "b.safetensors").read_bytes())
    assert found["b"].dtype == torch.bfloat16 and found["b"].tolist() == [1.0] * 3


def test_the_command_line_packs_inspects_and_unpacks(cli: Cli, tmp_path: Path) -> None:
    network = tagger(0)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    source, file, back = (str(tmp_path / name) for name in ("model.pt", "model.pyrc", "back.safetensors"))
    shown = cli("pack", source, "--out", file, "--bits", "8").out
    assert "steps per row" in shown and "out.weight" not in shown
    said = re.search(
        r"([\d,]+) bytes, ([\d.]+) times smaller than the tensors' ([\d,]+); the largest rounding error is", shown
    )
    assert said is not None and int(said[1].replace(",", "")) == Path(file).stat().st_size
    found = json.loads(cli("pack", source, "--out", file, "--bits", "8", "--json").out)
    assert found["file_bytes"] == Path(file).stat().st_size
    assert found["bytes_before"] == sum(row["bytes_before"] for row in found["tensors"])
    assert found["largest_error"] == max(row["largest_error"] for row in found["tensors"]) > 0
    assert Path(file).read_bytes() == pc.pack(network, bits=8).data
    inspected = cli("inspect", file).out
    assert "weights of a module, and no layers" in inspected and "  out.weight is embed.weight" in inspected
    as_json = json.loads(cli("inspect", file, "--json").out)
    assert as_json["kind"] == "weights" and as_json["tied"] == {"out.weight": "embed.weight"}
    assert as_json["tensors"]["lstm.weight_ih_l0"] == "float32, steps per row"
    assert sum(section["file_bytes"] for section in as_json["sections"]) == pytest.approx(as_json["file_bytes"], abs=1)
    assert as_json["other_bytes"]["float32"] == 4 * sum(row["bytes_before"] // 4 for row in found["tensors"]) - 4
    cli("unpack", file, "--out", back)
    written = load_safetensors(Path(back).read_bytes())
    assert all(torch.equal(written[name], tensor) for name, tensor in pc.unpack(file).items())
    exact = cli("pack", back, "--out", file).out
    assert "every number comes back exactly" in exact
    cli("pack", source, "--out", file, "--step", "0.01", "--float16")
    assert Path(file).read_bytes() == pc.pack(network, step=0.01, float16=True).data


def test_mistakes_on_the_command_line_end_in_a_sentence(cli: Cli, tmp_path: Path) -> None:
    pc.pack(tagger(0)).save(tmp_path / "a.pyrc")
    save_file({"a": torch.eye(3)}, tmp_path / "a.safetensors")
    given = str(tmp_path / "a.safetensors")
    runs = [
        (("pack", given, "--out", str(tmp_path / "a.bin")), "compressed networks end in .pyrc"),
        (("pack", given, "--out", str(tmp_path / "b.pyrc"), "--bits", "40"), "rounded to 2 to 16 bits, found 40"),
        (("pack", given, "--out", str(tmp_path / "b.pyrc"), "--bits", "4", "--step", "0.1"), "not both"),
        (("pack", str(tmp_path / "none.pt"), "--out", str(tmp_path / "b.pyrc")), "No such file"),
        (("unpack", str(tmp_path / "a.pyrc"), "--out", str(tmp_path / "b.bin")), "does not end in .safetensors"),
        (("export", str(tmp_path / "a.pyrc"), "--to", "onnx", str(tmp_path / "b.onnx")), "holds weights and no layers"),
        (("score", str(tmp_path / "a.pyrc")), "holds weights and no layers"),
        (("generate", str(tmp_path / "a.pyrc"), "--out", str(tmp_path / "b.png")), "holds weights and no layers"),
        (("evaluate", str(tmp_path / "a.pyrc"), "--data", "digits"), "--network module:factory"),
        (("evaluate", str(tmp_path / "a.pyrc"), "--data", "digits", "--network", "digits-mlp"), "not of this module"),
        (("evaluate", str(tmp_path / "a.pyrc"), "--data", "digits", "--network", "digit-mlp"), "Did you mean"),
    ]
    for arguments, sentence in runs:
        found = cli(*arguments)
        assert found.code == 1 and found.err.count("\n") == 1 and sentence in found.err, (arguments, found)
    assert not list(tmp_path.glob("b.*"))


def test_evaluate_puts_weights_into_the_network_that_is_named(cli: Cli, tmp_path: Path) -> None:
    """A file of weights has the error of the module that they were taken from; one of layers takes no network."""
    network, file, data = build("digits-cnn"), str(tmp_path / "a.pyrc"), pc.data.load("digits")
    pc.pack(network).save(file)
    found = json.loads(cli("evaluate", file, "--data", "digits", "--network", "digits-cnn", "--json").out)
    assert found == pc.evaluate(file, data, network=network)
    x, y = data.part("test")
    with torch.no_grad():
        wrong = float((network.eval()(x).argmax(1) != y).float().mean())
    assert found["error_after_percent"] == pytest.approx(100 * wrong)
    failed = cli("evaluate", "lenet-5/l0", "--data", "digits", "--network", "digits-cnn")
    assert failed.code == 1 and "has layers of its own" in failed.err


def test_the_sign_of_zero_is_all_that_is_lost() -> None:
    numbers = np.array([[0.0, -0.0, 1.5, -2.0]], np.float32)
    found = packed({"a": Given("float32", numbers)})
    assert isinstance(found, StoredWeights)
    np.testing.assert_array_equal(found.numbers()["a"], numbers)


def test_what_has_no_name_and_bits_that_are_no_whole_number_are_refused() -> None:
    with pytest.raises(ArtifactError, match="tensors have names, found 3"):
        pc.pack({3: torch.zeros(2)})  # type: ignore[arg-type]
    for bits in (8.0, "8", True):
        with pytest.raises(DecisionError, match="bits are a whole number, found"):
            pc.pack({"weight": torch.zeros(2, 2)}, bits=bits)  # type: ignore[arg-type]
