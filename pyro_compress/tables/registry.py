"""Tables by the names that the command line uses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyro_compress.errors import RunError, unknown_name
from pyro_compress.tables.definitions import bayes_by_backprop, networks, vnq
from pyro_compress.tables.spec import Table
from pyro_compress.tables.zoo import NAME as ZOO


@dataclass(frozen=True)
class Named:
    """What one name stands for.

    Attributes:
        title: of the page.
        tables: made when it is asked for, since most look into the zoo.
    """

    title: str
    tables: Callable[[], tuple[Table, ...]]


LENETS = {"lenet-5": "LeNet-5", "lenet-300-100": "LeNet-300-100"}
TABLES: Mapping[str, Named] = {
    "bbb-mnist": Named("Bayes by Backprop on MNIST", lambda: (bayes_by_backprop.MNIST,)),
    "bbb-fashion-mnist": Named("Bayes by Backprop on Fashion-MNIST", lambda: (bayes_by_backprop.FASHION,)),
    "lenet-300-100": Named("LeNet-300-100", lambda: (networks.by_method("lenet-300-100", "LeNet-300-100 on MNIST"),)),
    "lenet-5": Named("LeNet-5", lambda: (networks.by_method("lenet-5", "LeNet-5 on MNIST"),)),
    "vnq-mnist": Named("Variational network quantization", lambda: (vnq.TABLE,)),
    "architectures": Named(
        "Learned architectures and bits",
        lambda: tuple(networks.left(network, f"{title} on MNIST") for network, title in LENETS.items()),
    ),
    "fashion": Named(
        "All methods on Fashion-MNIST",
        lambda: tuple(networks.on_fashion(network, f"{title} on Fashion-MNIST") for network, title in LENETS.items()),
    ),
    "compare": Named(
        "Every method by bytes of the decoded file",
        lambda: tuple(networks.ranked(network, f"{title} on MNIST") for network, title in LENETS.items()),
    ),
}


def tables_named(name: str) -> Named:
    """What a name stands for.

    Raises:
        RunError: there is no such table; lists the known ones and the nearest.
    """
    if name not in TABLES:
        raise RunError(unknown_name("table", name, [*TABLES, ZOO]))
    return TABLES[name]
