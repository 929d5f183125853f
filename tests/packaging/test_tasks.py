"""A custom task needs a class, an entry in TASKS and an entry in SCORES, and no other change."""

import json
from operator import methodcaller

import numpy as np
import pytest
import torch
from PIL import Image

from dali_mix import tasks
from dali_mix.cli.commands import doctor
from dali_mix.cli.installed import Findings
from dali_mix.cli.main import main
from dali_mix.engine.scores import SCORES, Scores
from dali_mix.loading import build_loader
from dali_mix.recordio import RecordSet, write_set
from dali_mix.recordio.summary import summarize
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded


class Regression(tasks.Task):
    """Task with one float per image."""

    name = "regression"
    metrics = "hits"
    measured = ("hits", "loss")
    chart = "hits", {"hits": "hits"}
    probabilities = methodcaller("clamp", 0, 1)
    top_k = 1

    def check(self, label, num_classes):
        if np.shape(label) != (1,) or not np.isfinite(label).all():
            raise ValueError("a regression label is one finite float")

    def width(self, num_classes):
        return 1

    def targets(self, records, rows):
        return np.concatenate([records.label(row) for row in rows.tolist()])

    def describe(self, target, classes):
        return f"{classes[0]} = {target:g}"

    def count(self, targets):
        return f"{len(targets)} values"


class Hits(Scores):
    """Percentage of values that are off by less than 1."""

    def __init__(self, num_classes, device, **options):
        self.counts = torch.zeros(2, device=device)

    def update(self, logits, targets, ids):
        self.counts += torch.stack([((logits[:, 0] - targets).abs() < 1).sum(), torch.tensor(len(targets))])

    def compute(self, ranks):
        ranks.sum_(self.counts)
        return {"hits": 100 * float(self.counts[0] / self.counts[1])}

    def by_class(self):
        return "Hits", {"hits": [100 * float(self.counts[0] / self.counts[1])]}, ()


class Squared(torch.nn.Module):
    def forward(self, outputs, targets):
        return (outputs[:, 0] - targets).square().mean()


@pytest.fixture
def regression(tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "regression", Regression())
    monkeypatch.setitem(SCORES, "hits", Hits)
    samples = [(encoded("JPEG", 12, 20, seed=row), [row / 2]) for row in range(4)]
    write_set(tmp_path / "set", samples, task="regression", classes=["value"])
    return RecordSet(tmp_path / "set")


def test_custom_task_is_packed_and_read(regression):
    assert regression.info.task == "regression" and regression.info.label_width == 1
    assert regression.labels(np.array([3, 1])).tolist() == [1.5, 0.5]
    assert np.isnan(regression.table["label"]).all()


def test_custom_task_is_loaded(regression):
    loader = build_loader("imagenet", regression, batch_size=2, train=False, device="cpu")
    try:
        assert [batch.targets.tolist() for batch in loader] == [[0.0, 0.5], [1.0, 1.5]]
    finally:
        loader.close()


def test_custom_task_is_verified_and_summarized(regression):
    assert list(verify_set(regression.prefix)) == []
    assert "records_a_class" not in summarize(regression)


def test_custom_task_is_inspected(regression, capsys):
    assert main(["inspect", str(regression.prefix)]) == 0
    assert "regression" in capsys.readouterr().out
    assert main(["inspect", str(regression.prefix), "--record", "3"]) == 0
    assert "class     value = 1.5" in capsys.readouterr().out
    doctor.check_set(Findings(), str(regression.prefix))
    assert "4 records, 1 classes, regression; a batch (4, 3, 224, 224) with 4 values" in capsys.readouterr().out


def test_custom_task_is_trained_evaluated_and_predicted(tmp_path, regression, capsys):
    (tmp_path / "recipe.py").write_text(f"""
train_set = val_set = {str(regression.prefix)!r}
pipeline = dict(type="imagenet", image_size=32)
model = dict(type="tests.engine.synthetic:TinyNet")
loss = dict(type="tests.packaging.test_tasks:Squared")
optimizer = dict(type="SGD", lr=0.01)
batch_size, epochs, device, visualizer = 2, 2, "cpu", []
""")
    recipe, run = str(tmp_path / "recipe.py"), tmp_path / "run"
    assert main(["train", recipe, "--work-dir", str(run)]) == 0
    values = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [value for value in values if value["kind"] == "val"]
    assert len(found) == 2 and all(value["hits"] in (0, 25, 50, 75, 100) for value in found)
    assert torch.load(run / "checkpoints" / "best.pt", weights_only=True)["task"] == "regression"
    assert main(["curves", str(run), "--out", str(run / "curves.png")]) == 0
    best = str(run / "checkpoints" / "best.pt")
    capsys.readouterr()
    assert main(["evaluate", recipe, best, "--report", str(run / "report")]) == 0
    assert f"hits {max(value['hits'] for value in found):.4f}" in capsys.readouterr().out
    assert (run / "report" / "per_class.csv").read_text().startswith("class,hits\nvalue,")
    Image.new("RGB", (20, 12), "red").save(tmp_path / "red.png")
    assert main(["predict", recipe, best, str(tmp_path / "red.png"), "--json", str(tmp_path / "found.json")]) == 0
    predicted = json.loads((tmp_path / "found.json").read_text())
    assert predicted["task"] == "regression" and predicted["images"][0]["prediction"] == ["value"]


def test_gallery_refuses_set_of_custom_task(tmp_path, regression, capsys):
    assert main(["gallery", str(regression.prefix), "--mixers", "cutmix", "--out", str(tmp_path / "a.png")]) == 1
    assert "is a regression set: mixers take class indices or multi-hot labels" in capsys.readouterr().err


def test_invalid_label_of_custom_task_is_not_packed(tmp_path, regression):
    with pytest.raises(ValueError, match="sample 0: a regression label is one finite float"):
        write_set(tmp_path / "wrong", [(encoded("JPEG"), [1.0, 2.0])], task="regression", classes=["value"])


def test_unknown_task_error_suggests_nearest():
    with pytest.raises(ValueError, match=r"task 'multilable' is not one of .* \(did you mean multilabel\?\)"):
        tasks.get("multilable")
