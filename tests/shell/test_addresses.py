"""Addresses of checkpoints, and secrets that are cut out of what is said."""

from __future__ import annotations

import pytest

from pytest_flowforge.errors import CheckpointError
from pytest_flowforge.storage.addresses import Address, censored, is_address


@pytest.mark.parametrize(
    ("text", "protocol", "url"),
    [
        ("s3://bucket/prefix", "s3", "s3://bucket/prefix"),
        (" S3://bucket/prefix// ", "s3", "s3://bucket/prefix"),
        ("s3://bucket", "s3", "s3://bucket"),
        ("gs://bucket/a/b", "gs", "gs://bucket/a/b"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs", "abfs://container@account.dfs.core.windows.net/x"),
        ("file:///tmp/x", "file", "file:///tmp/x"),
        ("memory://x", "memory", "memory://x"),
        ("s3://$STAGE-bucket/x", "s3", "s3://test-bucket/x"),
    ],
)
def test_what_can_be_one(monkeypatch: pytest.MonkeyPatch, text: str, protocol: str, url: str) -> None:
    monkeypatch.setenv("STAGE", "test")
    assert is_address(text)
    assert Address.of(text) == Address(protocol, url)


@pytest.mark.parametrize("text", ["runs", "/srv/runs", "C:/runs", "~/runs"])
def test_paths_are_none(text: str) -> None:
    assert not is_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIAKEY:geheim1234@bucket/x",
        "s3://geheim1234@bucket/x",
        "abfs://container:geheim1234@account/x",
        "https://user:geheim1234@host/x",
        "$WITH@bucket/x",
    ],
)
def test_credentials_are_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("WITH", "s3://AKIAKEY:geheim1234")
    with pytest.raises(CheckpointError, match=r"holds credentials .*environment variables") as caught:
        Address.of(text)
    assert "geheim" not in str(caught.value)
    assert "AKIAKEY" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["://x", "simplecache::s3://b/x", "s3://b/x?versionId=1", "s3://b/x#1", "s3://b/../x", "1s3://b"]
)
def test_what_can_not_be_one(text: str) -> None:
    with pytest.raises(CheckpointError, match="can not be the URL of a checkpoint: it has to look like s3://"):
        Address.of(text)


def test_stores_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FSSPEC_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    one = Address.of("s3://bucket/x").key()
    assert Address.of("s3://bucket/x/").key() == one
    assert Address.of("s3://bucket/y").key() != one
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", "http://localhost:9000")
    assert Address.of("s3://bucket/x").key() != one


@pytest.mark.parametrize(
    "text",
    [
        "cannot sign with geheim-0123456789",
        "https://b.s3.amazonaws.com/x?X-Amz-Credential=GEHEIM&X-Amz-Signature=geheim failed",
        "https://user:geheim@host/x",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=geheim==;EndpointSuffix=core",
        "{'aws_secret_access_key': 'geheim'}",
        "Authorization: Bearer geheim.geheim",
        "no rights for AKIAGEHEIM1234567",
        "the key wJalrXUtnFEMI/K7MDENG/bPxRfiGEHEIMEXAMPLEKEY is wrong",
        "sig=geheim&se=2026",
    ],
)
def test_secrets_are_cut_out(text: str) -> None:
    said = censored(text, [("SOME_API_TOKEN", "geheim-0123456789"), ("HOME", "/home/me")])
    assert "geheim" not in said.lower()
    assert "..." in said


@pytest.mark.parametrize(
    "text",
    [
        "The specified bucket does not exist",
        'Could not connect to the endpoint URL: "http://127.0.0.1:9000/bucket/VERSION"',
        "[Errno 13] Permission denied: '/srv/pytest-of-root/pytest-315/test_another_machine_continues0/store'",
        "runs/20261129-205808-3f88/results/52a090a75252895df62eeb6cf48a901d.bin",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert censored(text, [("KEY", "a"), ("HOME", "/srv")]) == text


def test_long_texts_are_cut_and_lines_joined() -> None:
    assert censored("a\n  b", []) == "a b"
    assert len(censored("word " * 200, [])) == 303
