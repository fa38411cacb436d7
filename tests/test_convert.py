"""Recordings from one format to another: what survives, what is chosen, and what stops it."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_bag
import h5py
import numpy as np
import pytest
from test_recorded_sessions import LOCKSTEP_TOPICS, lockstep

from diffusion_ros.action_kinds import ActionFormat
from diffusion_ros.control.pictures import fit
from diffusion_ros.robot import ACTION_SCALE
from tests import foreign_layouts
from tests.recordings import CAMERAS, arrays, episodes, layout, pictures, write_hdf5
from training import convert
from training.convert import Options
from training.data import hdf5_file, lerobot, lerobot_writer, robomimic
from training.data.bags import Bag
from training.data.demonstrations import EXECUTED, load_demonstrations
from training.data.episodes import Episode
from training.data.session import Session

Run = Callable[..., tuple[object, str]]


def converted(source: Path, out: Path, **options: Any) -> Path:
    convert.convert(Options(source, out, **options))
    return out


def lengths(path: Path) -> list[int]:
    return [len(episode) for episode in convert.read(Options(path, path))[1]]


def refused(source: Path, out: Path, **options: Any) -> str:
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(ValueError, match=r".") as caught:
        converted(source, out, **options)
    assert "\n" not in str(caught.value) and sorted(out.parent.rglob("*")) == before
    return str(caught.value)


# -- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("crf", "error"), [(0, 0.0), (20, 4.0)])
def test_hdf5_to_lerobot_and_back(crf: int, error: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_hdf5(tmp_path / "a.hdf5")
    middle = converted(source, tmp_path / "middle", crf=crf, with_failures=True)
    said = capsys.readouterr().out
    back = converted(middle, tmp_path / "b.hdf5", with_failures=True)
    first, second = dict(arrays(source)), dict(arrays(back))
    assert set(first) == set(second)
    apart = []
    for name, value in first.items():
        if name.endswith("_image"):
            apart.append(np.abs(value.astype(int) - second[name]).mean())
        elif name.startswith("mask/"):
            assert value.tolist() == second[name].tolist(), name
        else:
            assert np.asarray(value).dtype == np.asarray(second[name]).dtype, name
            np.testing.assert_array_equal(value, second[name], err_msg=name)
    assert len(apart) == 6 and max(apart) <= error and (max(apart) > 0.1) == (crf > 0)
    assert "3 episodes, 36 steps" in said
    if not crf:
        assert "observation.images.agentview: mean error of the codec 0.00 of 255 levels, at most 0" in said
    own = json.loads((middle / "meta/info.json").read_text())["diffusion_ros"]["codec"]
    assert own["observation.images.agentview"]["crf"] == crf and own["observation.images.agentview"]["mean"] <= error


def test_the_trainer_reads_the_same(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "a.hdf5", cameras=False)
    back = converted(
        converted(source, tmp_path / "middle", with_failures=True), tmp_path / "b.hdf5", with_failures=True
    )
    first, second = load_demonstrations(source, ()), load_demonstrations(back, ())
    assert first.data_hash == second.data_hash and first.recorded == second.recorded
    np.testing.assert_array_equal(first.held, second.held)
    # LeRobot's 32 bits alone are what a trainer computes with as well.
    info = middle_info(tmp_path / "middle")
    for key in [key for key in info["features"] if key.startswith("diffusion_ros.")]:
        del info["features"][key]
    (tmp_path / "middle/meta/info.json").write_text(json.dumps(info))
    third = load_demonstrations(converted(tmp_path / "middle", tmp_path / "c.hdf5", with_failures=True), ())
    np.testing.assert_array_equal(first.observations["robot0_eef_pos"], third.observations["robot0_eef_pos"])
    np.testing.assert_array_equal(first.actions, third.actions)


def test_demonstrations_with_the_same_actions_keep_their_own(tmp_path: Path) -> None:
    """A scripted expert acts alike in several; lists and attributes are not exchanged."""
    source = write_hdf5(tmp_path / "a.hdf5", lengths=(12, 12, 12), cameras=False)
    with h5py.File(source, "a") as file:
        for i in (1, 2):
            file[f"data/demo_{i}/actions"][:] = file["data/demo_0/actions"][:]
    middle = converted(source, tmp_path / "middle", with_failures=True)
    first, second = dict(arrays(source)), dict(arrays(converted(middle, tmp_path / "b.hdf5", with_failures=True)))
    for name in ("mask/train", "mask/valid", *(f"data/demo_{i}@seed" for i in range(3))):
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    change = json.loads((middle / "meta/diffusion_ros.jsonl").read_text().splitlines()[0]) | {"action": "another"}
    (middle / "meta/diffusion_ros.jsonl").write_text(json.dumps(change) + "\n")
    assert not any("attributes" in episode.extras for episode in lerobot.read(middle)[1]), "not of these actions"


def test_what_was_executed_survives(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "a.hdf5", cameras=False)
    middle = converted(source, tmp_path / "middle", with_failures=True)
    features = middle_info(middle)["features"]
    assert features["diffusion_ros.executed_action"] == features["action"] | {"dtype": "float64"}
    layout, found = lerobot.read(middle)
    assert layout.executed
    with h5py.File(source) as file:
        for i, episode in enumerate(found):
            rows = file[f"data/demo_{i}/executed_actions"][:]
            np.testing.assert_array_equal(episode.executed, rows * ACTION_SCALE)
            assert not np.array_equal(episode.executed, episode.actions)
    again = converted(middle, tmp_path / "again", with_failures=True)
    first = load_demonstrations(source, ())
    for place in (middle, again, source):
        back = load_demonstrations(converted(place, tmp_path / f"{place.name}.h5", with_failures=True), ())
        assert back.data_hash == first.data_hash
        np.testing.assert_array_equal(back.executed, first.executed)
    some = load_demonstrations(converted(source, tmp_path / "some.hdf5", only_person=True, with_failures=True), ())
    np.testing.assert_array_equal(some.executed, first.executed[first.person])
    info = middle_info(middle)
    info["features"]["diffusion_ros.executed_action"]["shape"] = [6]
    (middle / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"executed_action has shape \[6\], \[7\] expected as action$"):
        lerobot.read(middle)


@pytest.mark.parametrize("actions", [ActionFormat(), ActionFormat("pose")], ids=lambda actions: actions.kind)
def test_what_was_executed_is_in_the_units_of_the_actions(actions: ActionFormat, tmp_path: Path) -> None:
    what = replace(layout(cameras=False, actions=actions), executed=True)
    given = [replace(episode, executed=0.5 * episode.actions) for episode in episodes(what)]
    robomimic.write(tmp_path / "x.hdf5", what, given)
    lerobot_writer.write(tmp_path / "x", what, given)
    for read, found in (robomimic.read(tmp_path / "x.hdf5"), lerobot.read(tmp_path / "x")):
        assert read == what
        for before, after in zip(given, found, strict=True):
            np.testing.assert_allclose(after.executed, before.executed, rtol=1e-12)
    executed = load_demonstrations(tmp_path / "x.hdf5", ()).executed
    np.testing.assert_allclose(executed, np.concatenate([episode.executed for episode in given]), rtol=1e-6)
    for wrong, shape in ((None, "None"), (given[1].actions[1:], r"\(8, 7\)")):
        given[1] = replace(given[1], executed=wrong)
        with pytest.raises(ValueError, match=f"^episode 1: executed_actions of shape {shape}, \\(9, 7\\) expected"):
            lerobot_writer.write(tmp_path / "y", what, given)
    with pytest.raises(ValueError, match=r"^episode 1: executed_actions of 8 steps, 9 expected"):
        robomimic.write(tmp_path / "y.hdf5", what, given)


def test_what_was_executed_in_some_episodes_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """HDF5 keeps it where it is; LeRobot's columns are those of all episodes, so it is left out and said."""
    source = write_hdf5(tmp_path / "a.hdf5", cameras=False)
    with h5py.File(source, "a") as file:
        del file["data/demo_2/executed_actions"]
    assert not robomimic.read(source)[0].executed
    back = converted(source, tmp_path / "b.hdf5", with_failures=True)
    assert "left out" not in capsys.readouterr().out
    first, second = dict(arrays(source)), dict(arrays(back))
    np.testing.assert_array_equal(second["data/demo_1/executed_actions"], first["data/demo_1/executed_actions"])
    assert load_demonstrations(back, ()).data_hash == load_demonstrations(source, ()).data_hash
    middle = converted(source, tmp_path / "middle", with_failures=True)
    assert f"left out: executed_actions of 2 episodes: others of {source} have none\n" in capsys.readouterr().out
    assert not any("executed" in feature for feature in middle_info(middle)["features"])
    assert all(episode.executed is None for episode in lerobot.read(middle)[1])


