"""The cluster for trying it, run for real: its nodes, who gets in without the token, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cluster import two_nodes

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
NODES = """
import ray
ray.init(log_to_driver=False)
print("CPUS", sorted(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]))
"""


@dataclass
class Running:
    """The program while it runs, and what it printed."""

    process: subprocess.Popen[str]
    said: str

    @property
    def client(self) -> dict[str, str]:
        """The variables that it tells a client to set."""
        line = re.search(r"^  export (.+)$", self.said, re.MULTILINE)
        assert line
        return dict(pair.split("=", 1) for pair in line.group(1).split())

    @property
    def url(self) -> str:
        return self.client["RAY_API_SERVER_ADDRESS"]

    @property
    def token_file(self) -> Path:
        return Path(self.client["RAY_AUTH_TOKEN_PATH"])

    def pids(self) -> set[int]:
        """The program's processes, itself excepted: its descendants, as some of Ray's write over their environment,
        and those with its folder in their command line or environment, as others outlive their parents."""
        found = set(below(self.process.pid))
        for place in Path("/proc").glob("[0-9]*"):
            try:
                text = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
            except OSError:
                continue
            if str(self.token_file.parent).encode() in text and place.name != str(os.getpid()):
                found.add(int(place.name))
        return found


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    command = [sys.executable, str(ROOT / "cluster/two_nodes.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        said = ""
        while "Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, f"it ended: {said}"
            said += line
        yield Running(process, said)
        process.terminate()


def ray(*arguments: str, environment: Mapping[str, str], home: Path, seconds: float = 60) -> tuple[int, str]:
    """Ray's own command, with no token but the environment's; a command that is still running is ended."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = ["timeout", "--kill-after=5", str(seconds), RAY, *arguments]
    environment = clean | {"HOME": str(home)} | dict(environment)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def cpus(running: Running, home: Path) -> list[float]:
    """Processors of the nodes that are alive, as a job on the cluster sees them."""
    job = ("job", "submit", "--", "python", "-c", NODES)
    status, said = ray(*job, environment=running.client, home=home)
    assert status == 0, said
    return json.loads(said.partition("CPUS ")[2].splitlines()[0])


def test_a_job_with_the_token_sees_two_workers_and_a_head_without_slots(running: Running, tmp_path: Path) -> None:
    assert cpus(running, tmp_path) == [0, 1, 1]


