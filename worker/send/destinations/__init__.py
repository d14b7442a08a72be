"""The kinds of destination, a module each: a new kind is a new module here, and nothing else."""

from __future__ import annotations

import inspect
from importlib import import_module
from pkgutil import iter_modules
from typing import cast

from worker.config.settings import Settings
from worker.send.destinations.base import Destination
from worker.send.destinations.c_store import CStoreDestination


def kinds() -> tuple[type[Destination], ...]:
    """Every kind that a module of this package defines; C-STORE first: it is what a table is that none other claims."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    defined = [
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Destination) and kind.__module__ == module.__name__
    ]
    others = [kind for kind in defined if not inspect.isabstract(kind) and kind is not CStoreDestination]
    return (CStoreDestination, *others)


def destinations_of(settings: Settings) -> tuple[Destination, ...]:
    """The [[destination]] entries of the configuration, which was read with `kinds`."""
    return cast("tuple[Destination, ...]", settings.destination)
