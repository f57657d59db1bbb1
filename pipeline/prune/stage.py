"""The stage: take out what the config names, one method after the other, and fine-tune what is left."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from pipeline.artifact import Artifact, Notes
from pipeline.config import PruneConfig
from pipeline.encoder_artifact import labelled, save_descendant, taught_examples
from pipeline.models import HEAD_CONFIG, TextClassifier, fit_heads, head_size, load_model
from pipeline.objective import Examples
from pipeline.prune.calibration import activation_norms, draw_rows
from pipeline.prune.gradual import Gradual
from pipeline.prune.masks import Granularity, Masks, Scope, drop_smallest, magnitude_scores, matrices_in, wanda_scores
from pipeline.prune.structured import IMPORTANCE, groups_of, most_important, structured_cuts
from pipeline.prune.vocabulary import trim_tokenizer, vocabulary_cuts
from pipeline.runtime import TOKENIZER, load_deployment
from pipeline.tokens import load_tokenizer, tokenise
from pipeline.training import History, seeded, student_recipe, train


def prune(config: PruneConfig, folder: Path, data: Artifact, student: Artifact, teacher: Artifact) -> Notes:
    """Prune the student by each method in turn, and fine-tune the rest with its zeros held, taught by the teacher.

    Raises:
        ValueError: the settings contradict each other, or the student has not what they would remove.
    """
    _refuse_impossible(config, student)
    model = load_model(student.path).eval()
    examples, validation = taught_examples(data, student, teacher)
    masks, notes = Masks(model), Notes()
    for method in config.methods:
        if method == "vocabulary":
            notes |= _remove_tokens(model, masks, config, folder, student, examples)
            tokenizer = load_tokenizer(folder / TOKENIZER, load_deployment(student.path).max_tokens)
            examples, validation = labelled(data, teacher, partial(tokenise, tokenizer), "in_sample")
        elif method == "structured":
            notes |= _remove_structures(model, masks, config, examples)
        elif method != "gradual":
            _set_zeros(method, model, masks, config, examples)
    history = _fine_tune(model, masks, config, examples, validation) if config.epochs else []
    save_descendant(model, folder, student)
    notes |= {"history": history, "prunable_sparsity": _sparsity_of(model, "encoder")}
    if masks.dropped:
        notes["scope_sparsity"] = _sparsity_of(model, config.scope)
    return notes


def _refuse_impossible(config: PruneConfig, student: Artifact) -> None:
    """Raise a ValueError where settings contradict each other or the student has no encoder."""
    if not (student.path / HEAD_CONFIG).is_file():
        raise ValueError(f"prune.method={config.method}: the student has no encoder layers to prune; take none")
    if "gradual" not in config.methods:
        return
    if not config.epochs:
        raise ValueError("prune.epochs=0: gradual pruning happens in the fine-tuning; set it to 1 or more")
    if config.initial_sparsity >= config.sparsity:
        raise ValueError(
            f"prune.initial_sparsity={config.initial_sparsity}: not less than prune.sparsity={config.sparsity}; "
            "lower it"
        )
    if config.end_fraction <= config.begin_fraction:
        raise ValueError(
            f"prune.end_fraction={config.end_fraction}: not more than prune.begin_fraction={config.begin_fraction}; "
            "raise it"
        )


def _remove_tokens(
    model: TextClassifier, masks: Masks, config: PruneConfig, folder: Path, student: Artifact, examples: Examples
) -> Notes:
    """Write the smaller tokenizer into the folder, and cut the embedding to its tokens."""
    tokenizer = Tokenizer.from_file(str(student.path / TOKENIZER))
    seen = np.bincount(examples.tokens.ids) >= config.minimum_count
    trimmed, old_ids = trim_tokenizer(tokenizer, {*np.flatnonzero(seen).tolist(), model.pad_id})
    (folder / TOKENIZER).write_text(trimmed.to_str(pretty=True), encoding="utf-8")
    before = model.config.vocab_size
    masks.cut(vocabulary_cuts(model, old_ids))
    return {"tokens_left": len(old_ids), "tokens_removed": before - len(old_ids)}


def _remove_structures(model: TextClassifier, masks: Masks, config: PruneConfig, examples: Examples) -> Notes:
    """Cut the least important heads and neurons out of every layer."""
    groups, size = groups_of(model, config), head_size(model)
    rows = draw_rows(len(examples.tokens), config.calibration_rows, config.seed)
    kept = most_important(groups, IMPORTANCE[config.importance](model, groups, examples, rows), config.ratio)
    masks.cut(structured_cuts(groups, kept))
    if size is not None:
        fit_heads(model, size)
    left = [(group, len(structures)) for group, structures in zip(groups, kept, strict=True)]
    removed = sum((group.count - count) * group.parameters for group, count in left)
    return {
        "heads_left": [count for group, count in left if group.kind == "heads"],
        "neurons_left": [count for group, count in left if group.kind == "ffn"],
        "structures_removed": removed / sum(group.count * group.parameters for group in groups),
    }


def _set_zeros(method: str, model: TextClassifier, masks: Masks, config: PruneConfig, examples: Examples) -> None:
    """Set the least important weights in scope to zero, by magnitude or by Wanda."""
    matrices = matrices_in(model, config.scope)
    if method == "wanda":
        rows = draw_rows(len(examples.tokens), config.calibration_rows, config.seed)
        scores = wanda_scores(matrices, activation_norms(model, matrices, examples.tokens, rows))
    else:
        scores = magnitude_scores(matrices)
    masks.add(drop_smallest(scores, config.sparsity, _granularity(config, method)))


def _granularity(config: PruneConfig, method: str) -> Granularity:
    if config.granularity == "default":
        return "row" if method == "wanda" else "layer"
    return config.granularity


def _fine_tune(
    model: TextClassifier, masks: Masks, config: PruneConfig, examples: Examples, validation: Examples
) -> History:
    """Train what is left with the zeros held; gradual pruning adds to them on the way, wherever in the chain it is."""
    gradual = Gradual(masks, config, _granularity(config, "gradual")) if "gradual" in config.methods else None
    hold = gradual or (lambda _done, _total: masks.hold())
    with seeded(config.seed):
        history = train(model, examples, validation, student_recipe(config), after_step=hold)
    if gradual:
        gradual.keep_full_sparsity()
    return history


def _sparsity_of(model: TextClassifier, scope: Scope) -> float:
    """Share of zeros among the weights in scope."""
    weights = [matrix.weight for matrix in matrices_in(model, scope).values()]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
