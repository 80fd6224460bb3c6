"""Model cards: what a run says of its file, as data and as a page (Mitchell et al. 2019)."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_compress import shipped
from pyro_compress.errors import RunError
from pyro_compress.files import write_atomically
from pyro_compress.models import zoo
from pyro_compress.pipeline.run_directory import RunDirectory, results_in
from pyro_compress.posterior.error_unit import unit_of
from pyro_compress.report.table import WARNINGS

# loads torch, which printing the card of a shipped network does not need
if TYPE_CHECKING:
    from pyro_compress.pipeline.settings import RunSettings

LIBRARIES = ("pyro-compress", "torch", "pyro-ppl")
# of results.json, what a reader of a card asks for
KEPT = (
    *("file_bytes", "file_rate", "original_bytes", "weights_left_percent", "architecture_left", "bits_per_layer"),
    *("nll_nats_per_example", "calibration_error", "brier_score", "two_part_code_bits", "mcnemar_p_value"),
    *(*WARNINGS, "kl_weight", "seed", "threads", "processor_seconds_per_step", "error_unit", "survival"),
    *("generative", "data_description", "decision", "published", "teacher"),
)


def card_of(run: RunDirectory) -> dict[str, Any]:
    """What is known of the file of a finished run: settings, figures, data, costs, versions, and the file's SHA-256.

    Raises:
        RunError: the run has no results yet, or its file is not the one that they are of.
    """
    for needed in (run.settings, run.file, run.results):
        if not needed.exists():
            raise RunError(f"{run.path} has no {needed.name}: run `pyro-compress run --resume {run.path}` to its end")
    results, content = results_in(run.results), run.file.read_bytes()
    if len(content) != results["file_bytes"]:
        raise RunError(
            f"{run.file} has {len(content):,} bytes and {run.results.name} is of {results['file_bytes']:,}: run "
            f"`pyro-compress evaluate {run.path}` again"
        )
    from pyro_compress.pipeline.settings import RunSettings

    unit = unit_of(results)
    errors = {unit.key(name) for name in ("error_before", "error_after", "error_standard_error")}
    settings = RunSettings.load(run.settings)
    said = run.artifact().metadata
    return {
        "name": settings.entry or f"{settings.network}/{settings.prior}",
        "sha256": hashlib.sha256(content).hexdigest(),
        **({"licence": said["licence"]} if "licence" in said else {}),
        **{key: value for key, value in results.items() if key in errors or key in KEPT},
        "settings": settings.as_plain(),
        "changed": changed(settings),
        "chosen_on": zoo.entry(settings.entry).chosen_on if settings.entry else None,
        "made_with": {name: version(name) for name in LIBRARIES}
        | {"python": platform.python_version(), "machine": platform.machine()},
    }


def changed(settings: "RunSettings") -> dict[str, Any]:
    """What a run has otherwise than its zoo entry, but for seed and threads; all of it where it has no entry."""
    found = settings.as_plain()
    if settings.entry is None:
        return found
    from pyro_compress.pipeline.settings import settings_from_entry

    own = settings_from_entry(settings.entry, seed=settings.seed, threads=settings.threads).as_plain()
    return {name: value for name, value in found.items() if value != own[name]}


def ship(run: RunDirectory, folder: Path = shipped.FOLDER) -> Path:
    """Copy the file of a finished run and its card into a folder, by the name of its entry; returns the file.

    Raises:
        RunError: as of `card_of`; the run is of no zoo entry, or other than its entry, so that its name would not say
            how to make it again.
    """
    found = card_of(run)
    if found["settings"]["entry"] is None:
        raise RunError(f"{run.path} is of no zoo entry, so that nobody could run it again by name")
    if found["changed"]:
        differing = ", ".join(found["changed"])
        raise RunError(f"{run.path} is not what its entry {found['name']} says, in {differing}: ship a run as it says")
    target = folder / f"{found['name']}{shipped.FILE}"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, run.file.read_bytes())
    write_atomically(target.with_suffix(shipped.CARD), json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return target


def card_named(given: str | Path) -> dict[str, Any]:
    """The card of a run directory, or of a shipped network.

    Raises:
        ArtifactError, RunError: it is neither; as of `card_of`.
    """
    if Path(given).is_dir():
        return card_of(RunDirectory(Path(given)))
    return shipped.card(str(given))


def markdown(card: Mapping[str, Any]) -> str:
    """The card as a page."""
    unit, data, known = unit_of(card), card["data_description"], card["settings"]["data"]
    error = unit.shown(card[unit.key("error_after")])
    spread = unit.shown(card[unit.key("error_standard_error")])
    lines = [
        f"# {card['name']}",
        "",
        f"{card['file_bytes']:,} bytes, {card['file_rate']:,.0f} times smaller than {card['original_bytes']:,} bytes "
        f"of float32. Decoded, its test {unit.noun} is {error} ± {spread} (standard error over "
        f"{data['test_examples']:,} examples); before compression it was {unit.shown(card[unit.key('error_before')])}.",
        "",
        *_listed("What it is", _what(card)),
        *_listed("How it was chosen", _chosen(card)),
        *_listed("How it was made", _made(card)),
        "## Limits",
        "",
        f"One network of one seed. It knows {known} alone: inputs are {_shape(data['input_shape'])}, scaled as "
        f"`pc.data.load('{known}')` gives them; others are not noticed. The file holds a point of the posterior "
        "and not the posterior: for what it does not know see docs/uncertainty.md.",
        "",
        f"{_licence(card)}SHA-256 of the file:",
        f"`{card['sha256']}`.",
    ]
    return "\n".join(lines) + "\n"


def _licence(card: Mapping[str, Any]) -> str:
    """What the file says of it, or the package's own of what comes with that; nothing else is its own."""
    if "licence" in card:
        return f"Licence: {card['licence']}. "
    comes_along = card["name"] in shipped.names() and shipped.card(card["name"])["sha256"] == card["sha256"]
    return "Licence: Apache-2.0, as the package. " if comes_along else ""


