"""`dali-mix doctor` on packed sets."""

import pytest

from dali_mix.cli.commands import doctor
from dali_mix.cli.main import main
from dali_mix.recordio import write_set
from tests.engine.sets import pack_digits, pack_photos
from tests.recordio.samples import encoded


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    train, val = pack_digits(folder)
    return {"digits": train, "digits_val": val, "photos": pack_photos(folder / "photos", 48)}


def test_doctor_reports_environment_and_sets(sets, capsys):
    assert main(["doctor", sets["digits_val"]]) == 0
    shown = capsys.readouterr().out
    for word in ("torch", "DALI", "disk", "one batch", "359 records"):
        assert word in shown
    assert main(["doctor", "/nowhere/set"]) == 1
    assert "BROKEN" in capsys.readouterr().out


BOX = [1, 0.4, 0.4, 0.6, 0.6, 0]  # in the middle, where every crop keeps it


@pytest.mark.parametrize(
    ("task", "labels", "found"),
    [
        ("detection", [[2, 6, *BOX, *BOX], [2, 6], [2, 6, *BOX]], "3 boxes"),
        ("multilabel", [[1, 1], [0, -1], [0, 1]], "3 positive labels"),
    ],
)
def test_doctor_counts_boxes_and_positive_labels(tmp_path, capsys, task, labels, found):
    prefix = str(tmp_path / task)
    write_set(prefix, [(encoded("JPEG", 30, 50), label) for label in labels], task=task, classes="ab")
    findings = doctor.Findings()
    findings.guard(prefix, lambda checked: doctor.check_set(checked, prefix))
    assert findings.broken == 0
    assert f"3 records, 2 classes, {task}; a batch (3, 3, 224, 224) with {found}" in capsys.readouterr().out
