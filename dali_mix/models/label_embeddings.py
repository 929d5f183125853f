"""Label embeddings, one row per class, for the `sgre` head: from BERT, from GloVe, or random."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dali_mix.options import whole

# Spelling of VOC's compound names.
SPELLINGS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
WIDTH = 768  # of random embeddings, as in BERT-base
BERT_FILES = {
    "configuration": ["config.json"],
    "vocabulary": ["vocab.txt", "tokenizer.json"],
    "weights": ["model.safetensors", "pytorch_model.bin"],
}


def spell(name: str) -> str:
    """Split a class name into lower-case words: "diningtable" → "dining table", "trafficLight" → "traffic light".

    VOC's compounds are in `SPELLINGS`. Other names are split at spaces, "_", "-" and "/", and before an upper-case
    letter that follows a lower-case letter or a digit.
    """
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = " ".join(re.sub(r"[\s_/-]+", " ", parted).lower().split())
    return SPELLINGS.get(words, words)


def random_embeddings(names: Sequence[str], width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Return standard normal embeddings, one row per name, (len(names), width) float32.

    They depend only on the number of names, `width` and `seed`. Raise ValueError unless `width` and `seed` are integers
    of at least 1 and 0.
    """
    generator = torch.Generator().manual_seed(whole("seed", seed, 0))
    return torch.randn(len(names), whole("width", width, 1), generator=generator).numpy()


def glove_embeddings(names: Sequence[str], path: str | Path) -> np.ndarray:
    """Return the sum of the vectors of each name's words (see `spell`): (K, width of the file) float32.

    Each line of the file is "word number number …". Reading stops at the last word needed. SGRE uses GloVe 840B of
    width 300.

    Raises:
        FileNotFoundError: no such file.
        ValueError: words are missing from the file (all are listed), or the line of a word is not a vector of finite
            numbers of the common length.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no GloVe file at {path}: pass the text file, such as glove.840B.300d.txt")
    spelled = [spell(name).split() for name in names]
    wanted = {word for words in spelled for word in words}
    found: dict[str, np.ndarray] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            word, _, values = line.rstrip("\n").partition(" ")
            if word not in wanted or word in found:
                continue
            where = f"{path}, line {number} ({word})"
            found[word] = _vector(values, where)
            width = len(next(iter(found.values())))
            if len(found[word]) != width:
                raise ValueError(f"{where}: {len(found[word])} numbers, others have {width}")
            if len(found) == len(wanted):
                break
    words_of = [(word, name) for name, words in zip(names, spelled, strict=True) for word in words or [name]]
    if missing := ", ".join(f"{word} (of {name})" for word, name in words_of if word not in found):
        raise ValueError(f"{path} has no vector for {missing}: rename these classes when packing, or use BERT")
    return np.stack([np.sum([found[word] for word in words], axis=0, dtype=np.float32) for words in spelled])


def _vector(values: str, where: str) -> np.ndarray:
    try:
        vector = np.array([float(value) for value in values.split()], dtype=np.float32)
    except ValueError as error:
        raise ValueError(f"{where}: not a vector of numbers: {error}") from None
    if not len(vector) or not np.isfinite(vector).all():
        raise ValueError(f"{where}: not a vector of finite numbers")
    return vector


def bert_embeddings(names: Sequence[str], folder: str | Path) -> np.ndarray:
    """Return the output of BERT's last layer for each name: (K, 768) float32 with BERT-base. Nothing is downloaded.

    As in SGRE, the input is [CLS] and the name's tokens, without [SEP], all with segment id 1. The row is the output at
    the name's token if there is only one, else at [CLS].

    Args:
        folder: a model saved by transformers' `save_pretrained`.

    Raises:
        FileNotFoundError: the folder or its config.json, vocabulary or weights are missing.
        ValueError: transformers is not installed, or the folder does not contain a BERT model.
    """
    folder = Path(folder)
    for kind, choices in BERT_FILES.items():
        if not any((folder / file).is_file() for file in choices):
            how = "Nothing is downloaded: copy the files of bert-base-uncased into a folder and pass that folder"
            raise FileNotFoundError(f"{folder}: no {kind} ({' or '.join(choices)}) there. {how}")
    try:
        from transformers import BertModel, BertTokenizer
    except ImportError as error:
        raise ValueError(f"BERT needs transformers ({error}): pip install 'dali_mix[bert]'") from None
    try:
        tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
        options = {"local_files_only": True, "add_pooling_layer": False, "output_loading_info": True}
        model, info = BertModel.from_pretrained(folder, **options)
    except Exception as error:  # transformers raises many types of errors for invalid files
        raise ValueError(f"{folder}: cannot be read as a BERT model: {type(error).__name__}: {error}") from error
    if absent := sorted(info["missing_keys"]):
        raise ValueError(f"{folder}: not the weights of a BERT model: {len(absent)} are missing, such as {absent[0]}")
    model.eval()
    rows = []
    for name in names:
        tokens = tokenizer.encode(spell(name), add_special_tokens=False)
        ids = torch.tensor([[tokenizer.cls_token_id, *tokens]])
        with torch.inference_mode():
            last = model(input_ids=ids, token_type_ids=torch.ones_like(ids)).last_hidden_state[0]
        rows.append(last[1 if len(tokens) == 1 else 0].float().numpy())
    return np.stack(rows)
