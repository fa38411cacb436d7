#!/bin/sh
# Resolves requirements.lock anew from pyproject.toml, for Python 3.10 and later; needs uv. A pin stays where it still fits;
# `scripts/lock.sh --upgrade-package NAME` moves one. torch pins the CUDA packages of its build itself.
set -eu
cd "$(dirname "$0")/.."
lock=requirements.lock
robosuite=$(grep '^robosuite==' $lock)
uv pip compile pyproject.toml --extra jazzy --extra sim --extra train --extra web --extra dev --extra franka --extra security --extra cluster --universal --python-version 3.10 \
    --quiet --no-header --no-annotate --output-file $lock "$@"
pins=$(grep -vE '^(cuda-|nvidia-|triton==|diffusion-ros)' $lock)
cat >$lock <<EOF
# What \`make\` installs, pinned: \`pip install -c\` takes the versions from here, pyproject.toml says which packages.
# Made by scripts/lock.sh. Exactly this torch: a range pulls gigabytes of CUDA packages where an index carries the CPU
# build of this one. ROS 2 is Jazzy (supported until 2029); Kilted's packages are in requirements-kilted.txt.
$pins
# Installed with --no-deps; pyproject.toml's [sim] says why.
$robosuite
EOF
