"""The benchmark: its cases, its check before timing, its arithmetic, its files. No test asserts a time."""

import dataclasses
import json
import math
import sys
import types
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import torchbp
from torchbp.bench import floor, measure, peers, process, report, results, suite
from torchbp.bench.measure import Setting
from torchbp.bench.results import FAILED, OK, WRONG, CaseResult, Results
from torchbp.costs import timing
from torchbp.costs.timing import Timing

PEAKS = floor.Peaks(((1000, 1e9), (100_000, 1e8)), 1e9)
ONCE = Setting("default", 1, "float32", rounds=1)
BY_NAME = {case.name: case for case in suite.cases()}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Built for a size of input; the last is wanted in all its clusters.
FIXED = ("Fold", "FractionalMaxPool2d", "FractionalMaxPool3d", "affine_grid", "AdaptiveLogSoftmaxWithLoss")


def shrunk(case, size=6):
    """The same layer on a small input: two samples, maps of ``size``, channels as they are."""
    if case.layer in FIXED:
        return case
    if case.layer in ("LayerNorm", "RMSNorm") or case.family in ("attention", "recurrent", "embedding"):
        return dataclasses.replace(case, shape=(2, *(min(3, axis) for axis in case.shape[1:-1]), case.shape[-1]))
    return dataclasses.replace(case, shape=(2, case.shape[1], *(min(size, axis) for axis in case.shape[2:])))


def small(name):
    """The first case of a layer, shrunk."""
    return shrunk(next(case for case in suite.cases() if case.layer == name))


def measured(case, setting=ONCE):
    return measure.measure(case, setting, PEAKS)


# The suite


def test_names_are_unique_and_every_family_has_a_quick_case():
    cases = suite.cases()
    assert len(BY_NAME) == len(cases)
    assert {case.family for case in cases if case.quick} == {case.family for case in cases}


def test_every_layer_has_a_case():
    """A lazy layer through the one that it becomes."""
    measured = {case.layer for case in suite.cases()}
    become = {name: getattr(torchbp.nn, name) for name in torchbp.nn.explicit_layers()}
    become = {name: getattr(layer, "cls_to_become", layer).__name__ for name, layer in become.items()}
    assert {name for name, layer in become.items() if layer not in measured} == set()


def test_layers_that_torchbp_lacks_are_left_out_by_name(monkeypatch):
    from torchbp.nn import modules

    monkeypatch.setattr(modules, "__all__", [name for name in modules.__all__ if name not in ("GELU", "MaxPool3d")])
    assert {"GELU", "MaxPool3d"} <= set(suite.left_out())
    assert not {case.layer for case in suite.cases()} & {"GELU", "MaxPool3d"}


def test_select_takes_parts_of_names_and_patterns():
    cases = suite.cases()
    assert {case.layer for case in suite.select(cases, patterns=["maxpool"])} == {
        *("MaxPool1d", "MaxPool2d", "MaxPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d"),
        *("FractionalMaxPool2d", "FractionalMaxPool3d"),
    }
    assert {case.layer for case in suite.select(cases, patterns=["*pool1d 2 *", "gelu*"])} == {
        "MaxPool1d",
        "AvgPool1d",
        "GELU",
    }
    assert {case.family for case in suite.select(cases, families=["softmax"])} == {"softmax"}
    assert all(case.quick for case in suite.select(cases, quick=True))


LAYERS = list({case.name.partition(",")[0]: case for case in suite.cases() if not case.is_model}.values())


