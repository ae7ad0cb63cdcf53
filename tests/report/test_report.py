"""`ersparse report`: rows, verdicts, missing seeds, and damaged run folders."""

import csv
import json
import re
import subprocess
import sys
from urllib.parse import unquote

import pytest
import torch
from conftest import ROOT
from synthetic import record, write
from torch.utils.flop_counter import FlopCounterMode

from ersparse import cli, models
from ersparse.report.analysis.groups import group_by_experiment
from ersparse.report.analysis.labels import labels
from ersparse.report.analysis.runs import read_runs
from ersparse.report.analysis.settings import varying_keys
from ersparse.report.keep import compact
from ersparse.report.section import section
from ersparse.sparse.positions import positions


@pytest.fixture
def report(monkeypatch, capsys):
    """Return a function that runs `ersparse report`, and returns its exit status and output."""

    def run(*words) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["ersparse", "report", *map(str, words)])
        status = cli.main()
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def row(root, name="results", experiment="table2", **where):
    rows = list(csv.DictReader((root / "report" / f"{experiment}-{name}.csv").read_text().splitlines()))
    (found,) = [row for row in rows if all(row[key] == value for key, value in where.items())]
    return found


def test_row_has_hand_computed_statistics(report, tmp_path):
    """Three seeds of 92, 93, 94 per cent: mean 93, deviation 1, interval 93 ± 4.3027/√3; the paper has 92.72 ± 0.46."""
    for seed, accuracy in enumerate((0.92, 0.93, 0.94)):
        write(tmp_path, seed=seed, accuracy=accuracy)
    assert report(tmp_path)[0] == 0
    found = row(tmp_path, sparsity="erk")
    figures = {key: float(found[key]) for key in ("mean", "sd", "low", "high", "best_test", "difference", "in_spreads")}
    assert figures == pytest.approx({
        "mean": 93, "sd": 1, "low": 93 - 2.4841377, "high": 93 + 2.4841377, "best_test": 94, "difference": 0.28,
        "in_spreads": 0.28 / 0.46,
    })  # fmt: skip
    assert found["at_best_val"] == "" and found["verdict"] == "agrees" and found["n"] == "3"
    assert float(found["realised"]) == pytest.approx(0.901) and float(found["flops_share"]) == pytest.approx(
        (21 * 64 + 21) / (108 * 64 + 40)
    )


@pytest.mark.parametrize(
    "words, verdict, why",
    [
        ({}, "agrees", "ours less the paper's"),
        ({"accuracy": 0.5}, "differs", "−43.86 to −41.58"),
        ({"epochs": 16}, "other recipe", "epochs 16 instead of 160"),
        ({"optimizer": {"lr": 0.2}}, "other recipe", "optimizer.lr 0.2 instead of 0.1"),
        ({"sparsity": "uniform", "level": 0.999, "accuracy": 0.1424}, "cannot say", "no spread is printed"),
        ({"sparsity": "er"}, "", ""),
    ],
)
def test_verdict_states_its_reason(report, tmp_path, words, verdict, why):
    for seed in range(3):
        write(tmp_path, seed=seed, **({"accuracy": 0.9272} | words))
    report(tmp_path)
    found = row(tmp_path)
    assert found["verdict"] == verdict and why in found["why"]


def test_missing_and_unfinished_seeds_are_named(report, tmp_path):
    for seed in range(3):
        write(tmp_path, seed=seed)
    write(tmp_path, sparsity="uniform", seed=0)
    write(tmp_path, sparsity="uniform", seed=1, state="failed")
    report(tmp_path)
    assert row(tmp_path, sparsity="uniform")["unfinished"] == "seed 1 failed, seed 2 missing"
    assert row(tmp_path, sparsity="erk")["unfinished"] == ""
    assert "seed 1 failed" in (tmp_path / "report" / "table2.md").read_text()


def test_single_seed_has_no_standard_deviation(report, tmp_path):
    write(tmp_path)
    report(tmp_path)
    found = row(tmp_path)
    assert found["sd"] == found["low"] == found["high"] == "" and found["verdict"] == "cannot say"
    assert "90.00 (1)" in (tmp_path / "report" / "table2.md").read_text()


