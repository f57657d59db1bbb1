"""Faults put on a running study from outside, and what is found afterwards; used by `faults.py` and `two_nodes.py`."""
