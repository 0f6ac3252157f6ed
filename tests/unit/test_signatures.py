"""Signed versions: what the trusted key has signed is served, all else is refused by name."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from typer.testing import CliRunner

from mlpipeline import environment
from mlpipeline.cli import app
from mlpipeline.errors import ArtifactError, ConfigurationError, ServingError
from mlpipeline.serving import model as models
from mlpipeline.steps import serving
from mlpipeline.store import artifacts, files, signatures
from mlpipeline.store.layout import ModelFolder, Workspace
from mlpipeline.store.signatures import SIGNING_KEY, TRUSTED_KEY
from support.stored_documents import model_card


def private(key: Any, password: bytes | None = None) -> str:
    how = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
    return str(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, how).decode())


def public(key: Any) -> str:
    form = pem.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_key().public_bytes(pem.Encoding.PEM, form).decode())


KEY, ANOTHER = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
SIGNS, TRUSTS = {SIGNING_KEY: private(KEY)}, {TRUSTED_KEY: public(KEY)}


def publish(workspace: Workspace, version: str, name: str = "m") -> ModelFolder:
    folder = workspace.model(name, version)
    with artifacts.publish(folder.path) as draft:
        model_card(name=name, version=version).save(draft / "model.json")
        (draft / "model.tflite").write_text(f"the weights of {version}")
    return folder


@pytest.fixture
def version(tmp_path: Path) -> ModelFolder:
    return publish(Workspace(tmp_path), "m-1")


def test_what_the_key_has_signed_is_accepted_and_stays_whole(version: ModelFolder) -> None:
    assert signatures.sign(version, SIGNS)
    assert signatures.check(version, "m", TRUSTS) == artifacts.digest(version.path)
    artifacts.verify(version.path)
    before = version.signature.read_bytes()
    signatures.sign(version, SIGNS)
    assert version.signature.read_bytes() == before


def test_where_no_key_is_trusted_or_signs_nothing_is_asked_for(version: ModelFolder) -> None:
    assert not signatures.sign(version, {})
    assert not signatures.sign(version, {SIGNING_KEY: " \n"})
    assert not version.signature.exists()
    assert signatures.check(version, "m", {}) is None


def test_openssl_says_the_same(version: ModelFolder, tmp_path: Path) -> None:
    signatures.sign(version, SIGNS)
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(TRUSTS[TRUSTED_KEY])
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(trusted), "-rawin"]
    command += ["-in", str(version.manifest), "-sigfile", str(version.signature)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("key", [None, ANOTHER])
def test_what_it_has_not_signed_is_refused_by_name(
    version: ModelFolder, key: ed25519.Ed25519PrivateKey | None
) -> None:
    why = "it has no signature"
    if key:
        signatures.sign(version, {SIGNING_KEY: private(key)})
        why = "another key's"
    with pytest.raises(ServingError, match=f"version m-1 of `m` is not signed.*{why}"):
        signatures.check(version, "m", TRUSTS)


def test_a_change_of_the_files_is_found_whatever_the_manifest_says(version: ModelFolder) -> None:
    signatures.sign(version, SIGNS)
    (version.path / "model.tflite").write_text("other weights")
    with pytest.raises(ArtifactError, match=r"model.tflite is damaged"):
        artifacts.verify(version.path)
    (version.path / artifacts.MANIFEST).unlink()
    artifacts._seal(version.path)
    artifacts.verify(version.path)
    with pytest.raises(ServingError, match="or of other files"):
        signatures.check(version, "m", TRUSTS)


@pytest.mark.parametrize(("other", "name"), [("m-2", "m"), ("other-1", "other")])
def test_the_signed_files_of_another_version_are_not_accepted_in_its_place(
    version: ModelFolder, tmp_path: Path, other: str, name: str
) -> None:
    older = publish(Workspace(tmp_path), other, name)
    signatures.sign(older, SIGNS)
    shutil.rmtree(version.path)
    shutil.copytree(older.path, version.path)
    with pytest.raises(ServingError, match=f"it holds version {other} of `{name}`"):
        signatures.check(version, "m", TRUSTS)


def test_a_damaged_version_is_not_signed(version: ModelFolder) -> None:
    (version.path / "model.tflite").write_text("other weights")
    with pytest.raises(ArtifactError):
        signatures.sign(version, SIGNS)
    assert not version.signature.exists()


@pytest.mark.parametrize(
    "text",
    [
        "secret nonsense",
        private(KEY).replace("M", "N"),
        private(KEY, password=b"secret"),
        private(ec.generate_private_key(ec.SECP256R1())),
        public(KEY),
    ],
)
def test_what_is_no_such_key_is_an_error_that_does_not_tell_it(
    version: ModelFolder, text: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"{SIGNING_KEY} holds no private key") as failed:
        signatures.sign(version, {SIGNING_KEY: text})
    assert text not in str(failed.value)
    if text != public(KEY):
        with pytest.raises(ConfigurationError, match=f"{TRUSTED_KEY} holds no public key"):
            signatures.check(version, "m", {TRUSTED_KEY: text})


def test_a_replica_does_not_even_load_what_it_must_not_serve(
    version: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        pytest.fail("it was loaded")

    monkeypatch.setattr(models, "load", load)
    monkeypatch.setenv(TRUSTED_KEY, TRUSTS[TRUSTED_KEY])
    with pytest.raises(ServingError, match="it has no signature"):
        serving.serve(version.path, name="m", http_port=1, grpc_port=2, replica="r")


def test_a_person_signs_the_current_version(
    version: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path)
    files.write_text(workspace.current_version("m"), "m-1\n")
    config = tmp_path / "config.yaml"
    config.write_text("name: m\ncandidates: {cnn: {model: cnn}}\n")
    command = ["sign", "--config", str(config), "--workspace", str(workspace)]
    with pytest.raises(ConfigurationError, match=f"{SIGNING_KEY} is not set"):
        CliRunner().invoke(app.app, command, catch_exceptions=False)
    monkeypatch.setenv(SIGNING_KEY, SIGNS[SIGNING_KEY])
    done = CliRunner().invoke(app.app, command, catch_exceptions=False)
    assert done.output == f"m-1: {version.signature}\n"
    assert signatures.check(version, "m", TRUSTS)


def test_the_key_is_for_who_signs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIGNING_KEY, SIGNS[SIGNING_KEY])
    assert SIGNING_KEY not in environment.of_children()
    assert signatures.key_to_sign() == SIGNS
    monkeypatch.delenv(SIGNING_KEY)
    assert signatures.key_to_sign() == {}
