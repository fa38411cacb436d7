"""Demonstrations in the layouts that others publish them in: their keys, shapes, types and attributes, made-up numbers.

Each fact has the file that it was read in beside it, "robomimic 0.2: ..." meaning that project's file at that tag.
mimicgen is 1.0.1, LIBERO at 8f1084e, diffusion_policy at 5ba07ac.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.spatial.transform import Rotation

Arrays = dict[str, np.ndarray]

MODEL = '<mujoco model="base"><worldbody/></mujoco>'
OBJECT_WIDTHS = {"Lift": 10, "PickPlaceCan": 14, "NutAssemblySquare": 14, "ToolHang": 44, "TwoArmTransport": 41}
"""Of `object`, robosuite's "object-state" (robomimic 0.2: envs/env_robosuite.py; the widths are diffusion_policy's
config/task/*_lowdim_abs.yaml less the arms' 9). Lift: position, quaternion xyzw, distance to the hand; Can and Square:
position, quaternion, and both again in the hand's frame."""
STATE_WIDTHS = {"Lift": 32, "PickPlaceCan": 71, "NutAssemblySquare": 45, "ToolHang": 58, "TwoArmTransport": 115}
"""Of `states`: the time, all joints' positions and velocities (MuJoCo's flattened state); 7 and 6 of a free body."""
_BODY_TO_SITE = Rotation.from_quat([0, 0, -np.sqrt(0.5), np.sqrt(0.5)])
"""robot0_eef_quat is the body right_hand's; what the controller is told is the site grip_site's, whose position is
robot0_eef_pos. A Panda's lies a quarter turn from it (robosuite 1.5: robots/robot.py, grippers/panda_gripper.xml)."""


BASE = np.array([-0.5, -0.1, 0.912])
"""Can's robot in the world, its axes along the world's (robosuite 1.5: models/robots, "bins")."""


# -- a robot's numbers ------------------------------------------------------------------------------------------------


def hand(rng: np.random.Generator, steps: int, robot: str = "robot0") -> tuple[Arrays, np.ndarray]:
    """What robosuite 1.2 to 1.4 observes of one arm in `steps` + 1 steps, and the actions (steps, 7), -1 to 1, by which
    it goes from one to the next: a full one is 5 cm and 0.5 rad in the world's axes."""
    actions = np.clip(0.4 * rng.standard_normal((steps, 7)), -1, 1)
    actions[:, 6] = np.where(np.arange(steps) < steps // 2, -1.0, 1.0)  # open, close
    positions = np.cumsum(np.vstack([[-0.1, 0.05, 1.0], 0.02 * actions[:, :3]]), axis=0)
    turned = [Rotation.from_quat([1.0, 0.0, 0.0, 0.0])]  # it points down
    for turn in actions[:, 3:6]:
        turned.append(Rotation.from_rotvec(0.2 * turn) * turned[-1])
    joints = np.array([0.0, 0.2, 0.0, -2.6, 0.0, 2.9, 0.8]) + 0.01 * rng.standard_normal((steps + 1, 7)).cumsum(axis=0)
    opening = np.linspace(0.04, 0.02, steps + 1)[:, None] * [1, -1]
    arrays = {
        "joint_pos": joints,
        "joint_pos_cos": np.cos(joints),
        "joint_pos_sin": np.sin(joints),
        "joint_vel": 0.1 * rng.standard_normal((steps + 1, 7)),
        "eef_pos": positions,
        "eef_quat": np.array([turn.as_quat() for turn in turned]),  # xyzw
        "eef_vel_lin": 0.1 * rng.standard_normal((steps + 1, 3)),
        "eef_vel_ang": 0.1 * rng.standard_normal((steps + 1, 3)),
        "gripper_qpos": opening,
        "gripper_qvel": np.zeros((steps + 1, 2)),
    }
    return {f"{robot}_{name}": value for name, value in arrays.items()}, actions


def absolute(observed: Mapping[str, np.ndarray], actions: np.ndarray) -> np.ndarray:
    """Actions (N, 7) as the poses that robosuite's controller makes of them, in the world: position (m), rotation
    vector (rad) and the gripper as it was. The hand points down, so that the rotation vector is about pi long."""
    site = Rotation.from_quat(observed["robot0_eef_quat"][: len(actions)]) * _BODY_TO_SITE
    goal = Rotation.from_rotvec(0.5 * actions[:, 3:6]) * site
    position = observed["robot0_eef_pos"][: len(actions)] + 0.05 * actions[:, :3]
    return np.hstack([position, goal.as_rotvec(), actions[:, 6:]])


def picture(rng: np.random.Generator, steps: int, height: int, width: int) -> np.ndarray:
    """(steps, height, width, 3) uint8: bright above, dark below."""
    light = np.linspace(220, 40, height)[None, :, None, None]
    noise = rng.integers(-20, 20, (steps, height, width, 3))
    return (light + noise).astype(np.uint8)


def controller(robosuite: str, control_delta: bool = True, input_ref_frame: str = "world") -> dict[str, Any]:
    """`controller_configs`: flat up to robosuite 1.4, where damping was renamed, of body parts from 1.5 on."""
    damping = "damping" if robosuite == "1.2" else "damping_ratio"
    flat: dict[str, Any] = {
        "type": "OSC_POSE",
        "input_max": 1,
        "input_min": -1,
        "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
        "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
        "kp": 150,
        damping: 1,
        "impedance_mode": "fixed",
        "kp_limits": [0, 300],
        f"{damping}_limits": [0, 10],
        "position_limits": None,
        "orientation_limits": None,
        "uncouple_pos_ori": True,
        "interpolation": None,
        "ramp_ratio": 0.2,
    }
    if (
        robosuite != "1.5"
    ):  # robomimic 0.2: docs/modules/environments.md; robosuite 1.4: controllers/config/osc_pose.json
        return {**flat, "control_delta": control_delta}
    # robosuite 1.5: controllers/config/robots/default_panda.json has them below "arms", and
    # load_composite_controller_config lifts them out of there. Its base frame is the robot's.
    arm = {
        **flat,
        "input_type": "delta" if control_delta else "absolute",
        "input_ref_frame": input_ref_frame,
        "gripper": {"type": "GRIP"},
    }
    return {"type": "BASIC", "body_parts": {"right": arm}}


def environment(name: str, robosuite: str, **settings: Any) -> dict[str, Any]:
    """`env_args`, as EnvRobosuite.serialize makes it (robomimic 0.2 to 0.5: envs/env_robosuite.py)."""
    kwargs = {
        "has_renderer": False,
        "has_offscreen_renderer": bool(settings.get("camera_names")),
        "ignore_done": True,
        "use_object_obs": True,
        "use_camera_obs": bool(settings.get("camera_names")),
        "control_freq": 20,
        "controller_configs": controller(robosuite),
        "robots": ["Panda"],
        "camera_depths": False,
        "camera_heights": 84,
        "camera_widths": 84,
        "reward_shaping": False,
        **settings,
    }
    args: dict[str, Any] = {"env_name": name, "type": 1, "env_kwargs": kwargs}
    if robosuite != "1.2":  # robomimic 0.3 brought it
        args = {"env_name": name, "env_version": {"1.4": "1.4.1", "1.5": "1.5.1"}[robosuite], **args}
    return args


# -- robomimic --------------------------------------------------------------------------------------------------------


def write_robomimic(
    path: Path,
    episodes: int = 2,
    steps: int = 12,
    *,
    version: str = "0.2",
    env_name: str = "PickPlaceCan",
    cameras: Sequence[str] = (),
    size: int = 84,
    masks: bool = True,
    controllers: Mapping[str, Any] | None = None,
    action_dict: bool = False,
) -> Path:
    """robomimic's low_dim.hdf5, or with `cameras` image.hdf5, by scripts/dataset_states_to_obs.py of its `version`.

    0.2 is for robosuite 1.2 (offline_study), 0.3 for 1.4, 0.4 and 0.5 for 1.5 (docs/datasets/robomimic_v0.1.md). The
    pictures are upright: EnvRobosuite.get_observation turns MuJoCo's over. ToolHang's are of 240 by sideview and
    robot0_eye_in_hand, TwoArmTransport's of 84 by shouldercamera0, shouldercamera1 and both hands'
    (scripts/extract_obs_from_raw_datasets.sh), all others' of agentview and robot0_eye_in_hand.
    """
    rng = np.random.default_rng(0)
    robosuite = {"0.2": "1.2", "0.3": "1.4", "0.4": "1.5", "0.5": "1.5"}[version]
    settings: dict[str, Any] = {"camera_heights": size, "camera_widths": size}
    if cameras:
        settings["camera_names"] = list(cameras)
    if controllers is not None:
        settings["controller_configs"] = controllers
    two = env_name == "TwoArmTransport"
    if two:
        settings |= {"robots": ["Panda", "Panda"], "env_configuration": "single-arm-opposed"}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for number in range(episodes):
            observed, actions = hand(rng, steps)
            if two:
                others, more = hand(rng, steps, "robot1")
                observed, actions = {**observed, **others}, np.hstack([actions, more])
            if robosuite == "1.5":  # robots/robot.py
                site = Rotation.from_quat(observed["robot0_eef_quat"]) * _BODY_TO_SITE
                observed["robot0_eef_quat_site"] = site.as_quat()
            thing = rng.normal(size=(steps + 1, OBJECT_WIDTHS[env_name]))
            thing[:, 3:7] /= np.linalg.norm(thing[:, 3:7], axis=1, keepdims=True)
            observed["object"] = thing
            observed |= {f"{camera}_image": picture(rng, steps + 1, size, size) for camera in cameras}
            demo = data.create_group(f"demo_{number}")
            demo["actions"] = actions
            demo["states"] = rng.normal(size=(steps, STATE_WIDTHS[env_name]))
            demo["rewards"] = (np.arange(steps) == steps - 1).astype(float)  # for the state after the action
            demo["dones"] = (np.arange(steps) == steps - 1).astype(np.int64)
            # 0.3 can compress pictures and leave out what comes after them: the sources' advice for images.
            lean = bool(cameras) and version != "0.2"
            for key, value in observed.items():
                demo.create_dataset(f"obs/{key}", data=value[:-1], compression="gzip" if lean else None)
                if not lean:
                    demo.create_dataset(f"next_obs/{key}", data=value[1:])
            if action_dict:
                arm = settings.get("controller_configs", controller(robosuite)).get("body_parts", {}).get("right", {})
                _write_action_dict(demo, observed, actions, arm.get("input_ref_frame", "world"))
            demo.attrs["num_samples"] = steps
            demo.attrs["model_file"] = MODEL
            if robosuite == "1.5":  # scripts/dataset_states_to_obs.py
                demo.attrs["ep_meta"] = "{}"
                if cameras:
                    demo.attrs["camera_info"] = json.dumps({c: {"intrinsics": [], "extrinsics": []} for c in cameras})
        data.attrs["total"] = episodes * steps
        data.attrs["env_args"] = json.dumps(environment(env_name, robosuite, **settings), indent=4)
        if masks:
            # utils/file_utils.py, create_hdf5_filter_key: fixed-width bytes. The published have parts of all as well.
            names = np.array([f"demo_{number}" for number in range(episodes)], dtype="S")
            for key, of in (("train", names[:-1]), ("valid", names[-1:])):
                file[f"mask/{key}"] = of
                file[f"mask/50_percent_{key}"] = of
            file["mask/50_percent"] = names
    return path


def _write_action_dict(demo: h5py.Group, observed: Mapping[str, np.ndarray], actions: np.ndarray, frame: str) -> None:
    """What robomimic 0.5 can add: scripts/conversion/robosuite_add_absolute_actions.py, extract_action_dict.py (on its
    main branch). With robosuite 1.5 the poses are in the controller's input_ref_frame, `base` if not told otherwise."""
    poses = absolute(observed, actions)
    if frame == "base":
        poses[:, :3] -= BASE
    demo["actions_abs"] = poses
    for prefix, rows in (("rel", actions), ("abs", poses)):
        matrices = Rotation.from_rotvec(rows[:, 3:6]).as_matrix()
        demo[f"action_dict/{prefix}_pos"] = rows[:, :3].astype(np.float32)
        demo[f"action_dict/{prefix}_rot_axis_angle"] = rows[:, 3:6].astype(np.float32)
        demo[f"action_dict/{prefix}_rot_6d"] = matrices[:, :2].reshape(-1, 6).astype(np.float32)  # its first two rows
    demo["action_dict/gripper"] = actions[:, 6:].astype(np.float32)


def write_robosuite(path: Path, episodes: int = 2, steps: int = 12) -> Path:
    """robomimic's demo.hdf5 (demo_v15.hdf5): no observations, which scripts/dataset_states_to_obs.py makes of states.
    What robosuite's scripts/collect_human_demonstrations.py records begins with demo_1."""
    write_robomimic(path, episodes, steps, version="0.5", masks=False)
    with h5py.File(path, "r+") as file:
        for number in reversed(range(episodes)):
            file.move(f"data/demo_{number}", f"data/demo_{number + 1}")
            for key in ("obs", "next_obs", "rewards", "dones"):
                del file[f"data/demo_{number + 1}/{key}"]
    return path


# -- diffusion_policy -------------------------------------------------------------------------------------------------


def write_absolute(path: Path, episodes: int = 2, steps: int = 12, **variations: Any) -> Path:
    """diffusion_policy's low_dim_abs.hdf5 and image_abs.hdf5: a copy of robomimic's file, only its actions written anew
    (scripts/robomimic_dataset_conversion.py) as poses (common/robomimic_util.py).

    So `env_args` still says control_delta true, of a file whose actions are no deltas. Only its name and numbers tell.
    """
    write_robomimic(path, episodes, steps, **variations)
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            observed = {name: demo[f"obs/{name}"][:] for name in ("robot0_eef_pos", "robot0_eef_quat")}
            demo["actions"][:] = absolute(observed, demo["actions"][:])
    return path


# -- MimicGen ---------------------------------------------------------------------------------------------------------

MIMICGEN_OBJECTS = {
    "Stack_D0": (23, ("cubeA", "cubeB"), ("grasp",)),
    "Square_D0": (14, ("square_nut", "square_peg"), ("grasp",)),
    "Square_D1": (14, ("square_nut", "square_peg"), ("grasp",)),
}
"""Width of `object`, datagen_info's object_poses and subtask_term_signals (env_interfaces/robosuite.py). Stack's object
is both cubes' poses (14) and three distances (9) (robosuite 1.5: environments/manipulation/stack.py)."""


def write_mimicgen(
    path: Path, episodes: int = 2, steps: int = 12, *, env_name: str = "Square_D1", robot: str = "Panda"
) -> Path:
    """MimicGen's core data sets (utils/file_utils.py: write_demo_to_hdf5, merge_all_hdf5): with pictures, gzip, without
    next_obs, rewards, dones or masks. For robosuite 1.4 (docs/datasets/mimicgen_corl_2023.md)."""
    rng = np.random.default_rng(1)
    cameras = ("agentview", "robot0_eye_in_hand")
    width, objects, signals = MIMICGEN_OBJECTS[env_name]
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for number in range(episodes):
            observed, actions = hand(rng, steps)
            thing = rng.normal(size=(steps + 1, width))
            thing[:, 3:7] /= np.linalg.norm(thing[:, 3:7], axis=1, keepdims=True)
            observed["object"] = thing
            observed |= {f"{camera}_image": picture(rng, steps + 1, 84, 84) for camera in cameras}
            demo = data.create_group(f"demo_{number}")
            demo["actions"] = actions
            demo["states"] = rng.normal(size=(steps, 45))
            for key, value in observed.items():
                demo.create_dataset(f"obs/{key}", data=value[:-1], compression="gzip")
            # datagen/datagen_info.py: poses are 4 x 4 matrices of the world, the hand's at its site grip_site.
            poses = np.tile(np.eye(4), (steps, 1, 1))
            site = Rotation.from_quat(observed["robot0_eef_quat"][:-1]) * _BODY_TO_SITE
            poses[:, :3, :3], poses[:, :3, 3] = site.as_matrix(), observed["robot0_eef_pos"][:-1]
            target = poses.copy()
            target[:, :3, 3] += 0.05 * actions[:, :3]
            target[:, :3, :3] = Rotation.from_rotvec(0.5 * actions[:, 3:6]).as_matrix() @ target[:, :3, :3]
            demo["datagen_info/eef_pose"] = poses
            demo["datagen_info/target_pose"] = target
            demo["datagen_info/gripper_action"] = actions[:, 6:]
            for name in objects:
                demo[f"datagen_info/object_poses/{name}"] = np.tile(np.eye(4), (steps, 1, 1))
            for name in signals:
                demo[f"datagen_info/subtask_term_signals/{name}"] = (np.arange(steps) > steps // 2).astype(np.int64)
            demo["src_demo_inds"] = np.arange(len(signals) + 1)
            demo["src_demo_labels"] = np.zeros((steps, 1), dtype=np.int64)
            demo.attrs["num_samples"] = steps
            demo.attrs["model_file"] = MODEL
        data.attrs["total"] = episodes * steps
        data.attrs["env_args"] = json.dumps(
            environment(env_name, "1.4", camera_names=list(cameras), robots=[robot]), indent=4
        )
    return path


# -- LIBERO -----------------------------------------------------------------------------------------------------------


def write_libero(path: Path, episodes: int = 2, steps: int = 12, *, pictures: bool = True) -> Path:
    """LIBERO's *_demo.hdf5 (scripts/create_dataset.py), robosuite 1.4.0.

    What to know: `obs` of a row are those *after* its action, while `states` are those before (each action is played,
    and then observed); the first five are left out. Pictures are upside down, as MuJoCo renders them: robosuite's
    IMAGE_CONVENTION opengl, which `macros_image_convention` names (LIBERO issue 11). `ee_states` are position and
    rotation vector of `robot0_eef_quat`, the body's; its halves stand in ee_pos and ee_ori again. Actions are deltas
    of -1 to 1.
    """
    rng = np.random.default_rng(2)
    task = "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate"
    bddl = f"libero/libero/bddl_files/libero_spatial/{task}.bddl"
    problem = "libero_tabletop_manipulation"
    kwargs: dict[str, Any] = {
        "robots": ["Panda"],  # the problem's class makes MountedPanda of it
        "controller_configs": controller("1.4"),
        "bddl_file_name": bddl,
        "has_renderer": False,
        "has_offscreen_renderer": True,
        "ignore_done": True,
        "use_camera_obs": True,
        "camera_depths": False,
        "camera_names": ["robot0_eye_in_hand", "agentview"],
        "reward_shaping": True,
        "control_freq": 20,
        "camera_heights": 128,
        "camera_widths": 128,
        "camera_segmentations": None,
    }
    left_out = 5
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for number in range(episodes):
            observed, actions = hand(rng, steps + left_out)
            after = {name: value[1 + left_out :] for name, value in observed.items()}
            demo = data.create_group(f"demo_{number}")
            turn = Rotation.from_quat(after["robot0_eef_quat"]).as_rotvec()
            demo["obs/gripper_states"] = after["robot0_gripper_qpos"]
            demo["obs/joint_states"] = after["robot0_joint_pos"]
            demo["obs/ee_states"] = np.hstack([after["robot0_eef_pos"], turn])
            demo["obs/ee_pos"] = after["robot0_eef_pos"]
            demo["obs/ee_ori"] = turn
            if pictures:
                for camera in ("agentview", "eye_in_hand"):
                    demo[f"obs/{camera}_rgb"] = picture(rng, steps, 128, 128)[:, ::-1]
            demo["actions"] = actions[left_out:]
            demo["states"] = rng.normal(size=(steps, 92))
            demo["robot_states"] = np.hstack(
                [after["robot0_gripper_qpos"], after["robot0_eef_pos"], after["robot0_eef_quat"]]
            )
            demo["rewards"] = (np.arange(steps) == steps - 1).astype(np.uint8)
            demo["dones"] = (np.arange(steps) == steps - 1).astype(np.uint8)
            demo.attrs["num_samples"] = steps
            demo.attrs["model_file"] = MODEL
            demo.attrs["init_state"] = demo["states"][0]
        # The problem's class, as robosuite's DataCollectionWrapper names it.
        data.attrs["env_name"] = "Libero_Tabletop_Manipulation"
        data.attrs["problem_info"] = json.dumps(
            {"problem_name": problem, "domain_name": "robosuite", "language_instruction": task.replace("_", " ")}
        )
        data.attrs["macros_image_convention"] = "opengl"
        data.attrs["bddl_file_name"] = bddl
        data.attrs["bddl_file_content"] = "(define (problem LIBERO_Tabletop_Manipulation))"
        data.attrs["env_args"] = json.dumps(
            {
                "type": 1,
                "env_name": "Libero_Tabletop_Manipulation",
                "problem_name": problem,
                "bddl_file": bddl,
                "env_kwargs": kwargs,
            }
        )
        data.attrs["num_demos"] = episodes
        data.attrs["total"] = episodes * steps
        data.attrs["tag"] = "libero-v1"  # scripts/check_dataset_integrity.py
    return path
