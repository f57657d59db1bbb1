"""KubeRay manifests: no unknown field, read by Ray's own autoscaler, without privileges and behind a token."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER, JOB = ROOT / "cluster/kuberay_raycluster.yaml", ROOT / "cluster/kuberay_rayjob.yaml"
SCHEMA = yaml.safe_load((Path(__file__).parent / "crd/kuberay.yaml").read_text(encoding="utf-8"))
CHOSEN = {"rayStartParams", "nodeSelector", "labels", "matchLabels", "requests", "limits"}
"""Mappings whose names the user chooses."""

both = pytest.mark.parametrize("file", (CLUSTER, JOB), ids=lambda file: file.stem)


def documents(file: Path) -> list[dict[str, Any]]:
    """What a manifest holds; nothing in it is shared, as it is not in JSON."""
    return json.loads(json.dumps(list(yaml.safe_load_all(file.read_text(encoding="utf-8")))))


def ray_cluster(file: Path) -> dict[str, Any]:
    """The RayClusterSpec in a manifest."""
    spec = documents(file)[0]["spec"]
    return spec.get("rayClusterSpec", spec)


def pod_templates(file: Path) -> list[dict[str, Any]]:
    """Of every pod that comes of a manifest."""
    spec, cluster = documents(file)[0]["spec"], ray_cluster(file)
    workers = [group["template"] for group in cluster["workerGroupSpecs"]]
    submitter = [spec["submitterPodTemplate"]] if "submitterPodTemplate" in spec else []
    return [cluster["headGroupSpec"]["template"], *workers, *submitter]


def check(document: Any, kind: str) -> None:
    jsonschema.Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]}).validate(document)


def fields(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every field below a node."""
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        if isinstance(key, str):
            yield (*above, key)
        yield from fields(node[key], (*above, key))


@both
def test_manifests_have_only_fields_of_kuberay_and_kubernetes(file: Path) -> None:
    for document in documents(file):
        check(document, document["kind"])


@both
def test_every_misspelt_field_is_caught(file: Path) -> None:
    """Each field in turn with its last letter doubled."""
    tried = 0
    for document in documents(file):
        for *above, name in fields(document):
            if above and above[-1] in CHOSEN:
                continue
            mapping = broken = json.loads(json.dumps(document))
            for key in above:
                mapping = mapping[key]
            mapping[name + name[-1]] = mapping.pop(name)
            with pytest.raises(jsonschema.ValidationError):
                check(broken, document["kind"])
            tried += 1
    assert tried > 100


@both
def test_rays_own_autoscaler_reads_the_cluster(file: Path) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import validate_config

    config = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "pareto", "namespace": "any"}, "spec": ray_cluster(file)}
    )
    validate_config(config)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"]["CPU"] == 0 and "GPU" not in head["resources"]
    assert (types["cpu"]["resources"]["CPU"], types["cpu"]["max_workers"]) == (4, 8)
    if file == CLUSTER:
        spot = types["gpu-spot"]
        assert (spot["min_workers"], spot["max_workers"], spot["resources"]["GPU"]) == (0, 8, 1)


@both
def test_pods_run_without_privileges_behind_a_token_and_no_balancer(file: Path) -> None:
    import ray

    cluster = ray_cluster(file)
    assert cluster["authOptions"] == {"mode": "token"} and cluster["enableInTreeAutoscaling"] is True
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    containers = [cluster["autoscalerOptions"]]
    images = set()
    for template in pod_templates(file):
        pod = template["spec"]["securityContext"]
        assert pod["runAsNonRoot"] is True and pod["runAsUser"] > 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        containers += template["spec"]["containers"]
        images |= {container["image"] for container in template["spec"]["containers"]}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & template["spec"].keys()
    for container in containers:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    # Builds of torch for CPU and CUDA have different versions, and with them different keys in the store.
    assert len(images) == 1 and re.search(r":\d+\.\d+\.\d+", images.pop())
    policy = documents(file)[1]["spec"]["podSelector"]["matchLabels"].items()
    assert all(policy <= template["metadata"]["labels"].items() for template in pod_templates(file))


def test_a_job_that_is_tried_again_goes_on() -> None:
    from search.pareto import parser

    spec = documents(JOB)[0]["spec"]
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"] is True
    program, script, *arguments = spec["entrypoint"].split()
    options = parser().parse_args(arguments)
    assert (program, script) == ("python", "/app/search/pareto.py")
    assert options.resume and options.address == "auto"
    assert (ROOT / options.study.relative_to("/app")).is_file()
    assert any(setting.startswith("storage=s3://") for setting in options.set)
