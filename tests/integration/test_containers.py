"""examples/docker and examples/kubernetes: valid by their schemas, and what is in them runs, with a real Postgres.

There is no Docker here: what a container would be told is given to a process of this machine. Ports, the names by which
hosts reach each other, and the database are replaced, nothing else.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import Request, urlopen

import kubernetes_validate
import psutil
import pytest
import ujson
import yaml

from tests.support import gone, until
from theatre_gevent.cli.arguments import parse
from theatre_gevent.cli.run import Supervisor

from .documents import ROOT

DOCKER = ROOT / "examples" / "docker"
COMPOSE = DOCKER / "compose.yaml"
MANIFEST = ROOT / "examples" / "kubernetes" / "cluster.yaml"
KUBERNETES = "1.31"
PATIENCE = 40.0


class Container(NamedTuple):
    """What a container is told.

    Attributes:
        name: Of the service or pod.
        command: What it runs.
        environ: With these variables.
        grace: Seconds that it has to stop.
    """

    name: str
    command: list[str]
    environ: dict[str, str]
    grace: float


def given_values() -> dict[str, str]:
    """What .env has, when it was copied as it is."""
    lines = (DOCKER / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolated(text: str, values: dict[str, str]) -> str:
    """Replace what Compose replaces."""
    return re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", lambda found: values[found[1]], text)


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(interpolated(COMPOSE.read_text(), given_values()))
    return loaded


def of_compose() -> tuple[Container, list[Container]]:
    """The migration and the hosts of compose.yaml."""
    services = {
        name: Container(
            name,
            service["command"],
            service["environment"],
            float(service.get("stop_grace_period", "10s").removesuffix("s")),
        )
        for name, service in compose()["services"].items()
        if service["image"] == "theatre-example"
    }
    return services.pop("migrate"), list(services.values())


def manifests() -> dict[str, Any]:
    """The objects of cluster.yaml, by kind and name."""
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in yaml.safe_load_all(MANIFEST.read_text())}


def of_kubernetes() -> tuple[Container, list[Container]]:
    """The migration and the hosts of cluster.yaml, a container for each pod."""
    objects = manifests()
    spec = objects["StatefulSet/theatre"]["spec"]
    pod = spec["template"]["spec"]

    def container(of: dict[str, Any], name: str) -> Container:
        environ: dict[str, str] = {}
        for source in of.get("envFrom", ()):
            for reference, kind, data in (("configMapRef", "ConfigMap", "data"), ("secretRef", "Secret", "stringData")):
                if reference in source:
                    environ |= objects[f"{kind}/{source[reference]['name']}"][data]
        for variable in of.get("env", ()):
            match variable:
                case {"value": value}:
                    text = re.sub(r"\$\((\w+)\)", lambda found: environ[found[1]], value)
                case {"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}:
                    text = name
                case {"valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}:
                    text = objects[f"Secret/{secret}"]["stringData"][key]
            environ[variable["name"]] = text
        return Container(name, of["command"], environ, float(pod["terminationGracePeriodSeconds"]))

    [migrate], [host] = pod["initContainers"], pod["containers"]
    pods = [container(host, f"theatre-{number}") for number in range(spec["replicas"])]
    return container(migrate, "theatre-0"), pods


BOTH = pytest.mark.parametrize("containers", [of_compose, of_kubernetes], ids=["compose", "kubernetes"])
Read = Callable[[], tuple[Container, list[Container]]]


def start(container: Container, log: Path, **changed: str) -> subprocess.Popen[bytes]:
    """Run what a container would."""
    program, *arguments = container.command
    assert program == "theatre"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("THEATRE_")}
    pure = {"THEATRE_PURE": os.environ["THEATRE_PURE"]} if "THEATRE_PURE" in os.environ else {}
    pinned = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    with log.open("wb") as written:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "theatre_gevent", *arguments],
            cwd=DOCKER, stdout=subprocess.DEVNULL, stderr=written,
            env={**clean, **pure, **container.environ, **changed, **pinned},
        )  # fmt: skip


def ask(port: int, path: str, token: str = "") -> str:
    request = Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {token}"} if token else {})
    with urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


def answers(port: int, path: str) -> bool:
    """Tell whether the answer is 200."""
    try:
        ask(port, path)
    except (URLError, OSError):  # not there yet, or 503
        return False
    return True


def admin_port(log: Path, process: subprocess.Popen[bytes]) -> int:
    """Wait until a host has said where its admin server is, and return the port."""
    pattern = re.compile(r"has started at 127\.0\.0\.1:[1-9]\d*, admin server at http://[\d.]+:(\d+)/")
    until(lambda: pattern.search(log.read_text()) or process.poll() is not None, PATIENCE)
    found = pattern.search(log.read_text())
    assert found, log.read_text()
    return int(found[1])


@pytest.fixture
def at_end() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def end(process: subprocess.Popen[bytes]) -> None:
    """Let nothing outlive the test."""
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in family:
            child.kill()
    process.wait(timeout=20)


@BOTH
def test_the_cluster_runs_as_it_is_written(containers: Read, dsn: str, at_end: ExitStack, tmp_path: Path) -> None:
    migrate, hosts = containers()
    if containers is of_kubernetes:
        del hosts[2:]  # pods are all alike, and six processes start slowly
    migration = start(migrate, tmp_path / "migrate.log", THEATRE_DSN=dsn)
    at_end.callback(end, migration)
    assert migration.wait(timeout=PATIENCE) == 0

    logs = {host.name: tmp_path / f"{host.name}.log" for host in hosts}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    for host in hosts:
        environ = host.environ
        assert environ["THEATRE_NO_MIGRATE"] == "1"
        name, _, port = environ["THEATRE_ADVERTISE"].rpartition(":")
        assert name.split(".")[0] == environ["THEATRE_HOST_ID"] == host.name
        assert port == environ["THEATRE_LISTEN"].rpartition(":")[2]
        anywhere = {key: re.sub(r":\d+$", ":0", environ[key]) for key in ("THEATRE_LISTEN", "THEATRE_ADMIN")}
        processes[host.name] = start(
            host, logs[host.name], THEATRE_DSN=dsn, THEATRE_ADVERTISE="127.0.0.1:0", **anywhere
        )  # fmt: skip
        at_end.callback(end, processes[host.name])
    admins = {host.name: admin_port(logs[host.name], processes[host.name]) for host in hosts}
    for host in hosts:
        until(lambda host=host: answers(admins[host.name], "/readyz"), PATIENCE)  # type: ignore[misc]
        assert answers(admins[host.name], "/healthz")

    token = hosts[0].environ["THEATRE_ADMIN_TOKEN"]
    asked = admins[hosts[0].name]
    assert not answers(asked, "/cluster/all-status")  # without the token

    def all_answer() -> bool:
        found = ujson.loads(ask(asked, "/cluster/all-status", token))["hosts"]
        return sorted(each["host_id"] for each in found if each["answered"]) == [host.name for host in hosts]

    def all_visit_all() -> bool:
        visits = [
            set(re.findall(r"(counter/\w+) on host \S+: visit number", logs[host.name].read_text())) for host in hosts
        ]
        return all(len(each) == 6 for each in visits)

    until(all_answer, PATIENCE)
    until(all_visit_all, PATIENCE)

    if containers is of_compose:  # its health check is a program
        _, program, *arguments = compose()["services"][hosts[0].name]["healthcheck"]["test"]
        assert program == "python"
        check = [text.replace("9090", str(asked)) for text in arguments]
        assert subprocess.run([sys.executable, *check], timeout=30, check=False).returncode == 0
        check = [text.replace("healthz", "nowhere") for text in check]
        failed = subprocess.run([sys.executable, *check], timeout=30, check=False, stderr=subprocess.DEVNULL)
        assert failed.returncode == 1

    family = [child for process in processes.values() for child in psutil.Process(process.pid).children(recursive=True)]
    for process in processes.values():
        process.terminate()
    for name, process in processes.items():
        code = process.wait(timeout=PATIENCE)
        errors = logs[name].read_text()
        assert code == 0, errors
        assert all("message" in ujson.loads(line) for line in errors.splitlines())
        assert "Traceback" not in errors
    assert gone(family)


@BOTH
def test_every_variable_is_an_option_and_there_is_time_to_drain(
    containers: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    known: dict[str, set[str]] = {}
    for command in ("run", "migrate"):
        with pytest.raises(SystemExit):
            parse([command, "--help"], {})
        known[command] = set(re.findall(r"\[(THEATRE_\w+)\]", capsys.readouterr().out))
    migrate, hosts = containers()
    assert set(migrate.environ) <= known["migrate"]
    for host in hosts:
        assert set(host.environ) <= known["run"]
        given = parse(host.command[1:], host.environ)
        assert host.grace > Supervisor(given, {}, None).patience  # type: ignore[arg-type]


def schema_of_compose(text: str, folder: Path) -> int:
    """Check a Compose file; return the exit code, which is 1 for one that the schema refuses."""
    file = folder / "compose.yaml"
    file.write_text(text)
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode


def test_the_compose_file_fits_its_schema(tmp_path: Path) -> None:
    text = COMPOSE.read_text()
    assert schema_of_compose(text, tmp_path) == 0
    assert schema_of_compose(text.replace("stop_grace_period", "stop_grace"), tmp_path) == 1


def validate(documents: list[dict[str, Any]]) -> None:
    """Raise if an object does not fit its schema, or has a field that the schema does not know."""
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("broken", ["", "serviceName", "matchLabels", "httpGet", "maxUnavailable", "clusterIP"])
def test_the_manifest_fits_the_schemas(broken: str) -> None:
    text = MANIFEST.read_text()
    if broken:
        assert broken in text
        with pytest.raises(kubernetes_validate.ValidationError, match=f"{broken}s"):
            validate(list(yaml.safe_load_all(text.replace(f"{broken}:", f"{broken}s:"))))
        return
    documents = list(yaml.safe_load_all(text))
    kinds = [document["kind"] for document in documents]
    assert kinds == ["Secret", "ConfigMap", "Service", "Service", "PodDisruptionBudget", "StatefulSet"]
    validate(documents)


def test_the_names_in_the_manifest_lead_somewhere() -> None:
    """What no schema sees: labels, ports and the headless service fit together."""
    objects = manifests()
    spec = objects["StatefulSet/theatre"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels
    assert objects["PodDisruptionBudget/theatre"]["spec"]["selector"]["matchLabels"] == labels
    [container] = spec["template"]["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    for name in ("theatre", "theatre-admin"):
        service = objects[f"Service/{name}"]["spec"]
        assert service["selector"] == labels
        assert {port["targetPort"] for port in service["ports"]} <= ports
    headless = objects[f"Service/{spec['serviceName']}"]["spec"]
    assert (headless["clusterIP"], headless["publishNotReadyAddresses"]) == ("None", True)
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} <= ports
    advertised = next(each for each in container["env"] if each["name"] == "THEATRE_ADVERTISE")["value"]
    assert advertised.rpartition(":")[0] == f"$(THEATRE_HOST_ID).{spec['serviceName']}"


def test_the_image_runs_what_the_set_ups_run() -> None:
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    command = next(line for line in lines if line.startswith("CMD "))
    for read in (of_compose, of_kubernetes):
        assert [host.command for host in read()[1]] == [ujson.loads(command.removeprefix("CMD "))] * 3
    copied = [shlex.split(line)[1] for line in lines if line.startswith("COPY ")]
    assert copied == [".", "examples/docker/counters.py"]
    allowed = [
        line.removeprefix("!")
        for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
        if line[:1] == "!"
    ]
    assert all((ROOT / name).exists() for name in (*allowed, *copied))
    user = next(line for line in lines if line.startswith("USER ")).removeprefix("USER ")
    context = manifests()["StatefulSet/theatre"]["spec"]["template"]["spec"]["securityContext"]
    assert int(user) == context["runAsUser"]
