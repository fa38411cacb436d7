"""A run of a simulation that was stopped: which of its episodes are done, and whether it is the same run."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_ros.atomic_file import read_lines, write_json
from diffusion_ros.systems.startup import Startup, UsageError

BEGUN = "begun.json"
"""In a run's folder: what each node was given, and the checkpoint's hash."""
FIRST = "first_episode"
"""The simulator's parameter."""
FREE = ("episodes", FIRST, "results", "output_dir", "bag")
"""Parameters that an episode does not depend on."""


def note(startup: Startup) -> None:
    """Writes down what a run is begun with. Raises OSError."""
    write_json(startup.output_dir / BEGUN, _begun(startup))


def resumed(startup: Startup) -> tuple[Startup, int]:
    """The run with the episodes that are missing, and the number of the first of them.

    Raises UsageError, in one line, where there is nothing to resume, or a run with other settings or results that
    cannot be read.
    """
    path = startup.output_dir / BEGUN
    try:
        then = json.loads(path.read_text())
        done = {int(result["index"]) for result in read_lines(startup.results)}
    except FileNotFoundError:
        raise UsageError(f"output_dir {startup.output_dir}: has no run to resume") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = str(error)
        raise UsageError(text if str(startup.output_dir) in text else f"{path}: damaged ({text})") from None
    now = json.loads(json.dumps(_begun(startup), default=str))
    if other := _difference(then, now):
        raise UsageError(f"output_dir {startup.output_dir}: was begun with other settings: {other}")
    first = next(index for index in range(len(done) + 1) if index not in done)
    (node,) = (node.name for node in startup.nodes if node.required)
    parameters = {**startup.parameters, node: {**startup.parameters[node], FIRST: first}}
    return dataclasses.replace(startup, parameters=parameters), first


def to_go_on(words: Sequence[str], startup: Startup) -> str:
    """The command that runs the episodes that are missing, as a shell takes it. words: those that the run was started
    with. A bag cannot be gone on with: the next one has a new name."""
    kept, value = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        if value or name in ("--resume", "--output-dir", "--record"):
            value = not value and not equals and name != "--resume"
            continue
        kept.append(word)
    if bag := str(startup.values.get("record", "")):
        kept += ["--record", str(_free(Path(bag)))]
    return shlex.join([*_program(), *kept, "--resume", "--output-dir", str(startup.output_dir)])


def _free(path: Path) -> Path:
    """`path` with the first number behind its name that nothing has."""
    number = 2
    while (found := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    return found


def _program() -> list[str]:
    """How this command was called."""
    started = Path(sys.argv[0])
    if started.name != "diffusion_ros":
        return [sys.executable, "-m", "diffusion_ros"]
    found = shutil.which(started.name)
    return [started.name if found and os.path.realpath(found) == os.path.realpath(started) else str(started)]


def _begun(startup: Startup) -> dict[str, Any]:
    nodes = {
        node: {name: value for name, value in values.items() if name not in FREE}
        for node, values in startup.parameters.items()
    }
    return {"nodes": nodes, "checkpoint_sha256": startup.checkpoint_sha256}


def _difference(then: object, now: Mapping[str, Any]) -> str:
    """What is not as it was, '' for nothing."""
    if not isinstance(then, Mapping) or not isinstance(then.get("nodes"), Mapping):
        return f"{BEGUN} says none"
    if then.get("checkpoint_sha256") != now["checkpoint_sha256"]:
        return f"a checkpoint of SHA-256 {str(then.get('checkpoint_sha256'))[:16]}, now {now['checkpoint_sha256'][:16]}"
    for node in {**then["nodes"], **now["nodes"]}:
        before, after = then["nodes"].get(node), now["nodes"].get(node)
        if not isinstance(before, Mapping) or not isinstance(after, Mapping):
            return f"the node {node} is {'new' if after else 'missing'}"
        for name in {**before, **after}:
            if before.get(name) != after.get(name):
                return f"{node}: {name} {before.get(name)!r}, now {after.get(name)!r}"
    return ""
