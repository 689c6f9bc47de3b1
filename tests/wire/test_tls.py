"""Certificates: a lab's own authority is believed where it is named, and nobody else is."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from bleepdb.atlas import Connection, ServerAtlas
from bleepdb.errors import AtlasError, InputError

pytestmark = [
    pytest.mark.wire,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates"),
]
KEY = "full-key-0f5b"
QUICK = {"deadline_s": 1.0, "timeout_s": 1.0}


def certificate(folder, name):
    """A certificate for 127.0.0.1 that signs itself; the PEM with its key, and the one without."""
    cert, key, both = (folder / f"{name}{end}" for end in (".crt", ".key", ".pem"))
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=lab", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", str(key), "-out", str(cert),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    both.write_text(cert.read_text() + key.read_text())
    return both, cert


@pytest.fixture(scope="module")
def secure(running, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    both, cert = certificate(folder, "lab")
    with running.Face(None, "--cert", str(both), "--key", KEY) as face:
        face.https = f"https://127.0.0.1:{face.port}"
        face.authority = cert
        face.stranger = certificate(folder, "stranger")[1]
        yield face


def test_the_named_authority_is_believed(secure, lab):
    connection = Connection(api_key=KEY, ca_cert=secure.authority)
    with ServerAtlas(secure.https, connection) as server:
        lab.prepare(server)
        assert lab.publish(server, "S1").status == "added"
        assert server.location == secure.https


@pytest.mark.parametrize("named", [False, True])
def test_nobody_else_is(secure, named):
    connection = Connection(api_key=KEY, ca_cert=secure.stranger if named else None)
    with pytest.raises(AtlasError, match=r"no secure connection.*CERTIFICATE.*--ca-cert") as caught:
        ServerAtlas(secure.https, connection)
    assert "attempts" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_https_to_a_server_that_speaks_http(face):
    with pytest.raises(AtlasError, match=r"no secure connection.*check the scheme"):
        ServerAtlas(face.url.replace("http:", "https:"), Connection(**QUICK))


def test_http_to_a_server_that_speaks_https(secure):
    with pytest.raises(AtlasError, match=r"the connection broke|no answer"):
        ServerAtlas(f"http://127.0.0.1:{secure.port}", Connection(**QUICK))


def test_a_file_that_holds_no_certificate(secure, tmp_path):
    (tmp_path / "x.pem").write_text("none")
    with pytest.raises(InputError, match="no PEM file"):
        ServerAtlas(secure.https, Connection(ca_cert=tmp_path / "x.pem"))
    with pytest.raises(InputError, match="no such file"):
        Connection(ca_cert=tmp_path / "none.pem")
