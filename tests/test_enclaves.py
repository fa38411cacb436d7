"""The keystore for SROS 2: certificates and signatures as openssl sees them, and who may command what."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import stat
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from ros_graph import own_domain

from diffusion_ros import bringup
from diffusion_ros.enclaves import ENCLAVES, make

ROOT = Path(__file__).parents[1]
NAMES = [enclave.name for enclave in ENCLAVES]


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("security") / "keystore"
    make(folder)
    return folder


def allowed(keystore: Path, enclave: str, what: str, topic: str) -> bool:
    """As DDS Security decides (OMG formal/18-04-01, 9.4.1.3.2.3): the first rule that has the topic, else the
    default."""
    text = (keystore / f"enclaves/diffusion_ros/{enclave}/permissions.xml").read_text()
    grant = ElementTree.fromstring(text).find("permissions/grant")
    assert grant is not None and grant.findtext("subject_name") == f"CN=/diffusion_ros/{enclave}"
    assert grant.findtext("default") == "DENY"
    for rule in grant:
        if rule.tag in ("allow_rule", "deny_rule"):
            topics = [element.text or "" for element in rule.iterfind(f"{what}/topics/topic")]
            if any(fnmatch.fnmatchcase(topic, pattern) for pattern in topics):
                return rule.tag == "allow_rule"
    return False


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("name", NAMES)
def test_signatures_and_certificates_are_of_the_authority_and_of_nobody_else(name: str, keystore: Path) -> None:
    own = keystore / "enclaves/diffusion_ros" / name
    authority = str(own / "permissions_ca.cert.pem")

    def openssl(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["openssl", *words], capture_output=True)

    assert openssl("verify", "-CAfile", str(own / "identity_ca.cert.pem"), str(own / "cert.pem")).returncode == 0
    for document in ("permissions", "governance"):
        signed = own / f"{document}.p7s"
        verified = openssl("smime", "-verify", "-text", "-in", str(signed), "-CAfile", authority)
        assert verified.returncode == 0, verified.stderr
        plain = own.parents[1] / "governance.xml" if document == "governance" else own / "permissions.xml"
        assert verified.stdout.replace(b"\r\n", b"\n") == plain.read_bytes()
        ElementTree.fromstring(plain.read_text())
        forged = own.parents[3] / "forged.p7s"
        forged.write_bytes(signed.read_bytes().replace(b"false", b"true ").replace(b"DENY", b"ALLO"))
        assert openssl("smime", "-verify", "-text", "-in", str(forged), "-CAfile", authority).returncode != 0
    key = openssl("pkey", "-in", str(own / "key.pem"), "-pubout").stdout
    assert key == openssl("x509", "-in", str(own / "cert.pem"), "-noout", "-pubkey").stdout != b""


def test_keys_are_for_their_owner_alone(keystore: Path) -> None:
    keys = [path for path in keystore.rglob("*key.pem") if not path.is_symlink()]
    assert len(keys) == 1 + len(NAMES)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys)


@pytest.mark.parametrize("namespace", ["", "left/"])
def test_who_may_command_what(namespace: str, keystore: Path) -> None:
    estop = f"rq/{namespace}executor/estopRequest"
    enable = f"rq/{namespace}executor/set_enabledRequest"
    parameters = f"rq/{namespace}executor/set_parametersRequest"
    chunk, pose = f"rt/{namespace}action_chunk", f"rt/{namespace}eef_pose"
    can = {
        name: [t for t in (estop, enable, parameters, chunk, pose) if allowed(keystore, name, "publish", t)]
        for name in NAMES
    }
    assert can == {
        "nodes": [estop, enable, parameters, chunk, pose],
        "driver": [pose],
        "operator": [estop, enable],
        "viewer": [],
    }
    for name in NAMES:
        assert allowed(keystore, name, "subscribe", chunk)
        assert allowed(keystore, name, "publish", "ros_discovery_info")
        # Which each node of ROS offers, its own too.
        assert allowed(keystore, name, "subscribe", f"rq/{namespace}rviz/get_parametersRequest")
        assert allowed(keystore, name, "publish", f"rr/{namespace}rviz/get_parametersReply")
    assert allowed(keystore, "operator", "subscribe", f"rr/{namespace}executor/estopReply")


def test_a_person_may_call_all_that_steers(keystore: Path) -> None:
    """Services of docs/topics.md, but for the driver's own, and the fingers of one who drives."""
    rows = re.findall(r"^\| `([a-z_]+/[a-z_]+)` \| (?:std_srvs|nav_msgs)/", (ROOT / "docs/topics.md").read_text(), re.M)
    services = [row for row in rows if not row.startswith(("franka_driver/", "teleop/"))]
    assert len(services) > 10
    for service in services:
        assert allowed(keystore, "operator", "publish", f"rq/{service}Request"), service


def test_a_folder_that_is_not_empty_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").touch()
    assert bringup.main(["enclaves", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{tmp_path}: there is something already, a new folder expected\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["diffusion_ros.nodes.executor_node", "--ros-args", "--enclave", "/diffusion_ros/nodes"], "keystore"),
        (["diffusion_ros", "simulation", "--task", "lift", "--output-dir", "run"], "keystore"),
        (["diffusion_ros", "simulation", "--task", "lift", "--output-dir", "run"], "nowhere"),
    ],
)
def test_where_security_cannot_be_a_line_says_so(words: list[str], folder: str, keystore: Path, tmp_path: Path) -> None:
    """pip's Fast DDS has none; a ROS installation's would start."""
    security = {
        "ROS_SECURITY_ENABLE": "true",
        "ROS_SECURITY_STRATEGY": "Enforce",
        "ROS_SECURITY_KEYSTORE": str(keystore if folder == "keystore" else tmp_path / folder),
    }
    with own_domain():
        run = subprocess.run(
            [sys.executable, "-m", *words], env={**os.environ, **security}, cwd=tmp_path, capture_output=True, text=True
        )
    assert run.returncode == 2
    *before, last = run.stderr.splitlines()
    assert last.startswith("ROS_SECURITY_ENABLE true: ") and ("without security" in last or "nowhere" in last)
    assert all("Found security directory" in line or line.startswith("ROS_DOMAIN_ID") for line in before)
