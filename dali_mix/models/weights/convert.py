"""Convert published checkpoints to ours and back: the same tensors, bit for bit, under other names.

A conversion never relies on names alone. `theirs` are a file's keys, `ours` their translations by `Layout`:

    theirs --(prefix off, Layout.ours)--> ours --(recognize)--> Recognized --(build on meta)--> all its keys and shapes
       |                                                                                              |
       +---------------- differences: key by key, in the names of the file <--(Layout.theirs)---------+

A file is converted only if the model recognized from its shapes has exactly the file's keys and shapes. Only the step
counters of BatchNorms may all be missing, as in old files. Differences are reported with the file's names.

Three kinds of tensors are not just renamed. CSRA's heads are one convolution each in the release, and one tensor here.
SGRE's table of positions is computed here. SGRE's label embeddings may be a separate file in the release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dali_mix.models.heads.tokens import sine_positions
from dali_mix.models.multilabel import MultiLabelModel
from dali_mix.models.weights.layouts import LAYOUTS, Layout
from dali_mix.models.weights.load import differences
from dali_mix.models.weights.prefixes import best_prefix, without_prefix
from dali_mix.models.weights.recognize import Recognized, count, recognize
from dali_mix.options import choice

Grid = tuple[int, int]  # rows, columns
POSITIONS = "position_embedding.pe"  # SGRE's table of positions, which our head computes
EMBEDDINGS = "embeddings"
_MOST = 0.8  # share of keys that must have a prefix for it to be removed before conversion
COUNTER = "num_batches_tracked"  # of BatchNorm: old files lack it, and no output depends on it


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Attributes:
        state: the state dict to write.
        layout: the release's layout.
        model: the model that was identified.
        notes: remarks for the user.
    """

    state: dict[str, Tensor]
    layout: Layout
    model: Recognized
    notes: tuple[str, ...]


def to_ours(
    state: Mapping[str, Tensor], release: str, *, model: str = "", embeddings: Tensor | None = None
) -> Converted:
    """Convert a published checkpoint into one that loads into our model with `strict=True`.

    Args:
        state: a state dict from `read_state_dict`.
        release: a key of `dali_mix.models.weights.layouts.LAYOUTS`.
        model: the model's name, needed if shapes do not determine it. For a classifier that is neither a ResNet nor a
            ViT, pass `timm/NAME` or `torchvision/NAME`; its keys stay unchanged. For a multi-label model, pass the name
            of its backbone, as for `build_multilabel`.
        embeddings: (K,E), required for an SGRE checkpoint without embeddings (those from a language model are not saved
            in it), and refused for one that contains them. Ignored for other checkpoints.

    Raises:
        ValueError: an unknown release, missing or superfluous embeddings, or keys or shapes that do not match the
            release; the message uses the file's names.
    """
    choice("release", release, LAYOUTS)
    state, notes = _unprefixed(state, release, model)
    layout = _layout_of(state, release, model)
    given = dict(state)
    if layout.head == "sgre":
        if EMBEDDINGS in given and embeddings is not None:
            raise ValueError("the file contains label embeddings: omit --embeddings")
        if EMBEDDINGS not in given and embeddings is None:
            raise ValueError("the file contains no label embeddings: pass their .npy file as --embeddings")
        if embeddings is not None:
            given[EMBEDDINGS] = embeddings
    ours = _names(given, layout, back=False)
    found = recognize(ours, model)
    if found is None:
        known = "a ResNet (layer1 to layer4) nor a ViT (pos_embed, patch_embed.proj.weight) of a known size"
        raise ValueError(f"neither {known}; pass --model NAME{advice(state, release)}")
    if layout.head and found.head == "pooled":
        found = replace(found, head=layout.head)
    positions = given.get(POSITIONS)
    if differ := differences(_expected(found, layout, given, positions), given, most=20):
        other = ("" if model else ". If it is another model, pass --model NAME") + advice(state, release)
        raise ValueError(f"as a checkpoint of {release} it would be {found}, but {differ}{other}")
    if positions is not None:
        notes.append(_check_positions(positions))
    if layout.head == "csra":
        notes.append("lam is not in the file; published: 0.1 on VOC, 0.4 on COCO (ViT-L 1), 0.3 on WIDER")
    if layout.head == "sgre":
        notes.append("the encoder's heads (8) and the attention's temperature are not in the file: set them yourself")
    return Converted(ours, layout, found, tuple(notes))


