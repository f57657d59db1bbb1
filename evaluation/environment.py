"""What a latency figure is bound to: processor, instruction sets, threads, and the versions of what runs the models."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("onnxruntime", "torch", "tokenizers", "numpy")
INSTRUCTIONS = (
    "avx2",
    "f16c",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
"""Those that matrix kernels choose by, x86 and Arm, as `/proc/cpuinfo` spells them."""
INTEGER = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp", "avx512f", "avx2", "asimd")
"""From best to least for int8: the first one that a processor has decides what quantization gains there."""


@cache
def environment() -> dict[str, str]:
    """Processor, instruction sets, cores, operating system and versions, each a short text; none of them is secret.

    Keys: `cpu`, `instructions` (space between), `cores`, `system`, `python`, and a library's name for its version.
    What the machine does not tell is left out.
    """
    facts = _cpuinfo()
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    found = {
        "cpu": " ".join((facts.get("model name") or platform.processor() or platform.machine()).split()),
        "instructions": " ".join(name for name in INSTRUCTIONS if name in flags),
        "cores": str(os.cpu_count() or ""),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return {name: value for name, value in found.items() if value}


def machine(threads: int) -> str:
    """One line to stand beside every latency figure.

    Args:
        threads: of the measured models, at least 1.
    """
    facts = environment()
    instructions = facts.get("instructions", "").split()
    parts = [facts["cpu"]]
    if "cores" in facts:
        parts.append(f"{facts['cores']} cores")
    parts += [name for name in INTEGER if name in instructions][:1]
    parts.append(f"{threads} thread{'s' if threads > 1 else ''}")
    parts += [f"{name} {facts[name]}" for name in LIBRARIES if name in facts]
    return ", ".join(parts)


def _cpuinfo(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """The first processor's fields; none where there is no such file."""
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}
