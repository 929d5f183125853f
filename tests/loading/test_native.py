import itertools

import numpy as np
import pytest
from dali_mix.pipelines import SampleRandom

from dali_mix import build_loader
from dali_mix.recordio import RecordSet, write_set
from tests.loading.sets import encode, picture, pixels_by_id, png_set


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return RecordSet(png_set(tmp_path_factory.mktemp("native") / "set", 41, shards=3))


def loader(records, *, train=True, batch_size=6, options=None, **more):
    return build_loader(
        more.pop("pipeline", "imagenet"),
        records,
        batch_size=batch_size,
        train=train,
        source="native",
        device="cpu",
        num_threads=1,
        pipeline_options={"image_size": 32} | (options or {}),
        **more,
    )


@pytest.mark.parametrize("train", [True, False])
def test_each_record_once_an_epoch(records, train):
    for world_size, batch_size in itertools.product((1, 2, 3), (4, 13)):
        ranks = [
            loader(records, train=train, batch_size=batch_size, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for epoch in range(2):
            seen, steps = [], []
            for one in ranks:
                batches = list(one)
                steps.append(len(batches))
                assert len(batches) == len(one) and one.epoch == epoch + 1
                for images, targets, ids in batches:
                    assert len(images) == len(targets) == len(ids) > 0
                    assert (targets == ids % 3).all()
                    seen += ids.tolist()
            assert len(set(seen)) == len(seen)
            assert len(seen) == (41 if not train else 41 // world_size * world_size)
            assert len(set(steps)) == 1 or not train


def test_evaluation_has_the_pixels_of_the_exact_source(records):
    options = {"crop_ratio": 36 / 32}
    ours = pixels_by_id([loader(records, train=False, options=options)])
    exact = build_loader(
        "imagenet",
        records,
        batch_size=6,
        train=False,
        device="cpu",
        num_threads=1,
        pipeline_options={"image_size": 32} | options,
    )
    theirs = pixels_by_id([exact])
    assert set(ours) == set(theirs) == set(range(41))
    sizes = exact.pipeline.draw(records.table[:], SampleRandom(0, 0, np.arange(41)))["0.size"]
    even = [i for i in range(41) if not ((sizes[i] - 32) % 2).any()]  # an odd rest may be cut one pixel beside
    assert len(even) > 5
    assert max(abs(ours[i] - theirs[i]).max() for i in even) < 0.02


def test_an_epoch_depends_on_seed_and_epoch_and_resumes_at_its_end_only(records):
    one = loader(records)
    first, second = pixels_by_id([one]), pixels_by_id([one])
    state = one.state_dict()
    third = pixels_by_id([one])
    again = loader(records)
    again.load_state_dict(state)
    assert all(np.array_equal(image, third[i]) for i, image in pixels_by_id([again]).items())
    assert any((first[i] != second[i]).any() for i in first)
    next(iter(one))
    with pytest.raises(ValueError, match="inside epoch 3, where source='native' cannot begin"):
        loader(records).load_state_dict(one.state_dict())


def test_what_it_cannot_do_is_refused(records, tmp_path):
    for options in ({"color_jitter": 0.4}, {"auto_augment": "randaugment"}, {"erasing": 0.5}):
        with pytest.raises(ValueError, match="crops and flips only"):
            loader(records, options=options)
    with pytest.raises(ValueError, match="pipeline 'cifar' draws per record"):
        loader(records, pipeline="cifar")
    with pytest.raises(ValueError, match="cannot skip bad records"):
        loader(records, on_bad_record="skip")
    write_set(
        tmp_path / "boxes", [(encode(picture(40, 40)), [2, 6, 0, 0.1, 0.1, 0.5, 0.5, 0])], task="detection", classes="a"
    )
    with pytest.raises(ValueError, match="does not tell where it cropped"):
        loader(RecordSet(tmp_path / "boxes"))


def test_a_record_that_does_not_decode_ends_with_advice(tmp_path):
    samples = [(b"<html>" * 9 if i == 3 else encode(picture(40, 40)), 0, 40, 40, "png") for i in range(6)]
    write_set(tmp_path / "bad", samples, classes="a")
    with pytest.raises(ValueError, match=r"bad: DALI cannot read or decode .*`dali-mix verify --decode .*bad`"):
        list(loader(RecordSet(tmp_path / "bad")))


@pytest.mark.parametrize("text", [b"garbage", b"0\t0\n1\t0\n"])
def test_rows_19_and_20_an_index_of_any_size_is_checked(tmp_path, monkeypatch, text):
    monkeypatch.setattr("dali_mix.recordio.reader.HASH_INDEX_BELOW", 0)  # as for millions of records
    prefix = png_set(tmp_path / "set", 12)
    index = tmp_path / "set.idx"
    index.write_bytes(text + index.read_bytes()[len(text) :])
    records = RecordSet(prefix)
    with pytest.raises(ValueError, match=r"set\.idx: changed since the set was packed"):
        loader(records)


@pytest.mark.parametrize("train", [True, False])
def test_a_picture_of_another_size_than_the_manifest_s_is_named(tmp_path, train):
    samples = [(encode(picture(40, 50), "JPEG"), 0, 40 + (number == 5), 50, "jpeg") for number in range(8)]
    write_set(tmp_path / "set", samples, classes="a")
    with pytest.raises(ValueError, match="set: record 5: the image is 40×50 pixels, the manifest says 41×50"):
        list(
            build_loader(
                "imagenet",
                tmp_path / "set",
                batch_size=4,
                train=train,
                device="cpu",
                source="native",
                pipeline_options={"image_size": 32},
            )
        )
