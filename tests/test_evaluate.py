"""What training.evaluate keeps of each episode, and how it goes on with the rest."""

from __future__ import annotations

import io
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_rl
import pytest

from training import evaluate
from training.evaluate import Options
from training.evaluation import episodes, gym

RunCommand = Callable[..., tuple[object, str]]


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_rl.save(tmp_path_factory.mktemp("c") / "cartpole.pt", fake_rl.EveryBitDiscrete(), fake_rl.spec())


def of(path: Path, **changes: Any) -> Options:
    return Options(**{"checkpoint": path, "episodes": 6, "max_steps": 60, **changes})


def scores(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name != "seconds"}


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Ctrl-C in the middle of the episode after so many."""
    worker, done = gym.GymEvaluation.worker, []

    def stopping(evaluation: gym.GymEvaluation) -> Callable[[int], Any]:
        episode = worker(evaluation)

        def next_one(index: int) -> Any:
            if len(done) == count:
                raise KeyboardInterrupt
            done.append(index)
            return episode(index)

        return next_one

    monkeypatch.setattr(gym.GymEvaluation, "worker", stopping)


def test_what_was_done_stays_and_resuming_does_the_rest(
    cartpole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_command: RunCommand
) -> None:
    whole = scores(evaluate.evaluate(of(cartpole)))
    words = ("--checkpoint", cartpole, "--episodes", 6, "--max-steps", 60, "--json", tmp_path / "s.json")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        status, said = run_command(evaluate.main, *words)
    assert status == 130 and said.endswith("stopped; with --json, --resume goes on from here\n")
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert lines[1:] == whole["results"][:4] and not (tmp_path / "s.json").exists()
    with (tmp_path / "s.jsonl").open("a") as file:  # as kill -9 may leave it
        file.write('{"index": 4, "seed": 1000')
    with monkeypatch.context() as patch:
        stop_after(patch, 2)  # no more are missing
        status, said = run_command(evaluate.main, *words, "--resume")
    assert status == 0, said
    assert scores(json.loads((tmp_path / "s.json").read_text())) == whole
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 7
    # A longer one goes on from the same lines, a shorter one takes the first.
    longer = evaluate.evaluate(of(cartpole, episodes=8, json=tmp_path / "s.json", resume=True))
    assert longer["results"] == evaluate.evaluate(of(cartpole, episodes=8))["results"]
    assert scores(evaluate.evaluate(of(cartpole, json=tmp_path / "s.json", resume=True))) == whole


def test_two_workers_give_the_summary_of_one(cartpole: Path, tmp_path: Path) -> None:
    one = evaluate.evaluate(of(cartpole, json=tmp_path / "one.json"))
    two = evaluate.evaluate(of(cartpole, json=tmp_path / "two.json", workers=2))
    assert scores(one) == scores(two)
    lines = [sorted((tmp_path / f"{name}.jsonl").read_text().splitlines()) for name in ("one", "two")]
    assert lines[0] == lines[1]


def test_a_new_run_replaces_lines_only_when_it_has_one(
    cartpole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = of(cartpole, json=tmp_path / "s.json")
    evaluate.evaluate(options)
    before = (tmp_path / "s.jsonl").read_text()
    stop_after(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(options)
    assert (tmp_path / "s.jsonl").read_text() == before


@pytest.mark.parametrize(("changes", "said"), [
    ({"seed": 5}, r"s\.jsonl: has results of something else: seed 100000, now 5$"),
    ({"max_steps": 7}, r"s\.jsonl: has results of something else: max_steps 60, now 7$"),
    ({"json": Path("other.json")}, r"other\.jsonl: nothing to resume from$"),
])  # fmt: skip
def test_only_the_same_is_gone_on_with(
    cartpole: Path, tmp_path: Path, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evaluate.evaluate(of(cartpole, episodes=1, json=tmp_path / "s.json"))
    with pytest.raises(ValueError, match=said):
        evaluate.evaluate(of(cartpole, episodes=1, resume=True, **{"json": tmp_path / "s.json", **changes}))


def test_another_checkpoint_and_damaged_lines_are_refused(cartpole: Path, tmp_path: Path) -> None:
    options = of(cartpole, episodes=2, json=tmp_path / "s.json")
    evaluate.evaluate(options)
    other = fake_rl.save(tmp_path / "other.pt", fake_rl.Balance(), fake_rl.spec())
    with pytest.raises(ValueError, match="something else: sha256 '"):
        evaluate.evaluate(of(other, episodes=2, json=tmp_path / "s.json", resume=True))
    lines = (tmp_path / "s.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "s.jsonl").write_text(lines[0] + lines[1][:20] + "\n" + lines[2])
    with pytest.raises(ValueError, match=r"s\.jsonl: line 2 is damaged: no JSON$"):
        evaluate.evaluate(of(cartpole, episodes=2, json=tmp_path / "s.json", resume=True))


def test_a_full_disk_names_the_file_and_loses_nothing_that_is_done(
    cartpole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file size limit stands in for the disk; pytest's own file of what is said must not come to it first."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    evaluate.evaluate(of(cartpole, episodes=2, json=tmp_path / "s.json"))
    size = (tmp_path / "s.jsonl").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
    try:
        with pytest.raises(OSError, match=r"s\.jsonl'$"):
            evaluate.evaluate(of(cartpole, json=tmp_path / "s.json"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    text = (tmp_path / "s.jsonl").read_text()
    assert text.endswith("\n") and len(text.splitlines()) == 3


def test_a_result_that_is_no_number_is_a_line() -> None:
    with pytest.raises(ValueError, match=r"^episode 3: return is no finite number$"):
        episodes.json_result({"index": 3, "return": float("nan")})


@pytest.mark.parametrize(("changes", "said"), [
    ({"resume": True}, "resume goes with --json"),
    ({"json": Path("x.jsonl")}, "a file's name expected, and not .jsonl"),
    ({"workers": 0}, "workers 0: must be at least 1"),
    ({"cluster": "here"}, "cluster 'here': the address of a scheduler"),
])  # fmt: skip
def test_bad_options_are_one_line(cartpole: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        of(cartpole, **changes)
