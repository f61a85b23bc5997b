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
        preference_pairs         decided labels as pairs, a share of the conversations to validate; what
                                 the labels are like
"""


rule generate_responses:
    input:
        base=BASE_MODEL,
        lineage=lambda wildcards: adapters_of(
            STUDY["pools"][wildcards.pool]["responses_from"]
        ),
        parts=lambda wildcards: parts_of(
            lineage(MODELS, STUDY["pools"][wildcards.pool]["responses_from"])
        ),
        prompts=study("preferences/{pool}_pool_prompts.jsonl"),
        checked=study("splits/leakage.json"),
    output:
        # Gathered and gone. Its samples stay in state/: made again, a shard draws nothing.
        temp(study("preferences/shards/{pool}_{rows}_{start}.jsonl")),
    log:
        study("logs/generate_responses/{pool}_{rows}_{start}.log"),
    benchmark:
        study("benchmarks/generate_responses/{pool}_{rows}_{start}.tsv")
    wildcard_constraints:
        pool=one_of(ALL_POOLS),
        rows=r"\d+",
        start=r"\d+",
    conda:
        SAMPLING_ENVIRONMENT
    threads: 1
    resources:
        gpu=SAMPLING_GPU,
        mem_mb=growing(8_000),
        runtime=growing("4h"),
    params:
        base=base_of,
        settings=lambda wildcards: sampling_flags(
            model=STUDY["pools"][wildcards.pool]["responses_from"],
            responses=STUDY["pools"][wildcards.pool]["responses"],
            redraws=STUDY["sampling"]["redraws"],
        ),
        how=sampling_speed,
        state=study("state/samples"),
        code=code("sampling.generate"),
    message:
        "Sampling responses for the {wildcards.pool} pool, rows from {wildcards.start}"
    shell:
        r"""
        python -m persuasion_rl.sampling.generate respond_to_pool \
            --base {params.base:q} --lineage {input.lineage:q} \
            --prompts {input.prompts:q} --output {output:q} \
            --start {wildcards.start} --rows {wildcards.rows} --state {params.state:q} \
            --threads {threads} {params.how} {params.settings} 2> >(tee {log:q} >&2)
        """


rule gather_responses:
    input:
        shards=lambda wildcards: shards(wildcards.pool),
    output:
        responses=study("preferences/{pool}_pool_responses.jsonl"),
        counts=study("preferences/{pool}_pool_counts.json"),
    log:
        study("logs/gather_responses/{pool}.log"),
    benchmark:
        study("benchmarks/gather_responses/{pool}.tsv")
    wildcard_constraints:
        pool=one_of(ALL_POOLS),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(2_000),
        runtime=growing("10m"),
    params:
        code=code("sampling.responses"),
    message:
        "Gathering the responses of the {wildcards.pool} pool"
    shell:
        r"""
        python -m persuasion_rl.sampling.responses gather_pool \
            --shards {input.shards:q} --output {output.responses:q} \
            --counts {output.counts:q} 2> >(tee {log:q} >&2)
        """


rule label_ai:
    input:
        responses=study("preferences/ai_pool_responses.jsonl"),
        delta=delta_judge_for([label_judge("ai")]),
        interplay=interplay_judge_for([label_judge("ai")]),
        rubric=rubric_for([label_judge("ai")]),
    output:
        study("preferences/ai_pool_labels.jsonl"),
    log:
        study("logs/label_ai.log"),
    benchmark:
        study("benchmarks/label_ai.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=GPU if label_judge("ai") == "delta" else 0,
        mem_mb=growing(8_000),
        runtime=lambda wildcards, attempt: judging_time(
            [label_judge("ai")], "4h", attempt
        ),
    params:
        settings=flags({key: STUDY["labels"]["ai"][key] for key in ("judge", "noise")}),
        judge=judge_flags([label_judge("ai")]),
        place=judge_place,
        asking=lambda wildcards, input: asking([label_judge("ai")]),
        code=code("preferences.label_ai", *judge_modules(label_judge("ai"))),
    message:
        "Labelling the AI pool"
    shell:
        r"""
        python -m persuasion_rl.preferences.label_ai \
            --responses {input.responses:q} --labels {output:q} --threads {threads} \
            {params.settings} {params.judge} {params.place} {params.asking} 2> >(tee {log:q} >&2)
        """


rule simulate_annotators:
    input:
        responses=study("preferences/human_pool_responses.jsonl"),
        delta=delta_judge_for([label_judge(HUMAN)]),
        interplay=interplay_judge_for([label_judge(HUMAN)]),
    output:
        study("preferences/simulated_answers.sqlite"),
    log:
        study("logs/simulate_annotators.log"),
    benchmark:
        study("benchmarks/simulate_annotators.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=GPU if label_judge(HUMAN) == "delta" else 0,
        mem_mb=growing(8_000),
        runtime=growing("1h"),
    params:
        settings=flags(
            {
                key: STUDY["labels"]["human"][key]
                for key in ("annotators", "judge", "noise", "tie_margin", *GIVING)
            }
        ),
        judge=judge_flags([label_judge(HUMAN)]),
        place=judge_place,
        code=code("preferences.simulate_annotators", *judge_modules(label_judge(HUMAN))),
    message:
        "Simulating annotators for the human pool"
    shell:
        r"""
        python -m persuasion_rl.preferences.simulate_annotators \
            --responses {input.responses:q} --answers {output:q} --threads {threads} \
            {params.settings} {params.judge} {params.place} 2> >(tee {log:q} >&2)
        """


rule export_human_labels:
    input:
        responses=study("preferences/human_pool_responses.jsonl"),
        simulated=SIMULATED_ANSWERS if SIMULATED_PEOPLE else [],
    output:
        study("preferences/human_pool_labels.jsonl"),
    log:
        study("logs/export_human_labels.log"),
    benchmark:
        study("benchmarks/export_human_labels.tsv")
    # Where labels are missing, people give them.
    retries: 0
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(2_000),
        runtime=growing("10m"),
    params:
        answers=lambda wildcards, input: (
            input.simulated if SIMULATED_PEOPLE else HUMAN_ANSWERS
        ),
        # People's answers outlive every clean-up and are no input: a digest of those that labels are made of is what
        # makes this stale.
        digest=None if SIMULATED_PEOPLE else labels_digest(Path(HUMAN_ANSWERS)),
        settings=flags(
            {
                "min_labels": STUDY["labels"]["human"]["min_labels"],
                "study": NAME,
                "labeler": "simulated annotators" if SIMULATED_PEOPLE else "people",
            }
        ),
        code=code("preferences.export_human_labels"),
    message:
        "Joining answers with the responses that they were given for"
    shell:
        r"""
        python -m persuasion_rl.preferences.export_human_labels \
            --responses {input.responses:q} --answers {params.answers:q} \
            --labels {output:q} {params.settings} 2> >(tee {log:q} >&2)
        """


rule report_agreement:
    input:
        responses=study("preferences/human_pool_responses.jsonl"),
        simulated=SIMULATED_ANSWERS if SIMULATED_PEOPLE else [],
    output:
        study("preferences/human_answers.json"),
    log:
        study("logs/report_agreement.log"),
    benchmark:
        study("benchmarks/report_agreement.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(2_000),
        runtime=growing("10m"),
    params:
        answers=lambda wildcards, input: (
            input.simulated if SIMULATED_PEOPLE else HUMAN_ANSWERS
        ),
        # Of repeats and skips too, which make no label: a rule of its own, so that they train nothing anew.
        digest=None if SIMULATED_PEOPLE else answers_digest(Path(HUMAN_ANSWERS)),
        seed=STUDY["seed"],
        code=code("annotation.agreement"),
    message:
        "Measuring how far annotators agree"
    shell:
        r"""
        python -m persuasion_rl.annotation.agreement \
            --responses {input.responses:q} --answers {params.answers:q} \
            --output {output:q} --seed {params.seed} 2> >(tee {log:q} >&2)
        """


rule preference_pairs:
    input:
        study("preferences/{pool}_pool_labels.jsonl"),
    output:
        train=study("preferences/{pool}_train.jsonl"),
        val=study("preferences/{pool}_val.jsonl"),
        report=study("preferences/{pool}_pairs.json"),
    log:
        study("logs/preference_pairs/{pool}.log"),
    benchmark:
        study("benchmarks/preference_pairs/{pool}.tsv")
    wildcard_constraints:
        pool=one_of(ALL_POOLS),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(2_000),
        runtime=growing("10m"),
    params:
        settings=flags(
            {"seed": STUDY["seed"], "val_fraction": STUDY["labels"]["val_fraction"]}
        ),
        code=code("preferences.preference_pairs"),
    message:
        "Making chosen / rejected pairs of the {wildcards.pool} pool"
    shell:
        r"""
        python -m persuasion_rl.preferences.preference_pairs \
            --labels {input:q} --train {output.train:q} --val {output.val:q} \
            --report {output.report:q} {params.settings} 2> >(tee {log:q} >&2)
        """
