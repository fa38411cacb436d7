#!/bin/bash
# Puts ROS and the workspace on the paths, then becomes the command.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /opt/workspace/install/setup.bash
# ROS's folders are first now, and its ros2 is the system Python's, which nodes that `ros2 launch` starts would have too.
export PATH="$VIRTUAL_ENV/bin:$PATH"
# `docker run --user`: ros2 writes its logs there.
[ -w "${HOME:-/nowhere}" ] || export ROS_HOME="${ROS_HOME:-/tmp/ros-$(id -u)}"
exec "$@"
