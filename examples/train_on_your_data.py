"""From recordings of one's own to a checkpoint: writes an HDF5 in robomimic's format, trains on it, asks the result.

    python examples/train_on_your_data.py [folder] [--iterations 500]

The recordings are made up here: a hand that goes to a cube and closes. Put yours in their place, and the training is
this command with more iterations. (Needs the extra [train].)
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

from diffusion_ros import checkpoint
from diffusion_ros.models.policy import Policy
from diffusion_ros.robot import ACTION_SCALE


def record(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One demonstration of 40 control steps, 20 a second: what was seen in each, and the action that answered it.

    ===================== ======== ==========================================================================
    robot0_eef_pos        (40, 3)  metres, in the frame that actions are in
    robot0_eef_quat       (40, 4)  x, y, z, w
    robot0_gripper_qpos   (40, 2)  metres, one finger positive, one negative
    object                (40, 7+) the object's position and quaternion; for a policy from pixels alone leave it out
    actions               (40, 7)  translation, rotation, gripper, each -1 to 1: parts of what ACTION_SCALE allows
    ===================== ======== ==========================================================================

    A policy from pixels needs agentview_image and robot0_eye_in_hand_image as well, uint8 (40, 84, 84, 3).
    """
    hand, cube = rng.uniform([-0.1, -0.1, 0.95], [0.1, 0.1, 1.05]), rng.uniform([-0.1, -0.1, 0.83], [0.1, 0.1, 0.83])
    hands, actions = [], []
    for _ in range(40):
        step = np.clip(0.2 * (cube - hand), -0.03, 0.03)
        close = 1.0 if np.linalg.norm(cube - hand) < 0.01 else -1.0
        hands.append(hand)
        actions.append(np.concatenate([step, np.zeros(3), [close]]) / ACTION_SCALE)
        hand = hand + step
    steps = len(hands)
    return {
        "robot0_eef_pos": np.stack(hands),
        "robot0_eef_quat": np.tile([1.0, 0.0, 0.0, 0.0], (steps, 1)),
        "robot0_gripper_qpos": np.tile([0.02, -0.02], (steps, 1)),
        "object": np.tile(np.concatenate([cube, [0.0, 0.0, 0.0, 1.0]]), (steps, 1)),
        "actions": np.stack(actions),
    }


def write(path: Path, demonstrations: int) -> None:
    """robomimic's layout: /data/demo_<i>/actions and /data/demo_<i>/obs/<name>."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        # Which of the three tasks this is like: it decides the name and the environment that the checkpoint carries.
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        for i in range(demonstrations):
            episode = record(rng)
            data[f"demo_{i}/actions"] = episode.pop("actions")
            for name, values in episode.items():
                data[f"demo_{i}/obs/{name}"] = values


COMMAND = "import sys; del sys.path[0]; from training.__main__ import main; main()"
"""What the command `diffusion_ros_training` does, whose place is not known here. The current folder must not be looked
in: it may have a training/ of its own."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/own"))
    parser.add_argument("--iterations", type=int, default=500)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    recordings, out = options.folder / "recordings.hdf5", options.folder / "policy.pt"
    write(recordings, demonstrations=20)

    words = ["train_diffusion_policy", "--data", str(recordings), "--out", str(out)]
    words += ["--observations", "state", "--denoiser", "unet", "--iterations", str(options.iterations)]
    words += ["--unet-widths", "32", "64", "--learning-rate", "1e-3"]  # small and quick; leave both out for your own
    words += ["--rollouts", "0"]  # these demonstrations are of no simulator that it could be tried in
    print("diffusion_ros_training", *words, flush=True)
    trained = subprocess.run([sys.executable, "-c", COMMAND, *words])
    if trained.returncode:
        return trained.returncode

    # The checkpoint alone is enough from here on; see ask_for_a_chunk.py.
    policy = Policy(checkpoint.load(out, kind="policy"))
    frame = {
        "robot0_eef_pos": np.array([0.0, 0.0, 1.0]),
        "robot0_eef_quat": np.array([1.0, 0.0, 0.0, 0.0]),
        "robot0_gripper_qpos": np.array([0.02, -0.02]),
        "object_pos": np.array([0.05, 0.0, 0.83]),
        "object_quat": np.array([0.0, 0.0, 0.0, 1.0]),
    }
    rows = policy.sample([policy.encode(frame)] * policy.spec.n_obs_steps, seed=0)
    way = rows[:, :3].sum(axis=0)
    print(f"{out}: a chunk {rows.shape} that leads by {way.round(2).tolist()} m; the cube is [0.05, 0.0, -0.17] away")
    return 0


if __name__ == "__main__":
    sys.exit(main())
