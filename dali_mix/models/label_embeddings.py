"""Label embeddings, a row for each class, for the `sgre` head: from BERT, from GloVe, or random."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

# VOC's names that are several words in one.
SPELLINGS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
WIDTH = 768  # of random embeddings, BERT-base's


def spell(name: str) -> str:
    """A class name in plain words: "diningtable" → "dining table", "trafficLight", "Traffic_light" → "traffic light".

    VOC's run-together names are in `SPELLINGS`; underscores, hyphens, slashes and changes from small to capital letters
    part words; all become lower case.
    """
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = " ".join(re.sub(r"[\s_/-]+", " ", parted).lower().split())
    return SPELLINGS.get(words, words)


def random_embeddings(names: Sequence[str], width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """(K, width) float32, standard normal; the same for the same number of classes, width and seed.

    Raises:
        ValueError: a width below 1 or a seed that is none.
    """
    if width < 1 or not 0 <= seed < 1 << 63:
        raise ValueError(f"width={width}, seed={seed}: a width of at least 1 and a seed from 0 are needed")
    return torch.randn(len(names), width, generator=torch.Generator().manual_seed(seed)).numpy()


def glove_embeddings(names: Sequence[str], path: str | Path) -> np.ndarray:
    """The sum of the vectors of each name's words: (K, width of the file) float32; as SGRE does with GloVe 840B, 300.

    The file is read line by line, "word number number …", and no further than to the last word wanted.

    Raises:
        FileNotFoundError: no such file.
        ValueError: words that are not in it (all are named), or a line that is no vector of the others' length.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no GloVe file at {path}: give the text file, such as glove.840B.300d.txt")
    spelled = [spell(name).split() for name in names]
    wanted = {word for words in spelled for word in words}
    found: dict[str, np.ndarray] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            word, _, values = line.rstrip("\n").partition(" ")
            if word not in wanted or word in found:
                continue
            found[word] = _vector(values, f"{path}, line {number} ({word})")
            width = len(next(iter(found.values())))
            if len(found[word]) != width:
                raise ValueError(f"{path}, line {number} ({word}): {len(found[word])} numbers, others have {width}")
            if len(found) == len(wanted):
                break
    if missing := [f"{word} (of {name})" for name, words in zip(names, spelled, strict=True) for word in words or [name]
                   if word not in found]:  # fmt: skip
        raise ValueError(
            f"{path} has no vector for {', '.join(missing)}: spell these classes otherwise when packing, or use BERT"
        )
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
    """BERT's last layer for each name: (K, 768) float32 with BERT-base.

    The input is [CLS] and the name's tokens, without [SEP] and all of the second segment, as SGRE has it; the name's
    own token is taken where it is but one, else [CLS]. Nothing is downloaded.

    Args:
        folder: of the weights, as `save_pretrained` of transformers or a copy of the model's repository has them.

    Raises:
        FileNotFoundError: the folder, or its config.json, vocabulary or weights are not there.
        ValueError: transformers is not installed, or the folder holds something else than a BERT.
    """
    folder = Path(folder)
    for kind, choices in (
        ("configuration", ["config.json"]),
        ("vocabulary", ["vocab.txt", "tokenizer.json"]),
        ("weights", ["model.safetensors", "pytorch_model.bin"]),
    ):
        if not any((folder / file).is_file() for file in choices):
            raise FileNotFoundError(
                f"{folder}: no {kind} ({' or '.join(choices)}) there. Nothing is downloaded: copy the files of "
                "bert-base-uncased into a folder and name that"
            )
    try:
        from transformers import BertModel, BertTokenizer
    except ImportError as error:
        raise ValueError(f"BERT needs transformers ({error}): pip install 'dali_mix[bert]'") from None
    try:
        tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
        model, info = BertModel.from_pretrained(
            folder, local_files_only=True, add_pooling_layer=False, output_loading_info=True
        )
    except Exception as error:  # whatever transformers makes of a file that is none
        raise ValueError(f"{folder}: cannot be read as a BERT: {type(error).__name__}: {error}") from error
    if absent := sorted(info["missing_keys"]):
        raise ValueError(f"{folder}: the weights are no BERT's: {len(absent)} are missing, such as {absent[0]}")
    model.eval()
    rows = []
    for name in names:
        tokens = tokenizer.encode(spell(name), add_special_tokens=False)
        ids = torch.tensor([[tokenizer.cls_token_id, *tokens]])
        with torch.inference_mode():
            last = model(input_ids=ids, token_type_ids=torch.ones_like(ids)).last_hidden_state[0]
        rows.append(last[1 if len(tokens) == 1 else 0].float().numpy())
    return np.stack(rows)