def _unprefixed(state: Mapping[str, Tensor], release: str, model: str) -> tuple[Mapping[str, Tensor], list[str]]:
    """Return `state` without the prefix, such as `module.`, that precedes the release's keys, and notes for the user.

    Keys without the prefix are left out. If `model` is RELEASE/NAME, `best_prefix` finds the prefix, and may raise
    ValueError. Otherwise it is the one that precedes the marks of a layout, if it is unique and at least 80% of the
    keys have it. Without a prefix, return `state` itself and no notes.
    """
    if model.startswith(f"{release}/"):
        prefix = best_prefix(state, Recognized("named", model, 2).state())
    else:
        prefixes = {prefix for layout in LAYOUTS[release] for prefix in _before(state, layout.marks)}
        prefix = prefixes.pop() if len(prefixes) == 1 else ""
        if sum(key.startswith(prefix) for key in state) < _MOST * len(state):
            return state, []
    if not prefix:
        return state, []
    inside, others = without_prefix(state, prefix)
    dropped = f"; without the prefix and left out: {', '.join(others)}" if others else ""
    return inside, [f"prefix {prefix!r} removed{dropped}"]


def _before(state: Mapping[str, Tensor], marks: tuple[str, ...]) -> set[str]:
    """Return each prefix, "" or one that ends in a dot, for which prefix + mark is a key of `state` for all `marks`."""
    ends = [{key.removesuffix(mark) for key in state if f".{key}".endswith(f".{mark}")} for mark in marks]
    return set.intersection(*ends) if ends else set()


def to_theirs(
    state: Mapping[str, Tensor],
    release: str,
    *,
    model: str = "",
    grid: Grid = (14, 14),
    embeddings: Tensor | None = None,
) -> Converted:
    """Convert our state dict to the names of a release, so that the published code loads it.

    Args:
        state, release, model: as in `to_ours`.
        grid: rows and columns of the table of positions in SGRE's checkpoints: image size / 32, 14 for 448 pixels.
        embeddings: SGRE's embeddings, if the file is to omit them; they must equal those in `state`.

    Raises:
        ValueError: an unknown release or model, a model for which the release has no layout, an incomplete state dict,
            or `embeddings` that are not those in `state`.
    """
    choice("release", release, LAYOUTS)
    found = recognize(state, model)
    if found is None:
        raise ValueError(f"not recognized from its shapes as one of our models; pass --model NAME{advice(state, '')}")
    fitting = {
        name: layout
        for name, layouts in LAYOUTS.items()
        for layout in reversed(layouts)
        if layout.fits(found.family, found.head) and (layout.marks or model.startswith(f"{name}/"))
    }
    if release not in fitting:
        raise ValueError(f"{release} has no layout for {found}; it can be written as {', '.join(fitting) or 'none'}")
    layout = fitting[release]
    if layout.head:
        found = replace(found, head=layout.head)
    if differ := differences(without_counters(found.state(), state), state, most=20):
        raise ValueError(f"it would be {found}, but {differ}")
    theirs = _names(state, layout, back=True, grid=grid)
    if embeddings is not None:
        if layout.head != "sgre" or not torch.equal(theirs[EMBEDDINGS], embeddings.to(theirs[EMBEDDINGS].dtype)):
            raise ValueError("--embeddings differ from those of the checkpoint; omit the option to keep them")
        del theirs[EMBEDDINGS]
    return Converted(theirs, layout, found, ())


def without_head(state: Mapping[str, Tensor], found: Recognized | None) -> dict[str, Tensor]:
    """Return the backbone's weights from the state dict of a multi-label model or a classifier.

    Keys are those of the backbone's library. For a classifier, `found` determines the layer to omit; raise ValueError
    if `found` is None.
    """
    if backbone := without_prefix(state, "backbone.")[0]:
        return backbone
    if found is None:
        raise ValueError("the classifier layer of this model is unknown: pass --model NAME")
    classifier = f"{found.classifier()}."
    return {key: value for key, value in state.items() if not key.startswith(classifier)}


def _layout_of(state: Mapping[str, Tensor], release: str, model: str) -> Layout:
    layouts = LAYOUTS[release]
    named = [layout for layout in layouts if not layout.marks]
    if named and model.startswith(f"{release}/"):
        return named[0]
    if layout := next((layout for layout in layouts if layout.marked(state)), None):
        return layout
    needed = " or ".join(" and ".join(layout.marks) for layout in layouts if layout.marks)
    name = f" (for its other models pass --model {release}/NAME)" if named else ""
    raise ValueError(f"not a checkpoint of {release}, which has {needed}{name}{advice(state, release)}")


