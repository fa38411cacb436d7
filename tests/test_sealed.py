"""What stands before a checkpoint runs: its archive, code and operators, the trial, signatures, and caps of a robot."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_policy import FakePolicy, save, spec
from some_slow import one_in
from torch import Tensor, nn

from diffusion_ros import checkpoint, sign
from diffusion_ros.checkpoint import CheckpointError, exported
from diffusion_ros.nodes.executor_parameters import ExecutorParameters, completed
from diffusion_ros.sealed import archive, code, operators, pickled, signatures, trial
from diffusion_ros.sealed.refusal import Refusal, shown
from diffusion_ros.spec import CheckpointSpec, SpecError

SHIPPED = sorted((Path(__file__).parents[1] / "checkpoints").glob("*.pt"))


@pytest.mark.parametrize("path", one_in(3, SHIPPED), ids=[path.stem for path in SHIPPED])
def test_what_is_written_anew_of_a_shipped_checkpoint_is_the_same_module(path: Path) -> None:
    found = archive.read(path.read_bytes())
    classes = pickled.check(found.entries, "data.pkl", "data") | pickled.check(
        found.entries, "constants.pkl", "constants"
    )
    sources = code.check(found.code, classes)
    # Once more, what was written is what is read: nothing is lost on the way.
    assert code.check(sources, classes) == sources
    with zipfile.ZipFile(path) as theirs:
        folder = theirs.namelist()[0].partition("/")[0]
        for name, content in found.entries.items():
            assert theirs.read(f"{folder}/{name}") == content
    again = checkpoint.foreign(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_for_torch", lambda _: path.read_bytes())
        plain = checkpoint.foreign(path)
    ours, theirs_ = again.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs_) and all(torch.equal(ours[name], theirs_[name]) for name in ours)
    for one, other in zip(again.modules(), plain.modules(), strict=True):
        assert _graphs(one) == _graphs(other)


def _graphs(module: Any) -> dict[str, list[str]]:
    """By method, without where in a source each line is from, which is another source here."""
    found = {name: str(module._c._get_method(name).graph) for name in module._c._method_names()}
    return {name: [line.partition("#")[0].rstrip() for line in text.splitlines()] for name, text in found.items()}


def test_every_operator_on_the_list_is_one_of_torch_s() -> None:
    """A word that is misspelt would be there for ever."""
    known = {schema.name for schema in torch._C._jit_get_all_schemas()}
    assert {name for name in operators.ATEN if f"aten::{name}" not in known} == set()


@pytest.mark.parametrize(
    "name",
    [
        *("from_file", "save", "load", "print", "warn", "time", "empty", "as_strided", "set_", "resize_", "data_ptr"),
        *("_record_function_enter", "set_grad_enabled", "set_num_threads", "fork", "rpc_async", "eval", "exec"),
        *("sparse_coo_tensor", "wait", "to_mkldnn", "get_device", "cuda", "backward", "set_data", "Delete"),
    ],
)
def test_what_reaches_beyond_is_not_on_it(name: str) -> None:
    assert name not in operators.ATEN | operators.PRIM | operators.BUILTINS | operators.METHODS


def _source(body: str) -> dict[str, bytes]:
    lines = "".join(f"  {line}\n" for line in body.split("\n"))
    return {"__torch__.a": f"def f(x: Tensor, n: int) -> Tensor:\n{lines}  return x\n".encode()}


BREAK = """i = 0
go = True
while go:
  y = torch.sin(x)
  more = torch.add(i, 1)
  again = torch.__and__(torch.lt(more, {rounds}), {condition})
  go, i = again, more"""


@pytest.mark.parametrize("rounds", ["3", "n"])
def test_a_for_with_break_is_a_while_that_ends(rounds: str) -> None:
    assert code.check(_source(BREAK.format(rounds=rounds, condition="bool(torch.any(y))")), ())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.lt(more, n)", "torch.lt(i, n)"),
        ("torch.add(i, 1)", "torch.add(i, 0)"),
        ("go, i = again, more", "go, i = again, i"),
        ("go, i = again, more", "go, i, n = again, more, torch.add(n, 1)"),
        ("  y = torch.sin(x)", "  n = torch.add(n, 1)"),
        ("go, i = again, more", "go, i = True, more"),
        ("  y = torch.sin(x)", "  y = torch.sin(x)\n  i = -1"),
        ("torch.__and__(torch.lt(more, n), True)", "torch.__or__(torch.lt(more, n), True)"),
        ("go, i = again, more", "go, i = again, more\n  again = True"),
    ],
)
def test_one_that_only_looks_so_is_refused(old: str, new: str) -> None:
    text = BREAK.format(rounds="n", condition="True")
    assert old in text
    with pytest.raises(Refusal, match="`while`"):
        code.check(_source(text.replace(old, new, 1)), ())


def test_what_is_trained_is_refused_before_it_is_trained() -> None:
    class Printing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            print(x)
            return x

    with pytest.raises(CheckpointError, match=r"Printing: .*the name print, none that a checkpoint may use"):
        checkpoint.script(Printing())


# The trial


def _exits() -> str:
    os._exit(0)


def _crashes() -> str:
    signal.raise_signal(signal.SIGSEGV)
    return ""


def test_a_trial_says_what_is_wrong() -> None:
    assert trial.trial(lambda: "") == ""
    assert trial.trial(lambda: "crooked") == "crooked"
    assert "division by zero" in trial.trial(lambda: str(1 / 0))
    assert trial.trial(_crashes).endswith("(SIGSEGV)")
    assert trial.trial(_exits) == "ended the process that tried it"


def _for_ever() -> str:
    while True:
        pass


def test_one_that_does_not_end_is_ended() -> None:
    assert "did not end within 0.2 s" in trial.trial(_for_ever, seconds=0.2)


def test_it_has_no_more_memory_and_no_more_file_than_it_is_given(tmp_path: Path) -> None:
    assert "memory" in trial.trial(lambda: str(torch.ones(1 << 28).sum()), memory=256 << 20)
    path = tmp_path / "file"
    assert trial.trial(lambda: str(path.write_bytes(bytes(10)))) != ""
    assert not path.exists() or path.stat().st_size == 0


def test_it_can_be_stopped(tmp_path: Path) -> None:
    """By one signal, and nothing of it stays."""
    script = """
