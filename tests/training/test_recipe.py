"""The recipe of a training, and its parts."""

import pytest

from persuasion_rl.files import UserError
from persuasion_rl.training.recipe import split_recipe
from tiny_trainings import training_run


def test_a_recipe_is_split_and_left_as_it_is():
    recipe = {"effective_batch_size": 16, "per_device_train_batch_size": 4, "lora_r": 2}
    trainer, lora, batches = split_recipe(recipe | {"loss_type": "ipo", "beta": 0.2})
    assert trainer == {"loss_type": ["ipo"], "beta": 0.2}
    assert lora == {"lora_r": 2, "use_4bit": False}
    assert batches == {"effective": 16, "per_device_rows": 4, "gradient_checkpointing": False}
    assert recipe["effective_batch_size"] == 16  # the recipe itself is recorded as given


@pytest.mark.slow
@pytest.mark.parametrize("name, value", [("learnin_rate", 0.1), ("eval_strategy", "sometimes")])
def test_an_argument_that_the_trainer_does_not_know_is_the_users_mistake(name, value, tmp_path):
    from trl import SFTConfig

    from persuasion_rl.training.batches import Batches
    from persuasion_rl.training.trainer import trainer_arguments

    run = training_run(tmp_path)
    batches = Batches(rows=8, accumulation=1, processes=1, gradient_checkpointing=False)
    with pytest.raises(UserError, match="SFTConfig") as error:
        trainer_arguments(SFTConfig, {name: value}, run, batches)
    assert "\n" not in str(error.value)
    assert name in str(error.value) or value in str(error.value)
