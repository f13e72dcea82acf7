"""`python -m fastloss.metrics score`: its numbers, its files, and its errors."""

import csv
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from fastloss.metrics import confusion_counts, surface_distances
from fastloss.metrics.__main__ import main

nibabel = pytest.importorskip("nibabel")
SPACING = (1.0, 2.0, 3.0)


@pytest.fixture
def folders(tmp_path):
    """Two cases with the labels 0, 1 and 4; of the second the prediction lacks label 4."""
    volumes = {}
    for number in range(2):
        truth = np.zeros((20, 18, 12), np.uint8)
        truth[3:9, 3:9, 3:9], truth[12:16, 10:15, 4:9] = 1, 4
        prediction = np.roll(truth, number + 1, 0)
        if number:
            prediction[prediction == 4] = 0
        volumes[f"case{number}"] = truth, prediction
        for kind, voxels in (("truth", truth), ("prediction", prediction)):
            (tmp_path / kind).mkdir(exist_ok=True)
            image = nibabel.Nifti1Image(voxels, np.diag([*SPACING, 1.0]))
            nibabel.save(image, tmp_path / kind / f"case{number}.nii.gz")
    return tmp_path, volumes


def score(folder, *more):
    where = ["--truth", str(folder / "truth"), "--prediction", str(folder / "prediction")]
    return main(["score", *where, "--csv", str(folder / "scores.csv"), *more])


def rows(folder):
    with (folder / "scores.csv").open() as file:
        return {(row["case"], int(row["label"])): row for row in csv.DictReader(file)}


@pytest.mark.parametrize(("option", "spacing"), [("from-header", SPACING), ("2,2,0.5", (2.0, 2.0, 0.5))])
def test_scores_are_those_of_the_library(folders, option, spacing, capsys):
    folder, volumes = folders
    assert score(folder, "--spacing", option) == 0
    found = rows(folder)
    assert set(found) == {(case, label) for case in volumes for label in (1, 4)}
    truth, prediction = (torch.from_numpy(x)[None] for x in volumes["case0"])
    dice = confusion_counts(prediction, truth, classes=5).dice()
    surfaces = surface_distances(prediction, truth, spacing, classes=5)
    row = found["case0", 4]
    assert float(row["dice"]) == pytest.approx(dice[0, 4].item(), rel=1e-5)
    assert float(row["hd95_mm"]) == pytest.approx(surfaces.hausdorff(95)[0, 3].item(), rel=1e-5)
    assert float(row["average_mm"]) == pytest.approx(surfaces.average()[0, 3].item(), rel=1e-5)
    assert float(row["surface_dice"]) == pytest.approx(surfaces.surface_dice(1.0)[0, 3].item(), rel=1e-5)
    assert float(row["truth_ml"]) == pytest.approx(4 * 5 * 5 * np.prod(spacing) / 1000, rel=1e-5)
    lacking = found["case1", 4]
    assert (float(lacking["dice"]), float(lacking["hd95_mm"]), float(lacking["prediction_ml"])) == (0, np.inf, 0)
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["1", "2"]  # the label, and its cases


def test_report_has_the_worst_case_first(folders):
    folder, _ = folders
    assert score(folder, "--html", str(folder / "report.html"), "--worst", "1") == 0
    text = (folder / "report.html").read_text()
    assert re.findall(r"<figcaption>(\w+)", text) == ["case1"]
    assert text.count("data:image/png;base64,") == 1 and "http" not in text
    assert '<meta name="viewport"' in text  # without which phones show a page of 980 pixels


def pixels_of(png):
    """What a file holds as the format's standard has it: colours of 8 bits, in rows without a filter."""
    chunks, place = {}, 8
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    while place < len(png):
        (length,), kind = struct.unpack(">I", png[place : place + 4]), png[place + 4 : place + 8]
        chunks[kind] = png[place + 8 : place + 8 + length]
        assert struct.unpack(">I", png[place + 8 + length :][:4])[0] == zlib.crc32(kind + chunks[kind])
        place += 12 + length
    width, height, *form = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert form == [8, 2, 0, 0, 0] and list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def test_picture_of_the_slice_with_the_most_wrong_voxels():
    from fastloss.metrics.scoring import Case, picture

    truth, prediction = np.zeros((2, 4, 5, 3), np.uint8)
    truth[0, 0, 0] = 1  # fewer are wrong there
    truth[1, 0, 1], prediction[2, 0, 1], truth[3, 4, 1], prediction[3, 4, 1] = 1, 2, 2, 2
    found = pixels_of(picture(Case("case", truth, prediction, SPACING, [1, 2])))
    assert found.shape == (320, 256, 3)
    dots = found[::64, ::64].tolist()
    black, green, red, yellow = [24, 24, 24], [0, 170, 60], [220, 50, 40], [240, 210, 60]
    assert dots == [[black] * 3 + [yellow], *[[black] * 4] * 3, [black, green, red, black]]


def test_options_and_their_defaults(folders, capsys, monkeypatch):
    folder, _ = folders
    assert score(folder) == 0
    expected = (folder / "scores.csv").read_text()
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    where = ["--truth", str(folder / "truth"), "--prediction", str(folder / "prediction")]
    assert main(["score", *where]) == 0
    assert Path("scores.csv").read_text() == expected and list(Path().iterdir()) == [Path("scores.csv")]
    for arguments in ([], ["score"], ["score", *where[:2]]):
        with pytest.raises(SystemExit):
            main(arguments)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    text = capsys.readouterr().out
    assert all(words in text for words in ("default 1", "from-header (default)", "default scores.csv", "default 6"))


def test_the_truth_has_the_voxel_size(folders):
    """A grid is the same to a hundredth of a millimetre."""
    folder, volumes = folders
    assert score(folder) == 0
    expected = rows(folder)
    nearly = np.diag([1.004, 2.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(volumes["case0"][1], nearly), folder / "prediction/case0.nii.gz")
    assert score(folder) == 0 and rows(folder) == expected


def test_a_number_of_pictures_that_is_none(folders, capsys):
    with pytest.raises(SystemExit):
        score(folders[0], "--worst", "-1")
    assert "got '-1', expected a number of pictures of at least 0" in capsys.readouterr().err


def test_a_truth_without_prediction_is_named(folders, capsys):
    folder, _ = folders
    (folder / "prediction/case1.nii.gz").unlink()
    assert score(folder) == 1
    assert "no prediction of case1" in capsys.readouterr().err


def test_another_grid_is_named(folders, capsys):
    folder, volumes = folders
    nibabel.save(nibabel.Nifti1Image(volumes["case1"][1], np.eye(4)), folder / "prediction/case1.nii.gz")
    assert score(folder) == 1
    assert "has not the grid of" in capsys.readouterr().err


def test_without_nibabel_the_extra_is_named(folders, capsys, monkeypatch):
    folder, _ = folders
    for name in [name for name in sys.modules if name in ("fastloss.metrics.scoring", "fastloss.metrics.nifti")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    assert score(folder) == 2
    assert "fastloss[score]" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["1,1", "a,b,c", "0,1,1", "inf,1,1"])
def test_wrong_spacings_are_refused(folders, option, capsys):
    with pytest.raises(SystemExit):
        score(folders[0], "--spacing", option)
    assert "from-header" in capsys.readouterr().err
