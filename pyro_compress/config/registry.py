"""Classes by the names that zoo entries and the command line use."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from pyro_compress.config.keyword_options import build
from pyro_compress.errors import PyroCompressError, unknown_name

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """Dataclasses of one kind by name.

    Args:
        kind: what sentences call one of them, such as 'prior'.
        error: what is raised of a name or an option that is wrong.
        group: of the entry points by which installed packages add theirs, such as 'pyro_compress.priors'.
        classes: by name.
    """

    def __init__(self, kind: str, error: type[PyroCompressError], group: str, classes: Mapping[str, type[T]]) -> None:
        self.kind, self.error, self.group, self.classes = kind, error, group, classes

    @cached_property
    def installed(self) -> Mapping[str, EntryPoint]:
        """What other packages add, by name.

        Raises:
            PyroCompressError: as `error`; a name is taken.
        """
        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            if point.name in self.classes or point.name in found:
                raise self.error(f"{point.value} wants to be {self.kind} '{point.name}', which there is already")
            found[point.name] = point
        return found

    def build(self, name: str, options: Mapping[str, Any] | None = None) -> T:
        """The object of that name with `options` as its fields.

        Raises:
            PyroCompressError: as `error`; an unknown name (lists the known ones), an unknown field, or a value of
                another type.
        """
        if name not in self:
            raise self.error(unknown_name(self.kind, name, self))
        return build(self[name], f"{self.kind} '{name}'", options or {}, self.error)

    def __getitem__(self, name: str) -> type[T]:
        if name in self.classes:
            return self.classes[name]
        point = self.installed[name]
        try:
            found: type[T] = point.load()
        except (ImportError, AttributeError) as error:
            raise self.error(f"{self.kind} '{name}' of an installed package cannot be loaded: {error}") from error
        return found

    def __iter__(self) -> Iterator[str]:
        return iter([*self.classes, *self.installed])

    def __len__(self) -> int:
        return len(self.classes) + len(self.installed)

    def __contains__(self, name: object) -> bool:
        return name in self.classes or name in self.installed
