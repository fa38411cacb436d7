"""Recordings from one format to another: a bag, robomimic's HDF5 or a LeRobot data set to HDF5 or LeRobot.

What IN is, is told by what it contains: a bag's folder or its file alone (.mcap), LeRobot's folder, or an HDF5 file.
What OUT becomes, by its name: an HDF5 file where it ends with .hdf5 or .h5, else a LeRobot data set, version 3.0. OUT
appears when it is whole.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from tyro.conf import Positional, arg

from diffusion_ros.control.pictures import fit
from diffusion_ros.installation import require
from diffusion_ros.simulators.tasks import ARM_TASKS
from training import command_line
from training.data import robomimic
from training.data.demonstrations import EXECUTED
from training.data.episodes import Episode, Layout
from training.data.recorded_with import OWN_ROBOT

Pictures = Callable[[], Iterable[NDArray[np.uint8]]]


@dataclass(frozen=True)
class Options:
    """Converts recordings."""

    source: Annotated[Positional[Path], arg(metavar="IN")]
    """A bag's folder or its .mcap alone, a LeRobot data set's folder, or robomimic's HDF5 file."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """A file that ends with .hdf5 or .h5, or the folder of a LeRobot data set."""
    task: str | None = None
    """What the task is called in OUT. For HDF5 the environment: lift, can, square, or robosuite's name; for LeRobot a
    sentence. Without it, as IN has it."""
    picture_size: str | None = None
    """Size of the pictures in OUT, as 84x84: of each picture the middle is kept and scaled down."""
    only_successes: bool = False
    """Only episodes that are marked as successes. Without it, all but those that are marked as failures."""
    with_failures: bool = False
    """Failures too."""
    only_person: bool = False
    """Only the steps in which a person acted: each stretch of them becomes an episode."""
    rate: float | None = None
    """Of a bag: control steps a second [Hz], the session's or a whole fraction of it."""
    observations: tuple[str, ...] = ()
    """Of a bag: the observations to take, as robot0_eef_pos agentview_image; without it all that were recorded."""
    robot: Path | None = None
    """Of a bag: a robot's YAML in the place of the one in it."""
    action_kind: Literal["delta", "pose", "joint_positions"] | None = None
    """Of a LeRobot data set that somebody else wrote: what its actions are. Metres, radians, and last the gripper from
    -1 open to 1 closed."""
    action_scale: tuple[float, float] | None = None
    """Of such a set with deltas from -1 to 1: metres and radians of a full one."""
    map: tuple[str, ...] = ()
    """Of such a set: names of its features in OUT, as robot0_eef_pos=observation.state[0:3] or
    agentview_image=observation.images.top."""
    crf: int = 20
    """Quality of LeRobot's videos, 1 the best to 51; 0: without any loss, in files several times as large."""
    overwrite: bool = False
    """Replaces what is at OUT."""

    def __post_init__(self) -> None:
        if self.picture_size is not None:
            command_line.width_and_height(self.picture_size)
        if self.only_successes and self.with_failures:
            raise ValueError("only_successes and with_failures: one of them expected")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf {self.crf}: 0 to 51 expected")
        if self.rate is not None and not 1 <= self.rate <= 100:
            raise ValueError(f"rate {self.rate}: 1 to 100 Hz expected")
        if wrong := [text for text in self.map if not re.fullmatch(r"[^=]+=[^=]+", text)]:
            raise ValueError(f"map {wrong[0]}: NAME=FEATURE expected")
        names = [text.split("=")[0] for text in self.map]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"map {twice[0]}: each name once expected")
        if self.action_scale is not None and not min(self.action_scale) > 0:
            raise ValueError(f"action_scale {self.action_scale}: two numbers above 0 expected")

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the pictures in OUT; None: IN's."""
        return None if self.picture_size is None else command_line.width_and_height(self.picture_size)


def kind_of(source: Path) -> str:
    """bag, lerobot or hdf5. ValueError where there is nothing, or a folder that is neither."""
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder")
    if source.is_file():
        if source.suffix != ".mcap":
            return "hdf5"
        if (source.parent / "metadata.yaml").is_file():
            raise ValueError(f"{source}: a part of a bag, the bag's folder expected")
        return "bag"
    if (source / "meta/info.json").is_file():
        return "lerobot"
    if (source / "metadata.yaml").is_file() or any(source.glob("*.mcap")):
        return "bag"
    rule = "metadata.yaml of a bag or meta/info.json of a LeRobot data set expected"
    raise ValueError(f"{source}: a folder without either; {rule}")


@dataclass(frozen=True)
class _Bag:
    """The episodes of a recorded session."""

    bag: Any

    def __iter__(self) -> Iterator[Episode]:
        return iter(self.bag.episodes())

    @property
    def left_out(self) -> list[str]:
        """What did not become steps, once they were read."""
        return [f"{count} {why}" for why, count in self.bag.left_out.most_common()]


def read(options: Options) -> tuple[Layout, Iterable[Episode]]:
    """IN, as it is."""
    kind = kind_of(options.source)
    foreign = {"action_kind": options.action_kind, "action_scale": options.action_scale, "map": options.map or None}
    for name, value in foreign.items():
        if value is not None and kind != "lerobot":
            raise ValueError(f"{name} {value}: of LeRobot data sets only")
    of_bags = {"rate": options.rate, "observations": options.observations or None, "robot": options.robot}
    for name, told in of_bags.items():
        if told is not None and kind != "bag":
            raise ValueError(f"{name} {told}: of bags only")
    if kind == "hdf5":
        return robomimic.read(options.source)
    if kind == "bag":
        # No session's bag is needed for the others, nor what reads it.
        bags = importlib.import_module("training.data.bags")
        size = None if options.size is None else options.size[::-1]
        session = bags.Session(options.source, options.observations or None, size, options.rate, options.robot)
        bag = bags.Bag(session)
        layout: Layout = bag.layout
        # A session calls the simulator so, and may name the task as the commands do.
        robot = OWN_ROBOT if layout.robot == "simulation" else layout.robot
        return replace(layout, robot=robot, environment=_environment(layout.environment)), _Bag(bag)
    from training.data import lerobot, lerobot_foreign

    names = dict(text.split("=", 1) for text in options.map)
    foreign_set = lerobot_foreign.Foreign(options.action_kind or "", options.action_scale, names)
    return lerobot.read(options.source, foreign_set)