@pytest.mark.parametrize("case", LAYERS, ids=[case.name.partition(",")[0] for case in LAYERS])
def test_every_layer_is_right_and_measured(case):
    found = measured(shrunk(case))
    assert (found.status, found.detail) == (OK, "")
    has_weights = any(True for _ in case.build(nn).parameters())
    assert list(found.timings) == [figure for figure in peers.FIGURES if has_weights or "weight" not in figure]
    assert set(found.floors) == set(found.timings)
    expected = {"torch", "torchbp"}
    if len(case.shape) >= 4:
        expected |= {"torch channels_last", "torchbp channels_last"}
    for figure, timings in found.timings.items():
        assert set(timings) == {peer for peer in expected if peers.survives(case, peer, figure)}
    assert set(found.saved_bytes) == {"torch", "torchbp"}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("LeNet-5", 8),
        ("U-Net", 8),
        pytest.param("VGG-11", 32, marks=pytest.mark.slow),
        pytest.param("ResNet-18", 32, marks=pytest.mark.slow),
        pytest.param("MobileNetV2", 64, marks=pytest.mark.slow),
    ],
)
def test_every_network_is_right_and_measured(name, size):
    case = next(case for case in suite.cases() if case.layer == name)
    if name == "LeNet-5":
        case = dataclasses.replace(case, build=lambda nn: suite.models.lenet(nn, size, 10))
    found = measured(dataclasses.replace(case, shape=(4, case.shape[1], size, size)))
    assert (found.status, found.detail) == (OK, "")
    assert list(found.timings) == [peers.FORWARD, peers.STEP]


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_number_formats(dtype):
    for name in ("Conv2d", "MaxPool2d", "BatchNorm2d", "CrossEntropyLoss"):
        found = measured(small(name), dataclasses.replace(ONCE, dtype=dtype))
        assert (found.status, found.detail) == (OK, "")


def test_peers_see_the_same_numbers_in_their_own_format():
    case = small("Conv2d")
    data = peers.draw(case, torch.float32)
    again = peers.draw(case, torch.float32)
    assert torch.equal(data.input, again.input) and torch.equal(data.grad_output, again.grad_output)
    for peer in peers.peers_of(case, compiled=False):
        side = peers.Side(case, peer, data)
        assert torch.equal(side.input, data.input) and torch.equal(side.module.weight, data.state["weight"])
        assert isinstance(side.module, torchbp.nn.Conv2d) == peer.ours
        memory_format = torch.channels_last if peer.channels_last else torch.contiguous_format
        for tensor in (side.input, side.module.weight, side.grad_output):
            assert tensor.is_contiguous(memory_format=memory_format)


@pytest.mark.slow
def test_torch_compile_is_a_peer_on_request():
    found = measured(small("ReLU"), dataclasses.replace(ONCE, compiled=True))
    assert (found.status, found.detail) == (OK, "")
    assert "torch compiled" in found.timings[peers.STEP]


@pytest.mark.skipif(not torchbp.kernels_loaded(), reason="the composite formula is the only algorithm")
def test_convolutions_run_by_every_algorithm_that_takes_them():
    case = next(case for case in suite.cases() if case.name.startswith("Conv2d 3x3 stride 1 64-128"))
    ran = []

    def measured_by(case):
        found = measured(shrunk(case), dataclasses.replace(ONCE, algorithms=True))
        assert found.status == OK
        ran[:] = [name.removeprefix("torchbp ") for name in found.timings[peers.STEP] if name.startswith("torchbp ")]
        return found

    measured_by(case)
    for name in ("direct", "panels", "winograd_2x4"):
        assert {name, f"channels_last {name}"} <= set(ran)
    assert not {"depthwise", "matrix_product", "winograd_4"} & set(ran)
    measured_by(small("ReLU"))
    assert ran == ["channels_last"]


@pytest.mark.skipif(not torchbp.kernels_loaded(), reason="the composite formula is the only algorithm")
def test_a_peer_of_an_algorithm_runs_it(monkeypatch):
    forced = []
    monkeypatch.setattr(peers.ops, "force_convolution_algorithm", lambda name: (forced.append(name), nullcontext())[1])
    case = small("Conv2d")
    (panels,) = (p for p in peers.peers_of(case, compiled=False, algorithms=True) if p.name == "torchbp panels")
    side = peers.Side(case, panels, peers.draw(case, torch.float32))
    side.values()
    call = side.call(peers.STEP)
    call()
    assert forced == ["panels"] * 3


# The check before timing


class _Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input):
        return input.relu()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output


class WrongGradient(nn.ReLU):
    def forward(self, input):
        return _Wrong.apply(input)


class NotANumber(nn.ReLU):
    def forward(self, input):
        return super().forward(input) * math.nan


class Raising(nn.ReLU):
    def forward(self, input):
        raise ValueError("input: no such thing")


@pytest.fixture
def never_timed(monkeypatch):
    monkeypatch.setattr(timing, "in_turn", lambda *arguments: pytest.fail("timed"))


@pytest.mark.parametrize(("layer", "named"), [(WrongGradient, "input gradient"), (NotANumber, "output inf")])
def test_a_wrong_layer_is_reported_and_not_timed(monkeypatch, never_timed, layer, named):
    monkeypatch.setattr(torchbp.nn, "ReLU", layer)
    found = measured(small("ReLU"))
    assert (found.status, found.timings) == (WRONG, {})
    assert f"torchbp: relative error of {named}" in found.detail


