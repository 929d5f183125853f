"""Recipe files: found by name, former name or path, with variants and bases, and changed by options."""

import json

import pytest

from dali_mix.cli.main import main
from dali_mix.engine.config.recipe_files import (
    find_recipe,
    list_recipes,
    load_config,
    parse_option,
    read_recipe,
    recipe_name,
    recipe_text,
)
from dali_mix.engine.config.saved import load_evaluated, load_resumed

VARIANTS = [name for name in list_recipes() if ":" in name]
OWN = """\"\"\"Mine, {title}.\"\"\"
model = {"type": "wrn-16-1"}
train_set = "data/mine"
VARIANTS = {"wide": {"about": {"title": "wide"}, "model.type": "wrn-16-2", "loader.num_threads": 1}, "same": {}}
"""


def test_user_recipe_extends_bundled_and_local_recipe(tmp_path):
    base = "from mmengine.config import read_base\nwith read_base():\n    from {} import *\n"
    (tmp_path / "_mine.py").write_text(base.format("dali_mix.recipes.quickstart") + "epochs = 7\n")
    (tmp_path / "mine.py").write_text(base.format("._mine") + "seed = 5\n")
    config = load_config(str(tmp_path / "mine.py"), ["optimizer.lr=0.5", "mixer=none", "loader.num_threads=3"])
    assert (config.epochs, config.seed, config.optimizer["lr"], config.mixer) == (7, 5, 0.5, None)
    assert config.loader == {"num_threads": 3}
    assert load_config("quickstart").optimizer["lr"] != 0.5
    (tmp_path / "mine.py").write_text("epochs = 1\n")
    with pytest.raises(ValueError, match="train_set"):  # read again, and now incomplete
        load_config(str(tmp_path / "mine.py"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=1", ("a.b", 1)),
        ("a=1e-3", ("a", 1e-3)),
        ("a=true", ("a", True)),
        ("a=None", ("a", None)),
        ("a=[1,2]", ("a", [1, 2])),
        ("a={'type': 'x'}", ("a", {"type": "x"})),
        ("a=data/x=y", ("a", "data/x=y")),
        ("a=__import__('os').getcwd()", ("a", "__import__('os').getcwd()")),
    ],
)
def test_parse_option(text, expected):
    assert parse_option(text) == expected


def test_unknown_recipe_suggests_close_names():
    with pytest.raises(FileNotFoundError, match="cifar10/wrn28_10:resizemix"):
        find_recipe("cifar10/wrn28_resizemix")
    with pytest.raises(FileNotFoundError, match="no such recipe file"):
        find_recipe("nowhere/mine.py")


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_yaml_and_json_recipes_are_refused(tmp_path, suffix):
    """The tag would run code if the file were parsed."""
    marker, path = tmp_path / "marker", tmp_path / f"evil{suffix}"
    path.write_text(f"x: !!python/object/apply:os.mkdir ['{marker}']\n")
    with pytest.raises(ValueError, match="YAML and JSON are not supported"):
        load_config(str(path))
    assert not marker.exists()


def test_recipe_with_other_values_or_error_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = {1, 2}\n")
    with pytest.raises(ValueError, match="x is not made of plain values"):
        read_recipe(path)
    path.write_text("x = 1 / 0\n")
    with pytest.raises(ValueError, match="cannot be imported: ZeroDivisionError"):
        read_recipe(path)


def test_recipes_command(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in list_recipes())
    assert "_wrn28_10" not in listed
    assert main(["recipes", "quickstart"]) == 0
    assert capsys.readouterr().out == find_recipe("quickstart")[0].read_text()
    assert main(["recipes", "quickstar"]) == 1
    assert "quickstart" in capsys.readouterr().err


def test_number_of_recipes_and_variants():
    assert len(list_recipes()) == 92 and len(VARIANTS) == 81


@pytest.mark.parametrize("name", VARIANTS)
def test_former_name_loads_variant(name):
    """A former name joins file and variant with "_"; for SaliencyMix, the variant comes first."""
    folder, _, own = name.rpartition("/")
    file, _, variant = own.partition(":")
    first, second = (variant, file) if file == "saliencymix" else (file, variant)
    former = f"{folder}/{first}_{second}"
    assert recipe_name(former) == name
    assert load_config(former) == load_config(name)


