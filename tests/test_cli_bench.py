"""``torchbp bench``: its options, its errors, and what it leaves in its files."""

import json

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

from torchbp.bench import process, results
from torchbp.bench.results import FAILED, WRONG, CaseResult
from torchbp.costs.timing import Timing

ONE = ("bench", "--case", "relu, 1x", "--allocator", "default", "--threads", "1")


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_processes(monkeypatch):
    """Measures nothing: every case takes 2 s with torch.nn and 1 s with torchbp.nn."""
    asked = []

    def case_results(chosen, setting):
        asked.append(setting)
        for case in chosen:
            found = CaseResult(case.name, case.family, setting.allocator, setting.threads, setting.dtype)
            found.errors = {"torch": {"output": 0.0}, "torchbp": {"output": 0.0}}
            found.floors = {"forward": 0.5, "step": 0.5}
            found.timings = {
                figure: {"torch": Timing(2.0, 2.0, 2.0, 3), "torchbp": Timing(1.0, 1.0, 1.0, 3)}
                for figure in found.floors
            }
            yield found

    def resident(case, peer, setting):
        return results.Resident(case.name, peer, setting.allocator, setting.threads, 1, 2)

    monkeypatch.setattr(process, "case_results", case_results)
    monkeypatch.setattr(process, "resident", resident)
    monkeypatch.setattr(process, "why_not_tuned", lambda: "")
    return asked


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--family", "pooling"], "max-pooling"),
        (["--case", "no such case"], "--list"),
        (["--models", "--family", "dropout"], "--list"),
        (["--threads", "0"], "--threads"),
        (["--threads", "two"], "--threads"),
        (["--allocator", "tcmalloc"], "--allocator"),
        (["--rounds", "0"], "--rounds"),
        (["--dtype", "int8"], "--dtype"),
        (["--json", "nowhere/results.json"], "nowhere"),
        (["--csv", "."], "--csv"),
        (["--json", "same", "--csv", "same"], "same"),
        (["--docs", "page.txt"], "page.txt"),
        (["--docs", "nowhere/page.md"], "nowhere"),
        (["--plot", "nowhere/plots"], "nowhere"),
        (["--plot", "file"], "file"),
        (["--from", "nowhere.json"], "nowhere.json"),
        (["--from", "file"], "file"),
        (["--compare", "file"], "--compare"),
        (["--compare", "file", "file"], "file"),
        (["--compare", "nowhere.csv", "nowhere.csv"], "nowhere.csv"),
        (["--bogus"], "--bogus"),
        (["extra"], "extra"),
    ],
)
def test_a_wrong_option_is_one_line_before_any_measurement(torchbp_command, tmp_path, monkeypatch, arguments, named):
    monkeypatch.setattr(process, "case_results", lambda *arguments: pytest.fail("measured"))
    (tmp_path / "file").write_text("something else")
    done = torchbp_command("bench", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("torchbp: ") and done.err.count("\n") == 1
    assert named in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_list_prints_names_only(torchbp_command):
    done = torchbp_command("bench", "--list", "--case", "Dropout, *")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == ["Dropout, 1x4096", "Dropout, 64x4096", "Dropout, 16x64x56x56"]


def test_every_setting_has_its_process(torchbp_command, no_processes):
    done = torchbp_command("bench", "--quick", "--threads", 1, "--threads", 3, "--dtype", "float64")
    assert (done.code, done.err) == (0, "")
    assert [(setting.allocator, setting.threads) for setting in no_processes] == [
        ("default", 1),
        ("default", 3),
        ("tuned", 1),
        ("tuned", 3),
    ]
    assert all(setting.dtype == "float64" and setting.rounds == 3 for setting in no_processes)
    assert "2.00 (2.00)" in done.out and "Peak resident size" in done.out


def test_an_allocator_that_cannot_be_tuned_is_said(torchbp_command, no_processes, monkeypatch):
    monkeypatch.setattr(process, "why_not_tuned", lambda: "the C library is musl")
    done = torchbp_command(*ONE[:3], "--threads", 1)
    assert done.code == 0 and "note: no tuned allocator: the C library is musl" in done.out
    assert [setting.allocator for setting in no_processes] == ["default"]
    done = torchbp_command(*ONE[:3], "--allocator", "tuned")
    assert (done.code, done.err) == (2, "torchbp: --allocator tuned: the C library is musl\n")


def test_models_and_layers(torchbp_command, no_processes):
    for option, expected in (("--models", {"model"}), ("--layers", None)):
        done = torchbp_command("bench", option, "--allocator", "tuned", "--threads", 1, "--json", "-")
        families = {case["family"] for case in json.loads(done.out)["cases"]}
        assert families == expected if expected else "model" not in families


def test_json_holds_the_command_that_measures_the_same(torchbp_command, no_processes):
    words = ["--quick", "--layers", "--family", "dropout", "--case", "x4096", "--threads", "1", "--allocator", "tuned"]
    words += ["--rounds", "7", "--dtype", "bfloat16", "--compile", "--algorithms"]
    found = json.loads(torchbp_command("bench", *words, "--json", "-").out)
    assert found["command"].split() == ["torchbp", "bench", *words]
    assert found["complete"] is True
    assert set(found["machine"]) >= {"processor", "cores", "caches", "torch", "torchbp"}


def test_files_plots_page_and_reading_them_again(torchbp_command, no_processes, tmp_path):
    pytest.importorskip("matplotlib")
    done = torchbp_command(*ONE, "--json", "a.json", "--csv", "a.csv", "--plot", "plots", "--docs", "page.md")
    assert (done.code, done.err) == (0, "")
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"ratios.png", "floors.png"}
    page = (tmp_path / "page.md").read_text()
    assert "](page/ratios.png)" in page and (tmp_path / "page" / "ratios.png").exists()
    assert results.read_rows(tmp_path / "a.csv") == results.rows(results.read(tmp_path / "a.json"))

    again = torchbp_command("bench", "--from", "a.json", "--docs", "again.md")
    assert again.out == done.out
    assert (tmp_path / "again.md").read_text() == page.replace("](page/", "](again/")
    same = torchbp_command("bench", "--compare", "a.json", "a.csv")
    assert (same.code, same.out) == (0, "ratios compared: 2, better: 0, worse: 0\n")


