"""Which module may import which: data flows one way, and the decoder stands alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pyro_compress"
PLAIN = {"errors", "architecture", "stored"}
LEAVES = PLAIN | {"liveness", "draws", "posterior", "factories", "options"}
DATA = {"data", "data_files", "data_sources", "untouched"}
BELOW_PIPELINE = LEAVES | DATA | {"models", "inference", "analysis", "artifact", "artifact.encode", "report"}

# Unit -> the units it may import.  A unit is a module or folder at the top of the package.  Within `artifact`
# what writes files is a unit of its own, which the rest, what reads them, can't import.  Every unit may import
# itself and `_lazy`.
ALLOWED: dict[str, set[str]] = {
    "": set(),
    "_lazy": set(),
    "errors": set(),
    "architecture": {"errors"},
    "stored": {"errors", "architecture"},
    "liveness": PLAIN,
    "draws": {"errors"},
    "posterior": PLAIN | {"draws"},
    "factories": {"errors"},
    "options": {"errors"},
    "data_files": {"errors"},
    "data_sources": {"errors"},
    "untouched": {"errors"},
    "data": DATA | {"errors", "factories", "options"},
    "models": LEAVES | DATA,
    "inference": LEAVES | DATA | {"models"},
    "analysis": LEAVES,
    "artifact": PLAIN,
    "artifact.encode": LEAVES | {"analysis", "artifact"},
    "report": LEAVES | DATA | {"analysis", "artifact", "artifact.encode"},
    "pipeline": BELOW_PIPELINE | {""},
    "cli_options": set(),
    "cli_printing": {"errors"},
    "cli_fitting": BELOW_PIPELINE | {"", "pipeline", "cli_options", "cli_printing"},
    "cli": BELOW_PIPELINE | {"", "pipeline", "cli_options", "cli_printing", "cli_fitting"},
    "__main__": {"cli"},
}
WRITES_FILES = ("artifact.encode", "artifact.artifact", "artifact.rate_distortion")
LINKS = {"models", "inference", "analysis"}


def unit_of(module: str) -> str:
    """The unit of a dotted module name without the package's own: `models.zoo.lenet` is in `models`."""
    if module.startswith(tuple(f"{name}." for name in WRITES_FILES)) or module in WRITES_FILES:
        return "artifact.encode"
    return module.partition(".")[0]


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
    unit = unit_of(importer)
    return unit_of(imported) in ALLOWED[unit] | {unit, "_lazy"}


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_the_import_rule(module: str) -> None:
    assert unit_of(module) in ALLOWED, f"{module} is new at the top of the package: say in ALLOWED what it may import"
    assert breaches(MODULES[module].read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("models.networks", "from pyro_compress.inference.svi import SVI"),
        ("analysis.decision", "from pyro_compress.models import bayesian"),
        ("analysis.decision", "def f():\n    import pyro_compress.artifact.decode"),
        ("artifact.decode", "from pyro_compress.artifact.encode import encode"),
        ("artifact.header", "import pyro_compress.artifact.artifact"),
        ("artifact.decode", "from pyro_compress.analysis.decision import Decision"),
        ("errors", "from pyro_compress import stored"),
        ("errors", "import pyro_compress"),
        ("pipeline", "from pyro_compress.cli import main"),
        ("data", "from pyro_compress.models.networks import lenet_5"),
        ("report.table", "from pyro_compress.models import zoo"),
        ("inference.svi", "from . import guides"),
        ("cli", "from models import networks"),
    ],
)
def test_a_breach_is_found(importer: str, source: str) -> None:
    assert len(breaches(source, importer)) == 1


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("inference.svi", "from pyro_compress.models.bayesian import BayesianNetwork"),
        ("artifact.encode", "from pyro_compress.artifact import decode"),
        ("artifact.encode", "from pyro_compress.analysis.decision import Decision"),
        ("cli", "from pyro_compress import __version__, pipeline"),
        ("models", "from pyro_compress._lazy import lazy_names"),
    ],
)
def test_what_the_rule_allows_passes(importer: str, source: str) -> None:
    assert breaches(source, importer) == []


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
    assert loaded_by("import pyro_compress.artifact.decode") == {"pyro_compress", "numpy", "constriction"}