def test_recipe_text_fills_in_header_fields():
    text = recipe_text("multilabel/wider_msl:tresnet_l")
    header, _, values = text.partition('\n"""\n')
    assert "WIDER-Attribute, TResNet-L, CSRA head" in header and "{" not in header
    assert "train multilabel/wider_msl:tresnet_l --work-dir work_dirs/wider_msl_tresnet_l" in header
    assert values in find_recipe("multilabel/wider_msl:tresnet_l")[0].read_text()


def test_recipes_command_lists_and_prints_variants(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert "imagenet/resnet50:cutmix " in listed and "ImageNet-1k, ResNet-50, CutMix on every batch." in listed
    assert main(["recipes", "imagenet/resnet50_cutmix"]) == 0
    assert capsys.readouterr().out == recipe_text("imagenet/resnet50:cutmix")


@pytest.mark.parametrize("name", ["multilabel/wider_msl", "multilabel/wider_msl:tresnet_s"])
def test_missing_or_unknown_variant_is_refused(name):
    with pytest.raises(FileNotFoundError, match=r"did you mean multilabel/wider_msl:"):
        load_config(name)


@pytest.mark.parametrize("name", ["cifar10/wrn28_10_cutmix", "cifar10/wrn28_10:cutmix"])
def test_run_with_former_recipe_name_is_loaded(tmp_path, name):
    (tmp_path / "checkpoints").mkdir()
    checkpoint = tmp_path / "checkpoints" / "best.pt"
    checkpoint.touch()
    values = load_config(name, ["batch_size=32"]).resolved()
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "cifar10/wrn28_10_cutmix", **values}))
    assert load_resumed(name, tmp_path).batch_size == 32
    assert load_evaluated(name, checkpoint)[0].batch_size == 32
    with pytest.raises(
        ValueError, match="this run uses the recipe cifar10/wrn28_10:cutmix, not cifar10/wrn28_10:cutout"
    ):
        load_resumed("cifar10/wrn28_10:cutout", tmp_path)


def test_variants_of_user_recipe(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    wide = read_recipe(f"{path}:wide")
    assert wide == {"model": {"type": "wrn-16-2"}, "train_set": "data/mine", "loader": {"num_threads": 1}}
    assert read_recipe(f"{path}:same") == {"model": {"type": "wrn-16-1"}, "train_set": "data/mine"}
    assert recipe_name(f"{path}:wide") == f"{path}:wide"
    assert recipe_text(f"{path}:wide").startswith('"""Mine, wide.')


@pytest.mark.parametrize("variant", ["", ":narrow"])
def test_missing_or_unknown_variant_of_user_recipe_is_refused(tmp_path, variant):
    (tmp_path / "mine.py").write_text(OWN)
    with pytest.raises(ValueError, match=r"choose one of mine\.py:wide, :same"):
        read_recipe(f"{tmp_path / 'mine.py'}{variant}")


def test_variant_of_recipe_without_variants_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("seed = 1\n")
    with pytest.raises(ValueError, match=r"choose mine\.py, which has no variants"):
        read_recipe(f"{tmp_path / 'mine.py'}:wide")


@pytest.mark.parametrize("module", ["cifar10.wrn28_10_cutmix", "cifar10.wrn28_10_saliencymix"])
def test_user_recipe_extends_variant(tmp_path, module):
    path = tmp_path / "mine.py"
    text = f"from mmengine.config import read_base\nwith read_base():\n    from dali_mix.recipes.{module} import *\n"
    path.write_text(text + "epochs = 7\n")
    assert read_recipe(path) == {**read_recipe(module.replace(".", "/")), "epochs": 7}


@pytest.mark.parametrize(
    ("options", "model"),
    [
        (["model.head.lam=0.5"], {"type": "csra", "num_heads": 1, "lam": 0.5}),
        (["model.head=max", "model.head.x=1"], {"type": "max", "x": 1}),
        (["model.head.type=average"], {"type": "average"}),
    ],
)
def test_options_of_head_given_by_name(options, model):
    head = load_config("multilabel/voc_style_csra_resnet18", options).model["head"]
    assert {key: head[key] for key in model} == model


@pytest.mark.parametrize(
    "option", ["train_set.x=1", "model.type.x=1", "model.backbone.type.x=1", "optimizer.type.lr=1"]
)
def test_option_below_plain_value_is_refused(option):
    with pytest.raises(ValueError, match="cannot set"):
        load_config("multilabel/voc_style_csra_resnet18", [option])