def test_differences_are_paired_by_seed(report, tmp_path):
    """erk is better by 1, 2, 3 points on seeds 0, 1, 2; seed 3 has no partner."""
    for seed in range(4):
        write(tmp_path, seed=seed, accuracy=0.9)
    for seed in range(3):
        write(tmp_path, sparsity="uniform", seed=seed, accuracy=0.9 - 0.01 * (seed + 1))
    write(tmp_path, sparsity="uniform", level=0.99, seed=0)  # at another sparsity: no pair
    report(tmp_path)
    found = row(tmp_path, "differences", first="erk")
    assert (found["second"], found["n"]) == ("uniform", "3")
    assert float(found["difference"]) == pytest.approx(2) and float(found["sd"]) == pytest.approx(1)
    assert found["seeds_needed"] == "5"  # effect size 2: power 0.69 with 4 pairs, 0.92 with 5


def test_differences_pair_networks_with_equal_numbers_of_weights(report, tmp_path):
    """A dense network of 15 weights, and a tenth of 148."""
    for seed in range(2):
        write(tmp_path, seed=seed, accuracy=0.9)
        write(tmp_path, seed=seed, level=0.99)
        file = write(tmp_path, sparsity="dense", level=0.0, seed=seed, accuracy=0.8 + seed / 100) / "run.json"
        narrow = json.loads(file.read_text())
        narrow["layers"] = [narrow["layers"][0] | {"shape": [5, 3], "size": 15}]
        file.write_text(json.dumps(narrow))
    report(tmp_path)
    found = row(tmp_path, "differences")
    assert (found["first"], found["second"], found["start"], found["level"]) == ("dense", "erk", "15", "")
    assert float(found["difference"]) == pytest.approx(-9.5)


def test_runs_that_cannot_be_read_are_named_and_counted(report, tmp_path):
    write(tmp_path)
    for name, text in {
        "cut": json.dumps(record())[:200],
        "newer": json.dumps(record() | {"schema": 2}),
        "list": "[]",
        "bare": "{}",
        "latin": "\udcff",
    }.items():
        folder = tmp_path / "table2" / name / "s0"
        folder.mkdir(parents=True)
        (folder / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    status, printed = report(tmp_path)
    assert status == 0 and "1 runs, 1 configurations, 1 experiments; 5 skipped" in printed
    assert "newer/s0/run.json: schema 2, must be 1" in printed
    for name in ("cut", "list", "bare", "latin"):
        assert f"{name}/s0/run.json: " in printed
    assert printed.count("skipped") == 6


@pytest.mark.parametrize("made", [False, True])
def test_folder_without_runs_is_refused(report, tmp_path, made):
    folder = tmp_path / "outputs"
    if made:
        folder.mkdir()
    status, printed = report(folder)
    assert status == 2 and printed.count("\n") == 1 and str(folder) in printed
    assert "no run in it" in printed if made else "no such folder" in printed
    assert not (folder / "report").exists()


def test_folder_with_only_a_damaged_run_names_it(report, tmp_path):
    (tmp_path / "s0").mkdir()
    (tmp_path / "s0" / "run.json").write_text("{")
    status, printed = report(tmp_path)
    assert status == 2 and "s0/run.json: cannot be read" in printed and printed.count("\n") == 1


def test_each_experiment_has_its_own_files(report, tmp_path):
    write(tmp_path)
    write(tmp_path, experiment=None)
    write(tmp_path, experiment="mine", method="draw")
    assert "3 runs, 3 configurations, 3 experiments; 0 skipped" in report(tmp_path)[1]
    names = {path.name for path in (tmp_path / "report").glob("*.md")}
    assert names == {"table2.md", "runs.md", "mine.md"}
    assert (tmp_path / "report" / "mine-counters.csv").exists()


def test_varying_keys_leave_out_what_follows_from_others(tmp_path):
    """The learning rate is listed; momentum follows from the optimizer's name; the level has its own column."""
    write(tmp_path, sparsity="erk", optimizer={"name": "adam", "momentum": 0.0})
    write(tmp_path, sparsity="uniform", level=0.99)
    write(tmp_path, sparsity="balanced", optimizer={"lr": 0.2})
    groups = group_by_experiment(read_runs(tmp_path)[0])["table2"]
    assert varying_keys([group.config for group in groups]) == ["sparsity.name", "optimizer.name", "optimizer.lr"]


def test_labels_list_enabled_settings(tmp_path):
    """Labels omit settings that are off, that the method lacks, or that `variant` determines."""
    made = [record(), record(method="rigl"), record(method="rigl", optimizer={"lr": 0.2})]
    made[1]["config"]["optimizer"] |= {"nesterov": True}
    made[1]["config"] |= {"variant": "code", "method": {"name": "rigl", "delta_t": 100, "keep_flow": True}}
    made[2]["config"]["method"] |= {"delta_t": 30, "keep_flow": False}
    for seed, content in enumerate(made):
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps(content))
    found = labels(group_by_experiment(read_runs(tmp_path)[0])["table2"])
    assert list(found.values()) == [
        "erk, fixed, lr=0.1, variant=paper",
        "erk, rigl, lr=0.1, variant=code, delta_t=100, keep_flow",
        "erk, rigl, lr=0.2, variant=paper, delta_t=30",
    ]