def test_a_comparison_shows_what_changed(torchbp_command, no_processes, tmp_path):
    torchbp_command(*ONE, "--json", "old.json")
    slower = (tmp_path / "old.json").read_text().replace('"median": 1.0', '"median": 4.0').replace('": 1.0', '": 4.0')
    (tmp_path / "new.json").write_text(slower)
    done = torchbp_command("bench", "--compare", "old.json", "new.json")
    assert done.code == 0
    assert "SLOWER" in done.out and "better: 0, worse: 2" in done.out


@pytest.mark.parametrize("status", [WRONG, FAILED])
def test_a_wrong_case_is_said_and_the_exit_code_is_1(torchbp_command, monkeypatch, status):
    def case_results(chosen, setting):
        yield CaseResult("ReLU, 2", "activation", "default", 1, "float32", status, "torchbp: [off] by 1")

    monkeypatch.setattr(process, "case_results", case_results)
    done = torchbp_command(*ONE, "--json", "results.json")
    assert done.code == 1
    assert f"{status.upper()}: ReLU, 2, default allocator, 1 thread, float32: torchbp: [off] by 1" in done.out
    assert torchbp_command("bench", "--from", "results.json").code == 1


def test_an_interrupt_leaves_what_was_measured(torchbp_command, no_processes, monkeypatch, tmp_path):
    whole = process.case_results

    def interrupted(chosen, setting):
        yield next(whole(chosen, setting))
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "case_results", interrupted)
    done = torchbp_command("bench", "--quick", "--json", "part.json", "--csv", "part.csv")
    assert done.code == 130 and "Traceback" not in done.err
    found = results.read(tmp_path / "part.json")
    assert not found.complete and len(found.cases) == 1
    assert len(results.read_rows(tmp_path / "part.csv")) == 4
    shown = torchbp_command("bench", "--from", "part.json")
    assert shown.code == 0 and "Interrupted" in shown.out


def test_a_death_while_measuring_memory_is_a_note(torchbp_command, no_processes, monkeypatch):
    def resident(case, peer, setting):
        raise process.Died("the process ended with signal SIGKILL")

    monkeypatch.setattr(process, "resident", resident)
    done = torchbp_command("bench", "--case", "lenet", "--threads", 1)
    assert done.code == 0
    assert "note: peak resident size of LeNet-5, 64x1x28x28, torchbp: the process ended with signal SIGKILL" in done.out


def test_a_small_run_from_end_to_end(torchbp_command, tmp_path):
    done = torchbp_command("bench", "--case", "dropout, 1x", *ONE[3:], "--rounds", 2, "--json", "results.json")
    assert (done.code, done.err) == (0, "")
    found = results.read(tmp_path / "results.json")
    assert [(case.case, case.status, case.detail) for case in found.cases] == [("Dropout, 1x4096", "ok", "")]
    assert set(found.cases[0].timings) == {"forward", "input gradient", "step"}
    assert all(timing.rounds == 2 for timings in found.cases[0].timings.values() for timing in timings.values())
