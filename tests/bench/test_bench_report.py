"""Tables of the documents from JSON: blocks filled, left and checked; every table of measurements made here."""

import json
import re

import pytest

pytest.importorskip("click", reason="the benchmarks need click")
pytest.importorskip("matplotlib", reason="the plots need matplotlib")
pytest.importorskip("monai", reason="the benchmarks need monai")
pytest.importorskip("nibabel", reason="the benchmarks need nibabel")
pytest.importorskip("rich", reason="the benchmarks need rich")
pytest.importorskip("scipy", reason="the benchmarks need scipy")

from click.testing import CliRunner

from bench.__main__ import cli
from bench.machine import ROOT
from bench.report.documents import BLOCK, UnknownBlock, documents, filled
from bench.report.measurements import MEASUREMENTS
from bench.report.tables import BLOCKS

# the measurements, small; of the others the tables are tried on rows made up here
SMALL = {
    "speed": "speed --losses dice_ce,poly --shape 1,3,8,8,8 --repeats 2 --no-compile --no-memory",
    "classes-16": "speed --losses cross_entropy --shape 1,16,6,6,6 --repeats 2 --no-compile --no-memory",
    "classes-118": "speed --losses cross_entropy --shape 1,118,4,4,4 --repeats 2 --no-compile --no-memory",
    "edt": "edt --size 12 --masks ball --repeats 2",
    "metrics": "metrics --shape 1,3,24,24 --repeats 1",
    "accuracy": "accuracy --losses dice --edges 8 --dtypes float32 --out PLOTS",
    "accuracy-large": "accuracy --losses dice --edges 10 --classes 2 --dtypes bfloat16 --out PLOTS",
}


