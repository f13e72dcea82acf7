"""All kinds by name, with their modules."""

import importlib
import pkgutil

import fuzz

MODULES = sorted(
    f"fuzz.{module.name}"
    for module in pkgutil.iter_modules(fuzz.__path__)
    if module.name in ("losses", "products", "distances", "maps", "metrics", "arguments", "headers")
)
KINDS = {kind.name: (module, kind) for module in MODULES for kind in importlib.import_module(module).KINDS}