def _environment(task: str) -> str:
    """robosuite's name of it, of lift, can and square."""
    return ARM_TASKS[task].environment if task in ARM_TASKS else task


def chosen(episodes: Iterable[Episode], options: Options, left: list[int]) -> Iterator[Episode]:
    """Those that the options ask for; `left` gets the numbers of the others."""
    for number, episode in enumerate(episodes):
        success = episode.success
        wanted = success is True if options.only_successes else success is not False or options.with_failures
        if not wanted:
            left.append(number)
        elif options.only_person:
            if episode.person is None:
                raise ValueError(f"{options.source}: episode {number} does not say whether a person acted")
            yield from stretches(episode, episode.person)
        else:
            yield episode


def stretches(episode: Episode, kept: NDArray[np.bool_]) -> Iterator[Episode]:
    """An episode of each run of steps that are kept."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], kept, [False]))))
    for first, end in edges.reshape(-1, 2).tolist():
        yield replace(
            episode,
            numbers={name: values[first:end] for name, values in episode.numbers.items()},
            pictures={name: partial(_some, call, first, end) for name, call in episode.pictures.items()},
            actions=episode.actions[first:end],
            stamps=episode.stamps[first:end],
            person=None if episode.person is None else episode.person[first:end],
            executed=None if episode.executed is None else episode.executed[first:end],
            extras={
                name: value[first:end] if isinstance(value, np.ndarray) else value
                for name, value in episode.extras.items()
            },
        )


def _some(pictures: Pictures, first: int, end: int) -> Iterator[NDArray[np.uint8]]:
    return islice(pictures(), first, end)


def resized(layout: Layout, episodes: Iterable[Episode], width: int, height: int) -> tuple[Layout, Iterator[Episode]]:
    """All pictures in one size."""

    def scaled(pictures: Pictures) -> Iterator[NDArray[np.uint8]]:
        return (fit(picture, height, width) for picture in pictures())

    def changed() -> Iterator[Episode]:
        for episode in episodes:
            # What a file says of its cameras' size is not true any more.
            extras = {name: value for name, value in episode.extras.items() if name != "env_args"}
            pictures = {name: partial(scaled, call) for name, call in episode.pictures.items()}
            yield replace(episode, pictures=pictures, extras=extras)

    return replace(layout, pictures=dict.fromkeys(layout.pictures, (height, width))), changed()


def check_out(options: Options) -> None:
    """ValueError where OUT may not be written."""
    source, out = options.source.resolve(), options.out.resolve()
    if source == out or source.is_relative_to(out) or out.is_relative_to(source):
        raise ValueError(f"{options.out}: not IN, nor in it or around it, expected")
    if not options.out.exists():
        return
    if not options.overwrite:
        raise ValueError(f"{options.out}: exists already; --overwrite replaces it")
    if _is_hdf5(options.out) != options.out.is_file():
        raise ValueError(f"{options.out}: is a {'file' if options.out.is_file() else 'folder'}, and is not replaced")
    if options.out.is_dir() and not (options.out / "meta/info.json").is_file():
        raise ValueError(f"{options.out}: no LeRobot data set, and is not replaced")


def _is_hdf5(out: Path) -> bool:
    return out.suffix in robomimic.SUFFIXES


def convert(options: Options) -> None:
    """Writes OUT, and says what it has and what was left out."""
    check_out(options)
    require("pyarrow", "imageio_ffmpeg")
    layout, source = read(options)
    left: list[int] = []
    bar = tqdm(source, unit="episode", desc=options.out.name, leave=False)
    counts = [0, 0, 0]

    def counted(episodes: Iterable[Episode]) -> Iterator[Episode]:
        for episode in episodes:
            yield episode
            counts[0] += 1
            counts[1] += len(episode)
            counts[2] += episode.executed is not None

    episodes: Iterable[Episode] = chosen(bar, options, left)
    if options.size is not None:
        layout, episodes = resized(layout, episodes, *options.size)
    lines = []
    with bar:
        if _is_hdf5(options.out):
            if options.task is not None:
                layout = replace(layout, environment=_environment(options.task))
            robomimic.write(options.out, layout, counted(episodes))
        else:
            from training.data import lerobot_writer

            errors = lerobot_writer.write(options.out, layout, counted(episodes), options.task or "", options.crf)
            for key, error in errors.items():
                lines.append(f"{key}: mean error of the codec {error.mean:.2f} of 255 levels, at most {error.most}")
            if counts[2] and not layout.executed:
                lines.append(f"left out: {EXECUTED} of {counts[2]} episodes: others of {options.source} have none")
    print(f"{options.out}: {counts[0]} episodes, {counts[1]} steps", *lines, sep="\n")
    if left:
        why = "not successes" if options.only_successes else "failures"
        print(f"left out: {len(left)} episodes that are {why}")
    if without := getattr(source, "left_out", ()):
        print(f"left out: {', '.join(without)}")


def main() -> None:
    command_line.run(Options, convert, __doc__)


if __name__ == "__main__":
    main()
