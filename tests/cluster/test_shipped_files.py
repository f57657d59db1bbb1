"""Every file in cluster/: token authentication on wherever Ray is started, and no secret in any."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path for path in (ROOT / "cluster").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
STARTS_RAY = re.compile(
    r"\bray start\b|\"start\", |kind: RayCluster|kind: RayJob|rayproject|ray\[default|RAY_AUTH_MODE"
)


def test_whatever_starts_ray_has_the_token_on() -> None:
    starting = [path for path in SHIPPED if path.suffix != ".md" and starts_ray(path)]
    names = {"autoscaler_aws.yaml", "kuberay_raycluster.yaml", "kuberay_rayjob.yaml", "Dockerfile", "two_nodes.py"}
    assert names <= {path.name for path in starting}
    for path in starting:
        text = path.read_text(encoding="utf-8")
        assert re.search(r"RAY_AUTH_MODE=token|\"RAY_AUTH_MODE\": \"token\"|authOptions:\n\s+mode: token\b", text), path
        assert not re.search(r"RAY_AUTH_MODE\W+disabled|mode: disabled", text), path


def starts_ray(path: Path) -> bool:
    """Whether a file starts nodes; cluster/session.py starts one on loopback for its own process, or joins."""
    return path.name != "session.py" and STARTS_RAY.search(path.read_text(encoding="utf-8")) is not None


SECRETS = (
    r"AKIA[0-9A-Z]{12,}",
    r"-----BEGIN [A-Z ]*PRIVATE KEY",
    r"\b[0-9a-f]{32,}\b",
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
    r"(?i)\b\w*(?:password|secret_access_key|api_?key|auth_token|access_token|hf_token)\b[\"']?\s*[:=]\s*[\"']?(?!\s|\$|[~/.])\w{6,}",
    r"://[^/\s:@]+:[^/\s@]+@",
)


def find_secrets(text: str) -> list[str]:
    return [found.group() for pattern in SECRETS for found in re.finditer(pattern, text)]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_no_file_holds_a_token_key_or_password(path: Path) -> None:
    assert find_secrets(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "value: " + "0123456789abcdef" * 4,
        "AWS_SECRET_ACCESS_KEY=" + "abcdEFGH" * 5,
        "auth_token: hunter22",
        "s3://user:" + "words@host",
        "AKIA" + "ABCDEFGHIJKLMNOP",
        '"password": "correcthorse"',
    ],
)
def test_a_secret_would_be_found(text: str) -> None:
    assert find_secrets(text)
