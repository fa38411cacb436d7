"""The package's own rules: what is installed where, who may import what, what no file may say."""

from __future__ import annotations

import ast
import functools
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from diffusion_ros import installation

ROOT = Path(__file__).parents[1]
NODES = ROOT / "src/diffusion_ros/nodes"


@pytest.fixture(scope="module")
def distribution() -> dict[str, Any]:
    """What setup.py, setup.cfg and pyproject.toml together tell setuptools, asked in the way colcon asks."""
    script = """
import setuptools
from distutils.core import run_setup
d = run_setup("setup.py", script_args=[], stop_after="config")
keys = ("packages", "package_dir", "data_files", "entry_points")
keys += ("install_requires", "extras_require", "python_requires")
metadata = {key: value for key, value in vars(d.metadata).items() if key not in ("license_files", "provides_extras")}
print({"metadata": metadata, **{key: getattr(d, key) for key in keys}})
"""
    return dict(ast.literal_eval(_python("-c", script).splitlines()[-1]))


def test_setup_and_manifest_agree(distribution: dict[str, Any]) -> None:
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    assert manifest.attrib["format"] == "3"
    assert manifest.findtext("export/build_type") == "ament_python"
    metadata = distribution["metadata"]
    assert manifest.findtext("name") == metadata["name"] == "diffusion_ros"
    assert manifest.findtext("license") == metadata["license"] == "Apache-2.0"
    assert manifest.findtext("version") == metadata["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"])
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'^name = "diffusion_ros"$', pyproject, re.M)
    assert not re.search(r"^version = ", pyproject, re.M), "the version is package.xml's: say it once"


def _pinned(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_lock_pins_what_is_installed(distribution: dict[str, Any]) -> None:
    locked, kilted = _pinned("requirements.lock"), _pinned("requirements-kilted.txt")
    for requirement in (*locked, *kilted):
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), f"{requirement} is not pinned"
    assert "torch==2.13.0" in {str(requirement) for requirement in locked}

    extras = {name: list(map(Requirement, lines)) for name, lines in distribution["extras_require"].items()}
    for wanted, pin in zip(extras.pop("kilted"), kilted, strict=True):
        assert (wanted.name, wanted.extras) == (pin.name, pin.extras)
        assert wanted.specifier.contains(str(pin.specifier).removeprefix("=="))
    # On each Python every package once, within the ranges.
    ranges = [*map(Requirement, distribution["install_requires"]), *itertools.chain(*extras.values())]
    for python in ("3.10", "3.11", "3.12", "3.13", "3.14"):
        environment = {"python_version": python, "python_full_version": f"{python}.0"}
        here = [pin for pin in locked if pin.marker is None or pin.marker.evaluate(environment)]
        versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in here}
        assert len(versions) == len(here)
        for wanted in ranges:
            if wanted.name != "diffusion_ros":
                version = versions[canonicalize_name(wanted.name)]
                assert wanted.specifier.contains(version), f"{wanted}, pinned to {version} for Python {python}"


def test_a_robot_is_given_what_runs_nodes_and_no_more(distribution: dict[str, Any]) -> None:
    def modules(requirements: list[str]) -> set[str]:
        names = {Requirement(line).name for line in requirements}
        by_distribution = {name: module for module, name in installation.DISTRIBUTIONS.items()}
        return {by_distribution.get(name, name) for name in names}

    base = distribution["install_requires"]
    assert modules(base) == set(installation.BASE)
    for line in base:
        assert not re.search(r"==|;", line), f"{line}: a range is expected"
    for extra, names in installation.EXTRAS.items():
        assert modules(distribution["extras_require"][extra]) == set(names)