@pytest.mark.parametrize("level", [0.9, 0.99])
def test_many_configurations_are_plotted_as_named_rows(report, tmp_path, level):
    """If lines could not be told apart or would be single points, each configuration is a dot with a name."""
    for number in range(14):
        write(tmp_path, level=0.9 if number else level, optimizer={"lr": 0.1 + number})
    report(tmp_path)
    text = (tmp_path / "report" / "table2-accuracy.svg").read_text()
    assert all(f">erk, lr={0.1 + number:g}" in text for number in range(14))
    assert ("erk, lr=0.1 at 0.99" in text) == (level == 0.99)


def test_each_network_has_its_own_figures(report, tmp_path):
    for name in ("vgg16", "resnet18"):
        write(tmp_path, model={"name": name}, accuracy=0.9)
    report(tmp_path)
    names = {path.name for path in (tmp_path / "report").glob("*accuracy*.png")}
    assert names == {"table2-accuracy-vgg16-cifar10.png", "table2-accuracy-resnet18-cifar10.png"}
    assert (
        "Test accuracy of the last epoch, with its 95 % interval over seeds. resnet18, cifar10."
        in (tmp_path / "report" / "index.html").read_text()
    )


def test_latex_and_file_names_are_escaped(report, tmp_path):
    write(tmp_path, experiment="50_%|a")
    report(tmp_path)
    text = (tmp_path / "report" / "50__a.tex").read_text()
    assert r"50\_\%|a" in text and "\\toprule" in text


def test_flops_equal_those_of_pytorchs_counter():
    """2 x positions x weights equals the count of PyTorch's FLOP counter, for networks of each kind."""
    for name, classes, side in (("vgg16", 10, 32), ("resnet50", 100, 32), ("resnet20", 10, 16)):
        with torch.device("meta"):
            network = getattr(models, name)(classes, channels=3).eval()
            with FlopCounterMode(display=False) as counter:
                network(torch.empty(1, 3, side, side))
        found = positions(network, 3, side)
        sizes = {key: parameter.numel() for key, parameter in network.named_parameters()}
        assert sum(2 * sizes[layer] * uses for layer, uses in found.items()) == counter.get_total_flops()


def test_flops_of_a_run_count_its_kept_weights(launch, only_run):
    launch("method=draw")
    (run,) = read_runs(only_run())[0]
    assert run.flops[0] == sum(2 * layer.nonzero * layer.positions for layer in run.layers) > 0


def test_theory_runs_are_listed(launch, report, tmp_path):
    launch("experiment=theory_lower", "scale=smoke")
    root = tmp_path / "outputs"
    (groups,) = group_by_experiment(read_runs(root)[0]).values()
    assert section("theory_lower", groups).tables == {} and groups[0].kind == "theory"
    assert report(root)[0] == 0 and "s0/run.json" in (root / "report" / "index.html").read_text()


