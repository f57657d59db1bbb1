"""What the tests share: a tiny chain of real models on the embedded sample, built once in a session.

Nothing heavy is imported before a test asks for it.
"""

import os
import signal

# Set before torch, tokenizers or the hub's client are imported: one thread, no network, the same in child processes.
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import pytest

# In the background of a shell Ctrl-C is ignored, and would be in the processes that tests start, and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY_LABELS = ("bully", "sexual", "threat")
TINY_TEACHER = {
    "epochs": 4,
    "learning_rate": 5e-3,
    "max_tokens": 48,
    "scratch_layers": 2,
    "scratch_width": 32,
    "scratch_heads": 2,
    "scratch_vocabulary": 400,
}


@pytest.fixture(scope="session")
def tiny_teacher_config():
    """A scratch encoder of 2 layers, 32 wide."""
    from pipeline.config import TeacherConfig

    return TeacherConfig(**TINY_TEACHER)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory):
    """The store of the tiny chain. Tests may add to it, and damage nothing in it."""
    from pipeline.cache import Store

    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def tiny_data(tiny_store):
    """Some 600 comments of the embedded sample, three labels."""
    from pipeline.config import DataConfig
    from pipeline.data import prepare

    return prepare(DataConfig(sample_rows=600, label_columns=TINY_LABELS)).add_to(tiny_store)


@pytest.fixture(scope="session")
def tiny_comments(tiny_data):
    """The comments of `tiny_data`, loaded."""
    from pipeline.data import load_data

    return load_data(tiny_data.path)


@pytest.fixture(scope="session")
def tiny_teacher(tiny_store, tiny_data, tiny_teacher_config):
    """A teacher that has learnt something: macro F1 about 0.5 where guessing gives 0.2."""
    from pipeline.stages import train_teacher

    return tiny_store.run(train_teacher, tiny_teacher_config, tiny_data)


@pytest.fixture(scope="session")
def tiny_pruned(tiny_store, tiny_data, tiny_teacher):
    """The teacher pruned by wanda to half, fine-tuned for one epoch."""
    from pipeline.config import PruneConfig
    from pipeline.stages import prune

    config = PruneConfig(method="wanda", learning_rate=1e-3)
    return tiny_store.run(prune, config, tiny_data, tiny_teacher, tiny_teacher)


@pytest.fixture(scope="session")
def tiny_half(tiny_store, tiny_data, tiny_pruned, tiny_teacher):
    """The pruned model in FP16."""
    from pipeline.config import QuantizeConfig
    from pipeline.stages import quantize

    return tiny_store.run(quantize, QuantizeConfig(method="fp16"), tiny_data, tiny_pruned, tiny_teacher)


@pytest.fixture(scope="session")
def tiny_int8(tiny_store, tiny_data, tiny_pruned, tiny_teacher):
    """The pruned model in int8."""
    from pipeline.config import QuantizeConfig
    from pipeline.stages import quantize

    return tiny_store.run(quantize, QuantizeConfig(method="int8_dynamic"), tiny_data, tiny_pruned, tiny_teacher)


@pytest.fixture(scope="session")
def tiny_classical(tiny_store, tiny_data):
    """The classical floor on the same split."""
    from pipeline.config import ClassicalConfig
    from pipeline.stages import train_classical

    return tiny_store.run(train_classical, ClassicalConfig(), tiny_data)
