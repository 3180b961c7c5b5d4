"""Addresses of checkpoints, and secrets that are cut out of what is said."""

from __future__ import annotations

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

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


@pytest.mark.parametrize("text", ["runs", "/srv/runs", "C:/runs", "~/runs", "s3", "s3/x", "gs.old:/x"])
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


@pytest.mark.parametrize(("text", "shown"), [("s3:/bucket/x", "s3:/bucket/x"), ("S3:geheim1234@bucket", "...@bucket")])
def test_one_that_lacks_a_slash_is_no_folder(text: str, shown: str) -> None:
    assert is_address(text)
    with pytest.raises(CheckpointError) as caught:
        Address.of(text)
    assert str(caught.value).startswith(f"{shown} can not be the URL of a checkpoint: it has to look like s3://")
    assert "geheim" not in str(caught.value)


def test_stores_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FSSPEC_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    one = Address.of("s3://bucket/x").key()
    assert Address.of("s3://bucket/x/").key() == one
    assert Address.of("s3://bucket/y").key() != one
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", "http://localhost:9000")
    assert Address.of("s3://bucket/x").key() != one


AZURE = "DefaultEndpointsProtocol=https;AccountName={};AccountKey={};EndpointSuffix=core.windows.net"


@pytest.mark.parametrize(
    ("url", "name", "one", "other"),
    [
        ("az://runs/x", "AZURE_STORAGE_ACCOUNT_NAME", "mine", "yours"),
        ("abfs://runs/x", "FSSPEC_ABFS_ACCOUNT_NAME", "mine", "yours"),
        ("abfss://runs/x", "AZURE_STORAGE_CONNECTION_STRING", AZURE.format("mine", "k"), AZURE.format("yours", "k")),
        ("az://runs/x", "FSSPEC_AZ_CONNECTION_STRING", AZURE.format("mine", "k"), AZURE.format("yours", "k")),
        ("gs://runs/x", "STORAGE_EMULATOR_HOST", "http://a", "http://b"),
        ("gcs://runs/x", "FSSPEC_GCS_ENDPOINT_URL", "http://a", "http://b"),
        ("s3a://runs/x", "AWS_ENDPOINT_URL_S3", "http://a", "http://b"),
    ],
)
def test_accounts_and_endpoints_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, url: str, name: str, one: str, other: str
) -> None:
    keys = {Address.of(url).key()}
    for value in (one, other, one):
        monkeypatch.setenv(name, value)
        keys.add(Address.of(url).key())
    assert len(keys) == 3


def test_a_new_key_of_the_same_account_is_the_same_store(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for secret in ("first==", "second=="):
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", AZURE.format("mine", secret))
        keys.add(Address.of("az://runs/x").key())
    assert len(keys) == 1


def test_the_configuration_of_fsspec_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Address.of("s3://runs/x").key()
    monkeypatch.setitem(fsspec.config.conf, "s3", {"client_kwargs": {"endpoint_url": "http://a"}})
    assert Address.of("s3://runs/x").key() != before
    # Variables are texts, whatever they are for.
    monkeypatch.setitem(fsspec.config.conf, "s3", {"client_kwargs": '{"endpoint_url": "http://a"}'})
    assert Address.of("s3://runs/x").key()
    monkeypatch.setitem(fsspec.config.conf, "abfs", {"account_name": "mine"})
    before = Address.of("abfs://runs/x").key()
    monkeypatch.setitem(fsspec.config.conf, "abfs", {"account_name": "yours"})
    assert Address.of("abfs://runs/x").key() != before


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "webhdfs://host:9870/x", "sftp://host/x", "https://host/x", "nosuch://x", "local:///x"]
)
def test_what_was_never_tried_is_refused_by_name(url: str) -> None:
    protocol = url.partition(":")[0]
    with pytest.raises(CheckpointError, match=rf"^{url} can .*: {protocol}:// is not supported; use a folder, or one"):
        Address.of(url)


def test_tries_of_s3fs_do_not_multiply_those_of_boto() -> None:
    pytest.importorskip("s3fs")
    fs, root = Address.of("s3://bucket/x").file_system()
    assert root == "bucket/x"
    assert fs.retries == 2
    # What tasks have of their own is left alone.
    assert type(fs).retries > 2


def test_what_the_url_says_besides_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of Azure says the account."""
    monkeypatch.setattr(
        MemoryFileSystem, "_get_kwargs_from_urls", staticmethod(lambda url: {"account_name": url.partition("@")[2]})
    )
    fs, _ = Address.of("memory://x/container@account").file_system()
    assert fs.storage_options["account_name"] == "account"


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
