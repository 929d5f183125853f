import itertools

import numpy as np
import pytest
import torch
from dali_mix.pipelines import Pipeline, SampleRandom, normalize
from nvidia.dali import fn, types

from dali_mix import build_loader
from dali_mix.loading import Batch
from dali_mix.recordio import RecordSet, write_set
from tests.loading.sets import boxed_set, encode, picture, pixels_by_id, png_set

SMALL = {"image_size": 32}


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    return RecordSet(png_set(tmp_path_factory.mktemp("forty") / "set", 40, shards=2))


def loader(records, name="imagenet", *, batch_size=6, train=True, options=SMALL, **more):
    return build_loader(
        name, records, batch_size=batch_size, train=train, device="cpu", num_threads=1, pipeline_options=options, **more
    )


@pytest.mark.parametrize("name", ["imagenet", "cifar"])
@pytest.mark.parametrize("train", [True, False])
def test_each_id_once_per_epoch_with_equal_steps_on_all_ranks(forty, name, train):
    for world_size, batch_size in itertools.product((1, 2, 3), (4, 6, 13)):
        ranks = [
            loader(forty, name, batch_size=batch_size, train=train, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        orders = []
        for epoch in range(3):
            batches = [list(one) for one in ranks]
            assert {len(found) for found in batches} == {len(ranks[0])}
            ids = [batch.ids for found in batches for batch in found]
            assert sorted(torch.cat(ids).tolist()) == list(range(40))
            for batch in itertools.chain(*batches):
                assert 1 <= len(batch.ids) <= batch_size  # never empty
                assert batch.images.shape == (len(batch.ids), 3, 32, 32) and batch.images.dtype == torch.float32
                assert torch.equal(batch.targets, batch.ids % 3)
            assert {one.epoch for one in ranks} == {epoch + 1}
            orders.append(torch.cat(ids).tolist())
        assert (orders[0] != orders[1]) == train


@pytest.mark.parametrize("name", ["imagenet", "cifar"])
def test_pixels_do_not_depend_on_batch_size_or_ranks(forty, name):
    options = {"image_size": 32}
    if name == "imagenet":
        options |= {"color_jitter": 0.4, "pca_lighting": 0.1, "erasing": 0.5, "auto_augment": "trivialaugment"}
    one = loader(forty, name, batch_size=13, options=options)
    epochs = [pixels_by_id([one]) for _ in range(2)]
    assert any((epochs[0][i] != epochs[1][i]).any() for i in range(40))
    for world_size, batch_size in ((1, 5), (3, 4)):
        ranks = [
            loader(forty, name, batch_size=batch_size, rank=rank, world_size=world_size, options=options)
            for rank in range(world_size)
        ]
        for one in ranks:
            one.set_epoch(1)
        again = pixels_by_id(ranks)
        assert all(np.array_equal(again[i], epochs[1][i]) for i in range(40))
    other = pixels_by_id([loader(forty, name, seed=7, options=options)])
    assert any((other[i] != epochs[0][i]).any() for i in range(40))


@pytest.mark.parametrize("name", ["imagenet", "cifar"])
@pytest.mark.parametrize("stop", [0, 1, 3, 6])
def test_resumed_epoch_is_bit_identical_on_any_ranks(forty, name, stop):
    whole = loader(forty, name)
    whole.set_epoch(4)
    batches = list(whole)
    stopped = loader(forty, name)
    stopped.set_epoch(4)
    taken = list(itertools.islice(stopped, stop))
    state = stopped.state_dict()
    assert len(taken) == stop and state["epoch"] == 4 and state["samples_seen"] == 6 * stop
    same = loader(forty, name)
    same.load_state_dict(state)
    rest = list(same)
    assert len(rest) == len(batches) - stop
    for ours, theirs in zip(rest, batches[stop:], strict=True):
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.ids, theirs.ids)
    assert (same.epoch, same.samples_seen) == (5, 0)
    ranks = [loader(forty, name, batch_size=2, rank=rank, world_size=3) for rank in range(3)]
    for one in ranks:
        one.load_state_dict(state)
    pixels = pixels_by_id(ranks)
    before = {i for batch in batches[:stop] for i in batch.ids.tolist()}
    assert set(pixels) == set(range(40)) - before
    for batch in batches[stop:]:
        for image, number in zip(batch.images.numpy(), batch.ids.tolist(), strict=True):
            assert np.array_equal(image, pixels[number])


def test_samples_seen_excludes_prefetched_batches(forty):
    one = loader(forty, prefetch=4)
    seen = 0
    for batch in itertools.islice(one, 5):
        seen += len(batch.ids)
        assert (one.epoch, one.samples_seen, one.global_size) == (0, seen, len(batch.ids))
    assert one.state_dict()["samples_seen"] == seen == 30


def test_set_epoch_discards_prefetched_batches(forty):
    expected = {}
    straight = loader(forty)
    for epoch in range(3):
        expected[epoch] = torch.cat([batch.ids for batch in straight])
    one = loader(forty)
    next(iter(one))
    for epoch in (2, 0, 1):
        one.set_epoch(epoch)
        assert torch.equal(torch.cat([batch.ids for batch in one]), expected[epoch])
    one.set_epoch(0)
    steps = []
    for batch in one:
        steps.append(batch.ids)
        if len(steps) == 2:
            one.set_epoch(2)  # inside the loop, this ends the epoch
    assert len(steps) == 2 and torch.equal(torch.cat([batch.ids for batch in one]), expected[2])
    with pytest.raises(ValueError, match="epoch=-1: must be an integer of at least 0"):
        one.set_epoch(-1)


@pytest.mark.parametrize("name", ["imagenet", "cifar"])
def test_kept_batches_do_not_change(forty, name):
    one = loader(forty, name, batch_size=4)
    kept = [(batch, batch.images.clone()) for _ in range(3) for batch in one]
    one.close()
    del one
    assert len(kept) == 30
    for batch, copy in kept:
        assert torch.equal(batch.images, copy)
        batch.images.zero_()  # batches are writable


def test_state_of_other_run_is_refused_if_strict(forty, tmp_path):
    state = loader(forty).state_dict()
    assert all(type(value) in (int, str, bool) for value in state.values())
    other = RecordSet(png_set(tmp_path / "other", 12))
    for changed, named in (
        (loader(forty, seed=3), "seed 0, this loader has 3"),
        (loader(forty, batch_size=8), "global_batch_size 6, this loader has 8"),
        (loader(forty, train=False), "train True, this loader has False"),
        (loader(other), f"fingerprint '{forty.fingerprint}', this loader has '{other.fingerprint}'"),
    ):
        with pytest.raises(ValueError, match=named):
            changed.load_state_dict(state)
        changed.load_state_dict(state | {"samples_seen": 6}, strict=False)
        assert changed.samples_seen == 6
    with pytest.raises(ValueError, match="lacks seed"):
        loader(forty).load_state_dict({key: value for key, value in state.items() if key != "seed"})
    with pytest.raises(ValueError, match="record 41 of epoch 0"):
        loader(forty).load_state_dict(state | {"samples_seen": 41})
    with pytest.raises(ValueError, match="record 0 of epoch -1"):
        loader(forty).load_state_dict(state | {"epoch": -1})


def test_loader_with_fewer_records_than_ranks(tmp_path):
    records = RecordSet(png_set(tmp_path / "two", 2))
    with pytest.raises(ValueError, match="2 records are less than one step of 4 per rank on 3 ranks"):
        loader(records, batch_size=4, rank=0, world_size=3)
    ranks = [loader(records, batch_size=4, train=False, rank=rank, world_size=3) for rank in range(3)]
    assert [len(one) for one in ranks] == [1, 1, 0]
    for _ in range(2):
        assert sorted(pixels_by_id(ranks)) == [0, 1]


def test_drop_last_and_global_size(forty):
    one = loader(forty, batch_size=12, drop_last=True)
    assert len(one) == 3 and [len(batch.ids) for batch in one] == [12, 12, 12]
    ranks = [loader(forty, batch_size=13, rank=rank, world_size=3) for rank in range(3)]  # pooled, as 40 = 39 + 1
    sizes = [[(len(batch.ids), one.global_size) for batch in one] for one in ranks]
    assert sizes == [[(7, 20), (7, 20)], [(7, 20), (7, 20)], [(6, 20), (6, 20)]]


def test_loader_exposes_dataset_and_pipeline(forty):
    one = loader(str(forty.prefix), train=False)
    assert len(one) == 7 and len(one.dataset) == 40
    assert one.dataset.metainfo["classes"] == ("a", "b", "c") and one.dataset.metainfo["num_classes"] == 3
    assert one.dataset.metainfo["task"] == "classification"
    assert one.pipeline.image_size == (32, 32) and len(one.pipeline.mean) == len(one.pipeline.std) == 3
    assert (one.rank, one.world_size, one.batch_size, one.global_batch_size, one.seed) == (0, 1, 6, 6, 0)


def test_plain_training_loop_reduces_loss(forty):
    one = loader(forty, "cifar", batch_size=8)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        for images, targets, _ in one:
            loss = torch.nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_multilabel_targets_and_batch_to(tmp_path):
    labels = np.random.default_rng(0).integers(-1, 2, (9, 5)).astype(np.float32)
    samples = [(encode(picture(40, 40, i)), labels[i]) for i in range(9)]
    write_set(tmp_path / "multi", samples, task="multilabel", classes="abcde")
    for batch in loader(RecordSet(tmp_path / "multi"), batch_size=4):
        assert batch.targets.dtype == torch.float32 and np.array_equal(batch.targets.numpy(), labels[batch.ids.numpy()])
        assert isinstance(batch.to("cpu"), Batch) and torch.equal(batch.to("cpu").targets, batch.targets)


def test_boxes_follow_crop_resize_and_flip(tmp_path):
    """The box of a bright rectangle on black must match its pixels."""
    boxed_set(tmp_path / "boxes", 24, 160)
    options = {"image_size": (96, 128), "mean": (0, 0, 0), "std": (1, 1, 1)}
    checked = 0
    for train in (True, False):
        for images, targets, _ in loader(RecordSet(tmp_path / "boxes"), train=train, options=options):
            for image, target in zip(images, targets, strict=True):
                lit = (image[0] > 0.5).nonzero()
                assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all(), "a box outside the window was kept"
                if len(target["boxes"]) and len(lit) > 20:
                    assert target["labels"].tolist() == [1] and target["difficult"].tolist() == [False]
                    found = [lit[:, 1].min(), lit[:, 0].min(), lit[:, 1].max() + 1, lit[:, 0].max() + 1]
                    assert (target["boxes"][0] - torch.stack(found)).abs().max() < 2.5
                    checked += 1
                assert len(target["boxes"]) or len(lit) < 300
    assert checked > 30
    with pytest.raises(ValueError, match="'cifar' does not support boxes"):
        loader(RecordSet(tmp_path / "boxes"), "cifar")
    for name in ("imagenet", "multilabel"):
        options = {"auto_augment": "randaugment"}
        loader(RecordSet(tmp_path / "boxes"), name, train=False, options=options).close()
        with pytest.raises(ValueError, match="boxes is a detection set: auto_augment='randaugment' would rotate"):
            loader(RecordSet(tmp_path / "boxes"), name, train=True, options=options)


PIPELINES = [
    ("imagenet", SMALL),
    ("imagenet", {**SMALL, "fuse": False, "color_jitter": 0.4}),
    ("imagenet", {**SMALL, "preset": "resizemix"}),
    ("multilabel", SMALL),
    ("cifar", SMALL),
    ("detection", {"shorter": (20, 33), "longest": 50}),
    ("detection", {"shorter": 30, "longest": 50, "fuse": False}),
]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("name", "options"), PIPELINES)
def test_float32_batches_equal_normalized_uint8_batches(forty, name, options, train):
    """float32 batches equal normalized uint8 batches, bit for bit, whether or not the graph normalizes."""
    made, plain = (loader(forty, name, train=train, options=options, dtype=dtype) for dtype in ("float32", "uint8"))
    compared = 0
    for ours, theirs in zip(made, plain, strict=True):
        pipeline, sizes = made.pipeline, None
        assert ours.images.dtype == torch.float32 and theirs.images.dtype == torch.uint8
        if name == "detection":
            rows = np.asarray(forty.table[ours.ids.numpy()])
            sizes = pipeline.sizes(rows, pipeline.draw(rows, SampleRandom(0, 0, ours.ids.numpy())))
            assert (sizes < theirs.images.shape[2:]).any(), "nothing is padded"
        assert normalize(theirs.images, pipeline.mean, pipeline.std, sizes).equal(ours.images)
        assert 60 < theirs.images[:, :, :8, :8].float().mean() < 200
        compared += len(ours.ids)
    assert compared == 40 and not made.pipeline.normalizing, "the user's pipeline was changed"