def middle_info(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "meta/info.json").read_text())
    return found


def test_hdf5_to_hdf5_keeps_actions_to_the_last_bit(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "a.hdf5", cameras=False)
    back = converted(source, tmp_path / "b.hdf5", only_successes=True)
    first, second = dict(arrays(source)), dict(arrays(back))
    np.testing.assert_array_equal(first["data/demo_2/actions"], second["data/demo_1/actions"])
    assert second["mask/train"].tolist() == [b"demo_1"] and second["mask/valid"].tolist() == [b"demo_0"]
    # What would be lost by way of metres and radians:
    scaled = first["data/demo_2/actions"] * ACTION_SCALE / ACTION_SCALE
    assert not np.array_equal(scaled, first["data/demo_2/actions"])


@pytest.mark.parametrize(
    "actions",
    [
        ActionFormat(),
        ActionFormat(axes="tool"),
        ActionFormat("pose"),
        ActionFormat("joint_positions", joints=tuple(f"joint{i}" for i in range(1, 8))),
    ],
    ids=lambda actions: f"{actions.kind}_{actions.axes}",
)
def test_what_actions_say_survives_lerobot(actions: ActionFormat, tmp_path: Path) -> None:
    what = replace(layout(cameras=False, actions=actions), rate=10.0, robot="my arm", scale=(0.02,) * 6 + (1.0,))
    given = episodes(what)
    given[1] = replace(given[1], success=False, person=np.arange(9) < 4)
    given[2] = replace(given[2], success=True, person=np.arange(15) < 0)
    lerobot_writer.write(tmp_path / "x", what, given, task="put the can away")
    read, found = lerobot.read(tmp_path / "x")
    assert read == what
    for before, after in zip(given, found, strict=True):
        np.testing.assert_array_equal(before.actions, after.actions)
        np.testing.assert_array_equal(before.stamps, after.stamps)
        assert before.success == after.success and after.extras["task"] == "put the can away"
        for name, values in before.numbers.items():
            np.testing.assert_array_equal(values, after.numbers[name])
        if before.person is None:
            assert after.person is None
        else:
            np.testing.assert_array_equal(before.person, after.person)
    text = json.loads(robomimic.env_args(what))["env_kwargs"]
    assert text["control_freq"] == 10 and text["robots"] == ["my arm"]
    controller = text["controller_configs"]
    kinds = {"delta": "OSC_POSE", "pose": "OSC_POSE", "joint_positions": "JOINT_POSITION"}
    assert controller["type"] == kinds[actions.kind] and controller["control_delta"] == (actions.kind == "delta")
    assert controller["input_ref_frame"] == actions.axes and controller.get("joints", []) == list(actions.joints)


