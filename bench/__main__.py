"""Command line: `python -m bench COMMAND`, see `--help`. A command imports what it needs."""

import click

from bench.accuracy.commands import accuracy
from bench.distances.commands import edt_command, metrics_command
from bench.endurance import endurance
from bench.gpu.commands import gpu_command
from bench.kernels.commands import kernels_command
from bench.lazy.commands import head_command, resample_command
from bench.main_job import main_job
from bench.report.commands import report_command, results_command
from bench.speed.commands import memory, scaling, speed
from bench.training.commands import train, volume


@click.group()
def cli():
    """Benchmarks of fastloss: training on real MRI, and speed and memory beside other libraries."""


for command in (
    *(accuracy, edt_command, endurance, gpu_command, head_command, kernels_command, main_job, memory, metrics_command),
    *(report_command, resample_command, results_command, scaling, speed, train, volume),
):
    cli.add_command(command)


if __name__ == "__main__":
    cli(prog_name="python -m bench")