def test_a_layer_that_raises_has_failed(monkeypatch, never_timed):
    monkeypatch.setattr(torchbp.nn, "ReLU", Raising)
    found = measured(small("ReLU"))
    assert (found.status, found.timings) == (FAILED, {})
    assert "torchbp: ValueError: input: no such thing" in found.detail


def test_a_wrong_network_is_found(monkeypatch, never_timed):
    monkeypatch.setattr(torchbp.nn, "ReLU", WrongGradient)
    case = next(case for case in suite.cases() if case.layer == "U-Net")
    found = measured(dataclasses.replace(case, shape=(1, 3, 8, 8)))
    assert found.status == WRONG and "gradients" in found.detail


class KeepsTooMuch(nn.Dropout):
    def forward(self, input):
        return nn.functional.dropout(input, 0.4) * 0.6 / 0.5


class OtherMaskInBackward(nn.Dropout):
    def forward(self, input):
        return super().forward(input.detach()) + super().forward(input) - super().forward(input.detach())


class OfElements(nn.Dropout2d):
    def forward(self, input):
        return nn.functional.dropout(input, self.p)


class WithoutShift(nn.AlphaDropout):
    def forward(self, input):
        return nn.functional.dropout(input, self.p)


class LeaksLess(nn.RReLU):
    def forward(self, input):
        return nn.functional.rrelu(input, self.lower, 0.3, True)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("Dropout, 1x4096", KeepsTooMuch),
        ("Dropout, 1x4096", OtherMaskInBackward),
        ("Dropout2d, 16x32x56x56", OfElements),
        ("AlphaDropout, 64x4096", WithoutShift),
        ("RReLU, 64x64x14x14", LeaksLess),
    ],
)
def test_a_wrong_draw_is_found(monkeypatch, never_timed, name, layer):
    monkeypatch.setattr(torchbp.nn, BY_NAME[name].layer, layer)
    assert measured(BY_NAME[name]).status == WRONG


@pytest.mark.parametrize("layer", [WrongGradient, Raising])
def test_a_builtin_peer_that_is_wrong_is_left_out_with_a_note(monkeypatch, layer):
    monkeypatch.setitem(sys.modules, "wrong_nn", types.SimpleNamespace(ReLU=layer))
    chosen = [peers.BUILTIN, peers.Peer("torch other", "wrong_nn"), peers.TORCHBP]
    monkeypatch.setattr(measure, "peers_of", lambda case, compiled, algorithms: chosen)
    found = measured(small("ReLU"))
    assert found.status == OK and found.detail.startswith("torch other: ")
    assert set(found.timings[peers.STEP]) == {"torch", "torchbp"}


# Times and floors


def test_calls_take_turns():
    calls = []
    found = timing.in_turn({name: lambda name=name: calls.append(name) for name in "ABC"}, rounds=4)
    assert {name: one.rounds for name, one in found.items()} == dict.fromkeys("ABC", 4)
    rounds = [calls[start : start + 6 : 2] for start in range(6, 30, 6)]  # a short call runs once before it is timed
    assert rounds == [["A", "B", "C"], ["A", "C", "B"], ["C", "A", "B"], ["C", "B", "A"]]


@pytest.mark.parametrize(
    ("duration", "rounds"), [(0.0, 100), (1e-5, 100), (1e-3, 20), (0.01, 5), (0.03, 5), (0.05, 3), (0.5, 2)]
)
def test_slow_calls_are_timed_less_often(duration, rounds):
    assert timing.enough_rounds(duration) == rounds


def test_summary_is_median_and_quartiles():
    assert timing.summary([5.0, 1.0, 2.0, 4.0, 3.0]) == Timing(3.0, 2.0, 4.0, 5)
    assert timing.summary([7.0]) == Timing(7.0, 7.0, 7.0, 1)


def test_floor_is_the_longer_of_moving_and_computing():
    assert PEAKS.seconds(1000, 0) == pytest.approx(1e-6)
    assert PEAKS.seconds(10, 0) == pytest.approx(1e-8)
    assert PEAKS.seconds(10**6, 0) == pytest.approx(1e-2)
    assert PEAKS.seconds(10**4, 0) == pytest.approx(1e4 / math.sqrt(1e9 * 1e8))
    assert PEAKS.seconds(1000, 10**6) == pytest.approx(1e-3)


