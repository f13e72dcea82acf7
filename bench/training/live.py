"""What a training shows while it runs: bars with rates, and a table that grows."""

from rich import live
from rich.console import Group

from bench.output import console, number, plain_table, progress
from bench.training import parallel
from bench.training.scores import means


class Live:
    """Bars over runs and steps below the table of finished runs; nothing but in the first process."""

    def __init__(self, plan, runs: int):
        self.plan, self.runs, self.lines = plan, runs, []
        self.bars = progress()
        self.view = live.Live(console=console, get_renderable=self.render, transient=True, refresh_per_second=4)
        self.on = parallel.is_first() and runs > 0

    def __enter__(self) -> "Live":
        if self.on:
            self.all = self.bars.add_task("runs", total=self.runs, status="")
            self.current = self.bars.add_task("", total=None, status="")
            self.view.start()
        return self

    def __exit__(self, *_) -> None:
        if self.on:
            self.view.stop()

    def render(self) -> Group:
        """The last runs, and the bars."""
        table = plain_table("finished runs (test set)", ("loss", "seed", "Dice", "HD95 mm", "epochs", "s"), ("loss",))
        for line in self.lines[-20:]:
            table.add_row(*line)
        return Group(*([table] if self.lines else []), self.bars)

    def begin(self, loss: str, seed: int, run) -> None:
        """A run starts, or goes on."""
        if self.on:
            total = run.settings.epochs * run.batches_per_epoch
            done = run.at.epoch * run.batches_per_epoch + run.at.step
            self.bars.reset(self.current, total=total, completed=done, description=f"{loss} seed {seed}")
            if done:
                console.print(f"{loss} seed {seed}: goes on at epoch {run.at.epoch + 1}, step {run.at.step + 1}")

    def advance(self, at) -> None:
        """A step is done."""
        if self.on:
            self.bars.update(self.current, advance=1, status=str(at))

    def finished(self, result: dict) -> None:
        """A run is scored."""
        values = means([row for row in result["scores"] if row["class"] != result["classes"][0]])
        dice, hd95 = number(values["dice"], 3), number(values["hd95_mm"], 1)
        seconds = number(result["seconds"], 1)
        self.lines.append((result["loss"], str(result["seed"]), dice, hd95, str(result["epochs"]), seconds))
        self.bars.update(self.all, advance=1)
        if not console.is_terminal:  # a log has no live table
            console.print(f"{result['loss']} seed {result['seed']}: test Dice {dice}, HD95 {hd95} mm, {seconds} s")
