"""Which module may import which: data flows one way, and the decoder stands alone."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pyro_compress"
PLAIN = {"errors", "extras", "files", "network", "posterior", "config", "data"}
GROUND = PLAIN | {"models"}
# The floors of `inference`, each of which stands on those before it, and the folders of methods, which may not import
# each other.
CONTRACT = GROUND | {"inference.loop", "inference.contract"}
FITS = {"inference.gradient", "inference.log_joint", "inference.results", "inference.guides", "inference.defaults"}
METHODS = {
    "inference.variational",
    "inference.point",
    "inference.stochastic_gradient",
    "inference.mcmc",
    "inference.independent",
}
BELOW_FIT = {
    *(
        "inference.abilities",
        "inference.contract",
        "inference.checkpoints",
        "inference.registry",
        "inference.loop",
        "inference.speed",
    ),
    *("inference.chains", "inference.finetuning", *FITS, *METHODS),
}
INFERENCE = BELOW_FIT | {"inference", "inference.fit"}
ANALYSIS = {"analysis", "analysis.decisions", "analysis.modes", "analysis.diagnosis"}
ARTIFACT = {"artifact", "artifact.format", "artifact.runtimes", "artifact.writing"}
BELOW_PIPELINE = GROUND | {"shipped"} | INFERENCE | ANALYSIS | ARTIFACT | {"report"}

# Unit -> the units it may import.  A unit is a module or a folder; a module belongs to the longest that names it.
# Every unit may import itself and `_lazy`.
ALLOWED: dict[str, set[str]] = {
    "": set(),
    "_lazy": {"extras"},
    "errors": set(),
    "extras": {"errors"},
    "files": set(),
    "shipped": {"errors"},
    "network": {"errors"},
    "posterior": {"errors", "files", "network"},
    "config": {"errors"},
    "data": {"errors", "extras", "config"},
    "models": {"errors", "network", "posterior", "config", "data"},
    "inference.speed": {"errors", "models"},
    "inference.loop": GROUND,
    "inference.contract": GROUND | {"inference.loop"},
    "inference.gradient": CONTRACT,
    "inference.log_joint": CONTRACT | {"inference.speed"},
    "inference.results": CONTRACT | {"inference.gradient"},
    "inference.guides": CONTRACT | {"inference.gradient", "inference.results"},
    "inference.defaults": CONTRACT | {"inference.log_joint", "inference.results", "inference.guides"},
    "inference.chains": CONTRACT | {"inference.log_joint", "inference.results"},
    **{method: CONTRACT | FITS | {"inference.speed", "inference.chains"} for method in METHODS},
    "inference.finetuning": CONTRACT | {"inference.gradient"},
    "inference.abilities": CONTRACT,
    "inference.checkpoints": CONTRACT,
    "inference.registry": CONTRACT | METHODS,
    "inference.fit": BELOW_FIT | GROUND,
    "inference": BELOW_FIT | {"inference.fit"},
    "analysis.decisions": {"errors", "files", "network", "posterior"},
    "analysis.modes": {"errors", "network", "posterior"},
    "analysis.diagnosis": {"errors", "posterior"},
    "analysis": {"network", *ANALYSIS} - {"analysis"},
    "artifact.format": {"errors", "network"},
    "artifact.runtimes": {"errors", "shipped", "network", "artifact.format"},
    "artifact.writing": {
        "errors",
        "shipped",
        "files",
        "network",
        "posterior",
        "analysis.decisions",
        "artifact.format",
        "artifact.runtimes",
    },
    "artifact": set(),
    "report": PLAIN | ANALYSIS | ARTIFACT,
    "pipeline": BELOW_PIPELINE | {""},
    "tables": BELOW_PIPELINE | {"pipeline"},
    "cli": BELOW_PIPELINE | {"", "pipeline", "tables"},
    "__main__": {"cli"},
}
# Single imports beside the table, each where it is used: `posterior.to_arviz()` is what ArviZ's users expect to find.
DOORS = {("posterior.posterior", "analysis.diagnosis.arviz_export")}
LINKS = {"models", "inference", "analysis"}


def unit_of(module: str) -> str:
    """The unit of a dotted module name without the package's own: `models.zoo.lenet` is in `models`."""
    while module and module not in ALLOWED:
        module = module.rpartition(".")[0]
    return module


def module_name(path: Path) -> str:
    """`pyro_compress/models/zoo/__init__.py` is `models.zoo`."""
    return ".".join(part for part in path.relative_to(PACKAGE).with_suffix("").parts if part != "__init__")


