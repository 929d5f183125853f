"""`dali-mix embed-labels`: spelling, GloVe text files, BERT from a folder, random rows, wrong options."""

import sys
import types

import numpy as np
import pytest
import torch

from dali_mix.cli.main import main
from dali_mix.models import build_multilabel
from dali_mix.models.label_embeddings import bert_embeddings, glove_embeddings, random_embeddings, spell
from dali_mix.recordio import write_set
from tests.recordio.samples import encoded

NAMES = ("diningtable", "dog", "TrafficLight")
GLOVE = "the 9 9 9\ndog 1 2 3\ndining .5 -1 0\ntraffic 4 4 4\ndog 7 7 7\ntable 1 1 1\nlight -4 0 1\nnever x y z\n"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "set"
    write_set(str(path), [(encoded("JPEG", 30, 50), [1, 0, 1])], task="multilabel", classes=NAMES)
    return str(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("diningtable", "dining table"),
        ("pottedplant", "potted plant"),
        ("tvmonitor", "tv monitor"),
        ("Traffic_light", "traffic light"),
        ("trafficLight", "traffic light"),
        ("t-shirt/top", "t shirt top"),
        ("  teddy  bear ", "teddy bear"),
        ("TVmonitor", "tv monitor"),
        ("dog", "dog"),
    ],
)
def test_spell_splits_class_names(name, words):
    assert spell(name) == words


def test_glove_sums_words_and_uses_first_duplicate(prefix, tmp_path, capsys):
    (tmp_path / "glove.txt").write_text(GLOVE)
    command = ["embed-labels", prefix, "--from", "glove", "--weights", str(tmp_path / "glove.txt"), "--out"]
    assert main([*command, str(tmp_path / "e.npy")]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert "diningtable was read as 'dining table'" in shown and "3 classes" in shown
    rows = np.load(tmp_path / "e.npy")
    assert rows.dtype == np.float32
    assert rows.tolist() == [[1.5, 0, 1], [1, 2, 3], [0, 4, 5]]
    head = build_multilabel(
        "resnet10t", "sgre", num_classes=3, head_options={"embeddings": str(tmp_path / "e.npy"), "rank": 8}
    ).head
    assert torch.equal(head.embeddings, torch.from_numpy(rows))
    assert main([*command, str(tmp_path / "e.npy")]) == 1
    assert "--force" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "e.npy"), "--force"]) == 0
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("dog 1 2\ntable 1 1\n", r"no vector for dining \(of diningtable\), traffic \(of TrafficLight\), light"),
        ("dog 1 2\ndining 1\n", r"line 2 \(dining\): 1 numbers, others have 2"),
        ("dog 1 cat\n", r"line 1 \(dog\): not a vector"),
        ("dog 1 nan\n", r"line 1 \(dog\): not a vector of finite"),
        ("dog\n", r"line 1 \(dog\): not a vector of finite"),
    ],
)
def test_glove_error_names_line_or_words(tmp_path, text, match):
    (tmp_path / "glove.txt").write_text(text)
    with pytest.raises(ValueError, match=match):
        glove_embeddings(NAMES, tmp_path / "glove.txt")


def test_glove_refuses_name_without_words(tmp_path):
    (tmp_path / "glove.txt").write_text("dog 1 2\n")
    with pytest.raises(ValueError, match="no vector for _"):
        glove_embeddings(["dog", "_"], tmp_path / "glove.txt")


