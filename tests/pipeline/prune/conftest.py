"""Small encoders with random weights, comments of many lengths, and the stage on the tiny teacher."""

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def random_encoder():
    """Builds an encoder whose every weight is random, biases and norms too, in evaluation mode."""
    from transformers import AutoModel, BertConfig, DistilBertConfig, ElectraConfig, RobertaConfig, XLMRobertaConfig

    from pipeline.models import TextClassifier

    kinds = {
        "bert": BertConfig,
        "roberta": RobertaConfig,
        "xlm-roberta": XLMRobertaConfig,
        "electra": ElectraConfig,
        "distilbert": DistilBertConfig,
    }

    def build(kind="bert", labels=3, pooling="mean", seed=0, **changes):
        shape = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
        shape |= {"intermediate_size": 20, "max_position_embeddings": 48, "hidden_dropout_prob": 0.0}
        shape |= {"attention_probs_dropout_prob": 0.0} | ({"embedding_size": 10} if kind == "electra" else {})
        if kind == "distilbert":
            shape = {"vocab_size": 60, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 20}
        torch.manual_seed(seed)
        encoder = AutoModel.from_config(kinds[kind](**(shape | changes)))
        if getattr(encoder, "pooler", None) is not None:
            encoder.register_module("pooler", None)
        model = TextClassifier(encoder, labels, pooling, 0.1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
        return model.eval()

    return build


@pytest.fixture(scope="session")
def ragged():
    """80 comments of 1 to 40 tokens with labels: two batches, much padding."""
    from pipeline.objective import Examples
    from pipeline.tokens import Tokens

    random = np.random.default_rng(3)
    comments = [random.integers(2, 60, length) for length in random.integers(1, 41, 80)]
    tokens = Tokens(np.concatenate(comments).astype(np.int32), np.cumsum([0, *map(len, comments)]))
    return Examples(tokens, random.integers(0, 2, (80, 3)).astype(np.float32))


@pytest.fixture(scope="session")
def run_prune(tiny_store, tiny_data, tiny_teacher):
    """Runs the stage on the tiny teacher."""
    from pipeline.config import PruneConfig
    from pipeline.stages import prune

    def run(**settings):
        return tiny_store.run(prune, PruneConfig(**settings), tiny_data, tiny_teacher, tiny_teacher)

    return run
