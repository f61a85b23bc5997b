"""
From the prompts of a pool to chosen / rejected pairs.

NEEDS   preferences/{pool}_pool_prompts.jsonl, the model whose responses are compared, a judge or people
MAKES   preferences/{pool}_pool_responses.jsonl, {pool}_pool_labels.jsonl, {pool}_train.jsonl, {pool}_val.jsonl,
        {pool}_pairs.json, human_answers.json
STEPS   generate_responses       two sampled responses a prompt or more, a shard of the pool a job
        gather_responses         pairs of responses, the shards in order, without what could not be used
        label_ai                 the AI pool, by a judge in both orders
        simulate_annotators      answers of simulated annotators (labels.human.source: simulated)
        export_human_labels      the human pool, by answers: people's in state/, or simulated ones
        report_agreement         how far annotators agree with each other and with themselves
        preference_pairs         decided labels as pairs, a share of the conversations to validate; what the labels are
                                 like
"""

from persuasion_rl.annotation.store import answers_digest, labels_digest
from persuasion_rl.study.models import POOLS

AI_JUDGE = study.label_judge("ai")
SIMULATED = study.config.labels.human.source == "simulated"
SIMULATED_JUDGE = study.config.labels.human.judge
SIMULATED_ANSWERS = study.path("preferences/simulated_answers.sqlite")


rule generate_responses:
    input:
        base=study.base_model,
        lineage=lambda wildcards: study.adapters(study.responding_model(wildcards.pool)),
        parts=lambda wildcards: study.adapter_parts(
            study.responding_model(wildcards.pool)
        ),
        prompts=study.path("preferences/{pool}_pool_prompts.jsonl"),
        checked=study.path("splits/leakage.json"),
    output:
        # Deleted once gathered. Its samples stay in state/, so that a shard made again samples nothing anew.
        temp(study.path("preferences/shards/{pool}_{rows}_{start}.jsonl")),
    log:
        study.path("logs/generate_responses/{pool}_{rows}_{start}.log"),
    benchmark:
        study.path("benchmarks/generate_responses/{pool}_{rows}_{start}.tsv")
    wildcard_constraints:
        pool=one_of(POOLS),
        rows=r"\d+",
        start=r"\d+",
    conda:
        SAMPLING_ENVIRONMENT
    threads: 1
    resources:
        gpu=study.engine_gpu(study.config.sampling.engine),
        mem_mb=memory.responses,
        runtime=grows_with_attempt("4h"),
    params:
        base=place_of_base,
        settings=lambda wildcards: study.sampling_flags(
            model=study.responding_model(wildcards.pool),
            responses=study.config.pools[wildcards.pool].responses,
            redraws=study.config.sampling.redraws,
        ),
        how=uncompared(
            lambda wildcards: study.flags("sampling.batch_size", "sampling.base_url")
        ),
        state=study.path("state/samples"),
        code=code(
            "sampling.generate_responses",
            study.engine_module(study.config.sampling.engine),
        ),
    message:
        "Sampling responses for the {wildcards.pool} pool, rows from {wildcards.start}"
    shell:
        r"""
        python -m persuasion_rl.sampling.generate_responses \
            --base {params.base:q} --lineage {input.lineage:q} \
            --prompts {input.prompts:q} --output {output:q} \
            --start {wildcards.start} --rows {wildcards.rows} --state {params.state:q} \
            {params.how} {params.settings} 2> >(tee {log:q} >&2)
        """


rule gather_responses:
    input:
        shards=lambda wildcards: study.shards(wildcards.pool),
    output:
        responses=study.path("preferences/{pool}_pool_responses.jsonl"),
        counts=study.path("preferences/{pool}_pool_counts.json"),
    log:
        study.path("logs/gather_responses/{pool}.log"),
    benchmark:
        study.path("benchmarks/gather_responses/{pool}.tsv")
    wildcard_constraints:
        pool=one_of(POOLS),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(2_000),
        runtime=grows_with_attempt("10m"),
    params:
        code=code("sampling.gather_responses"),
    message:
        "Gathering the responses of the {wildcards.pool} pool"
    shell:
        r"""
        python -m persuasion_rl.sampling.gather_responses \
            --shards {input.shards:q} --output {output.responses:q} \
            --counts {output.counts:q} 2> >(tee {log:q} >&2)
        """


