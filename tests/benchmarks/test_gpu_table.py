"""The CSV files of `python -m benchmarks.gpu`: rows that are kept, and found again."""

import csv

from benchmarks.gpu.cases import Check, Task
from benchmarks.gpu.clock import still_to_do
from benchmarks.gpu.plan import covering
from benchmarks.gpu.table import Table, rows_by_key

COLUMNS = (*Check._fields, "error", "device")


def test_rows_are_found_again_by_what_was_measured_and_on_what(tmp_path):
    one, other, third = (Task(1, "torch", case) for case in covering("torch")[:3])
    table = Table(tmp_path / "gpu_check_torch.csv", COLUMNS)
    table.add(one.case._asdict() | {"device": "A"})
    table.add(other.case._asdict() | {"device": "B"})
    known = rows_by_key([one, other, third], tmp_path, False, {"device": "A"})
    assert still_to_do([one, other, third], set(known)) == [other, third]


def test_a_row_is_in_the_file_at_once_and_a_torn_one_is_no_row(tmp_path):
    path = tmp_path / "gpu_check_torch.csv"
    first, second = (Task(1, "torch", case) for case in covering("torch")[:2])
    table = Table(path, COLUMNS)
    table.add(first.case._asdict() | {"device": "A"})
    with open(path, "a", encoding="utf-8") as file:
        file.write("fused,kl,gau")  # killed while writing
    again = Table(path, COLUMNS)
    again.add(second.case._asdict() | {"device": "A"})
    known = rows_by_key([first, second], tmp_path, False, {"device": "A"})
    assert set(known) == {first.key, second.key}


def test_a_file_with_other_columns_is_kept(tmp_path):
    path = tmp_path / "rows.csv"
    Table(path, ("a", "b")).add({"a": 1, "b": 2})
    Table(path, ("a", "c")).add({"a": 3})
    assert path.read_text() == "a,c\n3,\n"
    with open(tmp_path / "rows.before.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [{"a": "1", "b": "2"}]
