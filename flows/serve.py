"""`make serve`: Prefect's server on loopback, and the deployments irepo/iterate and irepo/nightly.

    export PREFECT_API_URL=http://127.0.0.1:4200/api
    prefect deployment run irepo/iterate
    prefect deployment run irepo/iterate --param 'overrides=["run=demo", "rounds=1", "name=second"]'
"""

import os
import signal
import subprocess
import sys
import time

from flows.environment import PROJECT, prepare

HOST = "127.0.0.1"
PORT = int(os.environ.get("IREPO_PORT", "4200"))
API = f"http://{HOST}:{PORT}/api"

prepare()
os.environ.setdefault("PREFECT_API_URL", API)

import httpx  # noqa: E402
from prefect import serve  # noqa: E402  (Prefect reads its settings as it is imported)
from prefect.schedules import Cron  # noqa: E402

from flows.iterate import irepo  # noqa: E402
from storage.errors import UserError  # noqa: E402
