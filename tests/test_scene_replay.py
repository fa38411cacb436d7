"""Replays in 3D: what simulators keep, what viser's page is given, and the report with both in a browser."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from diffusion_ros import report
from diffusion_ros.simulators import scene_replay
from diffusion_ros.simulators.scene import SceneGeom
from diffusion_ros.simulators.scene_replay import ReplayWriter, read_replay
from tests.browser import CHROMIUM, browser
from tests.ros_graph import ROOT, own_domain

UPRIGHT = np.array([0.0, 0.0, 0.0, 1.0])
TETRAHEDRON = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)[
    [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]
]
SHAPES = [
    SceneGeom("table", "box", (0.4, 0.4, 0.02), np.array([0.0, 0.0, 0.8]), UPRIGHT, (0.5, 0.4, 0.3, 1.0)),
    SceneGeom("wall_left", "box", (3.0, 0.1, 3.0), np.zeros(3), UPRIGHT, (1.0, 1.0, 1.0, 1.0)),
    SceneGeom("cube", "mesh", (0.1, 0.1, 0.1), np.zeros(3), UPRIGHT, (0.9, 0.1, 0.1, 1.0), TETRAHEDRON, "cube"),
]


def pose(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the cube: along x, and turned about z."""
    angle = 0.02 * step
    return np.array([0.01 * step, 0.0, 1.0]), np.array([0.0, 0.0, np.sin(angle / 2), np.cos(angle / 2)])


def keep(folder: Path, index: int, steps: int = 60, rate: float = 20.0) -> Path:
    writer = ReplayWriter(folder, "arm", rate)
    writer.begin(SHAPES)
    for step in range(steps):
        if writer.due():
            writer.add({"cube": pose(step)})
    return writer.save(index, 100 + index)


def results(*successes: bool) -> list[dict[str, Any]]:
    return [{"index": i, "seed": 100 + i, "steps": 60, "success": good} for i, good in enumerate(successes)]


def test_an_episode_is_read_as_it_was_kept(tmp_path: Path) -> None:
    read = read_replay(keep(tmp_path, 0))
    assert (read.kind, read.rate, read.bodies, read.poses.shape) == ("arm", 20.0, ("cube",), (60, 1, 7))
    np.testing.assert_allclose(read.poses[:, 0], [np.concatenate(pose(step)) for step in range(60)], atol=1e-6)
    for one, expected in zip(read.shapes, SHAPES, strict=True):
        assert (one.name, one.type, one.size, one.rgba, one.body) == (
            *(expected.name, expected.type, expected.size, expected.rgba),
            expected.body,
        )
        np.testing.assert_allclose([*one.position, *one.quaternion], [*expected.position, *expected.quaternion])
    np.testing.assert_array_equal(read.shapes[2].triangles, TETRAHEDRON)
    assert read.shapes[0].triangles is None


def test_shapes_are_on_the_disk_once(tmp_path: Path) -> None:
    for index in range(3):
        keep(tmp_path, index)
    names = sorted(path.name for path in (tmp_path / "replay").iterdir())
    assert len(names) == 4 and names[:2] == ["episode_001_seed_100.npz", "episode_002_seed_101.npz"]


def test_long_and_quick_episodes_are_thinned_out_and_take_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = read_replay(keep(tmp_path, 0, steps=500, rate=100.0))
    assert quick.rate == 20.0 and len(quick.poses) == 100
    np.testing.assert_allclose(quick.poses[1, 0, 0], 0.05, atol=1e-6)
    monkeypatch.setattr(scene_replay, "MOST_POSES", 50)
    long = read_replay(keep(tmp_path, 1, steps=330))
    assert len(long.poses) <= 50 and long.rate == 20.0 / 8
    np.testing.assert_allclose(long.poses[:, 0, 0], 0.08 * np.arange(len(long.poses)), atol=1e-6)


def test_what_is_damaged_is_said_in_one_line(tmp_path: Path) -> None:
    path = keep(tmp_path, 0)
    (shapes,) = path.parent.glob("shapes*")
    whole, content = path.read_bytes(), io.BytesIO()
    np.savez(content, said=np.array([object()], dtype=object), poses=np.zeros((1, 1, 7)))
    with zipfile.ZipFile(empty := io.BytesIO(), "w"):
        pass
    for bad in (b"", whole[:-30], b"x" * 100, content.getvalue(), empty.getvalue()):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: damaged \([^\n]*\)$"):
            read_replay(path)
    path.write_bytes(whole)
    shapes.write_bytes(shapes.read_bytes()[:-30])
    with pytest.raises(ValueError, match="damaged"):
        read_replay(path)
    shapes.unlink()
    with pytest.raises(OSError, match="shapes_"):
        read_replay(path)


def test_the_last_that_failed_and_the_last_that_did_not_come_first(tmp_path: Path) -> None:
    for index in (0, 1, 2, 3, 5):
        keep(tmp_path, index)
    episodes = results(False, True, False, True, True, True)  # of the fifth there is no replay
    assert [one["index"] for one in report.replayed(episodes, tmp_path)] == [2, 5, 3, 1, 0]
    episodes[5]["seed"] = 7  # another run's file
    assert [one["index"] for one in report.replayed(episodes, tmp_path)] == [2, 3, 1, 0]


# -- the report -------------------------------------------------------------------------------------------------------


def page(folder: Path, episodes: list[dict[str, Any]]) -> str:
    return report.page("x", {"outcome": "x", "episodes": len(episodes), "results": episodes}, [], folder)


