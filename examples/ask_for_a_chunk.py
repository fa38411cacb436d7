"""Loads a checkpoint and asks it what to do next: numpy in, numpy out, no ROS.

    python examples/ask_for_a_chunk.py [checkpoints/lift_state.pt]

A policy sees the last two frames of observations and answers with a chunk: one row for each of the next control steps,
(N, 7): x, y, z in metres and a rotation vector in radians, both per step and in the frame that the checkpoint names,
then the gripper, -1 open to +1 closed.
"""

import sys
from pathlib import Path

import numpy as np

from diffusion_ros import checkpoint
from diffusion_ros.models.policy import Policy

path = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "checkpoints/lift_state.pt"

# Everything that a robot has to know is in the file: what goes in and comes out, the rate, the limits. `load` checks it
# all and tries the policy out once.
policy = Policy(checkpoint.load(path, kind="policy"))
spec = policy.spec
print(f"{spec.task}, trained at {spec.rate:g} Hz; it sees")
for tensor in spec.inputs:
    print(f"  {tensor.name} {tensor.shape} {tensor.dtype} [{tensor.unit}]")

# A frame holds what the spec lists. Here: the open hand, pointing down, 18 cm above a cube on the table. (Values far
# from all that the policy was trained on are refused with a FrameError, as any answer to them would be a guess.)
known = {
    "robot0_eef_pos": np.array([-0.1, 0.0, 1.01]),
    "robot0_eef_quat": np.array([1.0, 0.0, 0.0, 0.0]),  # x, y, z, w
    "robot0_gripper_qpos": np.array([0.0208, -0.0208]),  # both fingers, metres
    "object_pos": np.array([0.02, 0.01, 0.83]),
    "object_quat": np.array([0.0, 0.0, 0.0, 1.0]),
}
grey = np.full((84, 84, 3), 128, np.uint8)  # for a policy with cameras: a picture that shows nothing
frame = {tensor.name: known.get(tensor.name, grey) for tensor in spec.inputs}

# Each frame is encoded once; nothing has moved yet, so both frames of the window are this one. The seed decides the
# noise that the denoising starts from: the same frames and seed give the same chunk.
features = [policy.encode(frame)] * spec.n_obs_steps
rows = policy.sample(features, seed=0)

np.set_printoptions(precision=4, suppress=True)
print(f"chunk {rows.shape}; the first {spec.n_action_steps} rows are executed before it is asked again:")
print(rows)
