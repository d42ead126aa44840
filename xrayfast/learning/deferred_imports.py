"""Deferred imports: modules that a library imports are loaded only once something in them is used."""

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
    """Within the block, let the import of these modules return stand-ins, unless they are already imported.

    A stand-in imports its module when any attribute is used. The named functions, which a library may import with
    `from ... import`, import it when they are called. After the block no stand-in is left in `sys.modules`, so that
    later imports return the real modules. A thread that uses a stand-in within the block gets the real module too.

    Args:
        modules: for each module name, parents before their submodules, the functions to replace, or methods of its
            classes, as in "Axes.imshow".
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
            for function in modules[name]:  # from now on `__getattr__` finds them in the real module
                delattr(stand_in, function.partition(".")[0])


class _StandIn(ModuleType):
    """A stand-in for a module, which imports the module when an attribute is used."""

    __file__ = None  # inspect reads it on all modules
    __path__: list[str] = []  # noqa: RUF012 - a submodule without a stand-in is not found, rather than loaded twice

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
    """Remove the stand-ins of the module's whole package, and import the real module."""
    package = name.split(".")[0]
    for found in [found for found in sys.modules if found.split(".")[0] == package]:
        _remove(found)
    return importlib.import_module(name)


def _remove(name: str) -> None:
    if isinstance(sys.modules.get(name), _StandIn):
        del sys.modules[name]