class Unit(Pipeline):
    """A pipeline whose graph scales the images itself."""

    name = "unit"

    def draw(self, rows, random):
        return {}

    def graph(self, encoded, draws, device):
        images = fn.resize(fn.decoders.image(encoded), size=[8, 8])
        return fn.crop_mirror_normalize(images, dtype=types.FLOAT, std=[255.0], mean=[0.0], output_layout="CHW")


def test_float32_graph_output_is_not_normalized(forty):
    pipeline = Unit(train=False, image_size=8, mean=(9, 9, 9), std=(9, 9, 9))
    images = next(iter(loader(forty, pipeline, train=False, options=None))).images
    assert images.dtype == torch.float32 and 0 <= images.min() < images.max() <= 1
    with pytest.raises(ValueError, match=r"pipeline 'unit' returns torch.float32 images: omit dtype='uint8'"):
        next(iter(loader(forty, pipeline, train=False, options=None, dtype="uint8")))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("name", "options"), PIPELINES)
def test_cpu_decoding_for_gpu_matches_cpu_loader(forty, name, options):
    """The batches are identical to those without a GPU."""
    here = loader(forty, name, options=options)
    there = build_loader(
        name, forty, batch_size=6, train=True, device="cuda", decode="cpu", num_threads=1, pipeline_options=options
    )
    for ours, theirs in zip(here, there, strict=True):
        assert theirs.images.is_cuda and theirs.images.cpu().equal(ours.images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be an integer from 1"),
        ({"train": "val"}, "train='val': must be True or False"),
        ({"drop_last": "no"}, "drop_last='no'"),
        ({"verify_crc": None}, "verify_crc=None"),
        ({"seed": -1}, "seed=-1: must be an integer"),
        ({"seed": 1 << 64}, "must be an integer from 0 to 18446744073709551615$"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of 2"),
        ({"rank": 1}, "both rank and world_size"),
        ({"prefetch": 0}, "prefetch=0: must be an integer from 1 to 64"),
        ({"num_threads": -1}, "num_threads=-1: must be an integer of at least 1"),
        ({"on_bad_record": "ignore"}, "on_bad_record='ignore': must be one of raise, skip"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"decode": "npu"}, "decode='npu': must be one of auto, cpu, gpu"),
        ({"decode": "gpu"}, "decode is 'gpu', but device is the CPU"),
        ({"dtype": "float16"}, "dtype='float16': must be one of float32, uint8"),
        ({"pipeline": "imagnet"}, "'imagnet' is not known.*: choose one of cifar, detection, imagenet"),
        ({"pipeline_options": 64}, "pipeline_options=64: must be a dict"),
        ({"pipeline_options": {"siez": 3}}, "no option 'siez': its options are image_size"),
        ({"batch_size": 50, "drop_last": True}, "with drop_last"),
        ({"workers": "auto"}, r"workers='auto': must be a pool: dali_mix\.service\.connect\('auto'\); num_threads is"),
        ({"workers": "host:7"}, r"must be a pool: dali_mix\.service\.connect\('host:7'\)"),
        (
            {"workers": 4},
            r"workers=4: must be a pool: dali_mix\.service\.connect\('auto'\); num_threads is the",
        ),
    ],
)
def test_build_loader_names_wrong_argument(forty, changes, message):
    arguments = {"pipeline": "imagenet", "batch_size": 4, "train": True, "device": "cpu"} | changes
    with pytest.raises(ValueError, match=message):
        build_loader(arguments.pop("pipeline"), forty, **arguments)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("image_size", r": pass pipeline_options=\{'image_size': \.\.\.\}$"),
        ("num_workers", ": num_threads is"),
        ("shuffle", ": train=True shuffles"),
        ("transform", ": pass a pipeline"),
        ("batchsize", r" \(did you mean batch_size\?\)$"),
        ("collate_fn", "$"),
    ],
)
def test_unknown_keyword_gets_hint(forty, name, hint):
    with pytest.raises(TypeError, match=rf"^build_loader\(\) has no keyword '{name}'{hint}"):
        build_loader("imagenet", forty, batch_size=4, train=True, **{name: 4})


def test_missing_set_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        build_loader("cifar", tmp_path / "nothing", batch_size=4, train=True, device="cpu")
