"""Command line: `python -m bench COMMAND`, see `--help`. A command imports what it needs."""

import click

from bench.accuracy.commands import accuracy
from bench.distances.commands import edt_command, metrics_command
from bench.endurance import endurance
from bench.gpu.commands import gpu_command
from bench.kernels.commands import kernels_command
from bench.lazy.commands import head_command, resample_command
from bench.main_job import main_job
from bench.speed.commands import memory, report_command, speed
from bench.training.commands import train, volume


@click.group()
def cli():
    """Benchmarks of fastloss: training on real MRI, and speed and memory beside other libraries."""


SPEED = (memory, report_command, speed)
GPU = (gpu_command, kernels_command)
LAZY = (head_command, resample_command)
for command in (accuracy, edt_command, endurance, *GPU, *LAZY, main_job, metrics_command, *SPEED, train, volume):
    cli.add_command(command)


if __name__ == "__main__":
    cli(prog_name="python -m bench")
