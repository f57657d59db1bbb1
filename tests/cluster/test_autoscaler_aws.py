"""The cluster for AWS: by Ray's own schema, and launched by Ray's own node provider in an AWS that runs here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.two_nodes import free_ports

ROOT = Path(__file__).parents[2]
AWS = ROOT / "cluster/autoscaler_aws.yaml"
REGION = "eu-central-1"


def ours() -> dict[str, Any]:
    """The file as it is shipped."""
    return yaml.safe_load(AWS.read_text(encoding="utf-8"))


def aws_config() -> dict[str, Any]:
    """Our file with the defaults that Ray adds."""
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(ours())


def test_ray_accepts_the_cluster_for_aws() -> None:
    from ray.autoscaler._private.util import validate_config

    validate_config(ours() | {"cluster_synced_files": []})
    validate_config(aws_config())
    for change in ({"idle_timeout_minuts": 3}, {"max_workers": "many"}, {"head_node_type": "hed"}):
        with pytest.raises((jsonschema.ValidationError, ValueError)):
            validate_config(aws_config() | change)


def test_the_nodes_of_aws_have_the_token_and_pinned_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import version

    from ray.autoscaler._private.util import hash_runtime_conf

    config = ours()
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("of this test")
    assert all(hash_runtime_conf(config["file_mounts"], [], config))  # Ray finds what is to be copied
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for kind in ("head", "worker"):
        commands = config[f"{kind}_start_ray_commands"]
        started = [line for line in commands if re.search(r"\bray start\b", line)]
        assert len(started) == 1 and "RAY_AUTH_MODE=token" in started[0].partition("ray start")[0]
        assert "0.0.0.0" not in started[0]
    head = config["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head and "--num-cpus=0" in head and "--num-gpus=0" in head
    installs = re.findall(r"pip install .*", "\n".join(config["setup_commands"] + config["head_setup_commands"]))
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in line or re.search(r"\w==[\d.]+$", line) for line in installs)
    assert f"boto3=={version('boto3')}" in installs[1]


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an AWS that runs here."""
    port = free_ports(1)[0]
    command = [str(Path(sys.executable).with_name("moto_server")), "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    with (tmp_path_factory.mktemp("aws") / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        with suppress(OSError), urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=5):
            break
        assert server.poll() is None
        time.sleep(0.1)
    yield url
    server.kill()
    server.wait()


LAUNCH = """
import json, sys, warnings
import boto3, yaml
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config

file, region = sys.argv[1:]
iam, ec2 = boto3.client("iam"), boto3.client("ec2", region)
for name in ("pareto-head", "pareto-worker"):
    iam.create_instance_profile(InstanceProfileName=name)
config = prepare_config(yaml.safe_load(open(file)))
validate_config(config)
config = AWSNodeProvider.bootstrap_config(config)
provider = AWSNodeProvider(config["provider"], config["cluster_name"])
launched = {}
for name, node_type in config["available_node_types"].items():
    provider.create_node(node_type["node_config"], {"ray-user-node-type": name}, 1)
    found = ec2.describe_instances(Filters=[{"Name": "tag:ray-user-node-type", "Values": [name]}])
    launched[name] = found["Reservations"][0]["Instances"][0]
misspelt = config["available_node_types"]["gpu-spot"]["node_config"] | {"InstanceMarketOption": {}}
try:
    provider.create_node(misspelt, {}, 1)
    refused = ""
except Exception as error:
    refused = str(error)
group = launched["head"]["SecurityGroups"][0]
rules = ec2.describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"][0]["IpPermissions"]
print(json.dumps({"nodes": launched, "group": group, "rules": rules, "refused": refused}, default=str))
"""


@pytest.fixture(scope="module")
def launched(aws: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One node of each type, as Ray's own node provider has launched it in that AWS."""
    home = tmp_path_factory.mktemp("home")  # Ray keeps the SSH key there
    environment = os.environ | {
        "HOME": str(home),
        "AWS_ENDPOINT_URL": aws,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    command = [sys.executable, "-c", LAUNCH, str(AWS), REGION]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_aws_launches_workers_on_the_spot_market_and_the_head_not(launched: dict[str, Any]) -> None:
    head, worker = launched["nodes"]["head"], launched["nodes"]["gpu-spot"]
    assert worker["InstanceLifecycle"] == "spot" and "InstanceLifecycle" not in head
    assert (head["InstanceType"], worker["InstanceType"]) == ("m7i.large", "g5.xlarge")
    assert head["IamInstanceProfile"]["Arn"].endswith("/pareto-head")
    assert worker["IamInstanceProfile"]["Arn"].endswith("/pareto-worker")


def test_a_misspelt_field_of_a_machine_is_caught(launched: dict[str, Any]) -> None:
    assert 'Unknown parameter in input: "InstanceMarketOption"' in launched["refused"]


def test_only_ssh_is_open_to_the_world_on_aws(launched: dict[str, Any]) -> None:
    group = launched["group"]["GroupId"]
    assert {node["SecurityGroups"][0]["GroupId"] for node in launched["nodes"].values()} == {group}
    open_to_all = [(rule.get("FromPort"), rule.get("ToPort")) for rule in launched["rules"] if rule["IpRanges"]]
    assert open_to_all == [(22, 22)]
    assert [pair["GroupId"] for rule in launched["rules"] for pair in rule["UserIdGroupPairs"]] == [group]
