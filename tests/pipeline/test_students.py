"""Students against models in which what they lack does nothing; narrowing against widening."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from pipeline.models import TextClassifier, encoder_layers, load_model, save_model
from pipeline.students import chosen_layers, important_dimensions, keep_layers, narrow, strongest

VOCABULARY, LABELS = 50, 3
FAMILIES = {
    "bert": (BertConfig, BertModel, {}),
    "roberta": (RobertaConfig, RobertaModel, {"max_position_embeddings": 20, "pad_token_id": 1}),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel, {"max_position_embeddings": 20, "pad_token_id": 1}),
    "electra": (ElectraConfig, ElectraModel, {}),
    "electra-projected": (ElectraConfig, ElectraModel, {"embedding_size": 6}),
}


def encoder(family="bert", layers=2, width=16, heads=2, neurons=24, pooling="mean", seed=0):
    """A classifier of this family with every weight random, biases and norms too."""
    config_class, model_class, settings = FAMILIES[family]
    sizes = {
        "vocab_size": VOCABULARY,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": neurons,
        "max_position_embeddings": 16,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if family == "electra":
        sizes["embedding_size"] = width
    torch.manual_seed(seed)
    body = model_class(config_class(**sizes | settings))
    body.register_module("pooler", None)
    model = TextClassifier(body, LABELS, pooling, 0.2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


def batch(pad_id=0, seed=0):
    """Ids and mask of comments of 12, 5, 1 and 8 tokens."""
    mask = (torch.arange(12) < torch.tensor([12, 5, 1, 8])[:, None]).long()
    ids = torch.randint(2, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(mask == 1, ids, pad_id), mask


def answer(model):
    with torch.inference_mode():
        return model(*batch(model.pad_id))


def spread(count, copies, random):
    """Random places, ascending, of `count` numbers among `count * copies`, and of what stands at the others."""
    places = np.sort(random.choice(count * copies, count, replace=False))
    others = np.setdiff1d(np.arange(count * copies), places)
    return torch.from_numpy(places), torch.from_numpy(others)


def widened(family, copies, seed=0):
    """A small model, the same one made `copies` times wider so that it answers alike, and where its dimensions went.

    Each hidden dimension is written `copies` times, so that mean and variance stay, and read once. Heads and
    feed-forward parts get further rows that nothing reads or that are read from nothing.
    """
    small = encoder(family, seed=seed)
    width = small.config.hidden_size
    big = encoder(family, width=copies * width, neurons=copies * small.config.intermediate_size, seed=seed + 1)
    random = np.random.default_rng(seed)
    read, others = spread(width, copies, random)
    written = torch.empty(copies * width, dtype=torch.int64)
    written[read] = torch.arange(width)
    written[others] = torch.from_numpy(random.permutation(np.repeat(np.arange(width), copies - 1)))
    source, target = small.state_dict(), big.state_dict()
    projected = "encoder.embeddings_project.weight" in source
    for name, tensor in source.items():
        if name == "head.bias" or (projected and name.startswith("encoder.embeddings.")):
            target[name].copy_(tensor)
        elif "_embeddings.weight" in name:
            target[name].copy_(tensor[:, written])
        elif "LayerNorm" in name or "embeddings_project" in name:
            target[name].copy_(tensor[written])
    target["head.weight"].zero_()[:, read] = source["head.weight"]
    for layer in range(small.config.num_hidden_layers):
        widen_layer(source, target, f"encoder.encoder.layer.{layer}", small.config, copies, read, written, random)
    return small, big, read


def widen_layer(source, target, layer, config, copies, read, written, random):
    """Fill the wide layer's matrices in `target` from the small layer's."""
    query, key, value = (f"{layer}.attention.self.{kind}" for kind in ("query", "key", "value"))
    mixed, up, down = f"{layer}.attention.output.dense", f"{layer}.intermediate.dense", f"{layer}.output.dense"
    size = config.hidden_size // config.num_attention_heads
    starts = range(0, copies * config.hidden_size, copies * size)
    matched, carried = (torch.cat([spread(size, copies, random)[0] + start for start in starts]) for _ in range(2))
    neurons, _ = spread(config.intermediate_size, copies, random)
    # The wide head divides by a larger root.
    for module, rows, scale in (
        (query, matched, copies**0.5),
        (key, matched, 1.0),
        (value, carried, 1.0),
        (up, neurons, 1.0),
    ):
        weight, bias = target[f"{module}.weight"], target[f"{module}.bias"]
        if module == key:  # its further rows are blank and meet random queries; those of the others nothing reads
            weight.zero_()
            bias.zero_()
        weight[rows] = 0.0
        weight[rows[:, None], read] = scale * source[f"{module}.weight"]
        weight[:, np.setdiff1d(np.arange(len(written)), read)] = 0.0
        bias[rows] = scale * source[f"{module}.bias"]
    for module, columns in ((mixed, carried), (down, neurons)):
        target[f"{module}.weight"].zero_()[:, columns] = source[f"{module}.weight"][written]
        target[f"{module}.bias"].copy_(source[f"{module}.bias"][written])


class PassOn(nn.Module):
    """In place of a layer: nothing happens to the hidden states."""

    def forward(self, hidden_states, *_arguments, **_settings):
        return hidden_states


@pytest.mark.parametrize(
    ("depth", "layers", "choice", "expected"),
    [
        (4, 1, "even", [0]),
        (4, 2, "even", [0, 3]),
        (4, 4, "even", [0, 1, 2, 3]),
        (7, 3, "even", [0, 3, 6]),
        (7, 4, "even", [0, 2, 4, 6]),
        (12, 2, "first", [0, 1]),
        (12, 3, "last", [9, 10, 11]),
        (3, 3, "first", [0, 1, 2]),
        (3, 3, "last", [0, 1, 2]),
        (1, 1, "last", [0]),
    ],
)
def test_chosen_layers(depth, layers, choice, expected):
    assert chosen_layers(depth, layers, choice) == expected


def test_even_layers_are_spread_as_evenly_as_whole_numbers_allow():
    for depth in range(2, 25):
        for layers in range(2, depth + 1):
            chosen = chosen_layers(depth, layers, "even")
            gaps = np.diff(chosen)
            assert len(chosen) == layers and chosen[0] == 0 and chosen[-1] == depth - 1
            assert gaps.min() >= 1 and np.abs(gaps - (depth - 1) / (layers - 1)).max() < 1


@pytest.mark.parametrize("choice", ["even", "first", "last"])
def test_more_layers_than_there_are_is_a_value_error(choice):
    with pytest.raises(ValueError, match=r"distil\.layers=5: the teacher has 4 layers"):
        chosen_layers(4, 5, choice)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kept", [[0], [3], [0, 3], [1, 2], [0, 1, 2, 3]])
def test_the_student_answers_as_the_model_in_which_the_other_layers_do_nothing(family, kept):
    model = encoder(family, layers=4)
    student, partial = keep_layers(model, kept), copy.deepcopy(model)
    for layer in set(range(4)) - set(kept):
        encoder_layers(partial)[layer] = PassOn()
    torch.testing.assert_close(answer(student), answer(partial))
    assert len(kept) == 4 or (answer(student) - answer(model)).abs().max() > 1e-3


def test_the_student_is_a_copy():
    model = encoder(layers=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for student in (keep_layers(model, [0, 2]), narrow(model, torch.arange(8))):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(1.0)
        student.config.vocab_size = 1
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.config.vocab_size) == (4, 16, VOCABULARY)
    assert len(encoder_layers(model)) == 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("copies", [2, 3])
def test_narrowing_undoes_a_widening(family, copies):
    small, big, read = widened(family, copies)
    torch.testing.assert_close(answer(big), answer(small), rtol=1e-4, atol=1e-4)
    dimensions = important_dimensions(big, small.config.hidden_size)
    torch.testing.assert_close(dimensions, read)
    student = narrow(big, dimensions)
    torch.testing.assert_close(answer(student), answer(small), rtol=1e-4, atol=1e-4)
    for name, tensor in small.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], tensor, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_all_dimensions_leave_the_model_as_it_is(family, pooling):
    model = encoder(family, pooling=pooling)
    dimensions = important_dimensions(model, 16)
    assert dimensions.tolist() == list(range(16))
    student = narrow(model, dimensions)
    assert all(torch.equal(tensor, student.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(answer(student), answer(model))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("width", [2, 8, 14])
def test_a_narrow_student_survives_saving(family, width, tmp_path):
    model = encoder(family, width=16, heads=2, neurons=24)
    student = narrow(model, important_dimensions(model, width))
    config = student.config
    assert (config.hidden_size, config.intermediate_size, config.num_attention_heads) == (width, 24 * width // 16, 2)
    assert (student.pooling, student.dropout.p, student.head.weight.shape) == ("mean", 0.2, (LABELS, width))
    save_model(student, tmp_path)
    loaded = load_model(tmp_path).eval()
    assert torch.equal(answer(loaded), answer(student))
    assert torch.isfinite(answer(student)).all()
    ours, theirs = config.to_dict(), loaded.config.to_dict()
    assert {name for name in ours if ours[name] != theirs[name]} <= {"_name_or_path"}


def test_a_narrow_student_has_the_same_dimensions_everywhere():
    model = encoder()
    dimensions = torch.tensor([1, 4, 5, 7, 8, 11, 12, 15])
    ours, theirs = narrow(model, dimensions).state_dict(), model.state_dict()
    table, norm = "encoder.embeddings.word_embeddings.weight", "encoder.encoder.layer.1.output.LayerNorm.bias"
    assert torch.equal(ours[table], theirs[table][:, dimensions])
    assert torch.equal(ours[norm], theirs[norm][dimensions])
    assert torch.equal(ours["head.weight"], theirs["head.weight"][:, dimensions])
    assert torch.equal(ours["head.bias"], theirs["head.bias"])


def test_a_dimension_counts_by_what_reads_it():
    """The score of every dimension from a run over random norm outputs, and the order that it gives."""
    model = encoder(layers=1)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    random = np.random.default_rng(0)

    def share(matrix, norm):
        """The mean square of what each dimension contributes when the normed values are standard normal."""
        values = random.normal(size=(20000, 16)) * state[f"{norm}.weight"] + state[f"{norm}.bias"]
        squares = [np.square(np.outer(values[:, d], matrix[:, d])).mean() for d in range(16)]
        return np.array(squares) / np.sum(squares)

    layer = "encoder.encoder.layer.0"
    total = share(state["head.weight"], f"{layer}.output.LayerNorm")
    total += share(state[f"{layer}.intermediate.dense.weight"], f"{layer}.attention.output.LayerNorm")
    for name in ("query", "key", "value"):
        total += share(state[f"{layer}.attention.self.{name}.weight"], "encoder.embeddings.LayerNorm")
    ranked = np.argsort(-total)
    gaps = -np.diff(total[ranked]) / total.mean()
    clear = [width for width in range(1, 16) if gaps[width - 1] > 0.02]
    assert len(clear) > 5
    for width in clear:
        assert important_dimensions(model, width).tolist() == sorted(ranked[:width])


def test_strongest_is_ascending_and_takes_the_first_of_equals():
    scores = torch.tensor([[3.0, 1.0, 3.0, 2.0], [0.0, 0.0, 0.0, 1.0]])
    assert strongest(scores, 2).tolist() == [[0, 2], [0, 3]]
    assert strongest(scores, 3).tolist() == [[0, 2, 3], [0, 1, 3]]


def test_narrowing_draws_no_random_numbers():
    model = encoder()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    narrow(model, torch.arange(8))
    assert torch.equal(torch.rand(4), expected)


def test_widths_that_cannot_be_are_value_errors():
    with pytest.raises(ValueError, match=r"distil\.width=20: the teacher is 16 wide"):
        important_dimensions(encoder(), 20)
    with pytest.raises(ValueError, match=r"distil\.width=9: no multiple of the teacher's 2 heads"):
        narrow(encoder(), torch.arange(9))
    with pytest.raises(ValueError, match=r"distil\.width=6: is the width of the teacher's embeddings"):
        narrow(encoder("electra-projected"), torch.arange(6))
    other = DistilBertModel(DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=24))
    with pytest.raises(ValueError, match=r"DistilBertModel has no .*BERT's layout"):
        important_dimensions(TextClassifier(other, LABELS, "mean", 0.0), 8)
