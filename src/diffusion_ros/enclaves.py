"""`diffusion_ros enclaves FOLDER`: who may say and command what on a robot's network, for SROS 2.

DDS Security (OMG formal/18-04-01) gives each process a certificate and a signed list of topics that it may publish and
subscribe. SROS 2 calls that an enclave, and a folder of them a keystore. This makes one with four enclaves, in the
layout of `ros2 security`, which can add others.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from diffusion_ros.atomic_file import atomic_folder
from diffusion_ros.dds_security import PREFIX
from diffusion_ros.installation import require
from diffusion_ros.robot_command import Parser

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

COMMAND = "enclaves"
_YEARS = 10
_DAY = datetime.timedelta(days=1)

_ALWAYS = ("ros_discovery_info", "rt/rosout", "rt/parameter_events")
"""What every ROS process publishes."""
_PARAMETERS = (
    "/describe_parameters",
    "/get_parameters",
    "/get_parameter_types",
    "/list_parameters",
    "/set_parameters",
    "/set_parameters_atomically",
    "/get_type_description",
)
"""Services that every ROS node offers."""
_STEERING = (
    "executor/set_enabled",
    "executor/estop",
    "executor/estop_reset",
    "*/reset",
    "*/next",
    "*/generate",
    "*/plan",
)
"""Services by which a person steers, and those of a recorder."""
_RECORDER = tuple(f"recorder/{name}" for name in ("start", "stop", "success", "failure", "discard"))


def _requests(*services: str) -> tuple[str, ...]:
    """The topics that calls of these services go by, in any namespace."""
    return tuple(f"rq/*{service}Request" for service in services)


def _replies(*services: str) -> tuple[str, ...]:
    return tuple(f"rr/*{service}Reply" for service in services)


@dataclass(frozen=True)
class Enclave:
    """What a process may do. What is allowed nowhere is denied; what is denied here is, whatever is allowed."""

    name: str
    who: str
    """In words."""
    publish: tuple[str, ...]
    """Topics of DDS, with * for anything: rt/ before a topic of ROS, rq/ a request, rr/ a reply."""
    subscribe: tuple[str, ...]
    never_publish: tuple[str, ...] = ()


ENCLAVES = (
    Enclave("nodes", "the nodes of this project", ("*",), ("*",)),
    Enclave(
        "driver",
        "a robot's drivers and cameras: all but what moves the robot, and the services of the executor",
        ("*",),
        ("*",),
        never_publish=(
            *_requests("executor/*"),
            *(f"rt/*{topic}" for topic in ("action_chunk", "executed_action", "eef_command")),
        ),
    ),
    Enclave(
        "operator",
        "a person who steers: sees everything, calls the services that stop, enable, reset and record",
        (*_ALWAYS, *_requests(*_STEERING, *_RECORDER), *_replies(*_PARAMETERS)),
        ("*",),
    ),
    Enclave(
        "viewer",
        "RViz and whoever looks on: sees everything, commands nothing",
        (*_ALWAYS, *_replies(*_PARAMETERS)),
        (*_ALWAYS, "rt/*", *_requests(*_PARAMETERS)),
    ),
)
"""Each process that `diffusion_ros` starts is of the enclave `nodes`."""

_GOVERNANCE = """\
<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
     xsi:noNamespaceSchemaLocation="http://www.omg.org/spec/DDS-SECURITY/20170901/omg_shared_ca_governance.xsd">
  <domain_access_rules>
    <domain_rule>
      {domains}
      <allow_unauthenticated_participants>false</allow_unauthenticated_participants>
      <enable_join_access_control>true</enable_join_access_control>
      <discovery_protection_kind>ENCRYPT</discovery_protection_kind>
      <liveliness_protection_kind>ENCRYPT</liveliness_protection_kind>
      <rtps_protection_kind>SIGN</rtps_protection_kind>
      <topic_access_rules>
        <topic_rule>
          <topic_expression>*</topic_expression>
          <enable_discovery_protection>true</enable_discovery_protection>
          <enable_liveliness_protection>true</enable_liveliness_protection>
          <enable_read_access_control>true</enable_read_access_control>
          <enable_write_access_control>true</enable_write_access_control>
          <metadata_protection_kind>ENCRYPT</metadata_protection_kind>
          <data_protection_kind>ENCRYPT</data_protection_kind>
        </topic_rule>
      </topic_access_rules>
    </domain_rule>
  </domain_access_rules>
</dds>
"""
"""Nobody without a certificate takes part, and everything is encrypted."""
_PERMISSIONS = """\
<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
     xsi:noNamespaceSchemaLocation="http://www.omg.org/spec/DDS-SECURITY/20170901/omg_shared_ca_permissions.xsd">
  <permissions>
    <grant name="{name}">
      <subject_name>CN={name}</subject_name>
      <validity>
        <not_before>{begin}</not_before>
        <not_after>{end}</not_after>
      </validity>
{rules}
      <default>DENY</default>
    </grant>
  </permissions>
