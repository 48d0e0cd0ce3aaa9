"""A real S3 server on loopback (moto in server mode), with a bucket, and what tests do to its objects."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from moto.server import ThreadedMotoServer
from pyarrow.fs import FileSelector, FileType, S3FileSystem

from storage.mirror.store import ObjectStore, open_store

BUCKET = "runs"
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3Server:
    """endpoint: such as http://127.0.0.1:41234."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        host = endpoint.removeprefix("http://")
        self.files = S3FileSystem(
            endpoint_override=host,
            scheme="http",
            access_key="testing",
            secret_key="testing",
            allow_bucket_creation=True,
        )
        self.files.create_dir(BUCKET)

    def store(self, prefix: str) -> ObjectStore:
        return open_store(f"s3://{BUCKET}/{prefix}", self.endpoint)

    def objects(self, prefix: str) -> list[str]:
        """Paths below the prefix."""
        infos = self.files.get_file_info(FileSelector(f"{BUCKET}/{prefix}", recursive=True, allow_not_found=True))
        return sorted(info.path.removeprefix(f"{BUCKET}/{prefix}/") for info in infos if info.type == FileType.File)

    def read(self, prefix: str, path: str) -> bytes:
        with self.files.open_input_stream(f"{BUCKET}/{prefix}/{path}") as source:
            return bytes(source.read())

    def write(self, prefix: str, path: str, content: bytes) -> None:
        with self.files.open_output_stream(f"{BUCKET}/{prefix}/{path}") as sink:
            sink.write(content)

    def remove(self, prefix: str, path: str) -> None:
        self.files.delete_file(f"{BUCKET}/{prefix}/{path}")


@contextmanager
def s3_server() -> Iterator[S3Server]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    before = {name: os.environ.get(name) for name in KEYS}
    os.environ.update(KEYS)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}")
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
