"""Tasks are objects: one more is a class and an entry, and records need no other change."""

import numpy as np
import pytest

from dali_mix import tasks
from dali_mix.cli.main import main
from dali_mix.loading import build_loader
from dali_mix.recordio import RecordSet, write_set
from dali_mix.recordio.summary import summarize
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded


class Regression(tasks.Task):
    """One float for each image."""

    name = "regression"

    def check(self, label, num_classes):
        if np.shape(label) != (1,) or not np.isfinite(label).all():
            raise ValueError("a regression label is one finite float")

    def width(self, num_classes):
        return 1

    def targets(self, records, rows):
        return np.concatenate([records.label(row) for row in rows.tolist()])


@pytest.fixture
def regression(tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "regression", Regression())
    samples = [(encoded("JPEG", 12, 20, seed=row), [row / 2]) for row in range(4)]
    write_set(tmp_path / "set", samples, task="regression", classes=["value"])
    return RecordSet(tmp_path / "set")


def test_a_task_of_ones_own_is_packed_and_read(regression):
    assert regression.info.task == "regression" and regression.info.label_width == 1
    assert regression.labels(np.array([3, 1])).tolist() == [1.5, 0.5]
    assert np.isnan(regression.table["label"]).all()


def test_a_task_of_ones_own_is_loaded(regression):
    loader = build_loader("imagenet", regression, batch_size=2, train=False, device="cpu")
    try:
        assert [batch.targets.tolist() for batch in loader] == [[0.0, 0.5], [1.0, 1.5]]
    finally:
        loader.close()


def test_a_task_of_ones_own_is_verified_and_summarized(regression):
    assert list(verify_set(regression.prefix)) == []
    assert "records_a_class" not in summarize(regression.info, regression.table)


def test_a_task_of_ones_own_is_inspected(regression, capsys):
    assert main(["inspect", str(regression.prefix)]) == 0
    assert "regression" in capsys.readouterr().out


def test_a_label_that_the_task_refuses_is_not_packed(tmp_path, regression):
    with pytest.raises(ValueError, match="sample 0: a regression label is one finite float"):
        write_set(tmp_path / "wrong", [(encoded("JPEG"), [1.0, 2.0])], task="regression", classes=["value"])


def test_an_unknown_task_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"task 'multilable' is not one of .* \(did you mean multilabel\?\)"):
        tasks.get("multilable")
