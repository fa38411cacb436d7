"""Ctrl-C in a training: it saves where it is, says the truth about it, and goes on to the same weights."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training import command_line
from training.interruption import AfterTheStep, Interrupted
from training.options.shared import DiffusionOptions
from training.run import STATE_FILE, Phase, Run

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def options(out: Path, resume: bool = False) -> DiffusionOptions:
    return DiffusionOptions(
        out=out, resume=resume, iterations=6, batch_size=4, learning_rate=0.1, ema_decay=0.9, save_every=100
    )


class Loss(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        loss: Tensor = (self.network(x) - 1).square().mean()
        return loss


def train(given: DiffusionOptions, at: int = 0, number: int = signal.SIGINT, **changes: Any) -> tuple[Run, nn.Linear]:
    """Trains a line; step `at` gets a signal, 0: none."""
    run = Run(given)
    torch.manual_seed(0)
    network = nn.Linear(3, 1)

    def draw(generator: torch.Generator) -> tuple[Tensor]:
        if at and phase.iteration + 1 == at:
            os.kill(os.getpid(), number)
        return (torch.randn(4, 3, generator=generator),)

    phase = Phase(
        name="line",
        objective=Loss(network),
        optimizer=torch.optim.AdamW(network.parameters(), 0.1),
        draw=draw,
        stream=1,
        iterations=given.iterations,
        rates=[0.1],
        warm_up=0,
        save_every=given.save_every,
        state=lambda: {"network": network.state_dict()},
    )
    for name, value in changes.items():
        setattr(phase, name, value)
    run.fit(phase, run.saved(network=network))
    return run, network


def test_it_saves_after_the_step_and_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    _, whole = train(options(tmp_path / "whole.pt"))
    with pytest.raises(Interrupted) as stopped:
        train(options(tmp_path / "parts.pt"), at=3)
    assert str(stopped.value) == (
        "stopped; saved at iteration 3 of 6 (line): the same command with --resume goes on from there"
    )
    with pytest.raises(Interrupted) as stopped:
        train(options(tmp_path / "parts.pt", resume=True), at=5, number=signal.SIGTERM)
    assert str(stopped.value) == "stopped; saved at iteration 5 of 6 (line): the same command goes on from there"
    assert stopped.value.number == signal.SIGTERM
    _, parts = train(options(tmp_path / "parts.pt", resume=True))
    assert torch.equal(whole.weight, parts.weight) and torch.equal(whole.bias, parts.bias)


def test_a_loop_that_begins_anew_saves_nothing_and_says_so(tmp_path: Path) -> None:
    given = options(tmp_path / "x.pt")
    run = Run(given)
    with pytest.raises(KeyboardInterrupt):
        train(given, at=2, save_every=0)
    assert not (given.run_folder / STATE_FILE).exists()
    assert run.interrupted() == "stopped; nothing was saved yet: the same command begins anew"


def test_pictures_that_are_drawn_meanwhile_are_not_waited_for(tmp_path: Path) -> None:
    drawn = []

    def hook(iteration: int) -> None:
        drawn.append(iteration)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal was waited with")

    with pytest.raises(Interrupted, match="iteration 2 of 6"):
        train(options(tmp_path / "x.pt"), hook=hook, hook_every=2)
    assert drawn == [2]


def test_a_second_signal_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    with AfterTheStep(True) as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (Interrupted("stopped; saved"), 130, "stopped; saved"),
        (Interrupted("stopped; saved", signal.SIGTERM), 143, "stopped; saved"),
        (KeyboardInterrupt(), 130, "before it began"),
    ],
)
def test_a_command_says_it_in_one_line(
    error: BaseException,
    status: int,
    line: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def job(given: DiffusionOptions) -> None:
        raise error

    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    words = f"x --out {tmp_path}/x.pt --iterations 1 --batch-size 1 --learning-rate 1 --ema-decay 0.9"
    monkeypatch.setattr("sys.argv", words.split())
    try:
        with pytest.raises(SystemExit) as ended:
            command_line.run(DiffusionOptions, job, None, "before it began")
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    assert ended.value.code == status
    assert capsys.readouterr().err == f"{line}\n"
