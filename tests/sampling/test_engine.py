"""Engines by their names, what they promise, and the code that their samples depend on."""

import pytest

from persuasion_rl.files import UserError
from persuasion_rl.study.code import module_digests
from persuasion_rl.study.names import ENGINE_MODULES
from tiny_models import engine_of, short_requests


def test_only_float32_on_a_cpu_promises_reproducible_samples(tiny_base):
    promises = {
        name: engine_of(tiny_base, engine=name, base_url="http://x/v1").reproducible
        for name in ("transformers", "vllm", "openai")
    }
    assert promises == {"transformers": True, "vllm": False, "openai": False}


def test_an_engine_that_is_not_installed_is_named(tiny_base):
    with pytest.raises(UserError, match="vllm is not installed; snakemake --sdm conda"):
        list(engine_of(tiny_base, engine="vllm").sample(short_requests(1)))


@pytest.mark.parametrize("engine", ["transformers", "vllm", "openai"])
def test_an_engine_without_a_base_model_is_one_line(engine):
    with pytest.raises(UserError, match=f"engine {engine}: needs the folder of a base model"):
        engine_of(None, engine=engine, base_url="http://x/v1")


def modules_of(*roots: str) -> set[str]:
    return {digest.partition(":")[0] for digest in module_digests(*roots)}


@pytest.mark.parametrize("module", sorted(set(ENGINE_MODULES.values())))
def test_an_engine_depends_on_no_other_engines_code(module):
    assert modules_of(module) & {*ENGINE_MODULES.values()} == {module}


@pytest.mark.parametrize("stage", ["generate_responses", "evaluate_model"])
def test_a_stage_names_the_engine_that_it_depends_on(stage):
    assert not modules_of(f"sampling.{stage}") & {*ENGINE_MODULES.values()}


@pytest.mark.parametrize("stage", ["gather_responses", "quote_human", "render_prompts"])
def test_what_samples_nothing_depends_on_no_engine(stage):
    assert not {name for name in modules_of(f"sampling.{stage}") if "engine" in name}
    assert "models.loading" not in modules_of(f"sampling.{stage}")
