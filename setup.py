"""What pip and colcon build; the rest of the metadata is in pyproject.toml, the version in package.xml.

`colcon build --symlink-install` sees this file and setup.cfg but not pyproject.toml: what it needs is said here.
"""

from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

NAME = "diffusion_ros"
MANIFEST = ElementTree.parse("package.xml").getroot()


def files(folder: str, pattern: str = "*") -> list[str]:
    """The files (not the folders) directly in `folder`, relative to the project: data_files takes no folders."""
    return sorted(str(path) for path in Path(folder).glob(pattern) if path.is_file() and path.name[0] != ".")


setup(
    name=NAME,
    version=MANIFEST.findtext("version"),
    license=MANIFEST.findtext("license"),
    # Here as a string: colcon cannot read back the SpecifierSet that pyproject.toml's requires-python becomes.
    python_requires=">=3.10",
    packages=find_packages("src") + find_packages(".", include=["training", "training.*"]),
    # No "" key: in colcon's symlink mode it would become the only importable folder and hide training/.
    package_dir={NAME: f"src/{NAME}"},
    package_data={NAME: ["py.typed", "web/*.html"], "training": ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", files("launch", "*.launch.py")),
        (f"share/{NAME}/config", files("config")),
        (f"share/{NAME}/config/robots", files("config/robots")),
        (f"share/{NAME}/config/robots/cameras", files("config/robots/cameras")),
        (f"share/{NAME}/checkpoints", files("checkpoints", "*.pt")),
        # Where launch_ros and `ros2 run` look for a package's executables. pip puts scripts into bin/ only. What the
        # others are links to is none of them: it would be listed, and fail.
        (f"lib/{NAME}", [name for name in files("libexec") if Path(name).name != "run_node"]),
    ],
    entry_points={
        "console_scripts": [f"{NAME} = {NAME}.bringup:main", f"{NAME}_training = training.__main__:main"],
    },
    zip_safe=False,
)