def invoke(*arguments):
    """Exit code and output of a command."""
    done = CliRunner().invoke(cli, [*map(str, arguments)])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of small measurements."""
    folder = tmp_path_factory.mktemp("results")
    for name, arguments in SMALL.items():
        arguments = arguments.replace("PLOTS", str(folder / "plots"))
        code, output = invoke(*arguments.split(), "--json", folder / f"{name}.json")
        assert code == 0, output
    return folder


def report(root, results, *more):
    """The command on a folder of documents."""
    return invoke("report", "--root", root, "--results", results, "--figures", root / "figures", *more)


def test_blocks_are_filled_from_the_json_and_nothing_else_changes(tmp_path, results):
    names = ["speed", "headline", "classes", "edt", "edt-headline", "metrics", "accuracy", "accuracy-large"]
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    files = {tmp_path / "README.md": names[:2], tmp_path / "docs" / "deep" / "page.md": names[2:]}
    for file, own in files.items():
        file.write_text("before\n" + "".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\nbetween\n" for name in own))
    assert report(tmp_path, results, "--check")[0] == 1
    code, output = report(tmp_path, results)
    assert code == 0, output
    rows = json.loads((results / "speed.json").read_text())
    readme, page = (file.read_text() for file in files)
    assert "old" not in readme + page and readme.startswith("before\n") and readme.count("\nbetween\n") == 2
    assert f"| `DiceCELoss` | {rows[0]['total_ms']:.1f} |" in readme and "| `PolyLoss` |" in readme
    assert rows[0]["machine"]["cpu"] in readme and rows[0]["machine"]["commit"][:12] in page
    edt = json.loads((results / "edt.json").read_text())
    assert f"edt is fastest given {edt[0]['ways']['edt']}" in page
    least = min((row for row in edt if row["kind"] == "unsigned"), key=lambda row: row["faster"]["edt"])
    spacing = ":".join(f"{mm:g}" for mm in least["spacing_mm"])
    assert f"at least {least['faster']['edt']:.1f} (ball, 12³, {spacing})" in page
    for table in re.findall(r"(?:^\|.*\n)+", readme + page, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    assert "| `DiceLoss` | bfloat16 | 1×2×10×10×10 |" in page
    assert (tmp_path / "figures" / "accuracy.svg").is_file() and "](figures/accuracy.svg)" in page
    assert report(tmp_path, results, "--check") == (0, "")
    (tmp_path / "README.md").write_text(readme.replace("| `PolyLoss` |", "| `PolyLoss` | 0.1 |"))
    code, output = report(tmp_path, results, "--check")
    assert code == 1 and "README.md" in output and "page.md" not in output


def test_a_block_without_its_measurement_stays(tmp_path):
    (tmp_path / "README.md").write_text("<!-- edt -->\nkept\n<!-- /edt -->\n")
    code, output = report(tmp_path, tmp_path / "none")
    assert code == 0 and "README.md: left as it is: edt: no edt.json" in output
    assert "kept" in (tmp_path / "README.md").read_text()


def test_an_unknown_block_is_named():
    with pytest.raises(UnknownBlock, match=r"page.md: block 'sped', expected one of speed, headline"):
        filled("<!-- sped -->\n<!-- /sped -->", {}, "page.md")


def test_rows_where_a_peer_is_faster_are_named(results):
    rows = json.loads((results / "speed.json").read_text())
    peer, *others = rows[0]["peers"]
    for other in others:
        other["speedup"] = 2.5
    for speedup, told in ((0.5, "Slower: "), (1.5, "Slower: none. Less than twice as fast: ")):
        peer["speedup"] = speedup
        text, missing = filled("<!-- speed -->\n<!-- /speed -->", {"speed": rows})
        assert not missing and f"{told}`DiceCELoss` than {peer['name']} ({speedup:.2f})" in text
        assert ("Less than twice" in text) == (speedup > 1)


def test_tables_of_memory_training_and_kernels(results):
    about = {key: json.loads((results / "speed.json").read_text())[0][key] for key in ("machine", "device")}
    spread = {"mean": 0.9, "std": 0.01, "n": 2, "left_out": 0}
    foreground = dict.fromkeys(("dice", "sensitivity", "specificity"), spread)
    found = {
        "memory": [about | {"loss": "dice", "peak_over_logits": {"ours": 1.0}, "largest_edge": {"ours": 200}}],
        "train": [
            about
            | {"loss": "dice", "foreground": foreground, "per_class": {"WM": {"dice": spread}}, "seeds": [0, 1]}
            | {"loss_ms": 1.5, "loss_share": 0.012, "survey": {"dice": 0.97}, "steps": 220, "epochs": 10}
        ],
        "kernels": about
        | {"shape": [2, 128, 128, 128], "bandwidth_tb_s": 3.0}
        | {
            "kernels": [
                {"name": name, "moved": 9.06, "compulsory": 9.0, "instructions": 89, "bandwidth_us": 12.7}
                | {"predicted_us": 13.0, "over_bandwidth": 1.02, "measured_us": None}
                for name in (
                    *("forward softmax 16 bfloat16 focal", "backward softmax 16 bfloat16 focal"),
                    *("forward softmax 4 float32 focal", "forward softmax 4 bfloat16 focal weight 1"),
                    *(f"distance sides whole uint8 ball {axis}" for axis in ("scan", "rows", "planes")),
                )
            ]
        },
    }
    blocks = {name: filled(f"<!-- {name} -->\n<!-- /{name} -->", found)[0] for name in found}
    assert "| `dice` | fastloss | 1.00 | 200³ |" in blocks["memory"]
    alone = found["train"][0] | {"survey": None, "per_class": {"WM": {"dice": spread | {"std": None}}}}  # of one seed
    line = "| `dice` | 0.900 ± 0.010 | 0.900 | 0.900 | 0.900 | 1.50 | 1.2 % | - |"
    assert line in filled("<!-- train -->\n<!-- /train -->", {"train": [alone]})[0]
    assert "0.900 ± 0.010" in blocks["train"] and "220 steps (10 epochs) of each loss, 2 seed" in blocks["train"]
    both = "| 16 | focal | 9.06 (1.007), 9.06 (1.007) | 89, 89 | 1.02, 1.02 | 13.0, 13.0 |"
    assert f"{both}\n\n" in blocks["kernels"] and blocks["kernels"].count("focal") == 1
    assert "predicted at 3 TB/s" in blocks["kernels"] and "not timed on a GPU" in blocks["kernels"]
    distances = filled("<!-- kernels-distances -->\n<!-- /kernels-distances -->", found)[0]
    assert "| `signed_edt` | ball | 89, 89, 89 | 38.1 | 39.0 |\n\n" in distances and "predicted at 3" in distances
    for row in found["kernels"]["kernels"]:
        row["measured_us"] = 14.0
    measured = filled("<!-- kernels -->\n<!-- /kernels -->", found)[0]
    assert f"{both} 14.0, 14.0 |" in measured and "not timed" not in measured


def test_every_measurement_has_a_command_and_every_block_its_measurements():
    for name, measurement in MEASUREMENTS.items():
        command, *_ = measurement.arguments.split()
        assert "--json" in {option for parameter in cli.commands[command].params for option in parameter.opts}, name
    assert {need for _, needs in BLOCKS.values() for need in needs} == MEASUREMENTS.keys() - {"scaling"}  # a plot
    assert {name for file in documents(ROOT) for name, _ in BLOCK.findall(file.read_text())} == BLOCKS.keys()


def test_measuring_lists_what_it_would_run_and_names_what_is_unknown(tmp_path):
    code, output = invoke("results", "--list", "--only", "edt", "--results", tmp_path)
    assert code == 0 and "edt: python -m bench edt --json" in output and not list(tmp_path.iterdir())
    code, output = invoke("results", "--only", "edt,x")
    assert code == 2 and "unknown measurement 'x'" in output