def breaches(source: str, importer: str) -> list[str]:
    """Each import in `source`, the text of module `importer`, that the rule forbids."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                found.append(f"{importer}:{node.lineno} imports relatively")
                continue
            targets = [imported_module(node.module or "", alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            continue
        for target in targets:
            top, _, rest = target.partition(".")
            if top in LINKS:
                found.append(f"{importer}:{node.lineno} imports through the link '{top}'")
            elif top == "pyro_compress" and not may_import(importer, rest):
                found.append(f"{importer}:{node.lineno} imports {rest or 'the package itself'}")
    return found


def imported_module(base: str, name: str) -> str:
    """The module that `from base import name` reads: `base.name` if that is one, else `base`."""
    parts = [*base.split("."), name]
    path = PACKAGE.parent.joinpath(*parts)
    is_module = parts[0] == "pyro_compress" and (path.is_dir() or path.with_suffix(".py").is_file())
    return ".".join(parts) if is_module else base


def may_import(importer: str, imported: str) -> bool:
    """Whether the rule lets module `importer` import module `imported`; `""` is the package itself."""
    if not importer:
        return True  # the public names: the test of `import pyro_compress` below shows that they are lazy
    if (importer, imported) in DOORS:
        return True
    unit = unit_of(importer)
    return unit_of(imported) in ALLOWED[unit] | {unit, "_lazy"}


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_the_import_rule(module: str) -> None:
    assert not module or unit_of(module), (
        f"{module} is new at the top of the package: say in ALLOWED what it may import"
    )
    assert breaches(MODULES[module].read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("models.networks", "from pyro_compress.inference.variational.svi import SVI"),
        ("analysis.decisions.decision", "from pyro_compress.models import bayesian"),
        ("analysis.decisions.decision", "def f():\n    import pyro_compress.artifact.format.decode"),
        ("artifact.format.decode", "from pyro_compress.artifact.writing.encode import encode"),
        ("artifact.format.header", "import pyro_compress.artifact.writing.artifact"),
        ("artifact.format.decode", "from pyro_compress.analysis.decisions.decision import Decision"),
        ("errors", "from pyro_compress.network import stored"),
        ("errors", "import pyro_compress"),
        ("posterior.draws", "from pyro_compress.analysis.diagnosis.arviz_export import to_arviz"),
        ("pipeline", "from pyro_compress.cli.app import main"),
        ("data", "from pyro_compress.models.networks import lenet_5"),
        ("report.table", "from pyro_compress.models import zoo"),
        ("inference.variational.svi", "from . import guides"),
        ("inference.mcmc.nuts", "from pyro_compress.inference.variational.svi import SVI"),
        ("inference.speed.compiling", "from pyro_compress.inference.contract import Method"),
        ("cli", "from models import networks"),
    ],
)
def test_a_breach_is_found(importer: str, source: str) -> None:
    assert len(breaches(source, importer)) == 1


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("inference.variational.svi", "from pyro_compress.models.bayesian import BayesianNetwork"),
        ("artifact.writing.encode", "from pyro_compress.artifact.format import decode"),
        ("artifact.writing.encode", "from pyro_compress.analysis.decisions.decision import Decision"),
        ("cli", "from pyro_compress import __version__, pipeline"),
        ("models", "from pyro_compress._lazy import lazy_names"),
    ],
)
def test_what_the_rule_allows_passes(importer: str, source: str) -> None:
    assert breaches(source, importer) == []


@pytest.mark.parametrize(("importer", "imported"), sorted(DOORS))
def test_a_door_is_opened_within_a_function_only(importer: str, imported: str) -> None:
    tree = ast.parse(MODULES[importer].read_text(encoding="utf-8"))
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    at_the_top = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert names.count(f"pyro_compress.{imported}") == 1 and f"pyro_compress.{imported}" not in at_the_top


def test_no_unit_stands_on_itself() -> None:
    list(TopologicalSorter(ALLOWED).static_order())


def loaded_by(statement: str) -> set[str]:
    """Packages outside the standard library that a new interpreter loads for `statement`."""
    code = (
        "import sys\nbefore = set(sys.modules)\n"
        f"{statement}\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split()) - sys.stdlib_module_names


def test_importing_the_package_loads_nothing_else() -> None:
    assert loaded_by("import pyro_compress") == {"pyro_compress"}


def test_importing_the_decoder_loads_numpy_and_the_entropy_coder_only() -> None:
    assert loaded_by("import pyro_compress.artifact.format.decode") == {"pyro_compress", "numpy", "constriction"}
