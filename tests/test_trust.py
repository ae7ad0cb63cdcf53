"""A run folder from somebody else is data: its record has no code imported or called that the caller did not name."""

import json
import subprocess
import sys

import own_networks
import pytest
from conftest import TINY, read

import ersparse
from ersparse.cli import export, report
from ersparse.errors import UserError
from ersparse.locate import locate_defined
from ersparse.models.build import NETWORKS, NetworkSpec

TOUCH = {"args": ["touch", "CALLED"]}
HOSTILE = [  # target, model.args
    ("subprocess.run", TOUCH),
    ("subprocess.Popen", TOUCH),
    ("os.system", {"command": "touch CALLED"}),
    ("builtins.eval", {"source": "open('CALLED', 'w')"}),
    ("ersparse.runs.changed_data.os.system", {}),
    ("ersparse.storage.provenance.subprocess", {}),
    ("ersparse.models.build.locate", {"target": "evil.main"}),  # imported there, defined elsewhere
    ("ersparse.models.libraries.importlib", {}),
    ("ersparse.models.libraries.replace_first_convolution", {}),  # defined there, but returns no network
    ("ersparse.models.resnet20.__globals__", {}),
    ("ersparse.models.resnet20.__init__", {}),
    ("ersparse.run", {}),
    ("ersparse.__main__.main", {}),
    ("torchvision.io.image.os.system", {}),
    ("torchvision.datasets.utils.download_url", {"url": "http://localhost:1", "root": "CALLED"}),
    ("torchvision.models.get_model", {"name": "resnet18"}),
    ("torchvision.models.resnet18", {"weights": "DEFAULT"}),
    ("timm.models.resnet10t", {"pretrained": True}),
    ("timm.create_model", {"model_name": "resnet10t"}),
    ("ersparse.models.timm_network", {"model_name": "resnet10t", "checkpoint_path": "evil.pt"}),
    ("ersparsed.models.net", {}),
    ("torch.hub.load", {"repo_or_dir": "some/where", "model": "evil"}),
    ("torchvision.models.resnet.partial", {"func": "evil.main"}),
    ("torchvision.models.feature_extraction.create_feature_extractor", {}),
    ("timm.models.load_checkpoint", {"model": "evil", "checkpoint_path": "evil.pt"}),
    ("evil", {}),
]


@pytest.fixture
def received(finished, monkeypatch, tmp_path):
    """The folder of a finished run, as somebody may have changed it; `evil` must not even be imported."""
    (tmp_path / "evil.py").write_text("open('CALLED', 'w').close()\ndef main(**anything): pass\nNet = main\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield finished
    sys.modules.pop("evil", None)


def rewrite(folder, group, target, args):
    record = read(folder)
    record["config"][group] |= {"_target_": target, "args": args}
    (folder / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize("target, args", [*HOSTILE, ("evil.Net", {})])
def test_a_record_cannot_call_anything_else(received, tmp_path, monkeypatch, target, args):
    called = []
    for name in ("run", "Popen"):
        monkeypatch.setattr(subprocess, name, lambda *words, **keys: called.append(words))
    rewrite(received, "model", target, args)
    with pytest.raises(UserError) as error:
        ersparse.load(received)
    assert str(error.value).startswith("model.") and "\n" not in str(error.value)
    assert not called and "evil" not in sys.modules and not (tmp_path / "CALLED").exists()


def test_export_images_report_and_init_from_take_a_record_as_data_too(received, tmp_path, launch):
    rewrite(received, "model", "evil.Net", {})
    rewrite(received, "dataset", "evil.main", {})
    with pytest.raises(
        UserError, match="^model._target_=evil.Net: the record of a run may name code of ersparse.models"
    ):
        export.main([str(received)])
    with pytest.raises(UserError, match=r'^dataset._target_=evil.main: .*; trust=\["evil"\] or --trust evil allows it'):
        ersparse.load_images(received)
    assert report.main([str(tmp_path / "outputs")]) == 0
    status, printed = launch(*TINY, f"model.init_from={received}", "dry_run=true")
    assert status == 0, printed
    assert "evil" not in sys.modules and not (tmp_path / "CALLED").exists()


@pytest.mark.parametrize("trust", [["own_networks"], ["own_networks.Grey"], ["other", "own_networks"]])
def test_what_the_caller_trusts_is_loaded(trust):
    spec = NetworkSpec("own_networks.OnlyClasses", 10, 1, 1.0)
    if "own_networks.Grey" in trust:
        with pytest.raises(UserError, match="the record of a run may name code of"):
            spec.build_as_recorded(trust)
    else:
        assert isinstance(spec.build_as_recorded(trust), own_networks.OnlyClasses)


@pytest.mark.parametrize(
    "target, args",
    [
        ("ersparse.models.resnet20", {}),
        ("ersparse.models.resnet.resnet20", {}),
        ("ersparse.models.mlp", {}),
        ("ersparse.models.torchvision_network", {"name": "shufflenet_v2_x0_5"}),
        ("torchvision.models.shufflenet_v2_x0_5", {}),
        ("torchvision.models.squeezenet.SqueezeNet", {}),
        ("timm.models.test_vit", {}),
    ],
)
def test_networks_of_the_packages_are_loaded(target, args):
    pytest.importorskip(target.partition(".")[0])
    NetworkSpec(target, 10, 3, 1.0, json.dumps(args), 32).build_as_recorded()


def test_trust_is_by_whole_names():
    with pytest.raises(UserError):
        locate_defined("own_networks.Plain", NETWORKS, ["own"], "key")