rule label_ai:
    input:
        **judge_inputs(AI_JUDGE),
        responses=study.path("preferences/ai_pool_responses.jsonl"),
    output:
        study.path("preferences/ai_pool_labels.jsonl"),
    log:
        study.path("logs/label_ai.log"),
    benchmark:
        study.path("benchmarks/label_ai.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=study.judge_gpu(AI_JUDGE),
        mem_mb=memory.judging(AI_JUDGE),
        runtime=lambda wildcards, attempt: judging_time(AI_JUDGE, "4h", attempt),
    params:
        settings=study.flags("labels.ai.*"),
        judge=study.judge_flags(AI_JUDGE),
        place=judge_place,
        asking=uncompared(lambda wildcards: study.asking_flags(AI_JUDGE)),
        code=code("preferences.label_ai", *study.judge_modules(AI_JUDGE)),
    message:
        "Labelling the AI pool"
    shell:
        r"""
        python -m persuasion_rl.preferences.label_ai \
            --responses {input.responses:q} --labels {output:q} \
            {params.settings} {params.judge} {params.place} {params.asking} 2> >(tee {log:q} >&2)
        """


rule simulate_annotators:
    input:
        **judge_inputs(SIMULATED_JUDGE),
        responses=study.path("preferences/human_pool_responses.jsonl"),
    output:
        SIMULATED_ANSWERS,
    log:
        study.path("logs/simulate_annotators.log"),
    benchmark:
        study.path("benchmarks/simulate_annotators.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=study.judge_gpu(SIMULATED_JUDGE),
        mem_mb=memory.judging(SIMULATED_JUDGE),
        runtime=grows_with_attempt("1h"),
    params:
        settings=study.flags(
            "labels.human.annotators",
            "labels.human.judge",
            "labels.human.noise",
            "labels.human.tie_margin",
            "labels.human.overlap",
            "labels.human.several",
            "labels.human.repeats",
        ),
        judge=study.judge_flags(SIMULATED_JUDGE),
        place=judge_place,
        code=code(
            "preferences.simulate_annotators", *study.judge_modules(SIMULATED_JUDGE)
        ),
    message:
        "Simulating annotators for the human pool"
    shell:
        r"""
        python -m persuasion_rl.preferences.simulate_annotators \
            --responses {input.responses:q} --answers {output:q} \
            {params.settings} {params.judge} {params.place} 2> >(tee {log:q} >&2)
        """


rule export_human_labels:
    input:
        responses=study.path("preferences/human_pool_responses.jsonl"),
        simulated=SIMULATED_ANSWERS if SIMULATED else [],
    output:
        study.path("preferences/human_pool_labels.jsonl"),
    log:
        study.path("logs/export_human_labels.log"),
    benchmark:
        study.path("benchmarks/export_human_labels.tsv")
    # Where labels are missing, people give them.
    retries: 0
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(2_000),
        runtime=grows_with_attempt("10m"),
    params:
        answers=lambda wildcards, input: input.simulated or HUMAN_ANSWERS,
        digest=None if SIMULATED else digest_of_store(labels_digest),
        settings=study.flags("labels.human.min_labels", "study"),
        labeler="simulated annotators" if SIMULATED else "people",
        code=code("preferences.export_human_labels"),
    message:
        "Joining answers with the responses that they were given for"
    shell:
        r"""
        python -m persuasion_rl.preferences.export_human_labels \
            --responses {input.responses:q} --answers {params.answers:q} \
            --labels {output:q} --labeler {params.labeler:q} {params.settings} 2> >(tee {log:q} >&2)
        """


rule report_agreement:
    input:
        responses=study.path("preferences/human_pool_responses.jsonl"),
        simulated=SIMULATED_ANSWERS if SIMULATED else [],
    output:
        study.path("preferences/human_answers.json"),
    log:
        study.path("logs/report_agreement.log"),
    benchmark:
        study.path("benchmarks/report_agreement.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(2_000),
        runtime=grows_with_attempt("10m"),
    params:
        answers=lambda wildcards, input: input.simulated or HUMAN_ANSWERS,
        # It covers repeats and skips too. They make no label: a rule of its own, so that they train nothing anew.
        digest=None if SIMULATED else digest_of_store(answers_digest),
        settings=study.flags("seed"),
        code=code("annotation.agreement"),
    message:
        "Measuring how far annotators agree"
    shell:
        r"""
        python -m persuasion_rl.annotation.agreement \
            --responses {input.responses:q} --answers {params.answers:q} \
            --output {output:q} {params.settings} 2> >(tee {log:q} >&2)
        """


rule preference_pairs:
    input:
        labels=study.path("preferences/{pool}_pool_labels.jsonl"),
    output:
        train=study.path("preferences/{pool}_train.jsonl"),
        val=study.path("preferences/{pool}_val.jsonl"),
        report=study.path("preferences/{pool}_pairs.json"),
    log:
        study.path("logs/preference_pairs/{pool}.log"),
    benchmark:
        study.path("benchmarks/preference_pairs/{pool}.tsv")
    wildcard_constraints:
        pool=one_of(POOLS),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(2_000),
        runtime=grows_with_attempt("10m"),
    params:
        settings=study.flags("seed", "labels.val_fraction"),
        code=code("preferences.preference_pairs"),
    message:
        "Making chosen / rejected pairs of the {wildcards.pool} pool"
    shell:
        r"""
        python -m persuasion_rl.preferences.preference_pairs \
            --labels {input.labels:q} --train {output.train:q} --val {output.val:q} \
            --report {output.report:q} {params.settings} 2> >(tee {log:q} >&2)
        """
