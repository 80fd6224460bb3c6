"""Named data sets, their files on disk and the user's own examples."""

from typing import TYPE_CHECKING

from pyro_compress._lazy import lazy_names

if TYPE_CHECKING:
    from pyro_compress.data.dataset import DataSet
    from pyro_compress.data.examples import as_data
    from pyro_compress.data.named import from_factory, load
    from pyro_compress.data.splits import batches, stratified_split

_NAMES = {
    "DataSet": "pyro_compress.data.dataset",
    "as_data": "pyro_compress.data.examples",
    "batches": "pyro_compress.data.splits",
    "from_factory": "pyro_compress.data.named",
    "load": "pyro_compress.data.named",
    "stratified_split": "pyro_compress.data.splits",
}
__all__ = ["DataSet", "as_data", "batches", "from_factory", "load", "stratified_split"]
__getattr__, __dir__ = lazy_names(__name__, _NAMES)
