"""ROS nodes: each file an importable class with a main() under it. They convert, call and publish, no more."""
