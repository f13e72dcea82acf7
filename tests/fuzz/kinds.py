"""All kinds by name, with their modules."""

import importlib

MODULES = [f"fuzz.{name}" for name in ("arguments", "distances", "headers", "losses", "maps", "metrics", "products")]
KINDS = {kind.name: (module, kind) for module in MODULES for kind in importlib.import_module(module).KINDS}
