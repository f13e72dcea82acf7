"""`python -m bench head` and `resample`: what they measure agrees, and they print it."""

from bench.lazy import head, resample


def test_head():
    row = head.measure(head.Case(3, 4, 8, "float32"), 1, False, False)
    assert list(row["ways"]) == head.ways_of(False)
    assert all(its["total_ms"] > 0 for its in row["ways"].values())
    assert head.head_table([row]).row_count == len(row["ways"])


def test_resample():
    row = resample.measure(resample.Case(3, 6, 13), 1, True, False)
    assert not [note for note in row["notes"] if "of its labels" in note]
    assert resample.OURS in row["ways"] and resample.SCIPY in row["ways"]
    assert resample.resample_table([row]).row_count == len(row["ways"])