def test_without_viser_the_report_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path, 0)
    for name in [name for name in sys.modules if name.partition(".")[0] == "viser" or "diffusion_ros.web" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "viser", None)
    text = page(tmp_path, results(True))
    said = "viser: not installed (pip install &#x27;diffusion_ros[web]&#x27;)"
    assert said in text and "<iframe" not in text and "<script" not in text


def test_a_run_without_replays_has_no_word_of_them(tmp_path: Path) -> None:
    assert "Replay" not in page(tmp_path, results(True))


def test_a_replay_that_cannot_be_read_costs_no_report(tmp_path: Path) -> None:
    pytest.importorskip("viser", reason="the extra [web]")
    keep(tmp_path, 0).write_bytes(b"x")
    text = page(tmp_path, results(True))
    assert "episode_001_seed_100.npz: damaged" in text and text.endswith("</html>\n")


def played(data: str) -> dict[str, Any]:
    """A recording as viser's page reads it."""
    import base64

    import msgspec
    import zstandard

    content = base64.b64decode(data)
    inner = zstandard.ZstdDecompressor().decompress(content[8:])
    (length,) = np.frombuffer(inner[:8], np.uint64)
    said: dict[str, Any] = msgspec.msgpack.decode(inner[8 : 8 + int(length)])
    return said


def test_shapes_are_recorded_once_and_poses_as_they_were(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("viser", reason="the extra [web]")
    from diffusion_ros.web.replay import recordings

    replays = [read_replay(keep(tmp_path, index, 60 + index)) for index in range(2)]
    player, made = recordings(replays, 10**7)
    assert player is not None and player.before.startswith("<!doctype html>") and len(made) == 2
    assert "http://127.0.0.1" not in capfd.readouterr().out
    for index, data in enumerate(made):
        said = played(data)
        assert said["durationSeconds"] == pytest.approx((59 + index) / 20 + 1)
        kinds = [(message["type"], message.get("name", "")) for _, message in said["messages"]]
        drawn = [name for kind, name in kinds if kind in ("MeshMessage", "BoxMessage")]
        assert sorted(drawn) == ["/scene/cube/cube", "/scene/table"]  # no wall
        moved = {
            round(moment * 20): message["position"]
            for moment, message in said["messages"]
            if message["type"] == "SetPositionMessage" and message["name"] == "/scene/cube"
        }
        assert len(moved) == 60 + index
        for step, position in moved.items():
            np.testing.assert_allclose(position, pose(step)[0], atol=4e-5)
    (size,) = {len(json.dumps([player.before, player.after]))}
    assert size < 4_000_000
    assert recordings(replays, len(made[0]))[1] == made[:1]
    assert recordings(replays, 100) == (None, [])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_without_a_network_plays_a_run(tmp_path: Path) -> None:
    """A run of two episodes, its report from the disk, and the arm on the page at its beginning and its end."""
    pytest.importorskip("viser", reason="the extra [web]")
    folder = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "diffusion_ros.bringup", "simulation", "--task", "lift", "--mode", "lockstep"),
        *("--checkpoint", str(ROOT / "checkpoints/lift_state.pt"), "--episodes", "2", "--max-steps", "60"),
        *("--no-video", "--output-dir", str(folder)),
    ]
    with own_domain():
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src"}
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    assert (folder / "report.html").stat().st_size < 5_000_000
    with browser(tmp_path / "profile", (1000, 760)) as chromium:
        tab = chromium.tab()
        tab.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        tab.open((folder / "report.html").as_uri())
        tab.wait("document.querySelectorAll('[data-replay]').length === 2")
        tab.run("document.querySelectorAll('[data-replay]')[1].click()")
        inside = "document.querySelector('iframe').contentDocument"
        tab.wait(f"{inside}.querySelector('canvas') && {inside}.querySelector('[role=slider]') !== null")
        value = f"Number({inside}.querySelector('[role=slider]').getAttribute('aria-valuenow'))"
        tab.wait(f"{value} > 0.5")  # it plays
        tab.run("document.querySelector('iframe').scrollIntoView()")
        seen = []
        for share in (0.01, 0.95):
            slide(tab, inside, share)
            seen.append(settled(tab, tmp_path / "seen.png"))
            at = tab.run(value)
            assert tab.run(value) == at  # it is paused
        changed = np.abs(seen[0].astype(int) - seen[1]).max(axis=-1) > 40
        assert 0.001 < changed.mean() < 0.5  # the arm has moved, and not the whole picture
        assert seen[0][200:500].std() > 25  # something is drawn
        assert tab.problems == []
        assert [name for name in tab.requests if not name.startswith(("file:", "data:", "blob:"))] == []


def slide(tab: Any, inside: str, share: float) -> None:
    """A click on the slider, as far along it as `share`."""
    track = f"{inside}.querySelector('[role=slider]').parentElement.parentElement.getBoundingClientRect()"
    outer = "document.querySelector('iframe').getBoundingClientRect()"
    left, top, width, height = tab.run(
        f"(t => (o => [o.left + t.left, o.top + t.top, t.width, t.height])({outer}))({track})"
    )
    where = {"x": left + share * width, "y": top + height / 2, "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        tab.call("Input.dispatchMouseEvent", type=kind, **where)


def settled(tab: Any, path: Path) -> np.ndarray:
    """What is seen once two pictures are the same."""
    end, before = time.monotonic() + 60, None
    while time.monotonic() < end:
        tab.picture(path)
        picture = cv2.imread(str(path))
        assert picture is not None
        if before is not None and np.array_equal(before, picture):
            return np.asarray(picture)
        before = picture
        time.sleep(1.0)
    raise AssertionError("the picture does not stand still")
