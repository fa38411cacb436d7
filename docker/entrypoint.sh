#!/bin/bash
# Puts ROS and the workspace on the paths, then becomes the command.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /opt/workspace/install/setup.bash
exec "$@"
