"""The tables of a result, for the terminal and as Markdown for the README and the documentation."""

from rich.table import Table

from bench.output import plain_table

COLUMNS = {  # in this order; the rest of a row is in the JSON
    "kernel": None, "loss": None, "case": None, "form": None, "mask": None, "who": None, "shape": None, "size": 0,
    "spacing": None, "dtype": None, "target": None, "registers": 0, "spilled": 0, "error": 1e-9, "value_error": 1e-9,
    "gradient_error": 1e-9, "us": 1, "host_us": 1, "bandwidth_us": 1, "over": 2, "copy_tb_s": 2,
    "peak_over_logits": 2, "peak_over_output": 2, "same_bits": None, "waits": None, "on": None, "ok": None,
    "failed": None, "skipped": None,
}  # fmt: skip


def cell(row: dict, column: str) -> str:
    value, digits = row.get(column), COLUMNS[column]
    if value is None:
        return ""
    if isinstance(value, list):
        return "x".join(f"{number:g}" for number in value)
    if isinstance(value, bool) or digits is None:
        return {True: "yes", False: "no"}.get(value, str(value).splitlines()[0][:60] if value != "" else "")
    return f"{value:.1e}" if digits < 1 and digits > 0 else f"{value:.{digits}f}"


def columns_of(stage: dict) -> list[str]:
    return [column for column in COLUMNS if any(row.get(column) is not None for row in stage["rows"])]


def title(stage: dict) -> str:
    cut = ", cut off" if stage["cut"] else ""
    return f"{stage['name']} ({stage['seconds']:.0f} s{cut})" + (f": {stage['error']}" if stage["error"] else "")


def tables(result: dict) -> list[Table]:
    """One for each stage."""
    found = []
    for stage in result["stages"]:
        columns = columns_of(stage)
        table = plain_table(title(stage), columns, [c for c in columns if COLUMNS[c] is None])
        for row in stage["rows"]:
            table.add_row(*(cell(row, column).replace("[", r"\[") for column in columns))
        found.append(table)
    return found


def markdown(result: dict) -> str:
    """The same, with a heading for each stage and a line on where it ran."""
    about = result["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [f"{about['gpu'] or about['cpu']}, {packages}, commit {(about['commit'] or 'unknown')[:12]}"]
    for stage in result["stages"]:
        columns = columns_of(stage)
        lines += ["", f"## {title(stage)}", ""]
        if columns:
            lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
            lines += ["| " + " | ".join(cell(row, column) for column in columns) + " |" for row in stage["rows"]]
    return "\n".join(lines) + "\n"
