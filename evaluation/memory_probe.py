"""Run by `memory.peak_memory_mb` in a fresh process: load a model, answer the comments on stdin, print MiB."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from pipeline.runtime import load_classifier, load_deployment


def resident_mb(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (highest so far) of this process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024.0
    raise RuntimeError(f"/proc/self/status has no {field}")


def import_runtime(name: str) -> None:
    """Load the code that every model of a runtime needs: it is none of the model's memory."""
    if name == "onnxruntime":
        import onnxruntime

        onnxruntime.get_available_providers()
    elif name == "ngram":
        import pipeline.ngram  # noqa: F401
    else:
        import pipeline.classical  # noqa: F401


def main() -> None:
    """Arguments: folder, threads."""
    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    texts = sys.stdin.read().split("\0")
    import_runtime(load_deployment(folder).runtime)
    with suppress(OSError):  # forget the peak of the imports, where the kernel allows it
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    idle = resident_mb("VmRSS")
    model = load_classifier(folder, threads)
    for text in texts:
        model.predict_logits([text])
    print(resident_mb("VmHWM") - idle)


if __name__ == "__main__":
    main()
