"""What the stages have in common: tokens are shared where tokenizers agree, and made anew where they do not."""

import dataclasses
import shutil

from pipeline.encoder_artifact import taught_examples
from pipeline.runtime import load_deployment
from pipeline.tokens import load_tokenizer, tokenise


def test_a_model_with_the_teachers_tokenizer_shares_the_tokens_that_the_teacher_left(
    tiny_data, tiny_comments, tiny_teacher, tmp_path
):
    train, validation = taught_examples(tiny_data, tiny_teacher, tiny_teacher)
    tokenizer = load_tokenizer(tiny_teacher.path / "tokenizer.json", 48)
    for examples, split in ((train, tiny_comments.train), (validation, tiny_comments.validation)):
        expected = tokenise(tokenizer, split.texts)
        assert examples.tokens.ids.tolist() == expected.ids.tolist()
        assert examples.tokens.offsets.tolist() == expected.offsets.tolist()
        assert not examples.tokens.ids.flags.writeable, "mapped, not made anew"
    folder = tmp_path / "other"
    shutil.copytree(tiny_teacher.path, folder)
    deployment = load_deployment(folder)
    dataclasses.replace(deployment, max_tokens=9).save(folder)
    other = dataclasses.replace(tiny_teacher, path=folder)
    shorter, _ = taught_examples(tiny_data, other, tiny_teacher)
    expected = tokenise(load_tokenizer(folder / "tokenizer.json", 9), tiny_comments.train.texts)
    assert shorter.tokens.ids.tolist() == expected.ids.tolist()
    for file in folder.glob("*_token_*.npy"):
        file.unlink()
    again, _ = taught_examples(tiny_data, other, other)
    assert again.tokens.ids.tolist() == shorter.tokens.ids.tolist()
