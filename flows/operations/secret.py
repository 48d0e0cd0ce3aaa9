"""The secret of the Prefect server that `make serve` starts: a file that only its user can read.

Prefect calls it the auth string. Anyone who has it can run commands as this user: see docs/security.md.
"""

import os
import secrets
import stat
from pathlib import Path

from storage.errors import UserError
from tasks.loopback import is_loopback

#: Prefect's variables: what its server demands, and what its clients send.
SERVER, CLIENT = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"


def secret_file() -> Path:
    """Where the secret is, in PREFECT_HOME, beside the server's database."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    return home / "irepo-secret"


def new_secret() -> str:
    """A random auth string, `irepo:<43 characters>`."""
    return f"irepo:{secrets.token_urlsafe(32)}"


def read_secret() -> str | None:
    """The secret in `secret_file`, or None when there is no such file.

    Raises UserError when the file is not this user's alone: then somebody else may know the secret.
    """
    path = secret_file()
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from None
    with open(handle, encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise _unusable(path, "other users can read it, or it is not yours")
        text = file.read().strip()
    if len(text) < 20:
        raise _unusable(path, "it is empty or cut")
    return text


def make_secret() -> str:
    """The secret in `secret_file`, which is made (mode 0600) when it does not exist. Raises UserError, as above."""
    path = secret_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        pass
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from None
    else:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(new_secret() + "\n")
    made = read_secret()
    assert made is not None
    return made


def give_secret_to_client() -> None:
    """Have Prefect's client send the secret, if the server that PREFECT_API_URL names is on this machine."""
    if CLIENT not in os.environ and is_loopback(os.environ.get("PREFECT_API_URL", "")):
        secret = read_secret()
        if secret is not None:
            os.environ[CLIENT] = secret


def _unusable(path: Path, why: str) -> UserError:
    return UserError(
        f"the secret of Prefect's server cannot be used: {why}",
        where=str(path),
        remedy="remove the file; `make serve` makes a new one",
    )
