"""The Gymnasium tasks as machines with joints, against Gymnasium and MuJoCo themselves."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from diffusion_ros.simulators.gym import IMAGE_SHAPE, GymSimulation, draw, scene
from diffusion_ros.simulators.render_backend import choose_render_backend
from diffusion_ros.simulators.tasks import GYM_TASKS, GymTask, gym_task


def environment(task: GymTask) -> Any:
    choose_render_backend()  # this brings MuJoCo, and tests that draw may follow in this process
    return gymnasium.make(task.environment)


def efforts(task: GymTask, count: int) -> list[float]:
    rng = np.random.default_rng(5)
    if task.discrete:
        return [task.efforts[i] for i in rng.integers(len(task.efforts), size=count)]
    return [float(np.float32(x)) for x in rng.uniform(-1, 1, count)]


@pytest.mark.parametrize("task", GYM_TASKS.values(), ids=list(GYM_TASKS))
def test_it_is_the_environment_and_the_joints_carry_its_observation(task: GymTask) -> None:
    """To the end of an episode and beyond: rewards, failure and every bit of the observation, through the joints."""
    simulation, env = GymSimulation(task.name), environment(task)
    for seed in (7, 8):
        simulation.reset(seed)
        observation, _ = env.reset(seed=seed)
        terminated, steps = False, 0
        while not terminated:
            assert simulation.observe().tobytes() == np.asarray(observation, np.float64).tobytes()
            carried = task.observation(
                simulation.joint_positions, simulation.joint_velocities, simulation.joint_efforts
            )
            assert carried.tobytes() == simulation.observe().tobytes()
            effort = efforts(task, 300)[steps]
            action = int(task.action(effort)) if task.discrete else np.array([effort], np.float32)
            observation, reward, terminated, _, _ = env.step(action)
            assert simulation.step(effort) == reward
            steps += 1
        assert simulation.terminated
        assert steps >= 5
    env.close()
    simulation.close()


def test_the_end_of_the_rail_is_felt() -> None:
    """The one entry that random steps leave at 0, the constraint force, and velocities beyond what is observed."""
    simulation = GymSimulation("double_pendulum")
    task = simulation.task
    felt = []
    for _ in range(40):
        simulation.step(1.0)
        carried = task.observation(simulation.joint_positions, simulation.joint_velocities, simulation.joint_efforts)
        assert carried.tobytes() == simulation.observe().tobytes()
        felt.append(carried[8])
    assert min(felt) == -10.0
    assert np.abs(simulation.joint_velocities).max() > 10 or max(np.abs(felt)) == 10.0


@pytest.mark.parametrize("task", GYM_TASKS.values(), ids=list(GYM_TASKS))
def test_the_table_says_what_gymnasium_says(task: GymTask) -> None:
    env = environment(task)
    physics: Any = env.unwrapped
    assert env.spec is not None and env.spec.max_episode_steps == task.max_steps
    assert env.observation_space.shape == (task.observation_size,)
    if task.discrete:
        assert physics.tau == 1 / task.rate
        assert env.action_space.n == len(task.efforts)
        assert (-physics.force_mag, physics.force_mag) == task.efforts
        assert 2 * physics.length == task.links[0] and physics.x_threshold == task.reach
    else:
        assert physics.dt == 1 / task.rate
        assert (env.action_space.low.tolist(), env.action_space.high.tolist()) == ([-1.0], [1.0])
        assert tuple(physics.model.joint(i).name for i in range(physics.model.njnt)) == task.joints
        assert physics.model.jnt_range[0].tolist() == [-task.reach, task.reach]
    env.close()


def test_seeds_decide_and_a_reset_forgets() -> None:
    for name in GYM_TASKS:
        first, second = GymSimulation(name), GymSimulation(name)
        first.reset(3)
        hashes = []
        for effort in efforts(first.task, 5):
            first.step(effort)
            hashes.append(first.state_hash())
        second.reset(4)
        assert second.state_hash() != hashes[-1]
        second.reset(3)
        for effort, expected in zip(efforts(first.task, 5), hashes, strict=True):
            second.step(effort)
            assert second.state_hash() == expected


def test_a_hold_is_no_force() -> None:
    """CartPole at rest and upright stays so; leaning it falls, as the double pendulum does. Pushes are as before."""
    simulation = GymSimulation("cartpole")
    simulation._env.state = np.zeros(4)
    for _ in range(50):
        simulation.step(0.0)
    assert not simulation.state().any()
    simulation._env.state = np.array([0.0, 0.0, 0.01, 0.0])
    steps = 0
    while not simulation.terminated:
        simulation.step(0.0)
        steps += 1
    assert simulation.joint_positions[1] > 0.2
    assert 20 < steps < 100
    simulation.reset(1)
    simulation.step(10.0)
    assert simulation.joint_velocities[0] == pytest.approx(0.195, abs=0.06)


@pytest.mark.parametrize(
    ("task", "effort", "expected"),
    [
        ("cartpole", 5.0, "effort 5, one of -10, 10 expected"),
        ("cartpole", float("nan"), "effort nan, one of -10, 10 expected"),
        ("double_pendulum", 1.5, "effort 1.5, -1 to 1 expected"),
        ("double_pendulum", float("nan"), "effort nan, -1 to 1 expected"),
    ],
)
def test_efforts_that_no_action_has(task: str, effort: float, expected: str) -> None:
    simulation = GymSimulation(task)
    before = simulation.state_hash()
    with pytest.raises(ValueError, match=expected):
        simulation.step(effort)
    assert simulation.state_hash() == before


def test_actions_and_efforts() -> None:
    task = gym_task("cartpole")
    assert [task.effort(a) for a in (0, 1)] == [-10.0, 10.0] and [task.action(e) for e in (-10.0, 10.0)] == [0, 1]
    for action in (2, -1, 0.5):
        with pytest.raises(ValueError, match=f"action {action:g}, one of 0 to 1 expected"):
            task.effort(action)
    with pytest.raises(ValueError, match="unknown task 'walk': expected one of cartpole, double_pendulum"):
        gym_task("walk")


def test_the_links_are_where_mujoco_has_them() -> None:
    simulation = GymSimulation("double_pendulum")
    task = simulation.task
    env = simulation._env
    for effort in efforts(task, 20):
        simulation.step(effort)
    import mujoco

    mujoco.mj_forward(env.model, env.data)
    geoms = {geom.name: geom for geom in scene(task, simulation.joint_positions)}
    for ours, theirs in (("cart", "cart"), ("hinge", "cpole"), ("hinge2", "cpole2")):
        np.testing.assert_allclose(geoms[ours].position, env.data.geom(theirs).xpos, atol=1e-9)
    tip = task.ends(simulation.joint_positions)[-1]
    np.testing.assert_allclose(tip, env.data.site("tip").xpos[[0, 2]], atol=1e-9)


def test_pictures_show_what_moved() -> None:
    for task in GYM_TASKS.values():
        rest = np.zeros(len(task.joints))
        upright = draw(task, rest)
        assert upright.shape == (*IMAGE_SHAPE, 3) and upright.dtype == np.uint8
        np.testing.assert_array_equal(upright, draw(task, rest))
        leaning = rest.copy()
        leaning[1] = 0.5
        # What a lean changes is to the right of the middle, or the upright pole itself.
        changed = np.nonzero((draw(task, leaning) != upright).any(axis=(0, 2)))[0]
        assert changed.min() >= IMAGE_SHAPE[1] / 2 - 5 and changed.max() > IMAGE_SHAPE[1] / 2 + 10
        assert (draw(task, rest, task.efforts[1]) != upright).any()
        assert draw(task, rest + 1e9).shape == upright.shape
        geoms = scene(task, leaning)
        assert [geom.name for geom in geoms] == ["rail", "cart", *task.joints[1:]]
