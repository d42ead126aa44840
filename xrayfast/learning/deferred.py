"""Modules of libraries that are imported when something of theirs is used, not where the library imports them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from types import ModuleType, SimpleNamespace
from typing import Any


@contextmanager
def deferring(modules: Mapping[str, Collection[str]]) -> Iterator[None]:
    """Within the block the import of these modules gives stand-ins, unless they are imported already.

    A stand-in imports its module when anything of it is used; the named functions, which a library may import by name,
    do so when they are called. After the block no stand-in is left in `sys.modules`: whoever imports these modules then
    gets them, as does a thread that uses a stand-in within the block.

    Args:
        modules: names of modules, parents before the modules in them; and of each some of its functions, or methods of
            its classes, as in "Axes.imshow".
    """
    stand_ins = {name: _StandIn(name, functions) for name, functions in modules.items() if name not in sys.modules}
    for name, stand_in in stand_ins.items():
        parent, _, child = name.rpartition(".")
        if parent in stand_ins:
            setattr(stand_ins[parent], child, stand_in)
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            _remove(name)
            for function in modules[name]:  # from now on they are looked up in the module itself
                delattr(stand_in, function.partition(".")[0])


class _StandIn(ModuleType):
    """A module that is imported when an attribute is used."""

    __file__ = None  # inspect asks for that of all modules
    __path__: list[str] = []  # noqa: RUF012 - a module in it that has no stand-in is not found, rather than loaded twice

    def __init__(self, name: str, functions: Collection[str]) -> None:
        super().__init__(name)
        for function in functions:
            owner, _, method = function.rpartition(".")
            call = _deferred(name, function)
            setattr(self, owner or function, SimpleNamespace(**{method: call}) if owner else call)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(_import(self.__name__), attribute)


def _deferred(module: str, name: str) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        return attrgetter(name)(_import(module))(*args, **options)

    call.__name__ = call.__qualname__ = name
    call.__module__ = module
    return call


def _import(name: str) -> ModuleType:
    """The module itself, of whose package no stand-in is left."""
    package = name.split(".")[0]
    for found in [found for found in sys.modules if found.split(".")[0] == package]:
        _remove(found)
    return importlib.import_module(name)


def _remove(name: str) -> None:
    if isinstance(sys.modules.get(name), _StandIn):
        del sys.modules[name]