def test_measured_peaks_are_positive():
    peaks = floor.measure_peaks(torch.float32, copies=(1024, 4096), product_size=8)
    assert [size for size, _ in peaks.bandwidths] == [1024, 4096]
    assert all(speed > 0 for _, speed in peaks.bandwidths) and peaks.multiply_adds > 0


def test_floors_count_the_bytes_that_must_move():
    bandwidth = floor.Peaks(((1, 1.0),), math.inf)
    case = dataclasses.replace(small("ReLU"), shape=(2, 3, 4, 4))
    size = 2 * 3 * 4 * 4 * 4
    found = floor.floors(case, peers.draw(case, torch.float32), bandwidth)
    assert found == {"forward": 2 * size, "input gradient": 3 * size, "step": 5 * size}
    pool = dataclasses.replace(BY_NAME["MaxPool2d 2x2 stride 2, 1x64x28x28"], shape=(2, 3, 4, 4))
    found = floor.floors(pool, peers.draw(pool, torch.float32), bandwidth)
    # One byte per output is kept: a quarter of an output of a quarter of the input's size.
    assert found["input gradient"] == size / 4 + size / 16 + size


def test_floors_count_multiply_adds():
    case = dataclasses.replace(BY_NAME["Conv2d 3x3 stride 1 64-64, 16x64x16x16"], shape=(2, 64, 5, 5))
    found = floor.floors(case, peers.draw(case, torch.float32), floor.Peaks(((1, math.inf),), 1.0))
    count = 2 * 64 * 64 * 25 * 9
    assert found == {"forward": count, "input gradient": count, "weight gradient": count, "step": 3 * count}


# Results


def timings(**medians):
    """Timings with quartiles a tenth off their medians."""
    return {name.replace("__", " "): Timing(value, 0.9 * value, 1.1 * value, 5) for name, value in medians.items()}


def example(ours=1.0, **facts):
    return CaseResult(
        **{
            "case": "ReLU, 2x3",
            "family": "activation",
            "allocator": "tuned",
            "threads": 1,
            "dtype": "float32",
            "errors": {"torch": {"output": 0.0}, "torchbp": {"output": 1e-7}},
            "saved_bytes": {"torch": 24, "torchbp": 24},
            "floors": {"forward": 0.5, "step": 1.0},
            "timings": {
                figure: timings(torch=4.0, torch__channels_last=2.0, torchbp=ours, torchbp__channels_last=3.0)
                for figure in ("forward", "step")
            },
            **facts,
        }
    )


def run(*cases, **facts):
    return Results({"processor": "abacus"}, "torchbp bench", complete=True, cases=list(cases), **facts)


def test_a_ratio_is_to_the_best_builtin_peer():
    found = example().timings["forward"]
    assert results.best_builtin(found)[0] == "torch channels_last"
    assert results.ratio(found, "torchbp") == 2
    assert results.ratio(found, "torchbp channels_last") == pytest.approx(2 / 3)
    assert results.ratio(found, "torch") == 0.5


def test_geometric_mean():
    assert results.geometric_mean([0.5, 2.0]) == pytest.approx(1)
    assert results.geometric_mean([1.0, 2.0, 4.0]) == pytest.approx(2)


def test_json_round_trip(tmp_path):
    from torchbp.cli.output import write_json

    wrong = example(status=WRONG, detail="torchbp: relative error", errors={"torchbp": {"output": math.inf}})
    resident = results.Resident("ReLU, 2x3", "torch", "tuned", 1, 100, 200)
    kept = run(example(), wrong, resident=[resident], left_out=["GroupNorm"], notes=["a note"])
    write_json(kept.to_dict(), tmp_path / "results.json")
    assert results.read(tmp_path / "results.json") == kept
    json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda constant: pytest.fail(constant))


def test_csv_round_trip(tmp_path):
    kept = run(example(), example(threads=2))
    results.write_csv(kept, tmp_path / "results.csv")
    found = results.read_rows(tmp_path / "results.csv")
    assert found == results.rows(kept) and len(found) == 2 * 2 * 4
    assert {row.ratio for row in found if row.peer == "torchbp"} == {2.0}