def test_an_episode_of_a_bag_becomes_a_demonstration(tmp_path: Path) -> None:
    what = layout()
    given = [replace(episode, success=True, person=np.arange(len(episode)) < 5) for episode in episodes(what)]
    robomimic.write(tmp_path / "x.hdf5", what, given)
    data = load_demonstrations(tmp_path / "x.hdf5", ())
    np.testing.assert_allclose(data.actions, np.concatenate([episode.actions for episode in given]), rtol=1e-6)
    assert data.recorded.own and len(data) == 36
    with h5py.File(tmp_path / "x.hdf5") as file:
        assert file["data/demo_1/by_person"][:].tolist() == [1] * 5 + [0] * 4 and file["data/demo_1"].attrs["success"]
        np.testing.assert_array_equal(file["data/demo_1/obs/agentview_image"][:], pictures(48, 64, 9, 17))
    given[1] = replace(given[1], actions=given[1].actions + 0.05)
    with pytest.raises(ValueError, match=r"^episode 1: an action of 2 times the full one, at most 1 expected"):
        robomimic.write(tmp_path / "y.hdf5", what, given)
    assert not (tmp_path / "y.hdf5").exists()


def test_libero_calls_its_pictures_rgb_and_the_rest_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_hdf5(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            demo.move("obs/agentview_image", "obs/agentview_rgb")
            demo["obs/pose"] = np.zeros((len(demo["actions"]), 4, 4))
            demo["next_obs/object"] = demo["obs/object"][:]
        file["data/demo_1/datagen"] = np.zeros((9, 2))
    read, _ = robomimic.read(path)
    assert read.pictures == CAMERAS
    converted(path, tmp_path / "b.hdf5")
    assert "left out: datagen, next_obs, obs/pose\n" in capsys.readouterr().out


@pytest.mark.parametrize("out", ["b.hdf5", "b"])
def test_attributes_of_any_kind(out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_hdf5(tmp_path / "a.hdf5", cameras=False)
    kept = {
        "words": (np.array([b"lift", b"put"]), ["lift", "put"]),
        "table": (np.array([[b"a", b"b"], [b"c", b"d"]]), [["a", "b"], ["c", "d"]]),
        "texts": (["one", "two"], ["one", "two"]),
        "numbers": (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        "flag": (np.True_, True),
    }
    lost = {
        "nothing": h5py.Empty("f8"),
        "unknown": np.nan,
        "edges": np.array([0.0, np.inf]),
        "turn": 1 + 2j,
        "pair": np.zeros((), [("x", "f8"), ("y", "S3")]),
    }
    with h5py.File(source, "a") as file:
        demo = file["data/demo_2"]
        demo.attrs.update({name: value for name, (value, _) in kept.items()} | lost)
        demo.attrs["place"] = demo["actions"].ref
    back = converted(source, tmp_path / out)
    names = ", ".join(f"attribute {name}" for name in sorted([*lost, "place"]))
    assert f"left out: {names}\n" in capsys.readouterr().out
    *_, last = convert.read(Options(back, back))[1]
    assert {name: last.extras["attributes"][name] for name in kept} == {n: plain for n, (_, plain) in kept.items()}
    assert last.extras["attributes"]["seed"] == 2 and not {*lost, "place"} & set(last.extras["attributes"])


TWO = ("agentview", "robot0_eye_in_hand")
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "robomimic": lambda path: foreign_layouts.write_robomimic(path, cameras=TWO),
    "absolute": lambda path: foreign_layouts.write_absolute(path, cameras=TWO),
    "mimicgen": lambda path: foreign_layouts.write_mimicgen(path),
    "libero": lambda path: foreign_layouts.write_libero(path),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_trainer_reads_the_same_of_other_peoples_layouts(name: str, tmp_path: Path) -> None:
    source = LAYOUTS[name](tmp_path / "a.hdf5")
    back = converted(converted(source, tmp_path / "x", crf=0), tmp_path / "b.hdf5")
    first, second = (load_demonstrations(path, TWO, use_object=False) for path in (source, back))
    assert first.recorded == second.recorded and first.starts.tolist() == second.starts.tolist()
    np.testing.assert_array_equal(first.actions, second.actions)
    for key, values in first.observations.items():
        np.testing.assert_allclose(values, second.observations[key], atol=1e-6, err_msg=key)


# -- what is chosen ---------------------------------------------------------------------------------------------------


def test_which_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_hdf5(tmp_path / "a.hdf5", lengths=(12, 9, 15, 7), cameras=False)
    with h5py.File(source, "a") as file:
        del file["data/demo_3"].attrs["success"]  # nobody has said
    assert lengths(converted(source, tmp_path / "b.hdf5")) == [12, 15, 7]
    assert "left out: 1 episodes that are failures" in capsys.readouterr().out
    assert lengths(converted(source, tmp_path / "c", only_successes=True)) == [12, 15]
    assert "left out: 2 episodes that are not successes" in capsys.readouterr().out
    assert lengths(converted(source, tmp_path / "d", with_failures=True)) == [12, 9, 15, 7]
    with h5py.File(source, "a") as file:
        for demo in file["data"].values():
            demo.attrs["success"] = False
    assert refused(source, tmp_path / "e.hdf5") == f"{tmp_path}/e.hdf5: no episodes to write"
    assert refused(source, tmp_path / "e") == f"{tmp_path}/e: no episodes to write"


def test_only_what_a_person_did(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "a.hdf5", lengths=(12,))
    out = converted(source, tmp_path / "b.hdf5", only_person=True)
    first, second = dict(arrays(source)), dict(arrays(out))
    for i, (begin, end) in enumerate([(0, 3), (5, 8), (10, 12)]):
        for name in ("actions", "states", "obs/object", "obs/agentview_image"):
            np.testing.assert_array_equal(first[f"data/demo_0/{name}"][begin:end], second[f"data/demo_{i}/{name}"])
    assert "data/demo_3/actions" not in second
    with h5py.File(source, "a") as file:
        del file["data/demo_0/by_person"]
    assert refused(source, tmp_path / "c", only_person=True).endswith("episode 0 does not say whether a person acted")


@pytest.mark.parametrize("out", ["b.hdf5", "b"])
def test_who_acted_is_each_demonstrations_own(out: str, tmp_path: Path) -> None:
    """A policy's steps stay a policy's beside a demonstration that does not say."""
    source = write_hdf5(tmp_path / "a.hdf5", cameras=False)
    with h5py.File(source, "a") as file:
        del file["data/demo_0/by_person"]
    back = converted(source, tmp_path / out, with_failures=True)
    first, second, third = convert.read(Options(back, back))[1]
    assert first.person is None
    for episode in (second, third):
        np.testing.assert_array_equal(episode.person, np.arange(len(episode)) % 5 < 3)
    if out.endswith(".hdf5"):
        np.testing.assert_array_equal(load_demonstrations(back, ()).person, load_demonstrations(source, ()).person)


def test_who_acted_in_liberos_rows(tmp_path: Path) -> None:
    """Its first action has no observation before it, and goes."""
    source = foreign_layouts.write_libero(tmp_path / "a.hdf5", pictures=False)
    with h5py.File(source, "a") as file:
        file["data/demo_1/by_person"] = (np.arange(12) % 3).astype(np.uint8)
    first, second = robomimic.read(source)[1]
    assert first.person is None
    np.testing.assert_array_equal(second.person, np.arange(1, 12) % 3 != 0)


def test_pictures_of_another_size(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "a.hdf5")
    out = converted(source, tmp_path / "b.hdf5", picture_size="32x24")
    with h5py.File(out) as file:
        expected = np.stack([fit(picture, 24, 32) for picture in pictures(48, 64, 12, 0)])
        np.testing.assert_array_equal(file["data/demo_0/obs/agentview_image"][:], expected)
        told = json.loads(file["data"].attrs["env_args"])["env_kwargs"]
    assert (told["camera_heights"], told["camera_widths"]) == (24, 32)
    assert refused(source, tmp_path / "c", picture_size="640x480").endswith(
        "at least 640 x 480 expected: none is enlarged"
    )
    assert "pictures of 31 x 31: this codec takes even sizes only" in refused(
        source, tmp_path / "c", picture_size="31x31"
    )
    converted(source, tmp_path / "c", picture_size="31x31", crf=0)


def test_what_the_task_is_called(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "a.hdf5", cameras=False)
    middle = converted(source, tmp_path / "middle", task="put the can away")
    assert {episode.extras["task"] for episode in lerobot.read(middle)[1]} == {"put the can away"}
    assert robomimic.read(converted(middle, tmp_path / "b.hdf5"))[0].environment == "PickPlaceCan"
    assert robomimic.read(converted(middle, tmp_path / "c.hdf5", task="lift"))[0].environment == "Lift"
    assert robomimic.read(converted(middle, tmp_path / "d.hdf5", task="Stack"))[0].environment == "Stack"


def test_a_bag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    what, asked = replace(layout(), robot="simulation", environment="can"), []

    def bag(session: tuple[Any, ...]) -> SimpleNamespace:
        asked.append(session)
        left_out = Counter({"rows: no frame within a step": 3})
        return SimpleNamespace(layout=what, episodes=lambda: iter(episodes(what)), left_out=left_out)

    monkeypatch.setitem(
        sys.modules, "training.data.bags", SimpleNamespace(Bag=bag, Session=lambda *arguments: arguments)
    )
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag/metadata.yaml").touch()
    out = converted(tmp_path / "bag", tmp_path / "out", rate=10.0, picture_size="32x24")
    assert asked == [(tmp_path / "bag", None, (24, 32), 10.0, None)] and lengths(out) == [12, 9, 15]
    assert lerobot.read(out)[0] == replace(layout(), pictures=dict.fromkeys(CAMERAS, (24, 32)))
    assert "left out: 3 rows: no frame within a step\n" in capsys.readouterr().out
    (tmp_path / "bag/x.mcap").touch()
    assert "the bag's folder expected" in refused(tmp_path / "bag/x.mcap", tmp_path / "y.hdf5")
    (tmp_path / "alone.mcap").touch()
    converted(tmp_path / "alone.mcap", tmp_path / "out2", rate=10.0)
    assert asked[-1][0] == tmp_path / "alone.mcap"


def test_a_session_as_it_was_recorded(tmp_path: Path) -> None:
    """From a bag to HDF5 at once, and by way of LeRobot."""
    told = fake_bag.contract(topics=LOCKSTEP_TOPICS)
    bag = fake_bag.write(tmp_path / "bag", told, lockstep(2, 12))
    given = list(Bag(Session(bag)).episodes())
    middle = converted(bag, tmp_path / "middle", crf=0)
    for before, after in zip(given, lerobot.read(middle)[1], strict=True):
        np.testing.assert_array_equal(before.actions, after.actions)
        np.testing.assert_array_equal(before.stamps, after.stamps)
        np.testing.assert_array_equal(before.person, after.person)
        assert before.success is after.success is True
    first = load_demonstrations(converted(bag, tmp_path / "a.hdf5"), ("agentview",), use_object=False)
    second = load_demonstrations(converted(middle, tmp_path / "b.hdf5"), ("agentview",), use_object=False)
    assert first.data_hash == second.data_hash and first.recorded.own and not first.person.any()
    np.testing.assert_array_equal(first.executed, first.actions)
    with h5py.File(tmp_path / "a.hdf5") as file:
        for demo in file["data"].values():
            np.testing.assert_array_equal(demo[EXECUTED][:], demo["actions"][:])
    np.testing.assert_allclose(first.actions, np.concatenate([e.actions for e in given]), rtol=1e-6)
    images = np.stack([image for episode in given for image in episode.pictures["agentview_image"]()])
    np.testing.assert_array_equal(first.observations["agentview_image"], images)


# -- what stops it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["none", "x.hdf5"], "none: no such file or folder"),
        (["folder", "x.hdf5"], "folder: a folder without either; metadata.yaml of a bag or meta/info.json"),
        (["a.hdf5", "there"], "there: exists already; --overwrite replaces it"),
        (["a.hdf5", "there", "--overwrite"], "there: no LeRobot data set, and is not replaced"),
        (["a.hdf5", "there.hdf5", "--overwrite"], "there.hdf5: is a folder, and is not replaced"),
        (["a.hdf5", "a.hdf5", "--overwrite"], "a.hdf5: not IN, nor in it or around it, expected"),
        (["folder", "folder/x", "--overwrite"], "folder/x: not IN, nor in it or around it, expected"),
        (["a.hdf5", "x", "--rate", "10"], "rate 10.0: of bags only"),
        (["a.hdf5", "x", "--robot", "r.yaml"], "robot r.yaml: of bags only"),
        (["a.hdf5", "x", "--action-kind", "pose"], "action_kind pose: of LeRobot data sets only"),
        (["a.hdf5", "x", "--crf", "52"], "crf 52: 0 to 51 expected"),
        (["a.hdf5", "x", "--map", "y"], "map y: NAME=FEATURE expected"),
        (["a.hdf5", "x", "--map", "y=a", "z=b", "y=c"], "map y: each name once expected"),
        (["a.hdf5", "x", "--picture-size", "big"], "picture_size 'big': width and height are expected"),
        (["a.hdf5", "x", "--only-successes", "--with-failures"], "only_successes and with_failures: one of them"),
        (["cut.hdf5", "x"], "cut.hdf5: damaged or cut short, or not HDF5"),
    ],
)
def test_one_line(
    words: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    source = write_hdf5(tmp_path / "a.hdf5", cameras=False)
    (tmp_path / "cut.hdf5").write_bytes(source.read_bytes()[:5000])
    for name in ("folder", "there", "there.hdf5"):
        (tmp_path / name).mkdir()
    (tmp_path / "there/mine.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    status, line = run_command(convert.main, *words)
    assert status == 2 and why in line and line.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("actions", np.zeros((12, 8)), "actions of 8 numbers, 7 of delta expected"),
        ("actions", np.zeros((11, 7)), "demo_0/obs/agentview_image has 12 steps, 11 expected as in actions"),
        ("obs/object", np.full((12, 10), np.nan), "demo_0/obs/object has values that are NaN or infinite"),
        ("states", np.full((12, 30), np.inf), "demo_0/states has values that are NaN or infinite"),
        ("obs/object", np.zeros((12, 11)), "obs/object is not the same in demo_0 and demo_1, alike in all expected"),
        ("obs/agentview_image", np.zeros((12, 48, 48, 3), np.uint8), "obs/agentview_image is not the same in demo_0"),
        ("obs/object", None, "obs/object is not the same in demo_0 and demo_1"),
        ("actions", None, "demo_0 has no actions (N, n)"),
        ("actions", np.full((12, 7), b"x"), "demo_0 has no actions (N, n)"),
        ("by_person", np.zeros(11), "demo_0/by_person has shape (11,), (12,) expected as in actions"),
        ("by_person", np.full(12, np.nan), "demo_0/by_person has values that are NaN or infinite"),
        (EXECUTED, np.zeros((12, 6)), "demo_0/executed_actions has shape (12, 6), (12, 7) expected as in actions"),
        (EXECUTED, np.zeros((11, 7)), "demo_0/executed_actions has shape (11, 7), (12, 7) expected as in actions"),
        (EXECUTED, np.full((12, 7), b"x"), "demo_0: executed_actions is |S1, an array of numbers expected"),
        (EXECUTED, np.full((12, 7), np.nan), "demo_0/executed_actions has values that are NaN or infinite"),
    ],
)
@pytest.mark.parametrize("out", ["x", "x.hdf5"])
def test_files_that_do_not_fit(out: str, name: str, value: Any, why: str, tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "a.hdf5", executed=name != "actions")
    with h5py.File(path, "a") as file:
        del file["data/demo_0"][name]
        if value is not None:
            file["data/demo_0"][name] = value
    line = refused(path, tmp_path / out)
    assert line.startswith(f"{path}: ") and why in line


def test_overwriting(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "a.hdf5", cameras=False)
    out = converted(source, tmp_path / "b", with_failures=True)
    converted(source, out, overwrite=True)
    assert lengths(out) == [12, 15]
    assert lengths(converted(out, tmp_path / "c.hdf5")) == [12, 15]
    assert lengths(converted(source, tmp_path / "c.hdf5", overwrite=True, with_failures=True)) == [12, 9, 15]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.hdf5", "b", "c.hdf5"]


def test_sizes_are_checked_before_numbers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small file with large arrays; 10 numbers a step tell deltas from poses, and an episode has 77."""
    source, n = tmp_path / "a.hdf5", 10_000
    with h5py.File(source, "w") as file:
        file.create_group("data").attrs["env_args"] = robomimic.env_args(layout(cameras=False))
        for name, width in (("actions", 7), ("obs/robot0_eef_pos", 3), ("obs/wide", 67)):
            file.create_dataset(f"data/demo_0/{name}", (n, width), "f4", chunks=(1000, width), compression="gzip")

    def free(numbers: int) -> None:
        memory = SimpleNamespace(available=8 * numbers * n / 0.8)
        monkeypatch.setattr(hdf5_file.psutil, "virtual_memory", lambda: memory)

    free(9)
    with pytest.raises(ValueError, match=r"a.hdf5: its arrays take .* GiB expected"):
        robomimic.read(source)
    free(76)
    _, found = robomimic.read(source)
    with pytest.raises(ValueError, match=r"a.hdf5: its arrays take .* GiB expected"):
        next(iter(found))
    free(78)
    assert len(next(iter(found))) == n


@pytest.mark.parametrize("out", ["x", "x.hdf5"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, OSError])
def test_stopped_half_way(out: str, stop: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left, and what was there stays; ffmpeg ends."""
    source = write_hdf5(tmp_path / "a.hdf5")
    converted(source, tmp_path / out, with_failures=True)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    started: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def popen(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(original(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    read = robomimic.FileEpisodes.__iter__

    def stopped(self: robomimic.FileEpisodes) -> Iterator[Episode]:
        for i, episode in enumerate(read(self)):
            if i == 1:

                def broken() -> Iterator[Any]:
                    yield np.zeros((48, 64, 3), np.uint8)
                    raise stop

                episode = replace(episode, pictures=dict.fromkeys(episode.pictures, broken))
            yield episode

    monkeypatch.setattr(robomimic.FileEpisodes, "__iter__", stopped)
    with pytest.raises(stop):
        converted(source, tmp_path / out, overwrite=True, with_failures=True)
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before
    assert all(process.poll() is not None for process in started) and bool(started) == (out == "x")


@pytest.mark.parametrize("out", ["middle", "b.hdf5"])
def test_pictures_are_never_all_in_memory(out: str, tmp_path: Path) -> None:
    source = tmp_path / "a.hdf5"
    what = replace(layout(), pictures={"agentview_image": (240, 320)})
    steps = 120  # 28 MB

    def many() -> Iterator[Any]:
        return (np.full((240, 320, 3), i, np.uint8) for i in range(steps))

    robomimic.write(source, what, [replace(e, pictures={"agentview_image": many}) for e in episodes(what, (steps,))])
    tracemalloc.start()
    try:
        converted(source, tmp_path / out)
        if out == "middle":
            converted(tmp_path / out, tmp_path / "c.hdf5")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A block of 16 twice, and of the comparison 32.
    assert peak < 18e6


def test_a_checkpoints_frame_and_lag_survive_in_both_formats(tmp_path: Path) -> None:
    what = replace(
        layout(False), robot="my_arm", base_pose=(0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 1.0), response=(80.0, 0.8, 30.0, 0.8)
    )
    first, middle, last = tmp_path / "a.hdf5", tmp_path / "b", tmp_path / "c.hdf5"
    robomimic.write(first, what, episodes(what))
    for source, out in ((first, middle), (middle, last)):
        convert.convert(Options(source, out))
    assert lerobot.read(middle)[0].response == what.response
    for path in (first, last):
        found, recorded = robomimic.read(path)[0], load_demonstrations(path, (), False).recorded
        assert (found.base_pose, found.response) == (recorded.base_pose, recorded.response)
        assert (found.base_pose, found.response) == (what.base_pose, what.response)