def test_random_embeddings_are_reproducible_by_seed(prefix, tmp_path):
    assert main(["embed-labels", prefix, "--from", "random", "--out", str(tmp_path / "e.npy")]) == 0
    rows = np.load(tmp_path / "e.npy")
    assert rows.shape == (3, 768) and rows.dtype == np.float32 and 0.9 < rows.std() < 1.1
    assert np.array_equal(rows, random_embeddings(NAMES))
    other = [
        "embed-labels",
        prefix,
        "--from",
        "random",
        "--seed",
        "1",
        "--width",
        "5",
        "--out",
        str(tmp_path / "f.npy"),
    ]
    assert main(other) == 0
    assert np.array_equal(np.load(tmp_path / "f.npy"), random_embeddings(NAMES, 5, 1))
    assert not np.array_equal(random_embeddings(NAMES, 5, 0), random_embeddings(NAMES, 5, 1))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--from", "glove", "--out", "e.npy"], "--from glove needs --weights"),
        (["--from", "bert", "--out", "e.npy"], "nothing is downloaded"),
        (["--from", "glove", "--weights", "nowhere.txt", "--out", "e.npy"], "no GloVe file at nowhere.txt"),
        (["--from", "bert", "--weights", "nowhere", "--out", "e.npy"], "nowhere: no configuration (config.json)"),
        (["--from", "random", "--weights", "x", "--out", "e.npy"], "omit it"),
        (["--from", "bert", "--weights", "x", "--seed", "0", "--out", "e.npy"], "are for random"),
        (["--from", "random", "--width", "-1", "--out", "e.npy"], "width=-1"),
        (["--from", "random", "--width", "0", "--out", "e.npy"], "width=0"),
        (["--from", "random", "--out", "no/e.npy"], "--out no/e.npy: its folder does not exist"),
        (["--from", "random", "--out", "e.txt"], "must end in .npy"),
    ],
)
def test_embed_labels_reports_invalid_options(prefix, tmp_path, capsys, monkeypatch, options, match):
    monkeypatch.chdir(tmp_path)
    assert main(["embed-labels", prefix, *options]) == 1
    assert match in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(["embed-labels", "no/set", *options]) == 1
    assert "no/set.json" in capsys.readouterr().err


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "dining", "table", "traffic", "light"]


def bert_files(folder):
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        (folder / name).write_bytes(b"")


def test_bert_without_transformers_or_weights_is_refused(tmp_path, monkeypatch):
    bert_files(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'dali_mix\[bert\]'"):
        bert_embeddings(NAMES, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights .* Nothing is downloaded"):
        bert_embeddings(NAMES, tmp_path)


def test_bert_loads_local_files_only(tmp_path, monkeypatch):
    """Check with a stub of transformers: the options that prevent downloads, the token types and the result."""
    asked = []

    class Tokenizer:
        cls_token_id = 2

        @classmethod
        def from_pretrained(cls, folder, **options):
            asked.append((folder, options))
            return cls()

        def encode(self, text, add_special_tokens):
            assert not add_special_tokens
            return [VOCABULARY.index(word) for word in text.split()]

    class Model(torch.nn.Module):
        missing: tuple[str, ...] = ()

        @classmethod
        def from_pretrained(cls, folder, **options):
            asked.append((folder, options))
            return cls(), {"missing_keys": set(cls.missing)}

        def forward(self, input_ids, token_type_ids):
            assert not self.training and token_type_ids.tolist() == [[1] * input_ids.shape[1]]
            rows = torch.stack([input_ids, input_ids.cumsum(1)], 2).float()
            return types.SimpleNamespace(last_hidden_state=rows)

    module = types.ModuleType("transformers")
    module.BertModel, module.BertTokenizer = Model, Tokenizer
    monkeypatch.setitem(sys.modules, "transformers", module)
    bert_files(tmp_path)
    assert bert_embeddings(NAMES, tmp_path).tolist() == [[2, 2], [5, 7], [2, 2]]
    assert [folder for folder, _ in asked] == [tmp_path] * 2
    assert all(options["local_files_only"] is True for _, options in asked)
    Model.missing = ("encoder.layer.0.x",)
    with pytest.raises(ValueError, match=r"1 are missing, such as encoder\.layer\.0\.x"):
        bert_embeddings(NAMES, tmp_path)


def test_bert_rows_match_hidden_states(tmp_path):
    """Compare each row with a hidden state from the forward pass of transformers' model."""
    transformers = pytest.importorskip("transformers", reason="the extra `bert` is not installed")
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=len(VOCABULARY), **sizes)).eval()
    model.save_pretrained(tmp_path)
    rows = bert_embeddings(NAMES, tmp_path)
    assert rows.shape == (3, 16) and rows.dtype == np.float32
    for row, ids, place in zip(rows, ([2, 6, 7], [2, 5], [2, 8, 9]), (0, 1, 0), strict=True):
        given = torch.tensor([ids])
        with torch.no_grad():
            states = model(given, torch.ones_like(given), torch.ones_like(given), output_hidden_states=True)
        assert np.allclose(row, states.hidden_states[-1][0, place].numpy(), atol=1e-6)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="cannot be read as a BERT"):
        bert_embeddings(NAMES, tmp_path)
