"""kill -9 at random moments of each writer: nothing is lost but the step in progress, nothing half taken for whole.

`python -m tests.killed [--times 20] [words of a writer]`. Each writer runs in a copy of this process, which has
imported everything, is killed so many times at moments drawn from its whole duration, goes on after each, and has to
end with what it gives without a kill, bit for bit. In between whatever has its name must be whole.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src"), str(ROOT)]

import fake_rl  # noqa: E402
import h5py  # noqa: E402
import numpy as np  # noqa: E402
import test_bags  # noqa: E402

from diffusion_ros import checkpoint  # noqa: E402
from diffusion_ros.atomic_file import read_lines  # noqa: E402
from diffusion_ros.bag_recovery import recover  # noqa: E402
from training import (  # noqa: E402
    collect_demos,
    collect_maze,
    convert,
    evaluate,
    train_ddpm,
    train_diffuser,
    train_guard,
    train_ppo,
    train_rainbow,
)
from training.options.policy import Options as PolicyOptions  # noqa: E402
from training.run import load_state  # noqa: E402
from training.trainers import images as images_trainer  # noqa: E402
from training.trainers import planner as planner_trainer  # noqa: E402
from training.trainers import policy as policy_trainer  # noqa: E402
from training.trainers import ppo as ppo_trainer  # noqa: E402
from training.trainers import rainbow as rainbow_trainer  # noqa: E402


@dataclass(frozen=True)
class Writer:
    """A command, run again and again in a folder until it is done."""

    name: str
    prepare: Callable[[Path], None]
    """What is there before, in an empty folder."""
    run: Callable[[Path], None]
    """Begins, or goes on with what is there."""
    progress: Callable[[Path], float]
    """How much is done, and checks it: it never becomes less. Raises for what is half and has a whole's name."""
    outcome: Callable[[Path], Any]
    """To be compared, when it is done."""


def nothing(folder: Path) -> None:
    pass


def demonstrations(folder: Path) -> None:
    """Of a hand that does nothing much."""
    rng = np.random.default_rng(0)
    with h5py.File(folder / "demos.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        for i in range(6):
            demo = data.create_group(f"demo_{i}")
            demo["actions"] = rng.uniform(-1, 1, (40, 7))
            demo["obs/robot0_eef_pos"] = rng.uniform(-0.1, 0.1, (40, 3)).cumsum(axis=0) / 20
            demo["obs/robot0_eef_quat"] = np.tile([1.0, 0, 0, 0], (40, 1))
            demo["obs/robot0_gripper_qpos"] = np.tile([0.04, -0.04], (40, 1))
            demo["obs/object"] = np.tile([0.1, 0, 0, 0, 0, 0, 1, 0, 0, 0], (40, 1))
            for camera in ("agentview", "robot0_eye_in_hand"):
                demo[f"obs/{camera}_image"] = rng.integers(0, 255, (40, 84, 84, 3), np.uint8)


def arrays(path: Path) -> dict[str, bytes]:
    """All arrays of an HDF5 file."""
    found: dict[str, bytes] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.__setitem__(name, item[()].tobytes()) if isinstance(item, h5py.Dataset) else None
        )
    return found


# Collecting


def collect(folder: Path) -> None:
    if not (folder / "maze.hdf5").exists():
        collect_maze.collect(
            collect_maze.Options("umaze", folder / "maze.hdf5", steps=12_000, part=1_000, workers=1, seed=3)
        )


def collected(folder: Path) -> float:
    if (folder / "maze.hdf5").exists():
        arrays(folder / "maze.hdf5")
        return 13.0
    return float(sum(len(arrays(path)) == 3 for path in (folder / "maze.hdf5.parts").glob("*.hdf5")))


def collect_arm(folder: Path) -> None:
    path = folder / "lift.hdf5"
    if not path.exists():
        collect_demos.collect(
            collect_demos.Options("lift", path, episodes=4, images=False, quiet=16, workers=1, seed=3)
        )


def arms_collected(folder: Path) -> float:
    if (folder / "lift.hdf5").exists():
        arrays(folder / "lift.hdf5")
        return 5.0
    return float(sum(bool(arrays(path)) for path in (folder / "lift.hdf5.parts").glob("*.hdf5")))


# Recording


def record(folder: Path) -> None:
    """A bag of its own each time; how many messages were flushed stands beside it."""
    name = f"bag-{len(list(folder.glob('bag-?*.flushed')))}"
    flushed = (folder / f"{name}.flushed").open("w")
    print(0, file=flushed, flush=True)
    writer = test_bags.record(folder / name, 0)
    for i in range(2000):
        writer.write("/camera/image_raw", 100 + i, test_bags.content(i))
        if i % 50 == 49:
            writer.flush()
            print(i + 1, file=flushed, flush=True)
    writer.close()


