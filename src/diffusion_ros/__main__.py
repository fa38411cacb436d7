"""`python -m diffusion_ros`: see bringup."""

from diffusion_ros.bringup import main

if __name__ == "__main__":
    raise SystemExit(main())