@pytest.mark.parametrize("name", ["a.json", "a.csv"])
@pytest.mark.parametrize("text", ["", "{}", "[]", '{"cases": 3}', "a,b\n1,2\n", "\x00\xff"])
def test_another_file_is_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="no results of torchbp bench"):
        results.read_rows(tmp_path / name)


def compared(old, new):
    changes, count = results.compare(results.rows(run(*old)), results.rows(run(*new)))
    return [(change.row.peer, change.row.figure, change.old_ratio, change.new_ratio) for change in changes], count


def test_comparison_finds_what_changed_beyond_the_spread():
    assert compared([example()], [example()]) == ([], 4)
    assert compared([example(1.0)], [example(1.1)]) == ([], 4)
    slower, _ = compared([example(1.0)], [example(2.0)])
    assert slower == [("torchbp", "forward", 2.0, 1.0), ("torchbp", "step", 2.0, 1.0)]
    faster, _ = compared([example(2.0)], [example(0.5)])
    assert faster[0] == ("torchbp", "forward", 1.0, 4.0)


def test_comparison_takes_only_cases_of_both_runs():
    assert compared([example()], [example(9.0, threads=2)]) == ([], 0)
    assert compared([example(), example(case="other")], [example()]) == ([], 4)


def test_a_process_that_dies_costs_only_its_case(monkeypatch):
    class Worker:
        def __init__(self, request):
            self.names = request["cases"]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def messages(self):
            for name in self.names:
                yield {"begin": name}
                if name == chosen[1].name:
                    return
                yield {"result": dataclasses.asdict(example(case=name))}

        def last_words(self):
            return "the process ended with signal SIGSEGV"

    monkeypatch.setattr(process, "_Worker", Worker)
    chosen = suite.cases()[:3]
    found = list(process.case_results(chosen, ONCE))
    assert [one.case for one in found] == [case.name for case in chosen]
    assert [one.status for one in found] == [OK, FAILED, OK]
    assert "SIGSEGV" in found[1].detail


# The report


def test_summary_has_means_and_worst_cases_by_family():
    kept = run(example(1.0), example(4.0, case="GELU, 2x3"), example(0.5, case="Dropout, 2", family="dropout"))
    table = report.summary_tables(kept)[0]
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["activation"] == ["2", "1.00 (0.50)", "-", "-", "1.00 (0.50)"]
    assert rows["dropout"][1] == "4.00 (4.00)"
    assert rows["all layers"][0] == "3"
    assert rows["activation channels_last"][1] == "0.67 (0.67)"


def test_markdown_page():
    kept = run(
        example(allocator="default"),
        example(),
        example(case="U-Net, 2", family="model"),
        example(case="Tanh, 2", status=WRONG, detail="torchbp: relative error of output 1", timings={}),
        resident=[results.Resident("U-Net, 2", "torchbp", "tuned", 1, 2**20, 7 * 2**20)],
        left_out=["GroupNorm"],
    )
    page = report.to_markdown(kept, [("Ratios", "performance/ratios.png")])
    assert page.startswith("# Performance\n") and page.endswith("\n")
    for text in (
        "| processor | abacus |",
        "`torchbp bench`",
        "![Ratios](performance/ratios.png)",
        "### Ratio, mean (worst): default allocator, 1 thread, float32",
        "| activation | 1 | 2.00 (2.00) | - | - | 2.00 (2.00) |",
        "| ReLU, 2x3 | 2.00 (2.00) | - | - | 2.00 (1.00) |",
        "| U-Net, 2 | tuned, 1 | channels_last | 2000.0 | contiguous | 1000.0 | 2.00 |",
        "| U-Net, 2 | 7 |",
        "WRONG: Tanh, 2, tuned allocator, 1 thread, float32: torchbp: relative error of output 1",
        "Not in torchbp.nn, left out: GroupNorm.",
    ):
        assert text in page
    widths = [line.count("|") for line in page.splitlines() if line.startswith("| ReLU, 2x3 |")]
    assert set(widths) == {6}


def test_a_run_without_results_can_be_shown():
    page = report.to_markdown(dataclasses.replace(run(), complete=False), [])
    assert "Interrupted" in page


def test_plots(tmp_path):
    pytest.importorskip("matplotlib")
    from torchbp.bench.plot import plot

    pictures = plot(run(example(), example(threads=2), example(family="model", case="U-Net, 2")), tmp_path / "new")
    assert [path.name for _, path in pictures] == ["ratios.png", "floors.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for _, path in pictures)
