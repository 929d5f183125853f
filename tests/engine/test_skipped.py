"""Records that a run leaves out are named, in training and in evaluation."""

import json

from dali_mix.cli.main import main
from dali_mix.recordio import RecordSet


def test_records_left_out_are_named(tmp_path, capsys):
    prefix = tmp_path / "set"
    assert main(["pack", "digits", "--split", "val", "--out", str(prefix), "--quiet"]) == 0
    records = RecordSet(prefix)
    path, payload = records.rec_paths[0], bytes(records.encoded(11))
    del records
    content = bytearray(path.read_bytes())
    content[content.index(payload) + len(payload) // 2] ^= 1
    path.write_bytes(content)
    options = [f"train_set={prefix}", f"val_set={prefix}", "loader.on_bad_record=skip", "device=cpu", "visualizer=[]"]
    short = ["model.type=wrn-10-1", "batch_size=64", "epochs=1"]
    run = ["train", "quickstart", "--work-dir", str(tmp_path / "run"), "--cfg-options", *options, *short]
    assert main(run) == 0
    said = capsys.readouterr().err
    assert said.count("WARNING: left out: ") == 2 and said.count("record 11: crc32") == 2  # of training, of evaluation
    assert "left out: " in (tmp_path / "run" / "train.log").read_text()
    best = str(tmp_path / "run" / "checkpoints" / "best.pt")
    out = tmp_path / "scores.json"
    assert main(["evaluate", "quickstart", best, "--json", str(out), "--cfg-options", *options, *short]) == 0
    assert json.loads(out.read_text())["skipped"] == 1
    assert "record 11: crc32" in capsys.readouterr().err
