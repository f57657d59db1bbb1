"""What figures are bound to: against the operating system's own tools and the libraries' own word."""

import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import tokenizers
import torch

from evaluation.environment import INTEGER, _cpuinfo, environment, machine


def test_versions_are_those_that_the_libraries_name():
    found = environment()
    for library in (onnxruntime, torch, tokenizers, np):
        assert found[library.__name__] == library.__version__
    assert found["python"] == sys.version.split()[0] and found["cores"] == str(os.cpu_count())
    assert found["system"].split() == [os.uname().sysname, os.uname().release]


@pytest.mark.skipif(not shutil.which("lscpu"), reason="no lscpu to compare with")
def test_processor_and_instructions_are_those_of_lscpu():
    lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}).stdout
    facts = dict(line.split(":", 1) for line in lines.splitlines() if ":" in line)
    assert environment()["cpu"] == " ".join(facts["Model name"].split())
    instructions = environment()["instructions"].split()
    assert instructions and set(instructions) <= set(facts["Flags"].split())
    best = [name for name in INTEGER if name in facts["Flags"].split()]
    assert not best or best[0] in machine(1).split(", ")


def test_the_machine_is_one_line_of_short_facts_with_nobodys_name():
    line = machine(1)
    assert "\n" not in line and len(line) < 200
    assert f"{os.cpu_count()} cores" in line and ", 1 thread, " in line and ", 4 threads, " in machine(4)
    assert f"onnxruntime {onnxruntime.__version__}" in line and f"torch {torch.__version__}" in line
    assert platform.node() not in line.split()
    assert all(isinstance(value, str) and 0 < len(value) < 200 for value in environment().values())


def test_an_arm_processor_names_its_instructions_otherwise(tmp_path):
    text = "processor\t: 0\nBogoMIPS\t: 243\nFeatures\t: fp asimd asimddp i8mm\n\nprocessor\t: 1\nFeatures\t: none\n"
    (tmp_path / "cpuinfo").write_text(text)
    assert _cpuinfo(tmp_path / "cpuinfo")["Features"] == "fp asimd asimddp i8mm"
    assert _cpuinfo(tmp_path / "absent") == {}