def test_the_token_is_random_secret_and_its_owners_alone(running: Running) -> None:
    token = running.token_file.read_text()
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert stat.S_IMODE(running.token_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(running.token_file.parent.stat().st_mode) == 0o700
    assert token not in running.said
    assert running.pids()
    for pid in running.pids():
        assert token.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize(("mode", "token"), [("token", None), ("disabled", None), ("token", "0" * 64)])
def test_a_job_without_the_token_is_refused(running: Running, tmp_path: Path, mode: str, token: str | None) -> None:
    given = {"RAY_API_SERVER_ADDRESS": running.url, "RAY_AUTH_MODE": mode}
    given |= {"RAY_AUTH_TOKEN": token} if token else {}
    mark = tmp_path / "ran"
    status, said = ray("job", "submit", "--", "touch", str(mark), environment=given, home=tmp_path)
    assert status != 0
    assert re.search(r"40[13]|[Uu]nauthorized|authentication", said), said
    assert not mark.exists()


def fetched(url: str, token: str | None) -> tuple[int, str]:
    """HTTP status and text of a GET; with a bearer token, if any."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("path", ["/nodes?view=summary", "/api/jobs/", "/api/v0/nodes", "/api/cluster_status"])
def test_the_dashboard_tells_nothing_without_the_token(running: Running, path: str) -> None:
    assert fetched(running.url + path, None)[0] == 401
    assert fetched(running.url + path, "0" * 64)[0] == 403
    assert fetched(running.url + path, running.token_file.read_text())[0] == 200


def test_a_node_without_the_token_cannot_join(running: Running, tmp_path: Path) -> None:
    """One that has another token, and one that asks for none, at the same time."""
    options = ("--num-cpus=1", "--node-ip-address=127.0.0.1", "--dashboard-agent-listen-port=0", "--block")

    def join(theirs: Mapping[str, str]) -> tuple[int, str]:
        with TemporaryDirectory() as short:  # a socket's path must not be long
            command = ("start", f"--address={gcs_address(running)}", f"--temp-dir={short}", *options)
            return ray(*command, environment=theirs, home=tmp_path, seconds=15)

    soon = {"RAY_gcs_server_port_wait_time_s": "3"}  # Ray would knock for 20
    strangers = [soon | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, soon | {"RAY_AUTH_MODE": "disabled"}]
    with ThreadPoolExecutor() as pool:
        for status, said in pool.map(join, strangers):
            assert status != 0 and "Ray runtime started" not in said, said
    assert cpus(running, tmp_path) == [0, 1, 1]


def gcs_address(running: Running) -> str:
    """Where the head's GCS listens, from its command line."""
    for pid in running.pids():
        found = re.search(rb"--gcs_server_port=(\d+)", Path(f"/proc/{pid}/cmdline").read_bytes())
        if found:
            return f"127.0.0.1:{int(found.group(1))}"
    raise AssertionError("no GCS runs")


def listening(pids: Iterable[int]) -> dict[tuple[str, int], int]:
    """IPv4 addresses and ports that these processes listen on, each with its process."""
    owners = dict[str, int]()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                owners |= dict.fromkeys(re.findall(r"socket:\[(\d+)\]", os.readlink(descriptor)), pid)
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    found = {tuple(row[1].split(":")): owners[row[9]] for row in rows if row[3] == "0A" and row[9] in owners}
    return {
        (".".join(str(byte) for byte in reversed(bytes.fromhex(ip))), int(port, 16)): pid
        for (ip, port), pid in found.items()
    }


def test_the_dashboard_is_on_loopback_and_no_agent_takes_a_job_without_the_token(running: Running) -> None:
    """An agent beside each node can start jobs too, on a port of its own; only metrics are for everybody."""
    deadline, refusing, answers = time.monotonic() + 60, set[int](), list[tuple[int, str]]()
    while len(refusing) < 4:  # an agent listens some seconds after its node is there
        assert time.monotonic() < deadline, (answers, listening(running.pids()))
        ports = listening(running.pids())
        answers = [fetched(f"http://{ip}:{port}/api/job_agent/jobs/any/logs", None) for ip, port in sorted(ports)]
        refusing = {ports[port] for port, (status, _) in zip(sorted(ports), answers, strict=True) if status == 401}
    assert [ip for ip, port in ports if running.url.endswith(f":{port}")] == ["127.0.0.1"]
    for status, text in answers:
        assert status == 401 or (status == 200 and text.startswith("# HELP")), text


def test_it_stops_without_a_trace(running: Running, tmp_path: Path) -> None:
    """Last: a job that runs for ever is on the cluster when the signal comes."""
    forever = ("job", "submit", "--no-wait", "--", "python", "-c", "import time; time.sleep(1000)")
    status, said = ray(*forever, environment=running.client, home=tmp_path)
    assert status == 0, said
    client, folder, url = running.client, running.token_file.parent, running.url
    time.sleep(1)
    before = running.pids()
    assert len(before) > 20  # the dashboard's own too
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) == 0
    assert [pid for pid in before if alive(pid)] == [] and not running.pids()
    assert not folder.exists()
    assert client["RAY_AUTH_TOKEN_PATH"].startswith(str(folder))
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)


def below(pid: int) -> list[int]:
    """Processes that a process has started, and these in their turn."""
    lists = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    children = [int(child) for line in lists for child in line.split()]
    return children + [one for child in children for one in below(child)]


def alive(pid: int) -> bool:
    """Whether a process runs, and is not only waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_free_port_is_nobodys_and_none_that_the_system_gives_away(monkeypatch: pytest.MonkeyPatch) -> None:
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found = two_nodes.free_ports(50)
    assert len(set(found)) == 50 and max(found) < given
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", found[0]))
        monkeypatch.setattr(two_nodes, "PORTS", range(found[0], found[0] + 1))
        with pytest.raises(OSError, match=f"0 of 1 ports are free among {found[0]} to {found[0]}"):
            two_nodes.free_ports(1)
    assert two_nodes.free_ports(1) == found[:1]


def test_bad_numbers_are_refused() -> None:
    command = [sys.executable, str(ROOT / "cluster/two_nodes.py"), "--nodes", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--nodes=0: must be at least 1" in done.stderr
