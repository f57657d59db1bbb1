"""Arguments as a user types them."""

import argparse

import pytest

from pipeline.arguments import thread_count


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("07", 7), ("4096", 4096)])
def test_a_whole_number_from_one_is_taken(text, value):
    assert thread_count(text) == value


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "two", "²", "১"])
def test_anything_else_is_named(text):
    with pytest.raises(argparse.ArgumentTypeError, match="give a whole number from 1") as refused:
        thread_count(text)
    assert repr(text) in str(refused.value)
