"""Every Triton kernel: its code, traffic and instructions, and the time that follows; with a GPU, the time it takes."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.table import Table

from bench.machine import ROOT, installed_version, machine
from bench.output import machine_line, number, plain_table

BANDWIDTH = 3.0  # TB/s of a copy, measured on an H100
ISSUED = 132 * 4 * 1.7e9  # warp instructions a second of an H100: multiprocessors, schedulers, clock
MOST_OVER_BANDWIDTH = {  # of the time that the bytes take, for these kernels
    f"{direction} softmax {channels} {dtype} {union}": max(most, 1.2) if channels == 4 else most
    for direction in ("forward", "backward")
    for channels in (4, 8, 16, 32, 118)
    for dtype in ("bfloat16", "float32")
    for union, most in (("dice and cross-entropy", 1.1), ("focal", 1.3))
}


@dataclass(frozen=True)
class Job:
    """A worker: a process that prints a line of JSON for each variant."""

    title: str
    module: str
    arguments: tuple[str, ...] = ()
    interpreted: bool = False

    def rows(self) -> Iterator[dict]:
        """The rows as they come; RuntimeError with the worker's own words where it fails."""
        environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
        if self.interpreted:
            environment["TRITON_INTERPRET"] = "1"
        command = [sys.executable, "-W", "ignore", "-m", self.module, *self.arguments]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as worker:
            for line in worker.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
            said = worker.stderr.read()
        if worker.returncode:
            raise RuntimeError(f"{self.title}: {' '.join(command[3:])} failed\n{said[-2000:]}")


def jobs(targets: list[str], everything: bool, shape: tuple[int, ...], tools, gpu: bool) -> dict[str, Job]:
    """What is to be run, by what it finds."""
    flags = ("--all",) if everything else ()
    volume = ("--shape", ",".join(map(str, shape)))
    found = {f"code {target}": Job(target, "bench.kernels.code", (target, *flags)) for target in targets}
    found["epilogue"] = Job("epilogue", "bench.kernels.epilogue")
    found["traffic"] = Job("traffic", "bench.kernels.traffic", (*flags, *volume), interpreted=True)
    if tools:
        found["instructions"] = Job("instructions", "bench.kernels.instructions", (str(tools), *flags, *volume))
        found["distances"] = Job("distances", "bench.kernels.distances", (str(tools), *volume))
        if installed_version("exacta"):
            found["exacta"] = Job("exacta", "bench.kernels.exacta", (str(tools), *volume))
            found["exacta's distances"] = Job("exacta", "bench.kernels.exacta", (str(tools), "--distances", *volume))
    if gpu:
        found["timing"] = Job("timing", "bench.kernels.timing", (*flags, *volume))
    return found


def measure(work: dict[str, Job], shape, bandwidth: float, advance: Callable[[str, str], None]) -> dict:
    """The code's facts by target, and traffic and times of each kernel; ``advance`` is told job and kernel."""
    code, kernels, around = [], {}, []
    for what, job in work.items():
        for row in job.rows():
            advance(job.title, row["name"])
            if what.startswith("code"):
                code.append(row)
            elif what == "epilogue":
                around.append(row)
            else:
                kernels.setdefault(row["name"], {}).update(row)
    times = [predict(row, math.prod(shape), bandwidth) for row in kernels.values()]
    about = {"shape": list(shape), "bandwidth_tb_s": bandwidth, "machine": machine()}
    return about | {"device": "cuda" if "timing" in work else "cpu", "code": code, "kernels": times, "epilogue": around}


def predict(row: dict, voxels: int, bandwidth: float) -> dict:
    """The row with the times that bandwidth and issued instructions allow, and what is wrong with them."""
    row = {"instructions": None, "measured_us": None} | row
    row["bandwidth_us"] = row["moved"] * voxels / bandwidth / 1e6
    issued = row["instructions"]
    row["issue_us"] = issued and issued * voxels / 32 / ISSUED * 1e6
    row["predicted_us"] = max(row["bandwidth_us"], row["issue_us"] or 0.0)
    row["over_bandwidth"] = row["predicted_us"] / row["bandwidth_us"] if issued else None
    row["achieved"] = row["measured_us"] and row["predicted_us"] / row["measured_us"]
    if issued and row["over_bandwidth"] > MOST_OVER_BANDWIDTH.get(row["name"], math.inf):
        row["faults"] = [*row["faults"], f"bound by instructions: {row['over_bandwidth']:.2f} of the bandwidth's time"]
    return row


def faults(result: dict) -> list[str]:
    """What is wrong, kernel by kernel."""
    rows = [*result["code"], *result["kernels"]]
    return [
        f"{row.get('target', 'traffic')}, {row['name']}: {'; '.join(row['faults'])}" for row in rows if row["faults"]
    ]


def widths(row: dict, kind: str) -> str:
    """Loads (LDG) or stores (STG) as `4x128 1x64` bits."""
    found = {name.removeprefix(kind + "."): count for name, count in row["widths"].items() if name.startswith(kind)}
    return " ".join(f"{found[bits]}x{bits}" for bits in sorted(found, key=lambda bits: -int(bits.lstrip("US"))))


def code_table(result: dict) -> Table:
    """What the compilers made of every kernel."""
    columns = ("kernel", "target", "registers", "spilled", "shared", "occupancy", "loads", "stores")
    table = plain_table("Compiled code: spills and shared memory in bytes", columns, ("kernel", "target"))
    for row in sorted(result["code"], key=lambda row: row["name"]):
        spilled = f"[red]{row['spilled']}[/]" if "spills" in row["faults"] else str(row["spilled"])
        table.add_row(
            row["name"],
            row["target"],
            str(row["registers"]),
            spilled,
            str(row["shared"]),
            f"{row['occupancy']:.0%}",
            widths(row, "LDG"),
            widths(row, "STG"),
        )
    return table


def epilogue_table(result: dict) -> Table:
    """What a loss does on a GPU besides its two fused kernels."""
    title = "Around the fused kernels of [2, 4, 32, 32, 32]: small kernels, their bytes, µs of the process (on a CPU)"
    table = plain_table(title, ("loss", "small kernels", "bytes", "host", "which"), ("loss", "which"))
    for row in result["epilogue"]:
        which = ", ".join(dict.fromkeys(row["which"]))
        table.add_row(row["name"], str(row["kernels"]), str(row["bytes"]), number(row["host_us"], 0), which)
    return table


def time_table(result: dict) -> Table:
    """Bytes and instructions of every kernel, and the times that follow."""
    volume = "x".join(map(str, result["shape"]))
    title = (
        f"Bytes and instructions a voxel, and µs for a batch of {volume} at {result['bandwidth_tb_s']:g} TB/s "
        "and an H100's issue rate\n"
        "x least: of the inputs read, and the gradient written, once; over: predicted / bandwidth"
    )
    columns = ("kernel", "bytes", "x least", "partial", "instr.", "bandwidth", "issue", "predicted", "over")
    table = plain_table(title, (*columns, "measured", "achieved"), ("kernel",))
    for row in result["kernels"]:
        table.add_row(
            row["name"],
            number(row["moved"]),
            number(row["moved"] / row["compulsory"], 3),
            f"{row['partial']:.2%}",
            number(row["instructions"], 0),
            *(number(row[f"{what}_us"], 1) for what in ("bandwidth", "issue", "predicted")),
            number(row["over_bandwidth"]),
            number(row["measured_us"], 1),
            number(row["achieved"]),
        )
    table.caption = machine_line(result)
    return table