def test_workflows_test_the_pythons_that_are_claimed(distribution: dict[str, Any]) -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text())["jobs"]
    pythons = jobs["python"]["strategy"]["matrix"]["python"]
    assert distribution["python_requires"] == f">={pythons[0]}" == ">=3.10"
    assert [version.removeprefix("3.") for version in pythons] == [str(10 + i) for i in range(len(pythons))]
    classified = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert classified and set(classified) <= set(pythons)
    commands = " ".join(step.get("run", "") for step in itertools.chain(*(job["steps"] for job in jobs.values())))
    for word in ("make check", "make test", "colcon build", "colcon test", "launch diffusion_ros simulation.launch.py"):
        assert word in commands


def test_colcon_test_runs_pytest(distribution: dict[str, Any]) -> None:
    # colcon takes pytest for a package that names it among what its tests need, and else runs nothing and says OK.
    assert any(Requirement(line).name == "pytest" for line in distribution["extras_require"]["test"])


def test_colcon_can_read_the_distribution_back(distribution: dict[str, Any]) -> None:
    # The fixture has: as literals, so a SpecifierSet in it would have failed there. It must still be required.
    assert distribution["python_requires"] == ">=3.10"
    # A "" key would hide training/ in symlink mode.
    assert distribution["package_dir"] == {"diffusion_ros": "src/diffusion_ros"}


