#!/bin/sh
# Makes .venv with the pinned versions of requirements.lock and this project in it (editable). Safe to run again.
#   usage: scripts/setup.sh [python]      a Python of at least 3.10; the default is python3
#          scripts/setup.sh kilted        .venv-kilted: ROS 2 Kilted, and else what .venv has
#          scripts/setup.sh franka        .venv-franka: a folder for PYTHONPATH with what the driver of a Franka needs more;
#                                         .venv-franka-sim: the simulator of a Franka's network interface
set -eu
cd "$(dirname "$0")/.."
python=${1:-python3}

if [ "$python" = kilted ]; then
    echo "setup: installing ROS 2 Kilted into .venv-kilted, beside .venv"
    rm -rf .venv-kilted
    .venv/bin/python -m venv .venv-kilted
    kilted=.venv-kilted/bin/python
    "$kilted" -m pip install -r requirements-kilted.txt --disable-pip-version-check --no-input
    purelib='import sysconfig; print(sysconfig.get_path("purelib"))'
    # What is installed in .venv-kilted itself comes first on Python's path, what this file names after it.
    .venv/bin/python -c "$purelib" >"$("$kilted" -c "$purelib")/venv.pth"
    exit 0
fi

if [ "$python" = franka ]; then
    echo "setup: installing a Franka's driver into .venv-franka, and the simulator of its interface into .venv-franka-sim"
    rm -rf .venv-franka .venv-franka-sim
    # Packages only: ROS's wheels find their libraries from .venv's own Python alone. pylibfranka is the maker's client.
    .venv/bin/python -m pip install --target .venv-franka --no-deps "$(grep '^franka-rs==' requirements.lock)" \
        pylibfranka==0.21.3 --disable-pip-version-check --no-input
    .venv/bin/python -m venv .venv-franka-sim
    .venv-franka-sim/bin/python -m pip install -r requirements-franka-sim.txt --disable-pip-version-check --no-input
    exit 0
fi

die() {
    echo "setup: $*" >&2
    exit 1
}

command -v "$python" >/dev/null || die "$python not found: install Python 3.10 or newer, or name one: make setup PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "$python is $("$python" --version 2>&1), expected 3.10 or newer; name another one: make setup PYTHON=/path/to/python3"
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then # Debian and Ubuntu ship these apart from Python
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: installing python3-venv from the distribution" >&2
        apt-get update </dev/null
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv </dev/null
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null || die "$python has no venv module: install python3-venv from your distribution"
fi

pip() {
    .venv/bin/python -m pip "$@" --disable-pip-version-check --no-input
}

# Two distributions of ROS 2 cannot share an environment, and pip leaves parts of the other one behind.
ros=$(sed -n 's/^ros-rclpy==//p' requirements.lock)
if [ -x .venv/bin/python ] && ! .venv/bin/python -m pip show ros-rclpy 2>/dev/null | grep -qx "Version: $ros"; then
    rm -rf .venv
fi

echo "setup: installing the pinned versions into .venv: 3 GB on disk, a few minutes"
"$python" -m venv .venv
pip install -c requirements.lock setuptools # builds the package without a download of its own
pip install -c requirements.lock --no-build-isolation -e ".[jazzy,sim,train,cluster,web,security,dev]"
pip install -c requirements.lock --no-deps robosuite # pyproject.toml's [sim] says why

# Rendering is for simulation alone: without it the policy and executor nodes work, and `make sim` stops and says why.
if backend=$(scripts/system_libraries.sh .venv/bin/python); then
    echo "setup: done; off-screen rendering: $backend"
else
    echo "setup: done, but nothing can be rendered yet"
fi
