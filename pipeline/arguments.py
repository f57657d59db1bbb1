"""Kinds of command-line arguments that several commands take."""

from __future__ import annotations

import argparse


def thread_count(text: str) -> int:
    """Threads of a runtime, 1 or more.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of threads: give a whole number from 1")
    return int(text)
