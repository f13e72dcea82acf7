"""Mutants that no test kills, and why: (file, function or class, old lines, new lines) to a reason."""

EXPLAINED: dict[tuple[str, str, str, str], str] = {}
