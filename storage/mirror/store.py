"""An object store (S3, Google Cloud Storage, Azure) through Arrow's own clients: read, write, list, remove."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from storage.errors import UserError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_CHUNK = 1 << 24
_CONNECT, _REQUEST = 5.0, 60.0  # seconds
_SCHEMES = ("s3", "gs", "abfs", "abfss")
_QUERY = {"s3": {"region", "scheme", "endpoint_override"}, "gs": {"scheme", "endpoint_override", "anonymous"}}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile in ~/.aws, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, gcloud auth application-default login, or the machine's account",
    "abfs": "az login, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or the machine's identity",
}
#: What the clients say, as patterns, and what it means.
_DENIED = re.compile(r"ACCESS_DENIED|AccessDenied|HTTP status 40[13]|Forbidden|PERMISSION_DENIED|Unauthorized", re.I)
_KEYS = re.compile(r"INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN|credential|UNAUTHENTICATED", re.I)
_NO_BUCKET = re.compile(
    r"NO_SUCH_BUCKET|NoSuchBucket|Bucket '[^']*' not found|ContainerNotFound|bucket does not exist", re.I
)
_UNREACHABLE = re.compile(r"NETWORK_CONNECTION|curlCode|timed? ?out|resolve host|Connection refused|UNAVAILABLE", re.I)


class StoreFault(UserError):
    """A request that the store did not answer as it should. `lasting`: asking again will not help."""

    def __init__(self, what: str, *, where: str, remedy: str, lasting: bool) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.lasting = lasting


class NoObject(StoreFault):
    """An object that is not in the store."""

    def __init__(self, where: str) -> None:
        super().__init__(
            "the object is not in the store",
            where=where,
            remedy="push the run again from the machine that has it: python -m storage.mirror push <run folder>",
            lasting=True,
        )


class ObjectStore:
    """The objects below one address, by their paths relative to it."""

    def __init__(self, files: "FileSystem", base: str, address: str) -> None:
        self._files, self._base, self.address = files, base.strip("/"), address.rstrip("/")

    def where(self, path: str) -> str:
        return f"{self.address}/{path}"

    def sizes(self) -> dict[str, int]:
        """Bytes of every object, by path."""
        from pyarrow.fs import FileSelector, FileType

        with self._faults(""):
            infos = self._files.get_file_info(FileSelector(self._base, recursive=True, allow_not_found=True))
        return {info.path[len(self._base) + 1 :]: info.size for info in infos if info.type == FileType.File}

    def read(self, path: str) -> bytes:
        """Raises NoObject when it is missing."""
        with self._faults(path), self._files.open_input_stream(self._at(path)) as source:
            return bytes(source.read())

    def write(self, path: str, content: bytes) -> None:
        with self._faults(path), self._files.open_output_stream(self._at(path)) as sink:
            sink.write(content)

    def upload(self, path: str, source: Path) -> tuple[int, str]:
        """Copy a file there; returns the bytes and sha256 (hex) of what was sent. OSError: the file cannot be read."""
        sha, sent = hashlib.sha256(), 0
        with source.open("rb") as file:
            with self._faults(path):
                sink = self._files.open_output_stream(self._at(path))
            try:
                while chunk := file.read(_CHUNK):
                    sha.update(chunk)
                    sent += len(chunk)
                    with self._faults(path):
                        sink.write(chunk)
            finally:
                with self._faults(path):
                    sink.close()
        return sent, sha.hexdigest()

    def download(self, path: str, target: Path) -> str:
        """Copy an object into the file `target`; returns the sha256 (hex) of what came. Raises NoObject."""
        sha = hashlib.sha256()
        with self._faults(path):
            source = self._files.open_input_stream(self._at(path))
        with source, target.open("wb") as file:
            while True:
                with self._faults(path):
                    chunk = source.read(_CHUNK)
                if not chunk:
                    return sha.hexdigest()
                sha.update(chunk)
                file.write(chunk)

    def remove(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""
        try:
            with self._faults(path):
                self._files.delete_file(self._at(path))
        except NoObject:
            pass

    def _at(self, path: str) -> str:
        return f"{self._base}/{path}"

    @contextmanager
    def _faults(self, path: str) -> Iterator[None]:
        """Turn an error of the client into a StoreFault."""
        try:
            yield
        except OSError as error:
            raise _explained(error, self.where(path)) from error


def open_store(address: str, endpoint: str | None = None) -> ObjectStore:
    """The store at `address`; nothing is asked of it yet, except the region of a bucket on AWS.

    endpoint: of an S3 or GCS server that is not the provider's. Raises UserError for an address that is none.
    """
    parts = urlsplit(address)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    _check(address, parts.scheme, parts.netloc, options, endpoint)
    plain = f"{parts.scheme}://{parts.netloc}{parts.path}"
    if parts.scheme.startswith("abfs"):
        from pyarrow.fs import FileSystem

        try:
            files, base = FileSystem.from_uri(address)
        except (OSError, ValueError) as error:
            raise _explained(error, plain) from error
        return ObjectStore(files, base, plain)
    endpoint = endpoint or options.get("endpoint_override")
    scheme, _, host = endpoint.rpartition("://") if endpoint else ("", "", None)
    scheme = scheme or options.get("scheme", "https")
    try:
        files = _s3(parts.netloc, options, scheme, host) if parts.scheme == "s3" else _gcs(options, scheme, host)
    except (OSError, ValueError) as error:
        raise _explained(error, plain) from error
    return ObjectStore(files, f"{parts.netloc}{parts.path}", plain)


def _s3(bucket: str, options: dict[str, str], scheme: str, host: str | None) -> "FileSystem":
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    elsewhere = host or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL_S3")
    region = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return S3FileSystem(
        region=region or (None if elsewhere else resolve_s3_region(bucket)),
        scheme=scheme,
        endpoint_override=host,
        connect_timeout=_CONNECT,
        request_timeout=_REQUEST,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=3),
        allow_delayed_open=True,
    )


def _gcs(options: dict[str, str], scheme: str, host: str | None) -> "FileSystem":
    from pyarrow.fs import GcsFileSystem

    return GcsFileSystem(
        anonymous=options.get("anonymous") == "true",
        scheme=scheme,
        endpoint_override=host,
        retry_time_limit=timedelta(seconds=15),
    )


def _check(address: str, scheme: str, place: str, options: dict[str, str], endpoint: str | None) -> None:
    """Raises UserError for an address of another kind, and for credentials in it."""
    remedy = "write s3://bucket/prefix, gs://bucket/prefix or abfss://container@account.dfs.core.windows.net/prefix"
    if scheme not in _SCHEMES:
        known = f"the scheme {scheme!r} is not one of {', '.join(_SCHEMES)}" if scheme else "there is no scheme"
        raise UserError(f"this is not the address of an object store: {known}", where=_shown(address), remedy=remedy)
    bucket = place.rpartition("@")[2] if scheme in _QUERY else place.rpartition("@")[0]
    if not bucket:
        kind = "bucket" if scheme in _QUERY else "container"
        raise UserError(f"the address names no {kind}", where=_shown(address), remedy=remedy)
    if (scheme in _QUERY and "@" in place) or ":" in place.rpartition("@")[0]:
        raise UserError(
            "the address holds credentials, which would be written to config.yaml",
            where=_shown(address),
            remedy=f"take them out of the address; they are found in {_CREDENTIALS[scheme[:4]]}",
        )
    unknown = sorted(options.keys() - _QUERY.get(scheme, options.keys()))
    if unknown:
        raise UserError(
            f"the address has options that {scheme} does not take: {', '.join(unknown)}",
            where=_shown(address),
            remedy=f"use {', '.join(sorted(_QUERY[scheme]))}; credentials belong in the environment",
        )
    if endpoint is not None and scheme not in _QUERY:
        raise UserError(
            "an endpoint is for S3 and GCS",
            where=f"storage.endpoint_override={endpoint}",
            remedy="for Azure write ?blob_storage_authority=host:port&enable_tls=false at the end of the address",
        )


def _shown(address: str) -> str:
    """The address without what may be a key: options, and what stands before a host."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme else address


def _explained(error: Exception, where: str) -> StoreFault:
    said = " ".join(str(error).split())[:300]
    scheme = urlsplit(where).scheme[:4]
    credentials = _CREDENTIALS.get(scheme, "the environment")
    if _NO_BUCKET.search(said):
        return StoreFault(
            f"there is no such bucket or container: {said}",
            where=where,
            remedy="create it, or correct its name",
            lasting=True,
        )
    if _KEYS.search(said):
        return StoreFault(
            f"the store does not take the credentials, or none were found: {said}",
            where=where,
            remedy=f"set {credentials}",
            lasting=True,
        )
    if _DENIED.search(said):
        return StoreFault(
            f"the store refuses access: {said}",
            where=where,
            remedy=f"allow these credentials to read, write, list and delete there, or set others: {credentials}",
            lasting=True,
        )
    if isinstance(error, FileNotFoundError):
        return NoObject(where)
    if _UNREACHABLE.search(said):
        return StoreFault(
            f"the store does not answer: {said}",
            where=where,
            remedy="check the connection and the address (for a server of your own: storage.endpoint_override)",
            lasting=False,
        )
    return StoreFault(
        said, where=where, remedy="see the store's message, then give the same command again", lasting=False
    )