from diffusion_ros.sealed import trial
print("begun", flush=True)
trial.trial(lambda: str([0 for _ in iter(int, 1)]))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"begun\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) != 0
        while Path(f"/proc/{found[0]}/cmdline").exists() and Path(f"/proc/{found[0]}/cmdline").read_bytes():
            time.sleep(0.01)


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "caches" / "tried"
    monkeypatch.setenv(trial.VARIABLE, str(folder))
    return folder


def _counted(tried: list[str], try_: Callable[[Callable[[], str]], str]) -> Callable[[Callable[[], str]], str]:
    def counted(work: Callable[[], str]) -> str:
        tried.append(try_(work))
        return tried[-1]

    return counted


def _finds(problem: str) -> Callable[[], str]:
    return lambda: problem


def test_what_was_tried_is_not_tried_again(marks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(trial, "trial", _counted(tried, lambda work: work()))
    for key, problem in (("a", ""), ("a", ""), ("b", ""), ("c", "bad"), ("c", "bad")):
        assert trial.remembered(key, _finds(problem)) == problem
    assert tried == ["", "", "bad", "bad"], "what was wrong is tried again"
    assert len(list(marks.iterdir())) == 2 and marks.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
@pytest.mark.parametrize("whose", ["tried", "caches"])
def test_a_memory_that_others_can_write_is_neither_read_nor_written(
    marks: Path, monkeypatch: pytest.MonkeyPatch, mode: int, whose: str
) -> None:
    tried: list[str] = []
    monkeypatch.setattr(trial, "trial", _counted(tried, lambda work: work()))
    trial.remembered("a", lambda: "")
    (marks if whose == "tried" else marks.parent).chmod(mode)
    trial.remembered("a", lambda: "")
    trial.remembered("b", lambda: "")
    assert len(tried) == 3 and len(list(marks.iterdir())) == 1


def test_a_mark_that_is_a_link_or_that_others_can_write_counts_for_nothing(
    marks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried: list[str] = []
    monkeypatch.setattr(trial, "trial", _counted(tried, lambda work: work()))
    trial.remembered("a", lambda: "")
    (mark,) = marks.iterdir()
    mark.chmod(0o666)
    trial.remembered("a", lambda: "")
    mark.unlink()
    (tmp_path / "other").touch()
    mark.symlink_to(tmp_path / "other")
    trial.remembered("a", lambda: "")
    assert len(tried) == 3


def test_only_so_many_are_remembered(marks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "trial", lambda work: "")
    monkeypatch.setattr(trial, "MARKS", 3)
    for i in range(10):
        trial.remembered(str(i), lambda: "")
    assert len(list(marks.iterdir())) == 3


def test_a_checkpoint_is_tried_anew_with_other_settings_and_after_a_change(
    marks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    real = trial.trial
    monkeypatch.setattr(trial, "trial", _counted(tried, real))
    path = save(tmp_path / "policy.pt")
    for steps, sampler in ((None, None), (None, None), (3, None), (3, None), (None, "ddpm")):
        checkpoint.load(path, sampler_steps=steps, sampler=sampler)
    checkpoint.record_scores(path, {"more": 1})
    checkpoint.load(path)
    assert tried == [""] * 4


class Slow(FakePolicy):
    """Never ends for what it sees in its trial."""

    @exported
    def sample(self, features: Tensor, seed: int, steps: int) -> Tensor:
        for _ in range(steps * 1_000_000 * 1_000_000):
            features = torch.sin(features)
        return features


def test_a_checkpoint_that_never_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.trial, "__defaults__", (0.5, trial.BYTES))
    with pytest.raises(CheckpointError, match=r"slow\.pt: did not end within 0\.5 s"):
        checkpoint.load(save(tmp_path / "slow.pt", kind=Slow))


# Signatures


@pytest.fixture
def key(tmp_path: Path) -> tuple[Path, str]:
    pytest.importorskip("cryptography")
    return tmp_path / "key.pem", signatures.new_key(tmp_path / "key.pem")


def test_a_signed_checkpoint_is_loaded_and_names_who_signed_it(tmp_path: Path, key: tuple[Path, str]) -> None:
    private, public = key
    assert private.stat().st_mode & 0o777 == 0o600
    checkpoint.save(FakePolicy(spec().input_names, spec().n_rows), spec(), tmp_path / "policy.pt", key=private)
    (tmp_path / "public.txt").write_text(public + "\n")
    for trusted in ([public], [str(tmp_path / "public.txt")], [signatures_of_another(tmp_path), public]):
        assert checkpoint.load(tmp_path / "policy.pt", trusted_keys=trusted).signer == public
        assert checkpoint.read_spec(tmp_path / "policy.pt", trusted_keys=trusted) == spec()
    assert checkpoint.load(tmp_path / "policy.pt").signer == ""


def signatures_of_another(folder: Path) -> str:
    path = folder / "another.pem"
    path.unlink(missing_ok=True)
    return signatures.new_key(path)


def test_scores_take_the_signature_away_unless_the_key_is_there(
    tmp_path: Path, key: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = key
    path = save(tmp_path / "policy.pt")
    checkpoint.sign(path, private)
    checkpoint.load(path, trusted_keys=[public])
    checkpoint.record_scores(path, {"a": 1})
    for read in (checkpoint.load, checkpoint.read_spec):
        with pytest.raises(CheckpointError, match="is not signed"):
            read(path, trusted_keys=[public])
    monkeypatch.setenv(signatures.KEY_VARIABLE, str(private))
    checkpoint.record_scores(path, {"a": 2})
    assert checkpoint.load(path, trusted_keys=[public]).spec.scores["a"] == 2


def test_a_key_that_cannot_be_read_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    (tmp_path / "no.pem").write_text("hello")
    module = FakePolicy(spec().input_names, spec().n_rows)
    for name, expected in (("none.pem", "No such file"), ("no.pem", "no private key in PEM")):
        with pytest.raises(CheckpointError, match=rf"policy\.pt: not written: the key .*{name}: {expected}"):
            checkpoint.save(module, spec(), tmp_path / "policy.pt", key=tmp_path / name)
    assert not (tmp_path / "policy.pt").exists()


def test_another_file_than_the_one_meant_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "policy.pt")
    meant = checkpoint.file_sha256(path)
    assert checkpoint.load(path, sha256=meant.upper()).sha256 == meant
    checkpoint.record_scores(path, {"a": 1})
    for read in (checkpoint.load, checkpoint.read_spec):
        with pytest.raises(CheckpointError, match=rf"has the SHA-256 .*, {meant} expected: it is another file"):
            read(path, sha256=meant)


def test_the_same_checkpoint_makes_the_same_file(tmp_path: Path) -> None:
    """So that two who train the same can compare a hash."""
    hashes = {checkpoint.file_sha256(save(tmp_path / f"{i}.pt")) for i in range(2)}
    assert len(hashes) == 1


# The robot's own caps


def test_no_specification_moves_the_simulated_arm_farther_than_it_goes() -> None:
    wide = dataclasses.replace(spec(), action_low=(-0.4,) * 3 + (-3.0,) * 3 + (-1.0,), action_high=(0.4,) * 6 + (1.0,))
    p = completed("executor", ExecutorParameters(checkpoint_limits=True), checkpoint.checked(wide))
    np.testing.assert_array_equal(p.action_low, (-0.05,) * 3 + (-0.5,) * 3 + (-1.0,))
    np.testing.assert_array_equal(p.action_high, (0.05,) * 3 + (0.4,) * 3 + (1.0,))
    own = ExecutorParameters(checkpoint_limits=True, action_low=(-0.2,) * 7, action_high=(0.2,) * 7)
    assert completed("executor", own, wide).action_high == (0.2,) * 7, "what the user says is the user's"


@pytest.mark.parametrize("part", range(6))
def test_50_m_a_step_is_no_specification(part: int) -> None:
    high = list(spec().action_high)
    high[part] = 50.0
    with pytest.raises(SpecError, match=r"of 50 (m|rad) in one step"):
        checkpoint.checked(dataclasses.replace(spec(), action_high=tuple(high)))


@pytest.mark.parametrize("rate", [1e-300, 0.05, 1001.0, 1e300])
def test_no_robot_has_such_a_rate(rate: float) -> None:
    with pytest.raises(SpecError, match=r"rate .* Hz expected"):
        dataclasses.replace(spec(), rate=rate)


def test_lines_are_printable_and_short() -> None:
    assert shown("a\nb\x1b[31m\u202e" + "x" * 1000).isprintable() and len(shown("x" * 10**6)) < 100
    with pytest.raises(SpecError) as error:
        CheckpointSpec.from_json('{"a\\nb": 1, "' + "x" * 10_000 + '": 2}')
    assert str(error.value).isprintable() and len(str(error.value)) < 600


# Commands and nodes


def test_a_key_is_made_and_a_checkpoint_signed_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cryptography")
    private, path = tmp_path / "key.pem", save(tmp_path / "policy.pt")
    assert sign.main(["--new-key", str(private)]) == 0
    public = capsys.readouterr().out.strip()
    assert sign.main(["--key", str(private), str(path)]) == 0
    assert f"SHA-256 {checkpoint.file_sha256(path)}" in capsys.readouterr().out
    assert checkpoint.load(path, trusted_keys=[public]).signer == public
    for words, expected in (
        (["--new-key", str(private)], "exists already"),
        (["--key", str(tmp_path / "none.pem"), str(path)], "No such file"),
        (["--key", str(private), str(tmp_path / "none.pt")], "no such checkpoint"),
    ):
        assert sign.main(words) == 2
        said = capsys.readouterr().err
        assert expected in said and said.count("\n") == 1


STUCK = """
import signal, sys
import torch
from diffusion_ros.stop_signals import ended_by_signal

@torch.jit.script
def for_ever(n: int) -> int:
    i = 0
    while i >= 0:
        i = (i + 1) % n
    return i

signal.signal(signal.SIGINT, lambda *_: None)
signal.signal(signal.SIGTERM, lambda *_: None)
with ended_by_signal(2):
    print("begun", flush=True)
    for_ever(1000)
"""


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM)])
def test_the_second_signal_ends_what_python_no_longer_runs(numbers: tuple[signal.Signals, ...], tmp_path: Path) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", str(script)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"begun\n"
            time.sleep(0.5)
            process.send_signal(numbers[0])
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            process.send_signal(numbers[1])
            assert process.wait(30) == 128 + numbers[1]
        finally:
            process.kill()


@pytest.mark.parametrize("node", ["policy_node", "executor_node"])
def test_a_node_takes_no_checkpoint_that_is_not_signed(node: str, tmp_path: Path, key: tuple[Path, str]) -> None:
    path = save(tmp_path / "policy.pt")
    words = ["-p", f"checkpoint:={path}", "-p", f"trusted_keys:=[{key[1]}]"]
    command = [sys.executable, "-m", f"diffusion_ros.nodes.{node}", "--ros-args", *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"{path}: it is not signed, and only checkpoints signed by trusted_keys are used\n"
