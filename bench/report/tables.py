"""Markdown of the measurements; numbers come from the JSON alone."""

import re
import statistics
from collections.abc import Callable, Iterable
from functools import partial

from bench.accuracy.measure import best_peer
from bench.output import machine_line, number
from bench.report.measurements import MEASUREMENTS
from bench.training.results import plus_minus

Results = dict[str, list[dict] | dict]
HEADLINE = ("dice_ce", "cross_entropy", "dice", "focal", "lovasz", "cldice", "hausdorff_dt")


def markdown(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table, its first column to the left."""
    heads = list(heads)
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def source(name: str, result: list[dict] | dict) -> str:
    """The command and the machine of a measurement, for under its table."""
    first = result if isinstance(result, dict) else result[0]
    return f"\n\n`{MEASUREMENTS[name].command}`: {machine_line(first)}."


def times(factor: float | None) -> str:
    """How many times as long a peer takes; three digits."""
    return "–" if factor is None else f"**{factor:.3g}**" if factor < 100 else f"**{factor:.0f}**"


def speed(results: Results) -> str:
    """Every loss beside every peer."""
    rows = []
    for row in results["speed"]:
        ours = [f"`{row['class']}`", number(row["total_ms"], 1), number(row["total_over_copy"], 1)]
        if row["refused"]:
            rows.append([f"`{row['class']}`", *["–"] * 7, "not timed: " + row["refused"]])
        for peer in row["peers"]:
            peaks = (row["peak_over_logits"], peer["peak_over_logits"], peer["compiled_peak_over_logits"])
            compiled, eager = number(peer["compiled_ms"], 1), number(peer["eager_ms"], 1)
            memory = ", ".join(number(peak) for peak in peaks)
            rows.append([*ours, peer["name"], peer["given"], eager, compiled, times(peer["speedup"]), memory])
        if not row["peers"] and not row["refused"]:
            rows.append([*ours, "none", *["–"] * 4, number(row["peak_over_logits"])])
    heads = ("loss", "ms", "copies of the logits", "peer", "given", "eager ms", "compiled ms")
    table = markdown((*heads, "× faster than the better", "peak memory: fastloss, eager, compiled"), rows)
    return f"{table}\n\n{speed_mean(results)}{source('speed', results['speed'])}"


def speed_mean(results: Results) -> str:
    """The geometric mean, with and without exacta, and the rows where fastloss is slower or not far ahead."""
    peers = [(row["class"], peer) for row in results["speed"] for peer in row["peers"]]
    factors = [peer["speedup"] for _, peer in peers]
    well_known = [peer["speedup"] for _, peer in peers if peer["package"] != "exacta"]
    text = f"The geometric mean of the {len(factors)} rows is {statistics.geometric_mean(factors):.1f}"
    if len(well_known) < len(factors):
        text += f", of those without exacta {statistics.geometric_mean(well_known):.1f}"
    slower, near = (
        [
            f"`{name}` than {peer['name']} ({peer['speedup']:.2f})"
            for name, peer in peers
            if least <= peer["speedup"] < most
        ]
        for least, most in ((0, 1), (1, 2))
    )
    text += f". Slower: {', '.join(slower) or 'none'}."
    return text + (f" Less than twice as fast: {', '.join(near)}." if near else "")


def headline(results: Results) -> str:
    """Some losses beside the fastest of their peers."""
    rows = []
    for row in results["speed"]:
        if row["loss"] in HEADLINE and row["peers"]:
            peer = min(row["peers"], key=lambda peer: peer["speedup"])
            peaks = (row["peak_over_logits"], peer["peak_over_logits"], peer["compiled_peak_over_logits"])
            best = min(ms for ms in (peer["eager_ms"], peer["compiled_ms"]) if ms is not None)
            memory = ", ".join(number(peak) for peak in peaks)
            cells = [f"`{row['class']}`", number(row["total_ms"], 1), peer["name"], number(best, 1)]
            rows.append([*cells, times(peer["speedup"]), memory])
    heads = ("loss", "ms", "fastest peer", "its ms", "× faster", "peak memory: fastloss, peer eager, compiled")
    return f"{markdown(heads, rows)}\n\n{speed_mean(results)}{source('speed', results['speed'])}"


def classes(results: Results) -> str:
    """How many times faster with many classes."""
    names = ("classes-16", "classes-118")
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        for row in results[name]:
            for peer in row["peers"]:
                cell = f"{number(row['total_ms'], 1)} ms, {times(peer['speedup'])}"
                found.setdefault((row["class"], peer["name"]), {})[name] = cell
    rows = [[f"`{loss}`", peer, *(cells.get(name, "–") for name in names)] for (loss, peer), cells in found.items()]
    heads = [f"{results[name][0]['shape'][1]} classes, {results[name][0]['shape'][2]}³" for name in names]
    other = f"\n\n`{MEASUREMENTS[names[1]].command}`: the same."
    return markdown(("loss", "peer", *heads), rows) + source(names[0], results[names[0]]) + other


def untuned(results: Results) -> str:
    """Where the C library decides itself which memory it keeps."""
    rows = [
        [f"`{row['class']}`", number(row["total_ms"], 1), peer["name"], times(peer["speedup"])]
        for row in results["untuned"]
        for peer in row["peers"]
    ]
    return markdown(("loss", "ms", "peer", "× faster"), rows) + source("untuned", results["untuned"])


def memory(results: Results) -> str:
    """Largest cubes within a budget."""
    rows = [
        [f"`{row['loss']}`", "fastloss" if name == "ours" else name, number(row["peak_over_logits"][name]), f"{edge}³"]
        for row in results["memory"]
        for name, edge in row["largest_edge"].items()
    ]
    return markdown(("loss", "library", "peak in times of the logits", "cube"), rows) + source(
        "memory", results["memory"]
    )


def edt(results: Results) -> str:
    """Unsigned and signed transforms beside their peers at their best."""
    parts = []
    for kind in dict.fromkeys(row["kind"] for row in results["edt"]):
        own = [row for row in results["edt"] if row["kind"] == kind and not row["refused"]]
        peers = list(dict.fromkeys(peer for row in own for peer in row["faster"]))
        cases: dict[tuple[str, int], list[dict]] = {}
        for row in own:
            cases.setdefault((row["mask"], row["shape"][0]), []).append(row)
        rows = []
        for (mask, size), both in cases.items():
            cells = [mask, f"{size}³", "\u00a0/\u00a0".join(number(row["median_ms"]["fastloss"], 1) for row in both)]
            cells += ["\u00a0/\u00a0".join(number(row["faster"].get(peer), 1) for row in both) for peer in peers]
            rows.append(cells)
        heads = ("mask", "size", "ms", *(f"× faster than {peer}" for peer in peers))
        lines = [edt_summary(own, kind, peer) for peer in peers]
        parts.append(f"`{kind}`, voxels 1:1:1 / 3:1:1\n\n{markdown(heads, rows)}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + source("edt", results["edt"])


def edt_headline(results: Results) -> str:
    """The fastest peer of each kind, without the table."""
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in results["edt"]):
        own = [row for row in results["edt"] if row["kind"] == kind and not row["refused"]]
        peers = dict.fromkeys(peer for row in own for peer in row["faster"])
        lines.append(edt_summary(own, kind, min(peers, key=lambda peer, own=own: edt_mean(own, peer))))
    return "\n".join(lines) + source("edt", results["edt"])


def edt_mean(rows: list[dict], peer: str) -> float:
    """How many times faster than a peer, the geometric mean of the rows that have it."""
    return statistics.geometric_mean(row["faster"][peer] for row in rows if peer in row["faster"])


def edt_summary(rows: list[dict], kind: str, peer: str) -> str:
    """The mean and the least factor, and what the peer was given."""
    ways = list(dict.fromkeys(row["ways"][peer] for row in rows if peer in row["ways"]))
    least = min((row for row in rows if peer in row["faster"]), key=lambda row: row["faster"][peer])
    place = f"{least['mask']}, {least['shape'][0]}³, {':'.join(f'{mm:g}' for mm in least['spacing_mm'])}"
    text = f"{kind}, than {peer}: {edt_mean(rows, peer):.1f} times faster (geometric mean), "
    text += f"at least {least['faster'][peer]:.1f} ({place})"
    return f"* {text}; {peer} is fastest given {' or '.join(ways)}"


def metrics(results: Results) -> str:
    """Scores beside MONAI's."""
    rows = [
        [", ".join(row["differences"]), "×".join(map(str, row["shape"])), number(row["fastloss_ms"], 1),
         number(row["monai_ms"], 1), row["monai_given"], times(row["faster"])]
        for row in results["metrics"]
        if not row["refused"]
    ]  # fmt: skip
    heads = ("scores", "volume", "ms", "MONAI ms", "given masks of", "× faster")
    return markdown(heads, rows) + source("metrics", results["metrics"])


def error_cells(row: dict) -> list[str]:
    """The errors of value and gradient, each beside the best peer's."""
    cells = []
    for what in ("value", "gradient"):
        best = best_peer(row["errors"], what)
        cells.append(error(row["errors"]["ours"][what]))
        cells.append(f"{error(row['errors'][best][what])} ({best})" if best else "–")
    return cells


def error(value: float) -> str:
    """With a minus, at which no line breaks."""
    return f"{value:.1e}".replace("-", "−")


ERRORS = ("value", "best peer's", "gradient", "best peer's")


def accuracy(results: Results) -> str:
    """Errors in float32 at the smallest size, the largest of them, and the plot of all."""
    least = min(row["shape"][2] for row in results["accuracy"])
    shown = [row for row in results["accuracy"] if row["dtype"] == "float32" and row["shape"][2] == least]
    largest = []
    for what in ("value", "gradient"):
        worst = max(shown, key=lambda row, what=what: row["errors"]["ours"][what])
        largest.append(f"{what} {error(worst['errors']['ours'][what])} (`{worst['class']}`)")
    table = markdown(("loss", *ERRORS), [[f"`{row['class']}`", *error_cells(row)] for row in shown])
    shape = "×".join(map(str, shown[0]["shape"]))
    text = f"float32, {shape}; the largest errors of fastloss: {', '.join(largest)}."
    plot = "![Errors of value and gradient of every loss and its peers, by dtype](figures/accuracy.svg)"
    return f"{table}\n\n{text}{source('accuracy', results['accuracy'])}\n\n{plot}"


def accuracy_by_size(name: str, results: Results) -> str:
    """Errors of every dtype and size that a measurement has."""
    rows = [
        [f"`{row['class']}`", row["dtype"], "×".join(map(str, row["shape"])), *error_cells(row)]
        for row in results[name]
    ]
    return markdown(("loss", "dtype", "logits", *ERRORS), rows) + source(name, results[name])


def train(results: Results) -> str:
    """The survey's losses after as many steps each."""
    first = results["train"][0]
    rows = [
        [f"`{row['loss']}`", plus_minus(row["foreground"]["dice"]), plus_minus(row["per_class"]["WM"]["dice"]),
         number(row["foreground"]["sensitivity"]["mean"], 3), number(row["foreground"]["specificity"]["mean"], 3),
         number(row["loss_ms"]), number(100 * row["loss_share"], 1, " %"),
         number(row["survey"] and row["survey"]["dice"], 3)]
        for row in results["train"]
    ]  # fmt: skip
    heads = ("loss", "Dice", "of white matter", "sensitivity", "specificity", "loss ms", "of a step", "survey's Dice")
    seeds = f"{first['steps']} steps ({first['epochs']} epochs) of each loss, {len(first['seeds'])} seed(s)."
    return f"{markdown(heads, rows)}\n\n{seeds}{source('train', results['train'])}"


def timed(found: dict) -> bool:
    """Whether kernels ran on a GPU."""
    return any(row["measured_us"] for row in found["kernels"])


def predicted(found: dict) -> str:
    """What the figures of kernels are, and their source."""
    volume = "×".join(map(str, found["shape"]))
    text = f"Batch and volume {volume}, predicted at {found['bandwidth_tb_s']:g} TB/s and an H100's issue rate"
    return f"\n\n{text}{'.' if timed(found) else '; not timed on a GPU.'}{source('kernels', found)}"


def kernels(results: Results) -> str:
    """What the kernels of losses on sums move and issue, and the time that is predicted from it; forward, backward."""
    pairs: dict[tuple[str, str], list[dict]] = {}
    for row in results["kernels"]["kernels"]:
        if name := re.fullmatch(r"(forward|backward) softmax (\d+) bfloat16 ([a-z',\- ]+)", row["name"]):
            pairs.setdefault((name[2], name[3]), []).append(row)
    measured = timed(results["kernels"])
    rows = []
    for head, pair in pairs.items():
        texts = [
            [f"{number(row['moved'])} ({number(row['moved'] / row['compulsory'], 3)})" for row in pair],
            [number(row["instructions"], 0) for row in pair],
            [number(row["over_bandwidth"]) for row in pair],
            [number(row["predicted_us"], 1) for row in pair],
            *([[number(row["measured_us"], 1) for row in pair]] if measured else []),
        ]
        rows.append([*head, *map(", ".join, texts)])
    heads = ["classes", "terms", "bytes a voxel (of least)", "instructions a voxel", "time over the bytes'"]
    heads += ["predicted µs"] + ["measured µs"] * measured
    return markdown(heads, rows) + predicted(results["kernels"])


def kernels_distances(results: Results) -> str:
    """What the passes of the distance transforms issue for masks of several kinds, and the time that is predicted."""
    transforms: dict[tuple[str, str], list[dict]] = {}
    for row in results["kernels"]["kernels"]:
        if name := re.fullmatch(r"distance (mask|sides) whole uint8 (\w+) (\w+)", row["name"]):
            transforms.setdefault(({"mask": "`edt`", "sides": "`signed_edt`"}[name[1]], name[2]), []).append(row)
    rows = [
        [*head, ", ".join(number(row["instructions"], 0) for row in passes),
         number(sum(row["bandwidth_us"] for row in passes), 1), number(sum(row["predicted_us"] for row in passes), 1)]
        for head, passes in transforms.items()
    ]  # fmt: skip
    heads = ("transform", "mask", "instructions a voxel, by axis", "bandwidth µs", "predicted µs")
    return markdown(heads, rows) + predicted(results["kernels"])


# the blocks of the documents, `<!-- NAME -->` to `<!-- /NAME -->`, and the measurements that each is made of
BLOCKS: dict[str, tuple[Callable[[Results], str], tuple[str, ...]]] = {
    "speed": (speed, ("speed",)),
    "headline": (headline, ("speed",)),
    "classes": (classes, ("classes-16", "classes-118")),
    "untuned": (untuned, ("untuned",)),
    "memory": (memory, ("memory",)),
    "edt": (edt, ("edt",)),
    "edt-headline": (edt_headline, ("edt",)),
    "metrics": (metrics, ("metrics",)),
    "accuracy": (accuracy, ("accuracy",)),
    **{
        f"accuracy-{kind}": (partial(accuracy_by_size, f"accuracy-{kind}"), (f"accuracy-{kind}",))
        for kind in ("draws", "large", "lovasz")
    },
    "train": (train, ("train",)),
    "kernels": (kernels, ("kernels",)),
    "kernels-distances": (kernels_distances, ("kernels",)),
}
