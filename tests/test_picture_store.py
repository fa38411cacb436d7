"""Pictures that memory does not hold are on the disk, and are the same ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from training.data import demonstrations
from training.data.demonstrations import joined as joined_files
from training.data.demonstrations import load_demonstrations, load_files
from training.data.picture_store import mapping_of, room, rows
from training.data.resident import Resident

ROOT = Path(__file__).resolve().parents[1]
CAMERAS = ("agentview", "robot0_eye_in_hand")


def write(path: Path, count: int, size: int = 84) -> Path:
    """Demonstrations of which the second and all others are one, so that many take no room."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        for i in range(count):
            if i > 1:
                data[f"demo_{i}"] = data["demo_1"]
                continue
            demo = data.create_group(f"demo_{i}")
            demo["actions"] = rng.uniform(-1, 1, (20, 7))
            demo["obs/robot0_eef_pos"] = rng.uniform(-1, 1, (20, 3))
            demo["obs/robot0_eef_quat"] = np.tile([1.0, 0, 0, 0], (20, 1))
            demo["obs/robot0_gripper_qpos"] = rng.uniform(0, 0.04, (20, 2))
            for camera in CAMERAS:
                demo[f"obs/{camera}_image"] = rng.integers(0, 255, (20, size, size, 3), np.uint8)
    return path


def test_on_the_disk_they_are_what_they_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.hdf5", 4)
    whole = load_demonstrations(path, CAMERAS, use_object=False)
    monkeypatch.setattr(demonstrations, "IN_MEMORY", 0.0)
    stored = load_demonstrations(path, CAMERAS, use_object=False)
    assert stored.data_hash == whole.data_hash
    assert [path.name for path in tmp_path.iterdir()] == ["a.hdf5"]  # its file has no name
    here, there = (Resident(data, torch.device("cpu")) for data in (whole, stored))
    assert here.whole and not there.whole
    steps = torch.tensor([70, 3, 3, 41])
    names = tuple(f"{camera}_image" for camera in CAMERAS)
    first, second = here.frames(steps, names), there.frames(steps, names)
    for name in names:
        assert mapping_of(stored.observations[name]) is not None and mapping_of(whole.observations[name]) is None
        assert torch.equal(first[name], second[name])
    two = joined_files(load_files([path, path], CAMERAS, use_object=False))
    assert mapping_of(two.observations[names[0]]) is not None
    np.testing.assert_array_equal(two.observations[names[0]][80:], whole.observations[names[0]])


def test_rows_are_read_in_order(tmp_path: Path) -> None:
    array = room((50, 4, 4, 3), tmp_path / "x", on_disk=True)
    array[:] = np.arange(50)[:, None, None, None]
    chosen = np.array([49, 0, 7, 7, 3])
    assert rows(array, chosen)[:, 0, 0, 0].tolist() == chosen.tolist()
    assert not room((0, 4, 4, 3), tmp_path / "x", on_disk=True).size


def test_a_disk_without_room_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x: its pictures take [\d.]+ GiB on the disk, .* has [\d.]+ GiB \("):
        room((1 << 34, 84, 84, 3), tmp_path / "x", on_disk=True)


MEASURED = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from training.data import demonstrations
from training.data.resident import Resident
demonstrations.IN_MEMORY = 0.0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = demonstrations.load_demonstrations(Path(sys.argv[1]), ("agentview", "robot0_eye_in_hand"), use_object=False)
resident = Resident(data, torch.device("cpu"))
rng = np.random.default_rng(0)
for _ in range(20):
    steps = torch.from_numpy(rng.integers(0, len(data), 64))
    resident.frames(steps, ("agentview_image", "robot0_eye_in_hand_image"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_is_flat_from_10_demonstrations_to_300(tmp_path: Path) -> None:
    """Of 300, 254 MB of pictures."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    kilobytes = []
    for count in (10, 300):
        path = write(tmp_path / f"{count}.hdf5", count)
        command = [sys.executable, "-c", MEASURED, str(path)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        kilobytes.append(int(run.stdout))
    assert kilobytes[1] - kilobytes[0] < 40_000, kilobytes