def advice(state: Mapping[str, Tensor], release: str) -> str:
    """Return advice for an error message: the releases whose keys `state` has.

    If there are none, name our own multi-label models if `state` has their keys. Return "" if `release` is one of the
    releases found, or if no keys match.
    """
    found = [name for name, layouts in LAYOUTS.items() if any(layout.marked(state) for layout in layouts)]
    if release in found:
        return ""
    if found:
        return f". It has the keys of: --from {' or '.join(found)}"
    ours = MultiLabelModel.classifier_name
    if any(key.startswith("backbone.") for key in state) and any(key.startswith(f"{ours}.") for key in state):
        return ". It has the keys of our own multi-label models: --from dali_mix"
    return ""


def _names(state: Mapping[str, Tensor], layout: Layout, *, back: bool, grid: Grid | None = None) -> dict[str, Tensor]:
    """Convert `state` from the release's names to ours or, if `back`, from ours to the release's.

    CSRA's heads are joined or split, and SGRE's table of positions is removed or computed. Unknown keys are kept, for
    `differences` to report. Raise ValueError if two tensors would get the same name, or if heads cannot be joined.

    Args:
        grid: with `back`, rows and columns of SGRE's table of positions; None to write no table.
    """
    if layout.head == "csra":
        state = _split(state) if back else _join(state)
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if not back and layout.head == "sgre" and key == POSITIONS:
            continue
        name = layout.theirs(key) if back else layout.ours(key)
        if name in renamed:
            raise ValueError(f"two entries are renamed to {name}; the second is {key}")
        renamed[name] = value
    if back and layout.head == "sgre" and grid is not None:
        dim = state["head.fc.weight"].shape[1]
        table = sine_positions(dim, *grid).to(state["head.fc.weight"].device)
        renamed[POSITIONS] = table.T.reshape(1, dim, *grid)
    return renamed


_MULTI_HEAD = "classifier.multi_head.#.head.weight"


def _join(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join CSRA's 1×1 convolutions (K,C,1,1), one per head, into `head.weight` (heads,K,C).

    Raise ValueError if heads are missing, or differ in shape.
    """
    names = [_MULTI_HEAD.replace("#", str(i)) for i in range(count(state, _MULTI_HEAD))]
    heads = [state[name] for name in names if name in state]
    rest = {key: value for key, value in state.items() if key not in names}
    shapes = {tuple(head.shape) for head in heads}
    if len(heads) < len(names) or len(shapes) != 1 or any(len(shape) != 4 or shape[2:] != (1, 1) for shape in shapes):
        classifier = {key: tuple(value.shape) for key, value in state.items() if key.startswith("classifier.")}
        found = ", ".join(f"{key} {shape}" for key, shape in classifier.items())
        raise ValueError(f"heads must be numbered from 0 and all of one shape (classes, channels, 1, 1), not {found}")
    return {**rest, "head.weight": torch.stack(heads).flatten(2)}


def _split(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    rest = {key: value for key, value in state.items() if key != "head.weight"}
    heads = {_MULTI_HEAD.replace("#", str(i)): head[:, :, None, None] for i, head in enumerate(state["head.weight"])}
    return {**rest, **heads}


def _expected(
    found: Recognized, layout: Layout, given: Mapping[str, Tensor], positions: Tensor | None
) -> dict[str, Tensor]:
    """Return the state dict, on the meta device, that a file of the release must have if it contains model `found`.

    Versions of a release may name a layer differently; then the name is that in `given`, the file's state dict. The
    table of positions has the grid of `positions`, the file's table, or is missing if that is None.
    """
    grid = (positions.shape[2], positions.shape[3]) if positions is not None and positions.ndim == 4 else None
    expected = _names(found.state(), layout, back=True, grid=grid)
    # Versions of a release may name the same layer differently.
    spelled = {layout.ours(key): key for key in given}
    expected = {spelled.get(layout.ours(key), key): value for key, value in expected.items()}
    return without_counters(expected, given)


def without_counters(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of `expected`, without BatchNorm's step counters if `given` has none."""
    if any(key.endswith(COUNTER) for key in given):
        return dict(expected)
    return {key: value for key, value in expected.items() if not key.endswith(COUNTER)}


def _check_positions(table: Tensor) -> str:
    _, dim, rows, columns = table.shape
    wanted = sine_positions(dim, rows, columns).T.reshape(table.shape)
    far = float((table.double() - wanted.double()).abs().max())
    if not far < 1e-3:
        raise ValueError(f"{POSITIONS} differs by {far:.3g} from the sine table that our head computes")
    within = f", within {far:.1g} of this file" if far else ""
    return f"{POSITIONS} is computed here; back: --grid {rows}x{columns}{within}"