def recorded(folder: Path) -> float:
    """Messages in all bags, which are recovered where they were cut."""
    total = 0
    for note in folder.glob("bag-*.flushed"):
        bag, flushed = note.with_suffix(""), int(note.read_text().split()[-1])
        if not bag.exists():
            assert flushed == 0
            continue
        if not (bag / "metadata.yaml").exists() and any(file.stat().st_size for file in bag.iterdir()):
            recover(bag)
        found = pictures(bag) if (bag / "metadata.yaml").exists() else []
        assert found == [test_bags.content(i) for i in range(len(found))], "a message is another's, or half"
        assert len(found) >= flushed, f"{len(found)} messages, {flushed} were flushed"
        total += len(found)
    return float(total)


def pictures(bag: Path) -> list[bytes]:
    return [data for topic, _, data in test_bags.read(bag) if topic == "/camera/image_raw"]


def last_bag(folder: Path) -> Any:
    bag = max((path for path in folder.glob("bag-*") if path.is_dir()), key=lambda path: int(path.name[4:]))
    return pictures(bag)


# Evaluating


def policy(folder: Path) -> None:
    fake_rl.save(folder / "c.pt", fake_rl.EveryBitDiscrete(), fake_rl.spec())


def evaluated(folder: Path) -> None:
    path = folder / "s.json"
    begun = path.with_suffix(".jsonl").exists()
    evaluate.report(evaluate.Options(folder / "c.pt", episodes=40, max_steps=200, json=path, resume=begun))


def lines(folder: Path) -> float:
    if (folder / "s.json").exists():
        json.loads((folder / "s.json").read_text())
    found = read_lines(folder / "s.jsonl")[1:]
    assert len({line["index"] for line in found}) == len(found), "an episode was done twice"
    return float(len(found))


def summary(folder: Path) -> Any:
    found = json.loads((folder / "s.json").read_text())
    return {name: value for name, value in found.items() if name not in ("seconds", "checkpoint")}


# Converting


def converted(out: str) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        if not (folder / out).exists():
            convert.convert(convert.Options(folder / "demos.hdf5", folder / out))

    return run


def of_conversion(out: str) -> Callable[[Path], float]:
    def progress(folder: Path) -> float:
        path = folder / out
        if path.suffix and path.exists():
            assert len(arrays(path)) >= 36
        elif path.exists():
            assert json.loads((path / "meta/info.json").read_text())["total_episodes"] == 6
        return float(path.exists())

    return progress


def content(out: str) -> Callable[[Path], Any]:
    def outcome(folder: Path) -> Any:
        path = folder / out
        if path.suffix:
            return arrays(path)
        return sorted((str(file.relative_to(path)), file.stat().st_size) for file in path.rglob("*") if file.is_file())

    return outcome


# Training


