"""What ``torchbp.cost`` finds, against formulas, and that it leaves the model alone."""

import copy
import dataclasses
import json
import sys

import pytest
import torch
from real_models import MODELS
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

import torchbp
from torchbp.costs.multiply_adds import MultiplyAdds
from torchbp.costs.saved import saved_bytes
from torchbp.costs.timing import in_turn


def counted(model, *inputs, **options):
    return torchbp.cost(model, *inputs, time=False, **options)


def products(cost):
    """Multiply-adds: forward, gradient of the input, of the weight, backward."""
    return dataclasses.astuple(cost.multiply_adds)


# Multiply-adds


def same(forward, backward=None):
    """A layer whose three products take the same number, and whose first input wants no gradient."""
    return (forward, forward, forward, forward if backward is None else backward)


N, L, E, H, D, T = 2, 7, 8, 5, 4, 7
ATTENTION = N * L * L * E  # one of its two products
MATRICES = N * L * 4 * E * E  # in and out projections of all rows
STEPS = T * N * 4 * H * (D + H)
RECURRENCE = (T - 1) * N * 4 * H * H  # back through the steps, but not to the first state
CASES = {
    "linear": (nn.Linear(4, 6), (5, 4), same(5 * 4 * 6)),
    "linear of a vector": (nn.Linear(4, 6), (4,), same(4 * 6)),
    "convolution": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 8), same(2 * 6 * 4 * 9 * 5 * 4)),
    "groups, dilation": (nn.Conv2d(4, 6, 3, dilation=2, groups=2), (2, 4, 9, 8), same(2 * 6 * 2 * 9 * 5 * 4)),
    "1d": (nn.Conv1d(4, 6, 3, stride=3), (2, 4, 9), same(2 * 6 * 4 * 3 * 3)),
    "3d": (nn.Conv3d(2, 3, 2), (2, 2, 3, 4, 5), same(2 * 3 * 2 * 8 * 2 * 3 * 4)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 6), same(2 * 4 * 6 * 9 * 5 * 6)),
    "transposed, groups": (nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 5), same(2 * 4 * 3 * 3 * 5)),
    "steps": (
        nn.LSTM(D, H).double(),
        (T, N, D),
        (
            STEPS,
            T * N * 4 * H * D + RECURRENCE,
            STEPS + RECURRENCE,
            STEPS + RECURRENCE,
        ),
    ),
    # PyTorch's operator, which torchbp calls as well, computes all gradients whichever are wanted.
    "fused steps": (nn.LSTM(D, H), (T, N, D), (STEPS, 2 * STEPS, 2 * STEPS, 2 * STEPS)),
    "pooling": (nn.MaxPool2d(2), (2, 3, 4, 4), (0, 0, None, None)),
    "norm": (nn.LayerNorm(4), (3, 4), (0, 0, 0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_multiply_adds_are_those_of_the_formula_before_and_after(name):
    layer, shape, expected = CASES[name]
    row = counted(layer, torch.randn(shape, dtype=next((p.dtype for p in layer.parameters()), None))).total
    assert row.converted
    assert products(row.before) == products(row.after) == expected


@pytest.mark.parametrize("weights", [True, False], ids=["with the probabilities", "fused"])
def test_multiply_adds_of_attention(weights):
    layer = nn.MultiheadAttention(E, 2)
    x = torch.randn(L, N, E)
    row = counted(layer, x, x, x, kwargs={"need_weights": weights}).total
    # Four products go back through two; the fused operator makes the scores again.
    back = (4 if weights else 5) * ATTENTION
    outer = N * L * E * E  # back through the projection out
    expected = (MATRICES + 2 * ATTENTION, MATRICES + back, MATRICES + outer + back, MATRICES + outer + back)
    assert products(row.before) == products(row.after) == expected
    assert row.parameters == 4 * E * E + 4 * E


def test_attention_in_blocks_makes_the_scores_again():
    layer, x = nn.MultiheadAttention(E, 2, dropout=0.5), torch.randn(L, N, E)
    row = counted(layer, x, x, x, kwargs={"need_weights": False}).total
    assert row.after.multiply_adds.forward == row.before.multiply_adds.forward == MATRICES + 2 * ATTENTION
    assert row.before.multiply_adds.input_gradient == MATRICES + 4 * ATTENTION
    assert row.after.multiply_adds.input_gradient == MATRICES + 5 * ATTENTION


def test_a_gru_makes_one_product_again():
    row = counted(nn.GRU(D, H), torch.randn(T, N, D)).total
    forward, back, again = T * N * 3 * H * (D + H), (T - 1) * N * 3 * H * H, T * N * H * H
    expected = (forward, T * N * 3 * H * D + back, forward + back, forward + back)
    assert products(row.before) == expected
    assert products(row.after) == (forward, *(each + again for each in expected[1:]))


def test_multiply_adds_of_a_bilinear_form():
    row = counted(nn.Bilinear(4, 5, 6), torch.randn(3, 4), torch.randn(3, 5)).total
    assert row.before.multiply_adds.forward == row.after.multiply_adds.forward == 3 * 6 * (4 * 5 + 5)


def test_formulas_that_pytorch_lacks():
    a, b, batch = torch.randn(3, 4), torch.randn(4, 5), torch.randn(2, 3, 4)
    calls = {
        "mv": (lambda: a.mv(b[:, 0]), 12),
        "addmv": (lambda: torch.addmv(a[:, 0], a, b[:, 0]), 12),
        "dot": (lambda: b[:, 0].dot(b[:, 1]), 4),
        "addmm_": (lambda: torch.zeros(3, 5).addmm_(a, b), 60),
        "baddbmm_": (lambda: torch.zeros(2, 3, 3).baddbmm_(batch, batch.mT), 72),
        "addbmm": (lambda: torch.addbmm(torch.zeros(3, 3), batch, batch.mT), 72),
        "out": (lambda: torch.mm(a, b, out=torch.empty(3, 5)), 60),
    }
    for name, (call, expected) in calls.items():
        with MultiplyAdds() as counter:
            call()
        assert counter.total == expected, name


# Rows and totals


class Block(nn.Module):
    """A layer called twice, one inside a container, a product between layers and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.inner = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU())
        self.unused = nn.Linear(3, 3)
        self.weight = nn.Parameter(torch.randn(6, 5))

    def forward(self, x):
        return self.inner(self.shared(self.shared(x))) @ self.weight


def test_rows_the_rest_and_the_total():
    model, x = Block(), torch.randn(3, 4)
    report = counted(model, x)
    assert [(row.name, row.type, row.calls, row.parameters) for row in report.rows] == [
        ("shared", "Linear", 2, 20),
        ("inner.0", "Linear", 1, 24),
        ("inner.1", "ReLU", 1, 0),
    ]
    assert [row.output_shapes for row in report.rows] == [((3, 4),), ((3, 6),), ((3, 6),)]
    shared, product = report["shared"], report.elsewhere
    assert products(shared.before) == (2 * 48, 2 * 48, 2 * 48, 3 * 48)  # the first call's input wants no gradient
    assert products(product.before) == products(product.after) == (90, None, None, 180)
    assert product.parameters == 12 + 30
    assert report.total.parameters == sum(p.numel() for p in model.parameters())
    # The model as a layer: all weights, which takes the gradients of what is between them.
    assert products(report.total.before) == (96 + 72 + 90, 96 + 72 + 90, 144 + 144 + 180, 144 + 144 + 180)
    with pytest.raises(KeyError, match="unused"):
        report["unused"]


def test_bytes_are_counted_where_they_are_kept_first():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1))
    x = torch.randn(2, 3, 8, 8)
    report = counted(model, x)
    outputs = 2 * 8 * 4 * 4
    assert [row.before.saved_bytes for row in report.rows] == [x.nbytes, 4 * 4 * outputs, 8 * outputs, 4 * outputs]
    assert [row.after.saved_bytes for row in report.rows] == [x.nbytes, 4 * 4 * outputs, outputs, 4 * outputs]
    assert report.total.before.saved_bytes == saved_bytes(lambda: model(x), exclude=model.parameters())
    assert report.elsewhere.before.saved_bytes == report.elsewhere.after.saved_bytes == 0


def test_max_pooling_keeps_a_byte_per_output():
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    row = counted(nn.MaxPool2d(2), x).total
    assert row.before.saved_bytes == x.nbytes + 8 * x.numel() // 4  # the input, and int64 indices
    assert row.after.saved_bytes == x.numel() // 4


def test_buffers_are_not_kept_for_the_backward_pass():
    layer, x = nn.BatchNorm2d(3), torch.randn(2, 3, 4, 4)
    row = counted(layer, x).total
    assert row.before.saved_bytes == row.after.saved_bytes == x.nbytes + 2 * 3 * 4
    row = counted(layer.eval(), x).total
    assert row.before.saved_bytes <= x.nbytes


def test_shared_parameters_count_once_in_the_model():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
    model[1].weight = model[0].weight
    report = counted(model, torch.randint(10, (2, 3)))
    assert [row.parameters for row in report.rows] == [40, 40]
    assert report.total.parameters == 40 and report.elsewhere.parameters == 0


def test_frozen_parameters_cost_no_gradient():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6))
    model[0].requires_grad_(False)
    report = counted(model, torch.randn(3, 4))
    assert products(report["0"].before) == products(report["0"].after) == (60, 60, None, None)
    assert products(report["1"].before) == (90, 90, 90, 90)
    assert report["0"].after.saved_bytes == 0
    model.requires_grad_(False)
    report = counted(model, torch.randn(3, 4))
    assert products(report.total.after) == (150, 150, None, None)
    assert report.total.before.saved_bytes == report.total.after.saved_bytes == 0


def test_include_and_exclude_choose_what_is_converted():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6))
    report = counted(model, torch.randn(3, 4), include=nn.Linear, exclude="2")
    assert [row.converted for row in report.rows] == [True, False, False]


def test_a_model_on_the_meta_device():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    x = torch.randn(2, 3, 8, 8)
    real, meta = counted(model, x), counted(model.to("meta"), x.to("meta"))
    assert meta.rows == real.rows
    with pytest.raises(ValueError, match="time must be False on the meta device, got True"):
        torchbp.cost(model, x.to("meta"))


# Models of all kinds


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    hidden: dict


class Kinds(nn.Module):
    """Named arguments, dicts and dataclasses between layers."""

    class Inner(nn.Module):
        def forward(self, given, *, scale, masks=None):
            return Output(given["x"] * scale, {"mask": given["x"] > 0})

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 5), self.Inner(), nn.Linear(5, 6)

    def forward(self, x, *, scale=1.0, flag=False):
        found = self.inner({"x": self.first(x)}, scale=scale)
        return Output(self.last(found.logits), found.hidden) if flag else (self.last(found.logits), None)


def test_named_arguments_dicts_and_dataclasses():
    report = counted(Kinds(), torch.randn(3, 4), kwargs={"scale": 2.0, "flag": True})
    assert [row.name for row in report.rows] == ["first", "inner", "last"]
    assert report["inner"].output_shapes == ((3, 5), (3, 5))
    assert products(report["inner"].before) == (0, 0, None, 0)
    assert report.total.output_shapes == ((3, 6), (3, 5))
    assert products(counted(Kinds(), torch.randn(3, 4)).total.before) == (150, 150, 150 + 90, 150 + 90)


def test_integer_inputs_have_no_gradient():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10))
    report = counted(model, torch.randint(10, (2, 3)))
    assert products(report["0"].after) == (0, None, 0, 0)
    assert products(report.total.after) == (240, None, 480, 480)
    assert json.loads(report.to_json())["rows"][0]["after"]["multiply_adds"]["input_gradient"] is None


def test_lazy_models_stay_lazy():
    model = nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(5))
    report = counted(model, torch.randn(2, 2, 5, 5))
    assert [row.type for row in report.rows] == ["Conv2d", "BatchNorm2d", "Flatten", "Linear"]
    assert report["3"].parameters == 27 * 5 + 5
    assert type(model[0]) is nn.LazyConv2d and model[0].has_uninitialized_params()


def test_layers_that_change_their_input():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
            self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True)

        def forward(self, x):
            y = self.first(x)
            y += x
            return self.drop(self.last(self.relu(y)))

    x = torch.randn(3, 4)
    kept = x.clone()
    report = torchbp.cost(Sums(), x, rounds=1)
    assert torch.equal(x, kept)
    assert products(report["relu"].before) == products(report["relu"].after) == (0, 0, None, 0)
    assert report["drop"].after.seconds.input_gradient > 0
    assert counted(nn.ReLU(inplace=True), x).total.before.multiply_adds.input_gradient == 0
    assert torch.equal(x, kept)


def test_packed_sequences_and_several_calls_of_a_cell():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.cell = nn.LSTM(4, 5, batch_first=True), nn.GRUCell(5, 3)

        def forward(self, packed):
            rows, state = self.lstm(packed)[0].data, None
            for _ in range(3):
                state = self.cell(rows, state)
            return state

    packed = pack_sequence([torch.randn(3, 4), torch.randn(2, 4)])
    report = counted(Steps(), packed)
    rows = 5
    assert report["lstm"].before.multiply_adds.forward == report["lstm"].after.multiply_adds.forward
    assert report["lstm"].before.multiply_adds.forward == rows * 4 * 5 * (4 + 5)
    assert report["cell"].calls == 3
    assert report["cell"].after.multiply_adds.forward == 3 * rows * 3 * 3 * (5 + 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes(dtype):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)).to(dtype)
    report = counted(model, torch.randn(1, 2, 5, 5, dtype=dtype))
    assert report["1"].after.saved_bytes == 27 * dtype.itemsize
    assert products(report["0"].after) == (486, 486, 486, 486)


def test_autocast_and_no_grad_inside_the_model():
    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Linear(4, 5), nn.Linear(5, 6)

        def forward(self, x):
            with torch.no_grad():
                x = self.backbone(x)
            with torch.autocast("cpu", torch.bfloat16):
                return self.head(x)

    report = torchbp.cost(Casts(), torch.randn(3, 4), rounds=1)
    assert products(report["backbone"].after) == (60, None, None, None)
    assert products(report["head"].after) == (90, 90, 90, 90)
    # The input and its bfloat16 copy's share: the copy of the weight is no parameter.
    assert report["head"].before.saved_bytes == 2 * (3 * 5)
    assert report["backbone"].before.saved_bytes == 0
    with torch.autocast("cpu", torch.bfloat16):
        around = torchbp.cost(nn.Sequential(nn.Linear(4, 5)), torch.randn(3, 4), rounds=2).total
        assert torch.is_autocast_enabled("cpu")
    assert products(around.before) == products(around.after) == (60, 60, 60, 60)
    assert around.before.saved_bytes == 2 * 3 * 4


def test_derivatives_are_recorded_whatever_surrounds_the_call():
    model, x = nn.Linear(4, 5), torch.randn(3, 4)
    for surroundings in (torch.no_grad(), torch.inference_mode()):
        with surroundings:
            assert products(counted(model, x.clone()).total.before) == (60, 60, 60, 60)


def test_checkpoints_compute_again_in_the_backward_pass():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 6)

        def forward(self, x):
            return checkpoint(lambda x: self.last(self.first(x)), x, use_reentrant=False)

    report = counted(Checkpointed(), torch.randn(3, 4, requires_grad=True))
    assert products(report["first"].after) == (60, 60, 60, 120)
    assert products(report.elsewhere.after)[0] == 0
    # The built-in saves its input before it computes, where the checkpoint stops; a Function saves afterwards.
    assert products(report.elsewhere.before)[3] == 60 and products(report.elsewhere.after)[3] == 60 + 90


@pytest.mark.parametrize("normalized", ["parametrized", "hook"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weight_norm(normalized):
    layer = nn.Linear(4, 5)
    wrap = parametrizations.weight_norm if normalized == "parametrized" else nn.utils.weight_norm
    model = nn.Sequential(wrap(layer), nn.ReLU())
    report = counted(model, torch.randn(3, 4))
    assert report.total.parameters == 20 + 5 + 5
    assert report.total.before.multiply_adds.forward == 60


def test_group_norm_of_a_channels_last_input():
    # Of PyTorch's, the weight's gradient alone would end the process.
    x = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)
    row = torchbp.cost(nn.GroupNorm(2, 4), x, rounds=1).total
    assert products(row.before) == (0, 0, None, None) and products(row.after) == (0, 0, 0, 0)
    assert row.before.seconds.weight_gradient is None and row.after.seconds.weight_gradient > 0
    row = counted(nn.GroupNorm(2, 4), x.detach().requires_grad_()).total
    assert products(row.before) == (0, 0, None, 0)


def test_models_that_ask_for_the_gradient_of_their_input_themselves():
    class Asks(nn.Linear):
        def forward(self, x):
            x = x[:, None]
            x.requires_grad = True
            return super().forward(x)

    report = counted(nn.Sequential(Asks(4, 5)), torch.randn(3, 4))
    assert products(report.total.before) == (60, None, 60, 60)

    class Breaks(nn.Linear):
        def forward(self, x):
            if not self.weight.requires_grad:
                raise RuntimeError("oh")
            return super().forward(x)

    with pytest.raises(RuntimeError, match="oh"):
        counted(Breaks(4, 5), torch.randn(3, 4, requires_grad=True))


@pytest.mark.slow
def test_compiled_models_are_measured_as_they_were_before():
    model = nn.Sequential(nn.Linear(4, 5))
    assert products(counted(torch.compile(model), torch.randn(3, 4)).total.before) == (60, 60, 60, 60)


@pytest.mark.slow
def test_what_is_compiled_inside_is_one_layer():
    model = nn.Sequential(torch.compile(nn.Linear(4, 5), backend="eager"), nn.ReLU())
    report = counted(model, torch.randn(3, 4))
    assert [row.name for row in report.rows] == ["0", "1"]
    assert products(report["0"].after) == (60, 60, 60, 60)


@pytest.mark.slow
def test_models_that_transformers_makes():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=20, max_position_embeddings=8, **sizes))
    report = counted(model, kwargs={"input_ids": torch.randint(20, (2, 6))})
    assert report.elsewhere.before.multiply_adds.forward == 2 * 2 * 6 * 6 * 8  # scores, and values weighed with them
    assert report.total.output_shapes == ((2, 6, 8), (2, 8))
    assert report["encoder.layer.0.intermediate.dense"].before.multiply_adds.forward == 2 * 6 * 8 * 16


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those packages' own
@pytest.mark.parametrize("name", MODELS)
def test_totals_of_models_of_other_packages(name):
    pytest.importorskip(MODELS[name].package, reason="the package is not installed")
    model, batch = MODELS[name].build(torch.float32), MODELS[name].inputs(torch.float32)
    report = counted(model, kwargs=batch)
    kept = [*model.parameters(), *model.buffers()]
    assert report.total.before.saved_bytes == saved_bytes(lambda: model(**batch), exclude=kept)
    with MultiplyAdds() as counter:
        model(**batch)
    assert report.total.before.multiply_adds.forward == counter.total > 0
    assert report.total.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sum(row.converted for row in report.rows) > len(report.rows) / 3
    for rest in (report.elsewhere.before, report.elsewhere.after):
        assert rest.saved_bytes >= 0 and rest.multiply_adds.forward >= 0 and rest.multiply_adds.backward >= 0


# The model is left alone


def snapshot(model):
    modules = {
        name: (
            type(module),
            module.training,
            *(copy.copy(value) for key, value in vars(module).items() if "hook" in key),
        )
        for name, module in model.named_modules()
    }
    parameters = {name: (id(p), p.requires_grad, p.grad, p._version) for name, p in model.named_parameters()}
    return modules, parameters, {name: value.clone() for name, value in model.state_dict().items()}


def assert_unchanged(model, before):
    modules, parameters, state = snapshot(model)
    assert modules == before[0] and parameters == before[1]
    assert all(torch.equal(state[name], value) for name, value in before[2].items())


def test_the_model_and_the_random_state_are_unchanged():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.LSTM(5, 3), nn.Identity())
    model[0].requires_grad_(False)
    model[2].eval()
    calls = []
    model[1].register_forward_hook(lambda *args: calls.append(1))
    x = torch.randn(6, 4)
    found, random = snapshot(model), torch.get_rng_state()
    torchbp.cost(model, x, rounds=1)
    assert_unchanged(model, found)
    assert torch.equal(torch.get_rng_state(), random)
    assert calls  # hooks are part of what a model computes

    class Breaks(nn.Module):
        def forward(self, x):
            torch.rand(1)
            raise ZeroDivisionError("oh")

    model.append(Breaks())
    found = snapshot(model)
    with pytest.raises(ZeroDivisionError, match="oh"):
        torchbp.cost(model, x)
    assert_unchanged(model, found)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_converted_model_stays_converted():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    torchbp.convert(model)
    found = snapshot(model)
    report = counted(model, torch.randn(3, 4))
    assert_unchanged(model, found)
    assert not any(row.converted for row in report.rows) and report.total.before == report.total.after


def test_what_is_refused():
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got function"):
        torchbp.cost(lambda x: x, torch.randn(2))
    with pytest.raises(ValueError, match="rounds must be positive, got 0"):
        torchbp.cost(nn.ReLU(), torch.randn(2), rounds=0)
    model = nn.ReLU()
    model.stream = sys.stdout
    with pytest.raises(TypeError, match="model must be one that copy.deepcopy takes, got ReLU"):
        torchbp.cost(model, torch.randn(2))


# Times


def test_preparations_come_before_every_call_and_are_not_timed():
    done = []
    calls = {name: lambda name=name: done.append(name) for name in "AB"}
    prepare = {name: lambda name=name: done.append(name.lower()) for name in "AB"}
    found = in_turn(calls, rounds=3, prepare=prepare)
    assert [one.rounds for one in found.values()] == [3, 3]
    assert done[::2] == [name.lower() for name in done[1::2]]
    assert len(done) == 2 * (2 + 2 + 2 * 2 * 3)  # two first calls each, and a call untimed before each that is timed


def test_times():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    report = torchbp.cost(model, torch.randn(3, 4), rounds=2)
    for row in (*report.rows, report.total):
        for side in (row.before, row.after):
            for product, seconds in zip(products(side), dataclasses.astuple(side.seconds), strict=True):
                assert (seconds is None) == (product is None)
                assert seconds is None or 0 < seconds < 10
    rest = report.elsewhere.before.seconds
    assert rest.forward == report.total.before.seconds.forward - sum(r.before.seconds.forward for r in report.rows)
    assert rest.input_gradient is rest.weight_gradient is None
    assert counted(model, torch.randn(3, 4)).total.before.seconds is None


# Tables


@pytest.fixture(scope="module")
def report():
    return torchbp.cost(Block(), torch.randn(3, 4), rounds=1)


def test_json_round_trip(report):
    assert torchbp.CostReport.from_json(report.to_json()) == report
    single = counted(nn.ReLU(), torch.randn(2))
    assert single.elsewhere is None and single.rows == (single.total,) and single.total.name == "(model)"
    assert torchbp.CostReport.from_json(single.to_json()) == single


def test_text(report):
    pytest.importorskip("rich")
    lines = [line.split() for line in str(report).splitlines()]
    assert ["shared", "×2", "Linear*", "3×4", "20", "96", "B"] in lines
    assert ["shared", "×2", "96", "96", "96", "144"] in lines
    assert ["(elsewhere)", "42", "0", "B"] in lines
    assert ["(elsewhere)", "90", "–", "–", "180"] in lines
    assert sum(line[:1] == ["shared"] for line in lines) == 3  # the last table is that of the times
    from rich.console import Console

    console = Console(width=300)
    with console.capture() as captured:
        console.print(report)
    assert "shared ×2" in captured.get()


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("_short", 0, "0"),
        ("_short", 999, "999"),
        ("_short", 1000, "1k"),
        ("_short", 12345, "12.3k"),
        ("_short", 999_600, "1M"),
        ("_short", 123_456_789, "123M"),
        ("_short", 5e15, "5000T"),
        ("_short", -1500, "-1.5k"),
        ("_binary", 999, "999 B"),
        ("_binary", 1000, "1.0 KiB"),
        ("_binary", 3 * 2**20, "3.0 MiB"),
        ("_milliseconds", 1.23456e-3, "1.23"),
        ("_milliseconds", 0.5, "500"),
        ("_milliseconds", -2e-6, "-0.002"),
    ],
)
def test_numbers_have_three_digits(kind, value, shown):
    from torchbp.costs import rendering

    assert getattr(rendering, kind)(value) == shown


def test_picture(report, tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    report.to_png(tmp_path / "cost.png")
    pixels = imread(tmp_path / "cost.png")
    assert pixels.shape[1] > pixels.shape[0] > 100
    assert len({tuple(pixel) for row in pixels[::4] for pixel in row[::4].tolist()}) > 10


@pytest.mark.parametrize(("package", "show"), [("rich", str), ("matplotlib", lambda report: report.to_png("x.png"))])
def test_a_missing_package_is_named_with_its_extra(report, monkeypatch, package, show):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"the table needs {package}, install it with: pip install torchbp\[cli\]"):
        show(report)


# The command


NETWORKS = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.first, self.last = nn.Linear(4, width), nn.Dropout()

    def forward(self, x, scale=1):
        return self.last(self.first(x)) * scale

def build():
    return nn.Sequential(nn.Embedding(10, 4).double(), Network().double())

number = 3
"""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs ``torchbp cost`` on a name in a file."""
    pytest.importorskip("typer")
    from torchbp.cli.main import main

    (tmp_path / "measured.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    random = torch.get_rng_state()

    def run(name, *arguments):
        code = main(["cost", f"measured.py:{name}", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    torch.set_rng_state(random)


def test_command(command):
    code, out, err = command("Network", "--inputs", "randn(3, 4)", "--rounds", "1")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    assert "first" in out and "Dropout*" in out and "milliseconds" in out


def test_command_with_named_inputs_and_json(command, tmp_path):
    arguments = ["--inputs", "randn(3, 4)", "--keyword", "scale = full((1,), 2.0)", "--no-time", "--eval"]
    code, out, _ = command("Network(width=6)", *arguments, "--json", "-", "--exclude", "first")
    found = torchbp.CostReport.from_json(out)
    assert code == 0 and found["first"].before.multiply_adds.forward == 72 and not found["first"].converted
    assert found["last"].after.saved_bytes == 0 and found["last"].converted
    assert (
        command("build", "--inputs", "randint(10, (2,))", "--json", "cost.json", "--png", "cost.png", "--no-time")[0]
        == 0
    )
    found = torchbp.CostReport.from_json((tmp_path / "cost.json").read_text())
    assert found["1.last"].before.saved_bytes > 0 and found.total.before.seconds is None
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["number"], "the model measured.py:number: is no torch.nn.Module but int"),
        (["torch.zeros"], "the model measured.py:torch.zeros: TypeError"),
        (["nothing"], "the model measured.py:nothing: NameError"),
        (["Network", "--inputs", "randn(3, 5)"], "measured.py:Network: mat1 and mat2 shapes cannot be multiplied"),
        (["Network", "--inputs", "rand(3"], "measured.py:Network: inputs 'rand(3' cannot be evaluated"),
        (["Network", "--keyword", "x"], "--keyword x: must be a name and a value"),
        (["Network", "--json", "missing/cost.json"], "--json missing/cost.json: cannot be written"),
        (["Network", "--png", "missing/cost.png"], "--png missing/cost.png: cannot be written"),
    ],
)
def test_command_errors_are_one_line(command, arguments, message):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"torchbp: {message}") and err.count("\n") == 1
