"""A site of its own for tests: a real Prefect server (SQLite) on a free port, pools, deployments, workers."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from thinkscale import supervise
from thinkscale.config import FLOWS

PREFECT = (sys.executable, "-m", "prefect")


class Site:
    """`with Site(folder) as site`; what it started is gone afterwards."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.api = f"http://127.0.0.1:{self.port}/api"
        home = str(self.folder / "home")
        mine = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
        self.environment = {**mine, "PREFECT_HOME": home, "PREFECT_API_URL": self.api, "DO_NOT_TRACK": "1"}
        self.environment |= {"PREFECT_LOCAL_STORAGE_PATH": f"{home}/storage", "PREFECT_MEMO_STORE_PATH": f"{home}/memo.toml"}
        (self.folder / "tmp").mkdir(exist_ok=True)  # a worker that is killed leaves Prefect's files there
        self.environment["TMPDIR"] = str(self.folder / "tmp")
        self.environment |= {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        self.started = []
        self.server = None

    def __enter__(self):
        try:
            self.start_server()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            kill(process)

    def run(self, *command, name, **settings):
        """A process of the site, in a session of its own, with its output in a file."""
        with (self.folder / f"{name}.log").open("ab") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**self.environment, **settings},
                cwd=self.folder,
                start_new_session=True,
            )
        process.name = name
        self.started.append(process)
        return process

    def start_server(self):
        """Start it, the first time or again on the same database, and wait until it is healthy."""
        self.server = self.run(*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(self.port), "--no-ui", name="server")
        end = time.monotonic() + 240
        while True:
            assert self.server.poll() is None and time.monotonic() < end, self.said(self.server)
            try:
                if httpx.get(f"{self.api}/health", timeout=2, trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)

    def deploy(self, *pools):
        """As a user does it."""
        done = self._deploy(*pools or ["gpu"])
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refused(self, *pools):
        """What is said where it is refused."""
        done = self._deploy(*pools)
        assert done.returncode != 0 and not done.stdout, done.stdout
        return done.stderr

    def _deploy(self, *pools):
        return subprocess.run(
            [sys.executable, str(FLOWS / "deploy.py"), *pools], capture_output=True, text=True, env=self.environment, timeout=240
        )

    def worker(self, pool, name, *queues, **settings):
        taking = [word for queue in queues for word in ("--work-queue", queue)]
        return self.run(*PREFECT, "worker", "start", "--pool", pool, *taking, "--limit", "1", "--name", name, name=name, **settings)

    def sweep(self, experiment, results, name="sweep", **settings):
        """The parent, as a plain process."""
        return self.run(
            sys.executable, str(FLOWS / "sweep.py"), str(experiment), "--results", str(results), "--pool", "gpu", name=name, **settings
        )

    def said(self, process):
        return (self.folder / f"{process.name}.log").read_text(errors="replace")[-6000:]

    def post(self, path, body):
        return httpx.post(f"{self.api}/{path}", json=body, timeout=30, trust_env=False).raise_for_status().json()

    def get(self, path):
        return httpx.get(f"{self.api}/{path}", timeout=30, trust_env=False).raise_for_status().json()

    def patch(self, path, body):
        httpx.patch(f"{self.api}/{path}", json=body, timeout=30, trust_env=False).raise_for_status()


def kill(process):
    """A process and all it started, as when its machine dies."""
    supervise.send([process.pid, *supervise.members(process.pid)], signal.SIGKILL)
    process.wait()
    supervise.send(supervise.members(process.pid), signal.SIGKILL)
