"""The page in a browser: who may see it and steer, what it shows, and its server. Without ROS."""
