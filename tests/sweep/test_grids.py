"""Grids expand to the expected jobs, and their configurations are those that Hydra composes."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from ersparse.config.options import CONF
from ersparse.errors import UserError
from ersparse.sweep import grids
from ersparse.sweep.compose import Composer
from ersparse.sweep.sweeper import expand

PARSER = OverridesParser.create()


@pytest.fixture
def composer():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield Composer(GlobalHydra.instance().config_loader())


@pytest.fixture
def preset(tmp_path):
    """Writes conf/experiment/<name>.yaml of a folder that hydra.searchpath can name."""

    def write(name, params):
        (tmp_path / "experiment").mkdir(exist_ok=True)
        text = f"# @package _global_\nexperiment: {name}\nhydra: {{mode: MULTIRUN, sweeper: {{params: {params}}}}}\n"
        (tmp_path / "experiment" / f"{name}.yaml").write_text(text)
        return f"hydra.searchpath=[file://{tmp_path}]"

    return write


def jobs(overrides, params=None):
    """Return the jobs of a command line over one preset, each as one string."""
    found = []
    for grid in grids.split_union(overrides):
        given = [grids.parse_axis(override, PARSER) for override in grid]
        for own in grids.parse_params(params, PARSER):
            found += [" ".join(job) for job in grids.product(grids.replace_axes(own, given))]
    return found


WRITTEN = [
    (
        "seed=0,1 sparsity=er,erk",
        ["seed=0 sparsity=er", "seed=0 sparsity=erk", "seed=1 sparsity=er", "seed=1 sparsity=erk"],
    ),
    ("seed=range(0,3)", ["seed=0", "seed=1", "seed=2"]),
    ("seed=choice(4,5)", ["seed=4", "seed=5"]),
    ("sparsity=glob(er*)", ["sparsity=er", "sparsity=erk"]),
    ("variant=glob(*,exclude=p*)", ["variant=code"]),
    ("seed,trainer.devices=[0,1],[1,2]", ["seed=0 trainer.devices=1", "seed=1 trainer.devices=2"]),
    ("seed,trainer.devices=[0,1]", ["seed=0 trainer.devices=1"]),
    (
        "model,dataset=[vgg16,cifar10],[vgg19,cifar100] seed=0,1",
        [
            "model=vgg16 dataset=cifar10 seed=0",
            "model=vgg16 dataset=cifar10 seed=1",
            "model=vgg19 dataset=cifar100 seed=0",
            "model=vgg19 dataset=cifar100 seed=1",
        ],
    ),
    (
        "scale=smoke sparsity=er,erk or sparsity=dense",
        ["scale=smoke sparsity=er", "scale=smoke sparsity=erk", "scale=smoke sparsity=dense"],
    ),
    ("a,b=[1,2],[3,4] or b=5", ["a=1 b=2", "a=3 b=4", "b=5"]),
    ("a=1 or a=2 or b=3", ["a=1", "a=2", "a=1 b=3"]),
    ("optimizer.milestones=[0.5,0.75],[0.3]", ["optimizer.milestones=[0.5,0.75]", "optimizer.milestones=[0.3]"]),
    ("+a=1,2", ["+a=1", "+a=2"]),
    ("~a seed=0,1", ["~a seed=0", "~a seed=1"]),
    ("a=true b=", ["a=true b="]),
    ("paths.root='a,b'", ["paths.root='a,b'"]),
]


@pytest.mark.parametrize("line, expected", WRITTEN, ids=[line for line, _ in WRITTEN])
def test_a_sweep_on_the_command_line(line, expected):
    assert jobs(line.split()) == expected


PAIRS = {"sparsity.level,method.final": [[0.5, 0.9], [0.8, 0.95]], "seed": "0,1"}
PRESETS = [
    ({"seed": "0,1"}, "", ["seed=0", "seed=1"]),
    ({"seed": [0, 1]}, "", ["seed=0", "seed=1"]),
    (
        {"seed": 3, "model.init_from": None, "dataset.augment": False},
        "",
        ["seed=3 model.init_from=null dataset.augment=false"],
    ),
    (
        {"optimizer.milestones": [[0.5, 0.75], [0.3]]},
        "",
        ["optimizer.milestones=[0.5,0.75]", "optimizer.milestones=[0.3]"],
    ),
    (PAIRS, "seed=7", ["sparsity.level=0.5 method.final=0.9 seed=7", "sparsity.level=0.8 method.final=0.95 seed=7"]),
    (
        PAIRS,
        "seed=7 sparsity.level=0.7",
        ["method.final=0.9 seed=7 sparsity.level=0.7", "method.final=0.95 seed=7 sparsity.level=0.7"],
    ),
    (PAIRS, "seed=7 sparsity.level,method.final=[0.1,0.2]", ["seed=7 sparsity.level=0.1 method.final=0.2"]),
    ([{"seed": "0,1"}, {"sparsity": "dense"}], "", ["seed=0", "seed=1", "sparsity=dense"]),
    ([{"seed": "0,1"}, {"sparsity": "dense"}], "seed=5", ["seed=5", "sparsity=dense seed=5"]),
    (
        [{"seed": "0,1"}, {"sparsity": "dense"}],
        "sparsity=er or sparsity=erk",
        [
            "seed=0 sparsity=er",
            "seed=1 sparsity=er",
            "sparsity=er",
            "seed=0 sparsity=erk",
            "seed=1 sparsity=erk",
            "sparsity=erk",
        ],
    ),
    (None, "seed=1", ["seed=1"]),
]


@pytest.mark.parametrize("params, line, expected", PRESETS)
def test_a_sweep_in_a_preset(params, line, expected):
    assert jobs(line.split(), params) == expected


REFUSED = [
    ("seed,trainer.devices=[0,1],[1]", "seed,trainer.devices=[1]: must list 2 values in brackets"),
    ("seed,trainer.devices=0,1", "seed,trainer.devices=0: must list 2 values in brackets"),
    ("optimizer.lr=interval(0,1)", "optimizer.lr=interval(0,1): must list its values"),
    ("or seed=1", "or: stands between two grids"),
    ("seed=1 or", "or: stands between two grids"),
]


@pytest.mark.parametrize("line, message", REFUSED)
def test_an_invalid_grid_is_refused(line, message):
    with pytest.raises(UserError, match=".*") as refused:
        jobs(line.split())
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("params", ["seed", [["seed"]]])
def test_a_preset_without_a_mapping_is_refused(params):
    with pytest.raises(UserError, match=r"hydra.sweeper.params: must be a mapping"):
        grids.parse_params(params, PARSER)


def test_an_axis_without_values_is_refused():
    with pytest.raises(UserError, match="seed: must have at least one value"):
        grids.parse_params({"seed": []}, PARSER)


COMPOSED = [
    "",
    "seed=3 sparsity.level=0.5",
    "dataset=cifar10 variant=code",
    "variant=code dataset=cifar10 dataset.validation=0.2 optimizer.milestones=[0.3]",
    "scale=smoke dataset=cifar10 trainer.max_epochs=9",
    "trainer.max_epochs=9 scale=smoke",
    "method=draw sparsity=file sparsity.file=/a/b seeds.mask=null paths.root='a,b'",
    "logger=wandb trainer=ddp model.init_from=${paths.root}/x seeds={mask:1,init:2,data:3}",
    "~variant/data",
]


@pytest.mark.parametrize("line", COMPOSED)
def test_compositions_equal_those_of_hydra(composer, line):
    expected = OmegaConf.to_container(compose("config", line.split()), resolve=True)
    assert composer.compose(line.split()) == expected
    assert composer.compose(line.split()) == expected, "the cached composition has changed"


def test_the_command_line_replaces_axes_of_a_preset(composer, preset):
    composer.common_overrides = [
        preset("pairs", "{seed: [0, 1], 'model,dataset': [[vgg16, cifar10], [vgg19, cifar100]]}")
    ]
    assert expand(["experiment=pairs", "seed=5"], composer) == [
        ["model=vgg16", "dataset=cifar10", "experiment=pairs", "seed=5"],
        ["model=vgg19", "dataset=cifar100", "experiment=pairs", "seed=5"],
    ]
    assert composer.compose(["experiment=pairs", "seed=5"])["experiment"] == "pairs"


def test_each_of_several_presets_has_its_own_sweep(composer, preset):
    preset("one", "{seed: '0,1'}")
    composer.common_overrides = [preset("two", "[{model: vgg16}, {sparsity: 'er,erk'}]")]
    assert expand(["experiment=one,two"], composer) == [
        ["seed=0", "experiment=one"],
        ["seed=1", "experiment=one"],
        ["model=vgg16", "experiment=two"],
        ["sparsity=er", "experiment=two"],
        ["sparsity=erk", "experiment=two"],
    ]


def test_smoke_scale_shortens_all_axes_but_the_method():
    grid = [
        grids.Axis(("seed",), (("0",), ("1",), ("2",))),
        grids.Axis(("method",), (("fixed",), ("rigl",), ("set",))),
        grids.Axis(("model", "sparsity.level"), (("a", "1"), ("b", "2"), ("c", "3"))),
        grids.Axis(("width",), (("1",),)),
    ]
    assert [axis.values for axis in grids.shorten(grid)] == [
        (("0",),),
        (("fixed",), ("rigl",), ("set",)),
        (("a", "1"), ("c", "3")),
        (("1",),),
    ]
