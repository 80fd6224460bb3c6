"""From the command line's options to a run's settings and directory."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pyro_compress.errors import RunError, unknown_name
from pyro_compress.models import networks
from pyro_compress.pipeline.settings import NO_TEACHER, RunSettings, settings_from_entry

SECTIONS = {
    section: f"{section}_options"
    for section in ("prior", "method", "likelihood", "augmentation", "pretraining", "decision")
}
# what a registered network is tried on where no data are named, by its input shape
USUAL_DATA: Mapping[tuple[int, ...], str] = {
    (1, 8, 8): "digits",
    (1, 28, 28): "mnist",
    (3, 32, 32): "cifar10",
    (7,): "rossi",
    (26,): "diamonds",
    (3, 96): "electricity",
    (1, 24, 24): "digit-scenes",
    (64,): "python-topics",
}
# options of the command line that are settings of the method
METHOD_OPTIONS = ("epochs", "kl_weight", "chains", "draws")
# files of a run that cost time, the last step's first
PRODUCTS = (
    "results.json",
    "posterior.safetensors",
    "checkpoint.pt",
    "rewritten.safetensors",
    "initial.safetensors",
)


def choose_settings(
    entry: str | None,
    resume: Path | None,
    out_dir: Path | None,
    *,
    options: Iterable[str] | None = None,
    **given: Any,
) -> tuple[RunSettings, Path]:
    """Settings from a zoo entry or from --network and --prior, or those of a run that is resumed.

    Args:
        entry: zoo entry.
        resume: run directory to go on with.
        out_dir: run directory to make.
        options: what --set was given.
        given: the other options by their names; None, or an empty list, where one was not given.

    Raises:
        RunError: options that contradict each other or leave something open, a directory that is taken, or an
            unknown name.
    """
    given = {name: value for name, value in given.items() if value not in (None, [])}
    if resume is not None:
        others = {"ENTRY": entry, "--out": out_dir, "--set": options or None}
        changed = [name for name, value in others.items() if value is not None]
        changed += ["--" + name.replace("_", "-") for name in given]
        if changed:
            raise RunError(f"--resume keeps the settings of {resume}: leave out {', '.join(changed)}")
        return RunSettings.load(resume / "settings.json"), resume
    settings = settings_for(entry, options or [], **given)
    directory = out_dir or Path("runs") / f"{_label(settings)}-seed{settings.seed}"
    _refuse_taken(directory)
    return settings, directory


def settings_for(entry: str | None, options: Iterable[str], **given: Any) -> RunSettings:
    """Settings of a new run; arguments and errors as of `choose_settings`."""
    given = {name: value for name, value in given.items() if value is not None}
    return _new_settings(entry, parse_options(options), given)


def _new_settings(entry: str | None, sections: dict[str, dict[str, Any]], given: dict[str, Any]) -> RunSettings:
    method = sections["method_options"]
    for name in METHOD_OPTIONS:
        if name in given and name in method:
            _say_twice(name, f"method.{name}")
    method |= {name: given.pop(name) for name in METHOD_OPTIONS if name in given}
    if isinstance(method.get("proposal"), str):
        method["proposal"] = str(Path(method["proposal"]).resolve())
    if "kind" in given:
        if "kind" in sections["decision_options"]:
            _say_twice("kind", "decision.kind")
        sections["decision_options"]["kind"] = given.pop("kind")
    if "inference" in given:
        given["method"] = given.pop("inference")
    if "rewrite" in given:
        given["rewrites"] = tuple(parse_rewrite(word) for word in given.pop("rewrite"))
    if "weights" in given:
        given["weights"] = str(Path(given["weights"]).resolve())
        given.setdefault("pretrain_epochs", 0)  # they are trained already
    if "teacher" in given:
        given["teacher"] = _at_home(given["teacher"])
    if entry is not None:
        if "network" in given or "prior" in given:
            raise RunError(f"'{entry}' names its network and prior: leave out --network and --prior, or the entry")
        return settings_from_entry(entry, **sections, **given)
    if given.get("teacher") == NO_TEACHER:
        del given["teacher"]
    for needed in ("network", "prior"):
        if needed not in given:
            raise RunError(f"give a zoo entry (see `pyro-compress zoo`) or --network and --prior; found no {needed}")
    if "data" not in given:
        known = networks.NETWORKS.get(given["network"])
        if known is None and ":" in given["network"]:
            raise RunError("a network of your own needs --data: the name of a data set, or module:factory")
        # an unknown name is refused by the settings themselves
        given["data"] = "" if known is None else USUAL_DATA[known.input_shape]
    return RunSettings(**{**given, **sections})


def _at_home(teacher: str) -> str:
    """A teacher's files by their whole path; names as they are."""
    if Path(teacher).exists():
        return str(Path(teacher).resolve())
    module, plus, weights = teacher.partition("+")
    return f"{module}+{Path(weights).resolve()}" if plus else teacher


