"""Processes that train, together and alone, each of which says what its weights have become."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import hashlib
import os
import sys
from pathlib import Path
from training.trainers.{module} import Options, Trainer


def train(folder, **environment):
    # In a process of its own. It is forked: what it needs takes seconds to import.
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ.update(environment)
        trainer = Trainer(Options(out=Path(folder) / "x.pt", {words}))
        if not environment:
            trainer.{export} = lambda *_: None
        trainer.run()
        weights = b"".join(value.detach().cpu().numpy().tobytes() for value in trainer.{model}.parameters())
        print("weights", hashlib.sha256(weights).hexdigest(), flush=True)
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def ended(children):
    if any([os.waitpid(child, 0)[1] for child in children]):
        sys.exit("a process failed")


common = dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="{port}")
ended([train({folder!r}, RANK=rank, LOCAL_RANK=rank, **common) for rank in ("0", "1")])
ended([train({folder!r} + "/alone")])
"""


def trained_by_two_and_one(
    module: str, model: str, export: str, words: str, folder: Path
) -> tuple[list[str], list[str]]:
    """The hashes of each process's weights after training with the options `words`: of two together, of one alone.

    Every process draws batches of its own: their weights are equal only if they share their gradients. The environment
    is what torchrun gives its processes. Two write the checkpoint folder/x.pt; the method `export` is what writes it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = folder / "train.py"
    script.write_text(
        SCRIPT.format(module=module, model=model, export=export, folder=str(folder), words=words, port=port)
    )
    result = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    hashes = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("weights ")]
    return hashes[:2], hashes[2:]