def _listed(title: str, facts: Iterable[tuple[str, str]]) -> list[str]:
    return [f"## {title}", "", *(f"- {name}: {value}" for name, value in facts), ""]


def _what(card: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    settings, data = card["settings"], card["data_description"]
    yield (
        "network",
        f"{settings['network']}, of which {card['architecture_left']} and "
        f"{card['weights_left_percent']:.2f} % of the weights are left",
    )
    yield "bits per weight", "-".join(str(bits) for bits in card["bits_per_layer"].values())
    yield "prior and inference", f"{settings['prior']}, {settings['method']}, KL weight {card['kl_weight']:g}"
    if card.get("teacher"):
        taught = card["teacher"]
        at = "" if taught["temperature"] is None else f" at temperature {taught['temperature']:g}"
        yield "teacher", f"{taught['name']}, which counts {taught['weight']:g}{at}"
    yield (
        "data",
        f"{data['name']}, {data['train_examples']:,} examples to fit, {data['validation_examples']:,} to choose by",
    )
    yield "−ln p(y | x)", f"{card['nll_nats_per_example']:.4f} nats per test example"
    if card.get("calibration_error") is not None:
        yield "calibration error, Brier score", f"{card['calibration_error']:.4f}, {card['brier_score']:.4f}"
    if card.get("two_part_code_bits") is not None:
        yield "file and training labels", f"{card['two_part_code_bits']:,.0f} bits as a two-part code"
    for row in card["published"]:
        size = f", {row['file_bytes']:,} bytes" if row.get("file_bytes") else ""
        yield f"published, {row['method']}", f"{row['error_percent']:g} %{size} ({row['source']})"


def _chosen(card: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    decision = card["decision"]
    if card.get("chosen_on"):
        yield "settings", card["chosen_on"]
    if "rate_weight" in decision:
        yield "last stage of fine-tuning", f"γ = {decision['rate_weight']:g}, {decision['fine_tune_epochs']} epochs"
    validation = decision.get("validation", {})
    if "newly_wrong" in validation:
        yield (
            "validation",
            (
                f"{validation['newly_wrong']} of {validation['examples']:,} newly wrong and "
                f"{validation['newly_right']} newly right against the {decision['reference']}"
            ),
        )
    for key in WARNINGS:
        if card.get(key):
            yield "warning", card[key]
    yield "test examples", "the run looks at them once, after its last choice"


def _made(card: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    minutes = sum(card["processor_seconds_per_step"].values()) / 60
    entry, seed = card["settings"]["entry"], f"--seed {card['seed']} --threads {card['threads']}"
    if entry is not None:
        yield "command", f"`pyro-compress run {entry} {seed}`" + (", with other settings:" if card["changed"] else "")
    for name, value in card["changed"].items():
        yield f"  `{name}`", f"`{json.dumps(value)}`"
    yield "processor time", f"{minutes:.1f} minutes, {card['threads']} thread{'s' if card['threads'] > 1 else ''}"
    yield "with", ", ".join(f"{name} {value}" for name, value in card["made_with"].items())


def _shape(shape: Iterable[int]) -> str:
    return " × ".join(str(size) for size in shape)
