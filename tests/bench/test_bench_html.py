"""The HTML report of a training on files made here, as its source and in a browser; TensorBoard's log."""

import json
import re
import subprocess

import pytest

pytest.importorskip("click", reason="the benchmarks need click")
pytest.importorskip("jinja2", reason="the benchmarks need jinja2")
pytest.importorskip("matplotlib", reason="the benchmarks need matplotlib")
pytest.importorskip("monai", reason="the benchmarks need monai")
pytest.importorskip("nibabel", reason="the benchmarks need nibabel")
pytest.importorskip("nilearn", reason="the benchmarks need nilearn")
pytest.importorskip("tensorboard", reason="the benchmarks need tensorboard")

import nibabel
import numpy as np
import torch
from browser import CHROMIUM
from click.testing import CliRunner
from markupsafe import escape
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bench.__main__ import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A training of two losses and an odd file that is left out."""
    root, threads = tmp_path_factory.mktemp("report"), torch.get_num_threads()
    torch.set_num_threads(1)
    options = ["--data", "synthetic:5,16", "--losses", "dice,dice_ce", "--epochs", "2", "--widths", "2,2,4"]
    places = ["--out", str(root / "out"), "--cache", str(root / "cache"), "--tensorboard"]
    done = CliRunner().invoke(cli, ["train", *options, *places])
    torch.set_num_threads(threads)
    assert done.exit_code == 0, done.output
    return root / "out"


def test_report_holds_the_numbers_and_pictures_and_loads_nothing(folder):
    page = (folder / "report.html").read_text()
    rows = json.loads((folder / "results.json").read_text())
    for row in rows:
        assert f"{row['foreground']['dice']['mean']:.3f}" in page
        assert f"{row['per_class']['background']['jaccard']['mean']:.3f}" in page
    assert page.count("data:image/png;base64,") == 1 + len(rows)
    assert "0.970" in page and "TypeError" not in page
    assert not re.search(r"(src|href)=.(?!data:)|@import|<script", page)


def test_names_from_files_are_text_on_the_page_and_in_the_terminal(tmp_path):
    classes = ["background", "<script>alert(1)</script>", "[/red]\"'&"]
    about = {"name": "</title><img src=x onerror=alert(2)>[bold", "labels": {str(i): c for i, c in enumerate(classes)}}
    for number in range(4):
        labels = np.random.default_rng(number).integers(0, 3, (16, 16, 2)).astype(np.uint8)
        for kind in ("imagesTr", "labelsTr"):
            (tmp_path / "d" / kind).mkdir(parents=True, exist_ok=True)
            file = tmp_path / "d" / kind / f"<i>[b]{number}.nii"
            nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), file)
    file.write_bytes(b"nothing")  # the last labels are left out with a note
    (tmp_path / "d/dataset.json").write_text(json.dumps(about))
    options = ["--losses", "dice", "--epochs", "1", "--widths", "2,4", "--batch-size", "8", "--skip-bad"]
    places = ["--data", f"msd:{tmp_path / 'd'}", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    done = CliRunner().invoke(cli, ["train", *options, *places])
    assert done.exit_code == 0, done.output
    assert "onerror=alert(2)>[bold" in done.output and "[/red]" in done.output and "<i>[b]3.nii" in done.output
    page = (tmp_path / "out/report.html").read_text()
    assert "<script" not in page and "<img src" not in page and "<i>" not in page and page.count("<title>") == 1
    for text in (about["name"], *classes, "<i>[b]3.nii: cannot be read"):
        assert str(escape(text)) in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)")
def test_report_opens_in_a_browser(folder, tmp_path):
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path}"]
    picture = tmp_path / "report.png"
    address = (folder / "report.html").as_uri()
    seen = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", address], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Learning curves" in seen.stdout and 'id="scores"' in seen.stdout
    assert "CONSOLE" not in seen.stderr  # where a page's errors go
    size = ["--window-size=1300,2000", f"--screenshot={picture}"]
    subprocess.run([CHROMIUM, *options, *size, address], capture_output=True, timeout=60, check=True)
    assert picture.stat().st_size > 20_000


def test_tensorboard_has_a_line_for_each_epoch(folder):
    log = EventAccumulator(str(folder / "tensorboard/dice-seed0")).Reload()
    history = json.loads((folder / "runs/dice-seed0/result.json").read_text())["history"]
    assert set(log.Tags()["scalars"]) == set(history[0])
    found = [event.value for event in log.Scalars("validation")]
    assert found == pytest.approx([line["validation"] for line in history])