def trained(make: Callable[[Path], Any], train: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Goes on where there is something to go on with."""

    def run(folder: Path) -> None:
        options = make(folder)
        begun = (options.run_folder / "state.pt").exists()
        train(dataclasses.replace(options, resume=begun))

    return run


def saved(folder: Path) -> float:
    """Iterations, steps or phases that are saved."""
    state_path = folder / "out.pt.run/state.pt"
    if (folder / "out.pt").exists():
        checkpoint.load(folder / "out.pt")
    if not state_path.exists():
        return 0.0
    state = load_state(state_path)
    return max((float(v) for n, v in state.items() if n in ("iteration", "steps", "encoder_iteration")), default=0.0)


def weights(folder: Path) -> Any:
    return {name: value.numpy().tobytes() for name, value in checkpoint.weights(folder / "out.pt").items()}


def rainbow(folder: Path) -> Any:
    return train_rainbow.Options(
        out=folder / "out.pt", total_timesteps=3000, widths=(16, 16), num_envs=4, learning_starts=64, batch_size=16,
        updates_per_step=0.2, validate_every=500, validation_episodes=4, evaluation_episodes=0,
        save_every=300)  # fmt: skip


def ppo(folder: Path) -> Any:
    return train_ppo.Options(
        out=folder / "out.pt", total_timesteps=8 * 2 * 64, num_envs=2, num_steps=64, update_epochs=2, minibatch_size=16,
        widths=(16,), checkpoint_every=1, test_episodes=2, evaluation_episodes=0, videos=False)  # fmt: skip


def ddpm(folder: Path) -> Any:
    return train_ddpm.Options(
        data="digits", out=folder / "out.pt", dim=8, dim_mults=(1, 2), heads=1, head_dim=8, num_train_timesteps=20,
        iterations=60, batch_size=8, num_inference_steps=5, stand_in_iterations=2,
        evaluation_images=16, save_every=5)  # fmt: skip


def diffusion_policy(folder: Path) -> Any:
    return PolicyOptions(
        data=(folder / "demos.hdf5",), out=folder / "out.pt", observations="state", denoiser="unet",
        unet_widths=(16, 32), iterations=60, save_every=5, rollouts=0, vision="small")  # fmt: skip


def diffuser(folder: Path) -> Any:
    return train_diffuser.Options(
        data=(folder / "maze.hdf5",), out=folder / "out.pt", horizon=8, stride=3, widths=(16, 32), iterations=60,
        save_every=5)  # fmt: skip


def guard(folder: Path) -> Any:
    return train_guard.Options(
        data=folder / "demos.hdf5", out=folder / "out.pt", dim=8, dim_mults=(1, 2), iterations=30, batch_size=4,
        held_out=0.3, calibration_stride=1, false_alarms=0.02, validation_episodes=0, save_every=3)  # fmt: skip


def writers() -> list[Writer]:
    return [
        Writer("collect", nothing, collect, collected, lambda folder: arrays(folder / "maze.hdf5")),
        Writer("collect demos", nothing, collect_arm, arms_collected, lambda folder: arrays(folder / "lift.hdf5")),
        Writer("record", nothing, record, recorded, last_bag),
        Writer("evaluate", policy, evaluated, lines, summary),
        Writer("convert to HDF5", demonstrations, converted("x.hdf5"), of_conversion("x.hdf5"), content("x.hdf5")),
        Writer("convert to LeRobot", demonstrations, converted("x"), of_conversion("x"), content("x")),
        Writer("train rainbow", nothing, trained(rainbow, rainbow_trainer.train_one), saved, weights),
        Writer("train ppo", nothing, trained(ppo, ppo_trainer.train_one), saved, weights),
        Writer("train ddpm", nothing, trained(ddpm, lambda o: images_trainer.Trainer(o).run()), saved, weights),
        Writer("train diffusion_policy", demonstrations,
            trained(diffusion_policy, lambda o: policy_trainer.Trainer(o).run()), saved, weights),
        Writer("train diffuser", collect,
            trained(diffuser, lambda o: planner_trainer.Trainer(o).run()), saved, weights),
        Writer("train guard", demonstrations, trained(guard, train_guard.train), saved, weights),
    ]  # fmt: skip


def in_a_copy(run: Callable[[], Any], log: Path, after: float | None) -> bool:
    """Runs it in a copy of this process, which is killed after so many seconds; whether it came to its end.

    Raises RuntimeError with its last words where it failed by itself.
    """
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(file, 1)
            os.dup2(file, 2)
            run()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            sys.stdout.flush()
            os._exit(1)
    end = None if after is None else time.monotonic() + after
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            if status:
                raise RuntimeError(log.read_text()[-400:])
            return True
        if end is not None and time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.002)


def left_behind(folder: Path) -> list[str]:
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.name.endswith((".part", ".before", ".tmp"))
    )


def proven(writer: Writer, times: int, rng: random.Random) -> str:
    """A line for the table. Raises AssertionError or RuntimeError for what was lost or half."""
    with tempfile.TemporaryDirectory(prefix="killed-") as name:
        whole, folder, log = Path(name, "whole"), Path(name, "killed"), Path(name, "log")
        for place in (whole, folder):
            place.mkdir()
            in_a_copy(lambda place=place: writer.prepare(place), log, None)  # type: ignore[misc]
        began = time.monotonic()
        in_a_copy(lambda: writer.run(whole), log, None)
        seconds = time.monotonic() - began
        wanted = writer.outcome(whole)
        done, kills, again = 0.0, 0, 0
        while kills < times:
            if in_a_copy(lambda: writer.run(folder), log, rng.uniform(0, seconds)):
                # It came to its end: compared, and begun anew, so that there are as many kills as were asked for.
                assert writer.outcome(folder) == wanted, "it ended with something else"
                _begin_anew(folder, writer, log)
                done, again = 0.0, again + 1
                continue
            kills += 1
            now = writer.progress(folder)
            assert now >= done, f"{done:g} were done, {now:g} are"
            done = now
        in_a_copy(lambda: writer.run(folder), log, None)
        assert writer.outcome(folder) == wanted, "it ended with something else"
        assert not left_behind(folder), f"left behind: {left_behind(folder)}"
        return f"{times} kills in {seconds:.1f} s of work, {again + 1} ends, all as without a kill"


def _begin_anew(folder: Path, writer: Writer, log: Path) -> None:
    import shutil

    shutil.rmtree(folder)
    folder.mkdir()
    in_a_copy(lambda: writer.prepare(folder), log, None)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.killed", description="kill -9 at random moments.")
    parser.add_argument("words", nargs="*", help="of a writer's name")
    parser.add_argument("--times", type=int, default=20, help="kills of each")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    bad = 0
    for writer in writers():
        if not all(word in writer.name for word in given.words):
            continue
        try:
            said = f"ok      {writer.name:24} {proven(writer, given.times, random.Random(given.seed))}"
        except (AssertionError, RuntimeError) as error:
            said, bad = f"FAILED  {writer.name:24} {' '.join(str(error).split())}", bad + 1
        print(said, flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