</dds>
"""
_DOMAINS = "<domains><id_range><min>0</min><max>232</max></id_range></domains>"


def permissions(enclave: Enclave, begin: datetime.datetime, end: datetime.datetime) -> str:
    """The permissions of DDS Security as XML, to be signed. The first rule that fits a topic counts."""

    def rule(kind: str, publish: Sequence[str], subscribe: Sequence[str]) -> str:
        lines = [f"      <{kind}>", f"        {_DOMAINS}"]
        for what, topics in (("publish", publish), ("subscribe", subscribe)):
            if topics:
                names = "".join(f"<topic>{escape(topic)}</topic>" for topic in topics)
                lines.append(f"        <{what}><topics>{names}</topics></{what}>")
        return "\n".join([*lines, f"      </{kind}>"])

    rules = [rule("deny_rule", enclave.never_publish, ())] if enclave.never_publish else []
    rules.append(rule("allow_rule", enclave.publish, enclave.subscribe))
    return _PERMISSIONS.format(
        name=f"{PREFIX}/{enclave.name}",
        begin=begin.strftime("%Y-%m-%dT%H:%M:%S"),
        end=end.strftime("%Y-%m-%dT%H:%M:%S"),
        rules="\n".join(rules),
    )


def make(folder: Path) -> None:
    """Writes a keystore: `public`, `private` (keep it off the robot) and `enclaves`. Raises FileExistsError for a
    folder that has something in it, ModuleNotFoundError without the library `cryptography`."""
    require("cryptography")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: there is something already, a new folder expected")
    with atomic_folder(folder) as whole:
        _fill(whole)


def _fill(folder: Path) -> None:
    # A certificate that begins now is not valid yet on a machine whose clock is behind.
    begin = datetime.datetime.now(datetime.timezone.utc) - _DAY
    end = begin + 365 * _YEARS * _DAY
    authority_key = _key()
    authority = _certificate("diffusion_ros", authority_key, None, begin, end)
    _write(folder / "private/ca.key.pem", _private(authority_key), mode=0o600)
    _write(folder / "public/ca.cert.pem", _public(authority))
    for kind in ("identity", "permissions"):
        (folder / f"private/{kind}_ca.key.pem").symlink_to("ca.key.pem")
        (folder / f"public/{kind}_ca.cert.pem").symlink_to("ca.cert.pem")
    rules = folder / "enclaves"
    governance = _GOVERNANCE.format(domains=_DOMAINS)
    _write(rules / "governance.xml", governance.encode())
    _write(rules / "governance.p7s", _signed(governance, authority, authority_key))
    for enclave in ENCLAVES:
        own = Path(f"{rules}{PREFIX}/{enclave.name}")
        key = _key()
        certificate = _certificate(f"{PREFIX}/{enclave.name}", key, (authority, authority_key), begin, end)
        text = permissions(enclave, begin, end)
        _write(own / "key.pem", _private(key), mode=0o600)
        _write(own / "cert.pem", _public(certificate))
        _write(own / "permissions.xml", text.encode())
        _write(own / "permissions.p7s", _signed(text, authority, authority_key))
        (own / "governance.p7s").symlink_to("../../governance.p7s")
        for kind in ("identity", "permissions"):
            (own / f"{kind}_ca.cert.pem").symlink_to(f"../../../public/{kind}_ca.cert.pem")


def _key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _certificate(
    name: str,
    key: EllipticCurvePrivateKey,
    authority: tuple[Certificate, EllipticCurvePrivateKey] | None,
    begin: datetime.datetime,
    end: datetime.datetime,
) -> Certificate:
    """Signed by the authority; without one by itself, as one that signs others."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority[0].subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None if authority else 1), critical=True)
    )
    return builder.sign(authority[1] if authority else key, SHA256())


def _signed(text: str, certificate: Certificate, key: EllipticCurvePrivateKey) -> bytes:
    """As S/MIME, readable, with its signature behind it."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

    builder = pkcs7.PKCS7SignatureBuilder().set_data(text.encode()).add_signer(certificate, key, SHA256())
    return builder.sign(Encoding.SMIME, [pkcs7.PKCS7Options.Text, pkcs7.PKCS7Options.DetachedSignature])


def _private(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)


def main(given: Sequence[str]) -> int:
    """Raises UsageError for bad input, OSError where the folder cannot be written."""
    who = "; ".join(f"{PREFIX}/{enclave.name}: {enclave.who}" for enclave in ENCLAVES)
    parser = Parser(COMMAND, "FOLDER", f"Makes a keystore for SROS 2: who may say and command what. {who}.")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a new folder")
    folder = parser.parse_args(given).folder.absolute()
    make(folder)
    print(f"{folder}: " + ", ".join(f"{PREFIX}/{enclave.name}" for enclave in ENCLAVES))
    print(
        "On each machine, for each process: export ROS_SECURITY_ENABLE=true ROS_SECURITY_STRATEGY=Enforce "
        f"ROS_SECURITY_KEYSTORE={folder}. Keep {folder}/private off the robot.",
        file=sys.stderr,
    )
    return 0
