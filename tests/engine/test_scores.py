"""Scores of evaluations, and the note on classes without a positive example."""

import pytest
import torch

from dali_mix.cli.main import main
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.scores import ClassificationScores, DetectionScores, MultiLabelScores

CPU = torch.device("cpu")
NAMES = tuple("abcdefgh")
LEFT = "mAP is the mean over the others"
CASES = {
    "none": ([[1] * 8], ""),
    "one": ([[1, 0, 1, 1, 1, 1, 1, 1]], f"1 of 8 classes have no positive example in the val_set (b): {LEFT}"),
    "ignored only": (
        [[1, -1, 1, 1, 1, 1, 1, 1]],
        f"1 of 8 classes have no positive example in the val_set (b): {LEFT}",
    ),
    "in different records": ([[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]], ""),
    "many": ([[1] + [0] * 7], f"7 of 8 classes have no positive example in the val_set (b, c, d, e, f, g, …): {LEFT}"),
    "all": ([[0] * 8], "8 of 8 classes have no positive example in the val_set (a, b, c, d, e, f, …): there is no mAP"),
}


@pytest.mark.parametrize(("targets", "said"), CASES.values(), ids=CASES)
def test_note_names_classes_without_positives(targets, said):
    scores = MultiLabelScores(8, CPU)
    scores.update(torch.zeros(len(targets), 8), torch.tensor(targets, dtype=torch.float32), torch.arange(len(targets)))
    scores.compute(Ranks(0, 1, CPU))
    assert scores.notes(NAMES) == ([said] if said else [])


def test_classification_has_no_notes():
    scores = ClassificationScores(8, CPU)
    scores.update(torch.zeros(1, 8), torch.zeros(1, dtype=torch.int64), torch.arange(1))
    scores.compute(Ranks(0, 1, CPU))
    assert scores.notes(NAMES) == []


def test_note_is_logged_once_and_printed_by_evaluate(tmp_path, capsys):
    for split, count in (("train", "16"), ("val", "1")):
        pack = ["pack", "digit-scenes", "--scenes", count, "--split", split, "--out", str(tmp_path / split), "--quiet"]
        assert main(pack) == 0
    values = [f"{split}_set={tmp_path / split}" for split in ("train", "val")]
    values += ["epochs=2", "batch_size=8", "pipeline.image_size=(36,48)", "visualizer=[]", "loader.num_threads=1"]
    recipe, run = "multilabel/digit_scenes_csra", tmp_path / "run"
    assert main(["train", recipe, "--work-dir", str(run), "--cfg-options", *values]) == 0
    log = (run / "train.log").read_text()
    assert log.count("validation") == 2 and log.count("of 10 classes have no positive example in the val_set (") == 1
    capsys.readouterr()
    assert main(["evaluate", recipe, str(run / "checkpoints" / "latest"), "--cfg-options", *values]) == 0
    assert capsys.readouterr().err.count("of 10 classes have no positive example in the val_set (") == 1


def test_probability_above_half_counts_as_positive():
    scores = MultiLabelScores(2, torch.device("cpu"))
    logits, targets = torch.tensor([[0.3, -0.3], [-0.3, 0.3]]), torch.eye(2)
    scores.update(logits, targets, torch.arange(2))
    found = scores.compute(None)  # one process: nothing to sum
    assert found["CR"] == found["OF1"] == 100.0


def test_tied_scores_are_ranked_by_record():
    targets = torch.tensor([[1.0], [0.0], [0.0], [1.0]])
    for order in ([0, 1, 2, 3], [2, 3, 1, 0]):
        scores = MultiLabelScores(1, torch.device("cpu"), ties="order")
        scores.update(torch.zeros(4, 1), targets[order], torch.tensor(order))
        assert scores.compute(None)["mAP"] == pytest.approx(100 * (1 / 1 + 2 / 4) / 2)


@pytest.mark.parametrize(("protocol", "name", "value"), [("voc", "AP50", 100.0), ("coco", "AP", 30.0)])
def test_detection_chart_shows_measure_of_protocol(protocol, name, value):
    """A box with an overlap of 0.62 is correct at three of COCO's ten thresholds."""
    scores = DetectionScores(2, CPU, protocol=protocol)
    target = {"boxes": torch.tensor([[0.0, 0, 100, 10]]), "labels": torch.tensor([1]), "size": (50, 50)}
    target |= {"difficult": torch.tensor([False]), "original": (50, 50)}
    found = {"boxes": torch.tensor([[0.0, 0, 62, 10]]), "scores": torch.tensor([0.9]), "labels": torch.tensor([1])}
    scores.update([found], [target], torch.arange(1))
    assert scores.compute(Ranks(0, 1, CPU))[name] == pytest.approx(value)
    title, columns, reports = scores.by_class()
    assert title == f"{name} by class, %   (mean {value:.2f})" and next(iter(columns)) == name
    assert columns[name] == pytest.approx([float("nan"), value], nan_ok=True)
    assert columns["recall"] == [0, 100] and [report.positives for report in reports] == columns["objects"] == [0, 1]


def test_boxes_are_scaled_to_pixels_of_record():
    """Height and width may be resized by different factors, because both are rounded down."""
    scores = DetectionScores(1, CPU)
    target = {
        "boxes": torch.tensor([[1.0, 2, 10, 12]]),
        "labels": torch.tensor([0]),
        "difficult": torch.tensor([False]),
    }
    found = {"boxes": torch.tensor([[2.0, 1, 8, 10]]), "scores": torch.tensor([0.9]), "labels": torch.tensor([0])}
    scores.update([found], [target | {"size": (20, 30), "original": (40, 90)}], torch.tensor([5]))
    tables = scores.metrics._tables()
    assert [table[0, :5].tolist() for table in tables] == [[5, 6, 2, 24, 20], [5, 3, 4, 30, 24]]
