"""Networks that come with the package: they are what their cards say, and every command takes them by name."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pyro_compress as pc
from pyro_compress import shipped
from pyro_compress.artifact.runtimes import numpy_runtime
from pyro_compress.data.files import DEBIAN_FASHION_MNIST
from pyro_compress.data.named import load
from pyro_compress.errors import ArtifactError, RunError
from pyro_compress.pipeline import cards
from pyro_compress.pipeline.run_directory import RunDirectory
from pyro_compress.pipeline.settings import RunSettings
from pyro_compress.posterior.error_unit import unit_of
from pyro_compress.tables import zoo
from tests.artifact import specified
from tests.pipeline.conftest import Cli

LENET = "lenet-5/log-uniform"


@pytest.mark.parametrize("name", shipped.names())
def test_a_shipped_file_is_the_one_of_its_card_and_entry(name: str) -> None:
    card, content = shipped.card(name), shipped.path_of(name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == card["sha256"]
    assert len(content) == card["file_bytes"] == len(pc.load(name))
    assert card["file_rate"] == card["original_bytes"] / len(content)
    # a run of the entry as it stands has the settings that this file was made with
    settings = RunSettings(**card["settings"])
    assert settings.entry == name and cards.changed(settings) == {} == card["changed"]
    # the reader that knows FORMAT.md alone reads it too; it is slow, and small files have all that large ones have
    if len(content) < 4000:
        assert specified.decode(content).layers
    page = cards.markdown(card)
    assert f"{len(content):,} bytes" in page and card["sha256"] in page


@pytest.mark.parametrize("name", shipped.names())
def test_a_shipped_file_has_the_figures_of_its_card(name: str, request: pytest.FixtureRequest) -> None:
    card = shipped.card(name)
    of = card["settings"]["data"]
    if of == "fashion-mnist" and not DEBIAN_FASHION_MNIST.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    mnist = request.getfixturevalue("mnist_dir") if of == "mnist" else None
    found = pc.evaluate(name, load(of, mnist), likelihood=card["settings"]["likelihood"])
    unit = unit_of(card)
    # counts of errors: exact
    for key in (unit.key("error_after"), unit.key("error_standard_error")):
        assert found[key] == pytest.approx(card[key], rel=1e-12)
    assert found["nll_nats_per_example"] == pytest.approx(card["nll_nats_per_example"], rel=1e-4)
    assert (found["file_bytes"], found["architecture_left"]) == (card["file_bytes"], card["architecture_left"])


def test_by_name_from_python_in_every_runtime() -> None:
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    by_torch = pc.load(LENET).to_torch()(x).detach().numpy()
    np.testing.assert_allclose(numpy_runtime.load(LENET)(x.numpy()), by_torch, atol=1e-5)


@pytest.mark.usefixtures("user")
def test_every_command_that_takes_a_file_takes_a_name(cli: Cli, mnist_dir: Path) -> None:
    found = cli("evaluate", LENET, "--data-dir", mnist_dir, "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["error_after_percent"] == pytest.approx(shipped.card(LENET)["error_after_percent"])
    size = f"{shipped.card(LENET)['file_bytes']:,}"
    assert size in cli("inspect", LENET).out and size in cli("zoo").out
    assert cli("score", LENET).code == 0
    assert cli("export", LENET, "weights.safetensors", "--to", "safetensors").code == 0
    assert json.loads(cli("card", LENET, "--json").out) == shipped.card(LENET)
    assert cli("card", LENET).out == cards.markdown(shipped.card(LENET))


@pytest.mark.usefixtures("user")
def test_what_lies_on_the_disk_goes_before_what_is_shipped(cli: Cli) -> None:
    other = next(name for name in shipped.names() if name != LENET)
    Path(LENET).parent.mkdir()
    shutil.copy(shipped.path_of(other), LENET)
    assert len(pc.load(LENET)) == shipped.card(other)["file_bytes"]
    # of a file of the user's nothing is known
    assert "needs --data" in cli("evaluate", LENET).err


def test_unknown_names_are_refused_with_the_nearest(cli: Cli) -> None:
    for failed in (cli("inspect", "lenet-5/log-unifrom"), cli("card", "lenet-5/log-unifrom")):
        assert failed.code == 1
        assert "unknown shipped network 'lenet-5/log-unifrom'" in failed.err
        assert f"Did you mean '{LENET}'?" in failed.err
    with pytest.raises(ArtifactError, match=r"cannot read nowhere\.pyrc"):
        pc.load("nowhere.pyrc")


def test_a_finished_run_is_shipped_with_its_card(
    cli: Cli, digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(digits_run)
    with pytest.raises(RunError, match=r"is not what its entry .* says, in method_options, decision_options, pretrain"):
        cards.ship(run, tmp_path)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(cards, "changed", lambda settings: {})
        path = cards.ship(run, tmp_path)
        assert json.loads(path.with_suffix(".json").read_text()) == cards.card_of(run)
    assert path.relative_to(tmp_path).as_posix() == "digits-cnn/group-horseshoe.pyrc"
    assert path.read_bytes() == run.file.read_bytes()
    card, results = json.loads(path.with_suffix(".json").read_text()), json.loads(run.results.read_text())
    printed = json.loads(cli("card", digits_run, "--json").out)
    assert printed["changed"] == {key: printed["settings"][key] for key in printed["changed"]}
    assert printed | {"changed": {}} == card
    for key in ("error_before_percent", "error_after_percent", "file_bytes", "seed", "decision", "published"):
        assert card[key] == results[key]
    page = cli("card", digits_run).out
    assert f"its test error is {results['error_after_percent']:.2f} %" in page
    assert "`pyro-compress run digits-cnn/group-horseshoe --seed 3 --threads 1`, with other settings:" in page
    assert '`method_options`: `{"epochs": 3' in page


def test_a_licence_is_that_of_the_file_and_the_packages_own_is_of_what_comes_with_it(
    cli: Cli, digits_run: Path, tmp_path: Path
) -> None:
    assert "Licence: Apache-2.0, as the package. SHA-256 of the file:" in cli("card", LENET).out
    page = cli("card", digits_run).out
    assert "Licence" not in page and "\nSHA-256 of the file:" in page
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    assert cli("annotate", run, "licence=MIT").code == 0
    results = json.loads((run / "results.json").read_text())
    results["file_bytes"] = (run / "network.pyrc").stat().st_size
    (run / "results.json").write_text(json.dumps(results))
    assert "\nLicence: MIT. SHA-256 of the file:" in cli("card", run).out
    assert json.loads(cli("card", run, "--json").out)["licence"] == "MIT"


def test_a_run_that_is_not_what_its_results_say_has_no_card(digits_run: Path, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(digits_run, run.path)
    run.file.write_bytes(run.file.read_bytes() + b"\0")
    with pytest.raises(RunError, match=r"run `pyro-compress evaluate .*` again"):
        cards.card_of(run)
    run.results.unlink()
    with pytest.raises(RunError, match=r"has no results\.json"):
        cards.card_of(run)
    settings = json.loads((digits_run / "settings.json").read_text()) | {"entry": None}
    shutil.copy(digits_run / "network.pyrc", run.file)
    shutil.copy(digits_run / "results.json", run.results)
    run.settings.write_text(json.dumps(settings))
    with pytest.raises(RunError, match="is of no zoo entry"):
        cards.ship(run, tmp_path)


@pytest.mark.usefixtures("user")
def test_the_table_of_the_zoo_is_read_off_the_cards(cli: Cli) -> None:
    assert cli("table", "zoo", "--out", "pages").code == 0
    page = Path("pages/zoo.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "/" in line]
    assert len(rows) == len(shipped.names())
    card = shipped.card(LENET)
    assert (
        f"| {LENET} | {card['file_bytes']:,} | {card['file_rate']:,.0f}× | {card['error_after_percent']:.2f} ±" in page
    )
    assert {each["name"] for each in json.loads(Path("pages/zoo.json").read_text())} == set(shipped.names())
    assert len(Path("pages/zoo.csv").read_text().splitlines()) == 1 + len(shipped.names())
    held = zoo.points("lenet-5")
    ours = {point.label: point.file_bytes for point in held if point.ours}
    assert ours["log-uniform"] == card["file_bytes"]
    # Havasi et al. 2019, table 1
    assert [point[1:] for point in held if "MIRACLE" in point.label] == [
        (1520, 0.96, False),
        (3030, 0.69, False),
    ]


def kind_of(card: Mapping[str, Any]) -> list[Any]:
    settings = card["settings"]
    return [settings["network"], settings["data"], settings.get("augmentation_options") or {}]


def test_the_readme_opens_with_the_smallest_files() -> None:
    """Every file is beaten by one of these of its network or is one of them, and README has the table as it is."""
    best = zoo.smallest()
    for card in zoo.cards():
        same = [other for other in best if kind_of(other) == kind_of(card)]
        assert card in best or any(
            other["file_bytes"] <= card["file_bytes"] and other["error_after_percent"] <= card["error_after_percent"]
            for other in same
        )
    assert shipped.card(LENET) in best
    assert zoo.opening() in (Path(__file__).parents[2] / "README.md").read_text()


def test_what_a_teacher_or_changed_images_helped_is_compared_with_its_like_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tenth of the bytes beats a file made the same way, and no file that was made without a teacher."""
    plain = shipped.card("lenet-300-100/log-uniform")
    better = {"file_bytes": plain["file_bytes"] // 10, "error_after_percent": 0.5}
    taught = {**plain, **better, "name": "taught", "settings": {**plain["settings"], "teacher": "lenet-5/map"}}
    moved = {**plain["settings"], "augmentation_options": {"shift": 2}}
    changed = {**plain, **better, "name": "changed", "settings": moved}
    monkeypatch.setattr(zoo, "cards", lambda: [plain, taught, changed])
    assert zoo.smallest() == [plain, taught, changed]
    lines = zoo.opening().splitlines()
    assert any(line.startswith("| lenet-300-100 taught by lenet-5/map | `taught`") for line in lines)
    assert any(line.startswith("| lenet-300-100, training images changed by shift") for line in lines)
    monkeypatch.setattr(zoo, "cards", lambda: [plain, {**plain, **better, "name": "same"}])
    assert [card["name"] for card in zoo.smallest()] == ["same"]
