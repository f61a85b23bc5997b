"""
The players' replies to the held-out prompts.

NEEDS   preferences/final_eval_prompts.jsonl, splits/sft_test.jsonl, every model of evaluation.players
MAKES   evaluation/prompts/{player}.jsonl, evaluation/responses/{player}.jsonl, look/{player}.md
STEPS   render_prompts       what a player is asked that wants another format, or a length
        evaluate_model       a model's replies
        preview_model        replies to a few prompts, to be read: look/{player}.md
        quote_human          the human winning replies
"""


rule render_prompts:
    input:
        prompts=study.path("preferences/final_eval_prompts.jsonl"),
        held_out=study.path("splits/sft_test.jsonl"),
        base=lambda wildcards: study.player_base(wildcards.player),
        study_base=study.base_model,
    output:
        study.path("evaluation/prompts/{player}.jsonl"),
    log:
        study.path("logs/render_prompts/{player}.log"),
    benchmark:
        study.path("benchmarks/render_prompts/{player}.tsv")
    wildcard_constraints:
        player=one_of(study.other_players),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(2_000),
        runtime=grows_with_attempt("10m"),
    params:
        wording=lambda wildcards: study.wording(wildcards.player),
        bases=lambda wildcards, input: flags(
            {
                "study_base": folder_of(input.study_base),
                "player_base": folder_of(input.base or input.study_base),
            }
        ),
        code=code("sampling.render_prompts"),
    message:
        "Asking {wildcards.player} the held-out prompts in its own way"
    shell:
        r"""
        python -m persuasion_rl.sampling.render_prompts \
            --prompts {input.prompts:q} --held_out {input.held_out:q} --output {output:q} \
            {params.wording} {params.bases} 2> >(tee {log:q} >&2)
        """


rule evaluate_model:
    input:
        base=lambda wildcards: study.player_base(wildcards.player),
        lineage=lambda wildcards: study.adapters(study.player(wildcards.player).model),
        parts=lambda wildcards: study.adapter_parts(
            study.player(wildcards.player).model
        ),
        prompts=lambda wildcards: study.player_prompts(wildcards.player),
        checked=study.path("splits/leakage.json"),
    output:
        # In the path: Snakemake (9.27) does not heed `wildcard_constraints:` of files in a remote storage.
        responses=study.path(
            f"evaluation/responses/{{player,{one_of(study.sampling_players)}}}.jsonl"
        ),
    log:
        study.path("logs/evaluate_model/{player}.log"),
    benchmark:
        study.path("benchmarks/evaluate_model/{player}.tsv")
    wildcard_constraints:
        player=one_of(study.sampling_players),
    conda:
        SAMPLING_ENVIRONMENT
    threads: 1
    resources:
        gpu=lambda wildcards: study.engine_gpu(study.engine(wildcards.player)["engine"]),
        mem_mb=memory.replies,
        runtime=grows_with_attempt("4h"),
    params:
        settings=lambda wildcards: study.sampling_flags(
            **study.engine(wildcards.player)
        ),
        place=lambda wildcards, input: flags(
            {"base": folder_of(input.base) if input.base else None}
            | study.sampling_speed(wildcards.player)
        ),
        state=study.path("state/samples"),
        code=lambda wildcards: code(
            "sampling.evaluate_model",
            study.engine_module(study.engine(wildcards.player)["engine"]),
        ),
    message:
        "Sampling replies of {wildcards.player} to the held-out prompts"
    shell:
        r"""
        python -m persuasion_rl.sampling.evaluate_model \
            --lineage {input.lineage:q} --prompts {input.prompts:q} \
            --output {output.responses:q} --state {params.state:q} \
            {params.place} {params.settings} 2> >(tee {log:q} >&2)
        """


use rule evaluate_model as preview_model with:
    output:
        responses=study.path("look/{player}.jsonl"),
        page=study.path("look/{player}.md"),
    log:
        study.path("logs/preview_model/{player}.log"),
    benchmark:
        study.path("benchmarks/preview_model/{player}.tsv")
    params:
        settings=lambda wildcards: study.sampling_flags(
            **study.engine(wildcards.player),
            first=study.config.evaluation.num_samples,
            page=study.path(f"look/{wildcards.player}.md"),
        ),
        place=lambda wildcards, input: flags(
            {"base": folder_of(input.base) if input.base else None}
            | study.sampling_speed(wildcards.player)
        ),
        state=study.path("state/samples"),
        code=lambda wildcards: code(
            "sampling.evaluate_model",
            study.engine_module(study.engine(wildcards.player)["engine"]),
        ),
    message:
        "Sampling a few replies of {wildcards.player}"


rule quote_human:
    input:
        prompts=study.path("preferences/final_eval_prompts.jsonl"),
        held_out=study.path("splits/sft_test.jsonl"),
    output:
        study.path("evaluation/responses/human.jsonl"),
    log:
        study.path("logs/quote_human.log"),
    benchmark:
        study.path("benchmarks/quote_human.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(2_000),
        runtime=grows_with_attempt("10m"),
    params:
        code=code("sampling.quote_human"),
    message:
        "Taking the human winning replies to the held-out prompts"
    shell:
        r"""
        python -m persuasion_rl.sampling.quote_human \
            --prompts {input.prompts:q} --held_out {input.held_out:q} \
            --output {output:q} 2> >(tee {log:q} >&2)
        """
