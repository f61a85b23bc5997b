"""The engine vllm, with a stand-in for the package, which needs a GPU."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from persuasion_rl.models.loading import load_tokenizer
from persuasion_rl.sampling.request import CUT, STOPPED, Limits, Request, Sample
from persuasion_rl.training.standin import END_OF_TEXT
from tiny_models import TROUBLE, engine_of, short_requests, write_scripted_base


class StandInForVllm(ModuleType):
    """A stand-in for the package vllm, which needs a GPU, with the part of the interface of 0.30 that we use.

    It answers every prompt with its token ids in reverse, up to `max_tokens`, or with `reply`."""

    reply: list[int] | None = None

    def __init__(self):
        super().__init__("vllm")
        self.instances: list[tuple] = []
        self.calls: list[tuple] = []
        stand_in = self

        class LLM:
            def __init__(self, model, **settings):
                stand_in.instances.append((model, settings))
                self.tokenizer = load_tokenizer(Path(model))

            def generate(self, prompts, sampling_params, *, use_tqdm=True, lora_request=None):
                stand_in.calls.append((prompts, sampling_params, lora_request))
                return [self.answer(*pair) for pair in zip(prompts, sampling_params, strict=True)]

            def answer(self, prompt, limits):
                ids = stand_in.reply or prompt["prompt_token_ids"][::-1]
                cut = len(ids) >= limits.max_tokens
                ids = ids[: limits.max_tokens] if cut else [*ids, limits.stop_token_ids[0]]
                reason = "length" if cut else "stop"
                assert limits.detokenize is False
                output = SimpleNamespace(text="", token_ids=ids, finish_reason=reason)
                return SimpleNamespace(outputs=[output])

        self.LLM = LLM
        self.SamplingParams = SimpleNamespace
        self.lora = ModuleType("vllm.lora")
        self.lora.request = ModuleType("vllm.lora.request")
        self.lora.request.LoRARequest = lambda name, number, path: (name, number, path)


@pytest.fixture
def vllm(monkeypatch) -> StandInForVllm:
    stand_in = StandInForVllm()
    modules = {"vllm": stand_in, "vllm.lora": stand_in.lora}
    for name, module in (modules | {"vllm.lora.request": stand_in.lora.request}).items():
        monkeypatch.setitem(sys.modules, name, module)
    return stand_in


def test_what_vllm_is_asked_and_what_becomes_of_its_answers(vllm, troubled_base, monkeypatch, said):
    monkeypatch.setattr("persuasion_rl.sampling.vllm.REQUESTS_PER_CALL", 3)
    requests = [Request(f"p{i}", "Hello" + "!" * i, n) for i in range(4) for n in (1, 2)]
    settings = {"limits": Limits(0.7, 0.9, 8), "engine": "vllm", "batch_size": 5}
    samples = list(engine_of(troubled_base, **settings).sample(requests))
    assert [request for request, _ in samples] == requests
    tokens = sum(sample.tokens for _, sample in samples)
    assert len(said) == 3 and said[-1].startswith(f"sampling: {tokens} tokens, ")
    assert [len(prompts) for prompts, _, _ in vllm.calls] == [3, 3, 2]
    ((model, llm_settings),) = vllm.instances  # loaded once
    assert model == str(troubled_base)
    assert llm_settings["max_num_seqs"] == 5 and llm_settings["generation_config"] == "vllm"
    assert "enable_lora" not in llm_settings and {adapter for *_, adapter in vllm.calls} == {None}
    tokenizer = load_tokenizer(troubled_base)
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    prompts = [prompt["prompt_token_ids"] for prompts, _, _ in vllm.calls for prompt in prompts]
    assert prompts == [tokenizer(request.prompt)["input_ids"] for request in requests]
    all_limits = [limits for _, some, _ in vllm.calls for limits in some]
    for limits in all_limits:
        assert (limits.temperature, limits.top_p, limits.max_tokens) == (0.7, 0.9, 8)
        assert limits.stop_token_ids == [tokenizer.eos_token_id, end_of_turn]
    assert len({limits.seed for limits in all_limits}) == len(requests)
    list(engine_of(troubled_base, **settings).sample(requests[::-1]))
    assert [limits.seed for _, some, _ in vllm.calls[3:] for limits in some] == [
        limits.seed for limits in all_limits[::-1]
    ]
    reasons = set()
    for (_, sample), ids in zip(samples, prompts, strict=True):
        cut = len(ids) >= 8
        assert sample.text == tokenizer.decode(ids[::-1][:8]).strip()
        assert sample.tokens == (8 if cut else len(ids) + 1)
        assert sample.finish_reason == (CUT if cut else STOPPED)
        reasons.add(sample.finish_reason)
    assert reasons == {CUT, STOPPED}


def test_vllm_stops_at_every_end_that_the_base_model_has(vllm, tmp_path):
    """As transformers does: Qwen2.5's instruction models end a turn with a token that is not the tokenizer's EOS."""
    base = write_scripted_base(tmp_path, TROUBLE)
    ends = load_tokenizer(base).convert_tokens_to_ids([END_OF_TEXT, "<|im_end|>"])
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, ends[0]]}))
    list(engine_of(base, engine="vllm").sample(short_requests(1)))
    ((_, (limits,), _),) = vllm.calls
    assert limits.stop_token_ids == sorted([7, *ends])
    model, _ = engine_of(base).load()
    assert limits.stop_token_ids == model.generation_config.eos_token_id


def test_marks_of_reasoning_stay_in_the_text_though_they_are_special_tokens(vllm, tmp_path):
    base = write_scripted_base(tmp_path, TROUBLE, special=("[THINK]", "[/THINK]"))
    tokens = ["[THINK]", "B", "[/THINK]", "<|im_start|>", "A"]
    vllm.reply = load_tokenizer(base).convert_tokens_to_ids(tokens)
    ((_, sample),) = engine_of(base, engine="vllm").sample(short_requests(1))
    assert sample == Sample("[THINK]B[/THINK]A", 6, STOPPED) and sample.reply == "A"


def test_vllm_gets_the_models_own_adapter(vllm, troubled_base, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "persuasion_rl.sampling.engine.check_lineage", lambda base, lineage: "digest"
    )
    lineage = [tmp_path / name / "adapter_model.safetensors" for name in ("sft", "dpo")]
    for adapter, rank in zip(lineage, (4, 12), strict=True):
        adapter.parent.mkdir()
        (adapter.parent / "adapter_config.json").write_text(json.dumps({"r": rank}))
    engine = engine_of(troubled_base, engine="vllm", lineage=lineage, model="dpo")
    list(engine.sample(short_requests(2)))
    ((_, llm_settings),) = vllm.instances
    assert (
        llm_settings["enable_lora"] and llm_settings["max_lora_rank"] == 16
    )  # the next that vLLM has
    ((_, _, adapter),) = vllm.calls
    assert adapter == ("dpo", 1, str(tmp_path / "dpo"))
