"""Classes by the names that zoo entries and the command line use."""

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from pyro_compress.config.keyword_options import build
from pyro_compress.errors import PyroCompressError, unknown_name

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """Dataclasses of one kind by name.

    Args:
        kind: what sentences call one of them, such as 'prior'.
        error: what is raised of a name or an option that is wrong.
        classes: by name.
    """

    def __init__(self, kind: str, error: type[PyroCompressError], classes: Mapping[str, type[T]]) -> None:
        self.kind, self.error, self.classes = kind, error, classes

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
        return self.classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.classes)

    def __len__(self) -> int:
        return len(self.classes)