def test_packages_and_data_files_are_complete(distribution: dict[str, Any]) -> None:
    packages = {package.replace(".", "/") for package in distribution["packages"]}
    sources = {str(path.parent.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    sources |= {str(path.parent.relative_to(ROOT)) for path in (ROOT / "training").rglob("*.py")}
    assert packages == sources, "a folder with Python files and without __init__.py, or the other way round"

    installed = {name: target for target, names in distribution["data_files"] for name in names}
    assert installed["package.xml"] == "share/diffusion_ros"
    assert installed["resource/diffusion_ros"] == "share/ament_index/resource_index/packages"
    for folder in ("launch", "config", "checkpoints"):
        for path in (ROOT / folder).glob("*"):
            if path.name.endswith((".launch.py", ".yaml", ".rviz", ".xml", ".pt")):
                assert installed[f"{folder}/{path.name}"] == f"share/diffusion_ros/{folder}"


def test_every_node_has_an_executable(distribution: dict[str, Any]) -> None:
    nodes = {path.stem for path in NODES.glob("*.py") if re.search(r"^def main\(", path.read_text(), re.M)}
    nodes.discard("runner")
    executables = {path.name: path for path in (ROOT / "libexec").iterdir()}
    assert set(executables) - {"run_node"} == nodes
    for path in executables.values():
        assert os.access(path, os.X_OK), f"{path} is not executable"
        assert path.resolve().name == "run_node"
    installed = dict(distribution["data_files"])["lib/diffusion_ros"]
    assert {Path(name).name for name in installed} == nodes, "run_node is what they are links to, and no node"


def test_nodes_import_neither_training_nor_what_a_robot_does_not_have() -> None:
    absent = sorted({"robosuite"}.union(*installation.EXTRAS.values()))
    assert {"diffusers", "tensorboard", "mujoco", "gymnasium"} <= set(absent)
    script = f"""
import importlib, pkgutil, sys
sys.modules |= dict.fromkeys({absent})  # whoever imports one of them gets an error
import diffusion_ros.nodes
names = [module.name for module in pkgutil.iter_modules(diffusion_ros.nodes.__path__)]
for name in names:
    importlib.import_module(f"diffusion_ros.nodes.{{name}}")
print(len(names), *sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    count, *modules = _python("-c", script).splitlines()[-1].split()
    assert int(count) == len([path for path in NODES.glob("*.py") if path.stem != "__init__"]) > 0
    assert "diffusion_ros" in modules and "training" not in modules


@pytest.mark.parametrize(
    ("library", "folders", "only_in"),
    [
        ("training", ["src"], []),
        ("robosuite", ["src", "training"], ["src/diffusion_ros/simulators/arm.py"]),
        ("diffusers", ["src"], []),
        ("franka", ["src", "training"], ["src/diffusion_ros/franka_connection.py"]),
        ("viser", ["src", "training"], [f"src/diffusion_ros/web/{name}.py" for name in ("replay", "server", "view")]),
    ],
)
def test_who_imports_what(library: str, folders: list[str], only_in: list[str]) -> None:
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    importers = [str(path.relative_to(ROOT)) for path in sources if library in _imports(path)]
    assert sources
    assert sorted(importers) == only_in


def test_torch_script_is_one_files_business() -> None:
    sources = [path for folder in ("src", "training") for path in (ROOT / folder).rglob("*.py")]
    script = re.compile(r"torch\.jit(?!\._pickle)|torch import jit")
    users = [str(path.relative_to(ROOT)) for path in sources if script.search(path.read_text())]
    assert users == ["src/diffusion_ros/checkpoint.py"]


def test_no_file_names_a_registry_or_a_machines_path() -> None:
    # Written so that this file does not name them either.
    hosts = ["python" + "hosted", "pypi" + r"\.org", r"registry\." + "npmjs", r"deb\." + "debian"]
    pattern = re.compile(r"(^|[^\w.])/(?:work|farm|root)/|" + "|".join(hosts), re.M)
    for path in _project_files():
        try:
            text = (ROOT / path).read_text()
        except UnicodeDecodeError:
            continue
        found = pattern.search(text)
        assert found is None, f"{path}: {found and found.group()!r}"


@pytest.mark.slow
def test_wheel_installs_what_ros_looks_for(tmp_path: Path) -> None:
    source, prefix = tmp_path / "source", tmp_path / "prefix"
    for path in _project_files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, source / path, follow_symlinks=False)
    pip = ["-m", "pip", "--disable-pip-version-check", "-q"]
    _python(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source))
    (wheel,) = tmp_path.glob("*.whl")
    _python(*pip, "install", "--ignore-installed", "--no-deps", "--no-index", "--prefix", str(prefix), str(wheel))

    share = prefix / "share/diffusion_ros"
    for folder, pattern in (("launch", "*.launch.py"), ("config", "*"), ("checkpoints", "*.pt")):
        wanted, installed = (
            {path.relative_to(root / folder) for path in (root / folder).rglob(of) if path.is_file()}
            for root, of in ((source, pattern), (share, pattern))
        )
        assert installed == wanted
    assert (prefix / "bin/diffusion_ros").exists()
    assert "from training.__main__ import main" in (prefix / "bin/diffusion_ros_training").read_text()
    (site,) = prefix.glob("lib/python3*/site-packages")
    assert (site / "training/__init__.py").exists()
    assert (site / "training/py.typed").exists()
    assert (site / "diffusion_ros/py.typed").exists()
    (metadata,) = site.glob("diffusion_ros-*.dist-info/METADATA")
    assert "Requires-Python: >=3.10" in metadata.read_text()

    environment = os.environ | {"PYTHONPATH": str(site), "AMENT_PREFIX_PATH": str(prefix)}
    find = "from ament_index_python.packages import get_package_share_directory as f; print(f('diffusion_ros'))"
    assert _python("-c", find, env=environment).strip() == str(share)
    # Each executable starts the module it is called after, with the Python that is first on the PATH.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    (site / "diffusion_ros/nodes/probe.py").write_text("import sys; print(__name__, __file__, sys.argv[1:])")
    probe = prefix / "lib/diffusion_ros/probe"
    shutil.copy2(prefix / "lib/diffusion_ros/policy_node", probe)
    answer = subprocess.run([probe, "a b"], env=environment, check=True, capture_output=True, text=True).stdout
    assert answer == f"__main__ {site}/diffusion_ros/nodes/probe.py ['a b']\n"


def _python(*arguments: str, env: dict[str, str] | None = None) -> str:
    """What this Python prints when run in the project's folder; its stderr is shown if it fails."""
    if env is None:
        env = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    result = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@functools.cache
def _imports(path: Path) -> frozenset[str]:
    """Top-level names of the modules that a source file imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return frozenset(found)


def _project_files() -> list[str]:
    """Files that are or would be tracked, relative to the project; skips where this is no git checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip(f"needs a git checkout: {listed.stderr.strip()}")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