def test_kept_runs_give_the_same_report(report, tmp_path):
    """Kept runs are small, have no host name or local paths, and give the same tables."""
    root, kept = tmp_path / "outputs", tmp_path / "kept"
    for seed in range(2):
        write(root, seed=seed, accuracy=0.9 + seed / 100)
        write(root, seed=seed, sparsity="uniform", method="draw")
    write(root, seed=2, state="failed")
    assert report(root, "--keep", kept)[0] == 0 and not (root / "report").exists()
    for folder in (root, kept):
        report(folder)
    for name in ("results", "counters", "differences"):
        ours, theirs = ((folder / "report" / f"table2-{name}.csv").read_text() for folder in (root, kept))
        assert ours == theirs
    texts = [path.read_text() for path in kept.rglob("run.json")]
    assert len(texts) == 5 and max(map(len, texts)) < 4096
    assert not any(word in text for text in texts for word in ("somewhere", "/data", "/outputs", str(tmp_path)))


@pytest.mark.parametrize(
    "local, kept",
    [
        ("hydra.mode=RUN seed=0 paths.root=/a/b", "hydra.mode=RUN seed=0"),
        (
            "paths.cache=/a hydra.run.dir=/c hydra.mode=MULTIRUN seed=0,1 dataset.root=/b",
            "hydra.mode=MULTIRUN seed=0,1",
        ),
        ("hydra.launcher.slots=4 seed=0 hydra.job.name=hydra.mode=RUN", "seed=0"),
    ],
)
def test_kept_commands_do_the_same_run(tmp_path, local, kept):
    """Without hydra.mode=RUN, a run of a preset became the sweep of the preset."""
    record = {"command": f"python launch.py experiment=table2 {local}", "config": {}, "layers": []}
    assert json.loads(compact(record, tmp_path))["command"] == f"python launch.py experiment=table2 {kept}"


def test_figures_label_their_sparsities(report, tmp_path):
    """Rounding the coordinates of an SVG leaves its text as it is."""
    for level in (0.5, 0.999):
        write(tmp_path, level=level)
    report(tmp_path)
    for name in ("accuracy", "layers"):
        assert "0.999<" in (tmp_path / "report" / f"table2-{name}.svg").read_text()


def test_kept_runs_must_lie_outside_the_folder(report, tmp_path):
    write(tmp_path / "outputs")
    status, printed = report(tmp_path / "outputs", "--keep", tmp_path / "outputs" / "small")
    assert status == 2 and "must lie apart" in printed and printed.count("\n") == 1


def test_page_is_self_contained_and_its_links_resolve(report, tmp_path):
    """The page loads nothing, and every link leads to a file or to an anchor of the page."""
    for seed in range(2):
        write(tmp_path, seed=seed, accuracy=0.5 + seed / 10)
        write(tmp_path, seed=seed, level=0.99, method="draw", experiment="<b>&")
    report(tmp_path)
    page = tmp_path / "report" / "index.html"
    text = page.read_text()
    assert "<b>&<" not in text and "&lt;b&gt;&amp;" in text
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text) and "@import" not in text
    names = set(re.findall(r' id="([^"]+)"', text))
    for link in re.findall(r'<a href="([^"]+)"', text):
        place = unquote(link)
        assert place[1:] in names if link[0] == "#" else (page.parent / place).exists(), link


def test_a_path_that_is_no_text_is_linked_by_its_bytes(report, tmp_path):
    write(tmp_path / "\udcff", seed=0)
    status, printed = report(tmp_path)
    assert status == 0, printed
    assert b'<a href="../%FF/' in (tmp_path / "report" / "index.html").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_thousand_runs_take_seconds(tmp_path):
    """100 configurations of ten seeds, 160 epochs each: at most 10 s of computing, and 500 MB."""
    options = ("pyramidal", "balanced", "uniform", "erk", "snip")
    for sparsity in options:
        for level in (0.5, 0.9, 0.99, 0.995, 0.999):
            for method in ("fixed", "rigl", "set", "granet"):
                for seed in range(10):
                    write(tmp_path, lines=160, sparsity=sparsity, level=level, method=method, seed=seed)
    code = f"""if True:
        import re, sys, time
        sys.argv = ['ersparse', 'report', {str(tmp_path)!r}]
        from ersparse.cli import main
        main()
        peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())  # of this process alone, in KiB
        print(time.process_time(), peak[1])"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    seconds, peak = done.stdout.split()[-2:]
    assert "1000 runs, 100 configurations" in done.stdout
    print(f"{float(seconds):.1f} s of computing, {int(peak) / 1024:.0f} MB")
    assert float(seconds) < 10 and int(peak) < 500 * 1024
