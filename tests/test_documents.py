"""The words: pages made from the code are up to date, links lead somewhere, and users find what is theirs."""

from __future__ import annotations

import linecache
import re
from pathlib import Path
from typing import Any

import documents
import pytest
import torch
import yaml

from diffusion_ros import robot_file, robot_section
from diffusion_ros.checkpoint import script

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "checkpoints").glob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<(?:img|a)\s[^>]*(?:src|href)=\"([^\"]+)\"")
SYSTEMS = ("simulation", "maze", "cartpole", "double_pendulum", "check", "rehearsal", "real_robot", "teleoperate")
FENCE = re.compile(r"^```.*?^```", re.M | re.S)


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, as GitHub and mkdocs make it of plain words."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_node_is_in_the_pages_made_from_the_code() -> None:
    """`make check` compares them: `python -m tests.documents --check`."""
    assert set(documents.NODES) == set(documents.executables())


def test_every_topic_service_and_parameter_is_described() -> None:
    for name in ("topics", "parameters"):
        rows = [line for line in (DOCS / f"{name}.md").read_text().splitlines() if line.startswith("| `")]
        assert len(rows) > 30
        for row in rows:
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
            said = cells[2] if name == "topics" else cells[-1]
            assert len(said) > 5, row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for match in LINK.finditer(FENCE.sub("", page.read_text())):
        target = match.group(1) or match.group(2)
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if page.is_relative_to(DOCS):
            assert path.is_relative_to(DOCS), f"{page.name}: {target} is no page of the site"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {target}"


def test_the_site_has_every_page() -> None:
    def names(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        items = entry.values() if isinstance(entry, dict) else entry
        return [name for item in items for name in names(item)]  # type: ignore[attr-defined]

    listed = names(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    for page in DOCS.rglob("*.md"):
        if page.name != "index.md":
            assert f"({page.relative_to(DOCS)})" in (DOCS / "index.md").read_text(), f"{page.name}: not in index.md"


def test_the_readme_is_short_and_names_every_system() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 140
    for command in ("make sim", "make test", *(f"diffusion_ros {name}" for name in SYSTEMS)):
        assert command in text


def test_prose_is_wrapped() -> None:
    for page in PAGES:
        for line in FENCE.sub("", page.read_text()).splitlines():
            table = line.lstrip().startswith(("|", "<", "!"))
            assert table or len(line) <= 120, f"{page.name}: {len(line)} characters: {line}"


def test_every_key_of_a_robots_file_is_described_once() -> None:
    page = (DOCS / "robot.md").read_text()
    table = page.partition("### Every key\n")[2].partition("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines() if line.startswith("| `")]
    keys = [key for row in rows for key in re.findall(r"`(\w+)`", row[0])]
    assert len(keys) == len(set(keys)) and set(keys) == robot_section.KEYS
    assert all(len(row) == 5 and all(cell.strip() for cell in row) for row in rows)


def test_the_robots_file_of_the_page_is_one_and_short(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (DOCS / "robot.md").read_text(), re.M | re.S)
    (tmp_path / "gen3.yaml").write_text(text)
    assert robot_file.read(tmp_path / "gen3.yaml").action.output == "twist"
    assert len(text.splitlines()) < 40


def test_the_page_names_all_robots_drivers_and_what_becomes_of_them() -> None:
    page = (DOCS / "robot.md").read_text()
    for name in (*robot_file.shipped(), *robot_file.DRIVERS, *robot_file.OUTPUTS, *robot_file.GRIPPER_OUTPUTS):
        assert f"`{name}`" in page, name


def test_images_are_small() -> None:
    for path in (DOCS / "media").iterdir():
        assert path.stat().st_size < 2_100_000, f"{path.name}: {path.stat().st_size} bytes"


def test_the_denoiser_of_the_documentation_trains_and_scripts() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "extending.md").read_text(), re.M | re.S)
    path = ROOT / "docs/extending.md"
    namespace = _module_of(code, path)
    denoiser = namespace["MlpDenoiser"](7, 20, 10, 2)
    x, t, cond = torch.randn(3, 10, 7), torch.tensor([0, 5, 99]), torch.randn(3, 2, 20)
    answer = denoiser(x, t, cond)
    assert answer.shape == x.shape
    answer.square().mean().backward()
    assert all(parameter.grad is not None for parameter in denoiser.parameters())
    torch.testing.assert_close(script(denoiser)(x, t, cond), answer)


def _module_of(code: str, path: Path) -> dict[str, Any]:
    """What the code defines; its source must be known to TorchScript, which reads it again."""
    name = f"<{path.name}>"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": path.stem}
    exec(compile(code, name, "exec"), namespace)
    return namespace
