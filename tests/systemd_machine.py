"""A machine of one's own for units of systemd: a container that boots this machine's systemd.

Its root is an overlay over this machine's ``/``: all programs are there, and what is changed lies in memory.  Of this
machine it has the network, and none of the settings of systemd, so that nothing is started that is installed here::

    this process ── sh (root) ── sh, first process of a PID and a mount namespace ── systemd-nspawn ── systemd ── units
                      ▲              reads its stdin, and ends with it
                      └── removes the cgroups of the container when all of that is gone

However this process ends, that stdin ends with it; then the kernel kills what is in the namespaces, and the mounts go
with the last of them.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Seconds.
BOOT_WITHIN = 60
COMMAND_WITHIN = 240
EVENT_WITHIN = 60

#: No command may ever run on this machine instead.
_ONLY_THERE = "[ -e /flux-test ] || { echo 'this is not the container' >&2; exit 1; }"

#: Arguments: an empty directory, and where the container says that it has booted.
_HOLD = r"""
set -eu
groups=
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    [ -e $hierarchy/cgroup.procs ] || continue
    group=$hierarchy/flux-test-$$
    mkdir $group
    groups="$groups $group"
    echo $$ > $group/cgroup.procs
done
remove() {
    for group in $groups; do
        echo $$ > $(dirname $group)/cgroup.procs
        find $group -depth -type d -exec rmdir {} +
    done
}
trap remove EXIT
unshare --mount --pid --fork --mount-proc sh -euc '
    mount -t tmpfs tmpfs "$0"
    mkdir "$0/changed" "$0/work" "$0/root"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$0/changed,workdir=$0/work" "$0/root"
    cd "$0/root"
    rm -rf etc/systemd/system var/log/journal etc/machine-id
    mkdir etc/systemd/system
    # Without the file systemd would take this for the first boot, and enable all that is installed.
    touch etc/machine-id
    touch flux-test
    export NOTIFY_SOCKET="$1"
    systemd-nspawn --directory=. --boot --machine=flux-test --keep-unit --register=no --link-journal=no \
        --notify-ready=yes --console=pipe -- --unit=basic.target < /dev/null &
    cat > /dev/null
' "$1" "$2"
"""


class Machine:
    """What a test does there; commands are run by root, in ``bash``."""

    def __init__(self, init: int) -> None:
        self._enter = [
            *_as_root(),
            "nsenter",
            "--all",
            "--root",
            "--wd",
            "--target",
            str(init),
            "env",
            "-i",
            "HOME=/root",
        ]
        self._enter += ["PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
        # Where pip finds what it installs.
        self._enter += [f"{name}={value}" for name, value in os.environ.items() if name.startswith("PIP_")]

    def attempt(self, script: str, *, cwd: str = "/", stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        """Run a script; it may fail."""
        command = [*self._enter, "timeout", str(COMMAND_WITHIN), "bash", "-euc", f"{_ONLY_THERE}\ncd {cwd}\n{script}"]
        done = subprocess.run(command, input=stdin, capture_output=True, check=False)
        return subprocess.CompletedProcess(script, done.returncode, done.stdout.decode(), done.stderr.decode())

    def run(self, script: str, *, cwd: str = "/", stdin: bytes = b"") -> str:
        """Run a script that must not fail; what it has printed."""
        done = self.attempt(script, cwd=cwd, stdin=stdin)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def write(self, path: str, text: str) -> None:
        self.run(f"cat > {path}", stdin=text.encode())

    def read(self, path: str) -> str:
        return self.run(f"cat {path}")

    def copy(self, folder: Path, to: str, *without: str) -> None:
        """Copy a folder of this machine, but for entries that match a pattern."""
        packed = io.BytesIO()
        ignored = shutil.ignore_patterns(*without)
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(folder, to, filter=lambda entry: None if ignored("", [os.path.basename(entry.name)]) else entry)
        self.run("tar --extract --no-same-owner", stdin=packed.getvalue())

    def show(self, unit: str, *properties: str) -> tuple[str, ...]:
        """Properties of a unit, as ``systemctl show`` tells them."""
        shown = self.run(f"systemctl show {unit} --property={','.join(properties)}")
        values = dict(line.split("=", 1) for line in shown.splitlines())
        return tuple(values[name] for name in properties)

    def journal(self, unit: str) -> str:
        """What a unit has logged, and systemd of it."""
        # Where there is nothing it fails.
        return self.attempt(f"journalctl --sync; journalctl --quiet --output=cat --unit={unit}").stdout

    @contextmanager
    def until_logged(self, unit: str, text: str) -> Iterator[None]:
        """When what is done in here is done, wait until ``text`` is in the journal of a unit that was not before."""
        before = len(self.journal(unit))
        yield
        deadline = time.monotonic() + EVENT_WITHIN
        while text not in (logged := self.journal(unit)[before:]):
            # One failure may be the test's doing.
            lost = time.monotonic() > deadline or logged.count("Failed with result") > 1
            assert not lost, f"{unit} has not logged {text!r}:\n{logged}"
            # To be asked again: journalctl would wait for more lines, and for ever.
            time.sleep(0.1)


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """Boot it; what it has said so far lies in ``folder`` afterwards, and nothing else.

    :raises AssertionError: it cannot be booted here.
    """
    assert shutil.which("systemd-nspawn"), "no systemd-nspawn: apt-get install systemd-container"
    root = folder / "machine"
    root.mkdir()
    output = (folder / "output").open("w+b")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, output:
        # A name without a file belongs to the network, which is the same there.
        notified.bind(b"\0flux-test-%d" % os.getpid())
        notified.settimeout(1)
        # In a session of its own Ctrl-C leaves it to us to end it.
        process = subprocess.Popen(
            [*_as_root(), "sh", "-c", _HOLD, "hold", str(root), notified.getsockname().decode().replace("\0", "@")],
            stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            try:
                _booted(notified, process)
            except TimeoutError as error:
                output.seek(0)
                raise AssertionError(f"no machine: {error}\n{output.read().decode()}") from None
            init = _init(process.pid)
            assert init is not None, "the container has no first process"
            yield Machine(init)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(EVENT_WITHIN)


def _as_root() -> list[str]:
    if os.getuid() == 0:
        return []
    able = shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], check=False).returncode == 0
    assert able, "booting a systemd wants root, or sudo without a password"
    return ["sudo", "-n"]


def _booted(notified: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Wait until systemd there has said so.

    :raises TimeoutError: it did not.
    """
    deadline = time.monotonic() + BOOT_WITHIN
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise TimeoutError(f"it has ended with {process.returncode}")
        try:
            if b"READY=1" in notified.recv(4096):
                return
        except TimeoutError:
            pass
    raise TimeoutError(f"it has not booted within {BOOT_WITHIN} s")


def _init(pid: int) -> int | None:
    """The process among the descendants of one that is the first of the container."""
    status = Path(f"/proc/{pid}/status").read_text()
    if re.search(r"^NSpid:(\t\d+){2,}\t1$", status, re.MULTILINE):
        return pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if found := _init(int(child)):
            return found
    return None