def _refuse_taken(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise RunError(f"{directory} is a file: --out names the folder that a run makes")
    found = next((name for name in PRODUCTS if (directory / name).exists()), None)
    if found == "results.json":
        raise RunError(f"{directory} holds a finished run: give another --out, or remove it")
    if found is not None:
        raise RunError(
            f"{directory} holds an unfinished run ({found}): go on with `pyro-compress run --resume {directory}`, "
            "give another --out, or remove it"
        )


def parse_options(options: Iterable[str]) -> dict[str, Any]:
    """'section.key=value' strings as one mapping per section; values are Python literals or plain words.

    Raises:
        RunError: another form, or an unknown section.
    """
    found: dict[str, Any] = {section: {} for section in SECTIONS.values()}
    for option in options:
        key, equals, text = option.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot and name):
            raise RunError(f"--set takes section.name=value, for example decision.fine_tune_epochs=4; found '{option}'")
        if section not in SECTIONS:
            raise RunError(unknown_name("section of --set", section, SECTIONS))
        if name in found[SECTIONS[section]]:
            raise RunError(f"--set {key} is given twice: give one of them")
        found[SECTIONS[section]][name] = literal(text)
    return found


def parse_decision_options(options: Iterable[str]) -> dict[str, Any]:
    """'decision.key=value' strings as one mapping.

    Raises:
        RunError: another form, or another section: what has been fitted stands.
    """
    found = parse_options(options)
    others = [section for section, name in SECTIONS.items() if section != "decision" and found[name]]
    if others:
        raise RunError(
            f"--set {others[0]}.…: the run has been fitted, and decides again by decision.NAME alone; "
            "start another run to change the rest"
        )
    return dict(found["decision_options"])


def parse_rewrite(word: str) -> dict[str, Any]:
    """'name' or 'name:key=value, key=value' as a run's settings hold a rewrite; values as in `parse_options`.

    Raises:
        RunError: another form.
    """
    name, colon, text = word.partition(":")
    try:
        call = ast.parse(f"dict({text})", mode="eval").body
        assert isinstance(call, ast.Call) and not call.args
        options = {str(keyword.arg): literal(ast.unparse(keyword.value)) for keyword in call.keywords}
    except (SyntaxError, AssertionError):
        options = {}
    if not name or (colon and not options) or "None" in options or "name" in options:
        raise RunError(f"--rewrite takes name:key=value, for example low-rank:energy=0.9; found '{word}'")
    return {"name": name, **options}


def _say_twice(option: str, setting: str) -> NoReturn:
    raise RunError(f"--{option.replace('_', '-')} and --set {setting} say the same: give one of them")


def literal(text: str) -> Any:
    """A word of the command line as the Python literal that it is, lists for tuples, else as it stands."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text
    return list(value) if isinstance(value, tuple) else value


def _label(settings: RunSettings) -> str:
    label = settings.entry or f"{settings.network}/{settings.prior}"
    return label.replace("/", "-").replace(":", "-")
