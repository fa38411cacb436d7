"""Several processes that train together, each of which says what its weights have become."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import hashlib
from pathlib import Path
from training.{module} import Options, Trainer

trainer = Trainer(Options(out=Path({out!r}), {words}))
trainer.run()
weights = b"".join(value.detach().cpu().numpy().tobytes() for value in trainer.{model}.parameters())
print("weights", hashlib.sha256(weights).hexdigest(), flush=True)
"""


def trained_by(processes: int, module: str, model: str, words: str, folder: Path) -> list[str]:
    """The hash of each process's weights after training with the options `words`; the checkpoint is folder/x.pt.

    Every process draws batches of its own: their weights are equal only if they share their gradients.
    """
    folder.mkdir()
    script = folder / "train.py"
    script.write_text(SCRIPT.format(module=module, model=model, out=str(folder / "x.pt"), words=words))
    # Not by `accelerate launch --cpu`, which starts one process whatever is asked for.
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    launch = [sys.executable, *(several if processes > 1 else [])]
    result = subprocess.run(
        [*launch, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return [line.split()[1] for line in result.stdout.splitlines() if line.startswith("weights ")]
