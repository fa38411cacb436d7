#!/bin/bash
# Puts ROS and the workspace on the paths, then becomes the command.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /opt/workspace/install/setup.bash
# `docker run --user`: ros2 writes its logs there.
[ -w "${HOME:-/nowhere}" ] || export ROS_HOME="${ROS_HOME:-/tmp/ros-$(id -u)}"
exec "$@"
