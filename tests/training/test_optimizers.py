"""Optimizers and schedules: kohya's names, the libraries' defaults, golden rates."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from fluxbooth.errors import UserError
from fluxbooth.training.optimizers import (
    as_published,
    build_optimizer,
    build_schedule,
    check_optimizer,
    check_rates,
    effective_learning_rate,
)

# Every optimizer with arguments that have a state of their own to carry over.
KINDS = [
    ("AdamW", 1e-2, ()),
    ("AdamW", 1e-2, ("amsgrad=True", "weight_decay=0.1")),
    ("AdamW", 1e-2, ("fused=True",)),
    ("Prodigy", 1.0, ("decouple=True", "use_bias_correction=True", "safeguard_warmup=True", "weight_decay=0.01",
                      "betas=0.9,0.99", "d_coef=2")),
    ("Adafactor", 1e-2, ("relative_step=False", "scale_parameter=False")),
    ("Adafactor", 1e-2, ("relative_step=True", "warmup_init=True", "beta1=0.9")),
    ("Lion", 1e-3, ("weight_decay=0.1",)),
    ("AdamWScheduleFree", 1e-2, ("warmup_steps=4",)),
    pytest.param(
        "AdamW8bit", 1e-2, (),
        marks=pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not here"),
    ),
]  # fmt: skip


@pytest.fixture
def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(3))]


@pytest.mark.parametrize(("kind", "rate", "arguments"), KINDS)
def test_doras_magnitudes_learn_at_as_rate_and_do_not_decay(kind: str, rate: float, arguments: Sequence[str]) -> None:
    """A and B and magnitudes of two layers of the transformer, one of which has its own rate, and of one of CLIP."""
    layers = [[nn.Parameter(torch.ones(2, 2)) for _ in "AB"] + [nn.Parameter(torch.ones(2))] for _ in range(3)]
    adaptive = kind == "Prodigy" or "relative_step=True" in arguments
    optimizer = build_optimizer(
        [*layers[0], *layers[1]],
        kind,
        rate,
        arguments,
        layers[2],
        rate,
        (1.0, 1.0) if adaptive else (4.0, 4.0),
        [rate] * 3 + [rate if adaptive else rate / 2] * 3,
        decomposed=True,
    )
    found = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    assert len(found) == 9
    for layer, factor in zip(layers, (1, 0.5, 1), strict=True):
        down, up, magnitudes = (found[id(parameter)] for parameter in layer)
        if not adaptive:
            assert (down["lr"], up["lr"]) == pytest.approx((factor * rate, 4 * factor * rate))
        assert magnitudes["lr"] == down["lr"]
        assert magnitudes["weight_decay"] == 0
        assert down["weight_decay"] == up["weight_decay"]


def test_the_playbooks_schedule_falls_as_kohyas_does(parameters: list[nn.Parameter]) -> None:
    """cosine_with_restarts, one cycle, 500 steps (kohya sd-scripts 48d368fa)."""
    golden = {0: 1.0, 1: 0.9999901304280685, 100: 0.9045084971874737, 250: 0.5, 375: 0.14644660940672627}
    optimizer = build_optimizer(parameters, "AdamW", 1.0, ())
    schedule = build_schedule(optimizer, "cosine_with_restarts", 500, 0, 1)
    rates = []
    for _ in range(500):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert {step: rates[step] for step in golden} == pytest.approx(golden)
    assert rates[499] == pytest.approx(9.869571931442334e-06)


@pytest.mark.parametrize(("name", "cycles", "at_half"), [("constant", 1, 0.1), ("cosine_with_restarts", 2, 0.1)])
def test_a_schedule_warms_up_from_zero(parameters: list[nn.Parameter], name: str, cycles: int, at_half: float) -> None:
    optimizer = build_optimizer(parameters, "AdamW", 0.1, ())
    schedule = build_schedule(optimizer, name, 110, 10, cycles)
    rates = []
    for _ in range(110):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == 0
    assert rates[5] == pytest.approx(0.05)
    assert rates[60] == pytest.approx(at_half)


def test_prodigy_has_its_librarys_defaults_and_shows_its_own_rate(parameters: list[nn.Parameter]) -> None:
    optimizer = build_optimizer(parameters, "Prodigy", 1.0, ())
    group = optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"], group["d_coef"]) == ((0.9, 0.999), 1e-8, 0, 1.0)
    assert (group["decouple"], group["use_bias_correction"], group["safeguard_warmup"]) == (True, False, False)
    assert effective_learning_rate(optimizer) == pytest.approx(1e-6)
    for _ in range(30):
        parameters[0].grad = parameters[0].detach() - 5
        optimizer.step()
    assert effective_learning_rate(optimizer) > 1e-5, "d grows where the gradient keeps its direction"


def test_clips_part_learns_at_its_own_rate(parameters: list[nn.Parameter]) -> None:
    text = [nn.Parameter(torch.ones(2))]
    optimizer = build_optimizer(parameters, "AdamW", 0.1, ("weight_decay=0",), text, 0.01)
    for parameter in (*parameters, *text):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert parameters[0].tolist() == pytest.approx([0.9] * 3)
    assert text[0].tolist() == pytest.approx([0.99] * 2)


def test_arguments_are_given_as_kohya_writes_them(parameters: list[nn.Parameter]) -> None:
    arguments = ("decouple=True", "weight_decay=0.01", "betas=(0.9, 0.99)", "d_coef=2", "safeguard_warmup=True")
    group = build_optimizer(parameters, "Prodigy", 1.0, arguments).param_groups[0]
    assert (group["weight_decay"], group["betas"], group["d_coef"], group["safeguard_warmup"]) == (
        0.01,
        (0.9, 0.99),
        2,
        True,
    )


class Quadratic:
    """Two matrices on their way to another place, under noise that depends on the step alone."""

    def __init__(self, kind: str, rate: float, arguments: Sequence[str]) -> None:
        self.parameters = [nn.Parameter(torch.ones(128, 64)), nn.Parameter(torch.zeros(8, 4))]
        self.optimizer = build_optimizer(self.parameters, kind, rate, arguments)
        self.schedule = build_schedule(self.optimizer, "constant", 20, 0, 1)

    def train(self, first: int, last: int) -> None:
        for step in range(first, last):
            for number, parameter in enumerate(self.parameters):
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2 * step + number))
                parameter.grad = parameter.detach() - 3 + 0.1 * noise
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad(set_to_none=True)

    def values(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]


@pytest.mark.parametrize(("kind", "rate", "arguments"), KINDS)
def test_a_stopped_optimizer_goes_on_to_the_bit(kind: str, rate: float, arguments: Sequence[str]) -> None:
    straight = Quadratic(kind, rate, arguments)
    straight.train(0, 20)
    stopped = Quadratic(kind, rate, arguments)
    stopped.train(0, 9)
    file = io.BytesIO()
    torch.save([stopped.values(), stopped.optimizer.state_dict(), stopped.schedule.state_dict()], file)
    file.seek(0)
    values, optimizer, schedule = torch.load(file, weights_only=True)
    resumed = Quadratic(kind, rate, arguments)
    for parameter, value in zip(resumed.parameters, values, strict=True):
        parameter.data.copy_(value)
    resumed.optimizer.load_state_dict(optimizer)
    resumed.schedule.load_state_dict(schedule)
    resumed.train(9, 20)
    assert all(torch.equal(one, two) for one, two in zip(straight.values(), resumed.values(), strict=True))
    assert effective_learning_rate(resumed.optimizer) == effective_learning_rate(straight.optimizer)
    assert all((value > 0).all() for value in straight.values()), "it goes where the gradient leads"


@pytest.mark.parametrize("name", ["prodigy", "ADAMW", "lion", "adafactor", "adamwschedulefree"])
def test_names_are_taken_in_any_case(parameters: list[nn.Parameter], name: str) -> None:
    assert type(build_optimizer(parameters, name, 1.0, ())).__name__.lower() == name.lower()


def test_another_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="Allowed: AdamW, AdamW8bit, Adafactor, AdamWScheduleFree, Lion, Prodigy"):
        check_optimizer("SGD", 1.0, ())


def test_without_its_library_adamw8bit_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        check_optimizer("adamw8bit", 1e-4, ())


def test_schedule_free_publishes_its_average_and_trains_on_to_the_bit() -> None:
    straight, looked_at = (Quadratic("AdamWScheduleFree", 1e-2, ()) for _ in range(2))
    straight.train(0, 20)
    looked_at.train(0, 9)
    trained = looked_at.values()
    with as_published(looked_at.optimizer):
        published = looked_at.values()
        assert not any(torch.equal(one, two) for one, two in zip(trained, published, strict=True))
    # Its paper's y = (1 - beta1) z + beta1 x, x the average: solved for x.
    for parameter, trained_value, average in zip(looked_at.parameters, trained, published, strict=True):
        z = looked_at.optimizer.state[parameter]["z"]
        assert torch.allclose(0.1 * z + 0.9 * average, trained_value, atol=1e-5)
    assert all(torch.equal(one, two) for one, two in zip(trained, looked_at.values(), strict=True))
    looked_at.train(9, 20)
    assert all(torch.equal(one, two) for one, two in zip(straight.values(), looked_at.values(), strict=True))


def test_what_the_others_publish_is_what_they_train() -> None:
    quadratic = Quadratic("AdamW", 1e-2, ())
    quadratic.train(0, 3)
    trained = quadratic.values()
    with as_published(quadratic.optimizer):
        assert all(torch.equal(one, two) for one, two in zip(trained, quadratic.values(), strict=True))


def test_the_upper_half_learns_faster_where_that_is_asked_for() -> None:
    """LoRA+: the first step of AdamW without weight decay goes as far as the rate."""
    layers, text = ([nn.Parameter(torch.zeros(2)) for _ in range(4)] for _ in range(2))
    optimizer = build_optimizer(layers, "AdamW", 0.01, ("weight_decay=0",), text, 0.001, (4.0, 2.0))
    for parameter in (*layers, *text):
        parameter.grad = -torch.ones(2)
    optimizer.step()
    assert [parameter[0].item() for parameter in layers] == pytest.approx([0.01, 0.04, 0.01, 0.04])
    assert [parameter[0].item() for parameter in text] == pytest.approx([0.001, 0.002, 0.001, 0.002])
    assert effective_learning_rate(optimizer) == pytest.approx(0.01)


def rates(name: str, warmup: float = 0, cycles: int = 1, power: float = 1.0, steps: int = 100) -> list[float]:
    optimizer = build_optimizer([nn.Parameter(torch.ones(1))], "AdamW", 1.0, ())
    schedule = build_schedule(optimizer, name, steps, warmup, cycles, power)
    seen = []
    for _ in range(steps):
        seen.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return seen


def test_the_schedules_have_the_forms_they_are_named_after() -> None:
    assert rates("constant_with_warmup", 10)[5:15:5] == pytest.approx([0.5, 1])
    assert rates("cosine")[50] == pytest.approx(0.5)
    assert rates("cosine_with_restarts", cycles=2)[50] == pytest.approx(1)
    assert rates("linear")[25] == pytest.approx(0.75)
    assert rates("polynomial", power=2.0)[50] == pytest.approx(0.25, abs=1e-6)
    assert rates("polynomial", warmup=10, power=2.0)[55] == pytest.approx(0.25, abs=1e-6)
    assert rates("polynomial", warmup=20, steps=10)[5] == pytest.approx(0.25), "a run shorter than its warm-up"


def test_a_warm_up_below_one_is_a_share_of_the_steps() -> None:
    assert rates("cosine", 0.1) == rates("cosine", 10)
    assert rates("cosine", 0.109) == rates("cosine", 10), "rounded down, as kohya does"


@pytest.mark.parametrize(
    ("kind", "arguments", "schedule", "warmup", "said"),
    [
        ("AdamWScheduleFree", (), "cosine", 0, "AdamWScheduleFree needs no schedule"),
        ("AdamWScheduleFree", (), "constant", 10, "lr_warmup_steps = 10"),
        ("Adafactor", (), "linear", 0, "Adafactor with relative_step needs no schedule"),
        ("AdamW", (), "polynomial", 0, "must be smaller than initial lr"),
    ],
)
def test_a_schedule_that_would_have_no_effect_is_refused(
    kind: str, arguments: tuple[str, ...], schedule: str, warmup: int, said: str
) -> None:
    with pytest.raises(UserError) as raised:
        check_rates(kind, 1e-8, arguments, schedule, warmup, rates_differ=False)
    assert said in str(raised.value)
    assert "lr_scheduler" in str(raised.value)
    check_rates("Adafactor", 1e-4, ("relative_step=False",), "linear", 10, rates_differ=True)


@pytest.mark.parametrize("kind", ["Prodigy", "Adafactor"])
def test_several_rates_are_refused_where_one_is_found_for_all(kind: str) -> None:
    check_rates(kind, 1.0, (), "constant", 0, rates_differ=False)
    with pytest.raises(UserError, match="finds one rate for everything, and several are given"):
        check_rates(kind, 1.0, (), "constant", 0, rates_differ=True)


def test_adafactor_takes_the_rate_where_it_does_not_find_its_own(parameters: list[nn.Parameter]) -> None:
    given = build_optimizer(parameters, "Adafactor", 0.02, ("relative_step=False",))
    assert effective_learning_rate(given) == 0.02
    own = build_optimizer(parameters, "Adafactor", 0.02, ())
    schedule = build_schedule(own, "constant", 10, 0, 1)
    parameters[0].grad = torch.ones(3)
    own.step()
    schedule.step()
    assert effective_learning_rate(own) == pytest.approx(0.01), "min(0.01, 1 / sqrt(1)) times the weights' size, 1"


@pytest.mark.parametrize("form", ["betas=(0.9,0.99)", "betas=0.9,0.99"])
def test_betas_may_stand_without_brackets_as_kohya_writes_them(parameters: list[nn.Parameter], form: str) -> None:
    assert build_optimizer(parameters, "Prodigy", 1.0, (form,)).param_groups[0]["betas"] == (0.9, 0.99)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("weight_decay", "is not name=value"),
        ("weight_dekay=0.1", "weight_dekay"),
        ("betas=yes", "'yes'"),
        ("lr=1", "lr"),
    ],
)
def test_an_argument_that_cannot_be_is_refused(parameters: list[nn.Parameter], argument: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        build_optimizer(parameters, "AdamW", 1e-4, (argument,))
    assert said in str(raised.value)
    assert "optimizer_args" in str(raised.value)
