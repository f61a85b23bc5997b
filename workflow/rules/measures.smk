"""
What the players' replies are like, apart from who wins.

NEEDS   evaluation/responses/{player}.jsonl, the trained models, splits/sft_train.jsonl, resources/markers/
MAKES   evaluation/losses/{player}.json, evaluation/kl/{model}.jsonl, evaluation/similarities/{player}.jsonl,
        evaluation/readings/{player}.jsonl, {scope}/behaviour.csv, honesty.csv, and in the demo truth.csv,
        truth_differences.csv; {scope} is evaluation, or unattended for the players that need no person
STEPS   evaluate_loss        a model's loss on human winning replies
        evaluate_kl          how far a DPO model has gone from its parent
        evaluate_similarity  how near replies are to the human ones, where there is a model of embeddings
        evaluate_behaviour   length, EOS rate, repetition, copied text, and the three above
        read_honesty         what a language model reads of honesty, where the judge llm evaluates
        evaluate_honesty     surface markers of invented experience, insults, certainty, figures without a source, and
                             what was read
        evaluate_truth       the demo's own truth
"""


rule evaluate_loss:
    input:
        base=study.base_model,
        lineage=lambda wildcards: study.adapters(wildcards.player),
        parts=lambda wildcards: study.adapter_parts(wildcards.player),
        held_out=study.path("splits/sft_val.jsonl"),
        checked=study.path("splits/leakage.json"),
    output:
        study.path("evaluation/losses/{player}.json"),
    log:
        study.path("logs/evaluate_loss/{player}.log"),
    benchmark:
        study.path("benchmarks/evaluate_loss/{player}.tsv")
    wildcard_constraints:
        player=one_of(study.models),
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=study.gpu,
        mem_mb=memory.loss,
        runtime=grows_with_attempt("2h"),
    params:
        base=place_of_base,
        settings=study.flags(
            "data.prompt_format", "device", "seed", "trust_remote_code"
        ),
        code=code("evaluation.loss"),
    message:
        "Measuring the loss of {wildcards.player} on human winning replies"
    shell:
        r"""
        python -m persuasion_rl.evaluation.loss \
            --base {params.base:q} --lineage {input.lineage:q} \
            --held_out {input.held_out:q} --output {output:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


rule evaluate_kl:
    input:
        base=study.base_model,
        lineage=lambda wildcards: study.adapters(wildcards.model),
        parts=lambda wildcards: study.adapter_parts(wildcards.model),
        responses=study.path("evaluation/responses/{model}.jsonl"),
    output:
        study.path("evaluation/kl/{model}.jsonl"),
    log:
        study.path("logs/evaluate_kl/{model}.log"),
    benchmark:
        study.path("benchmarks/evaluate_kl/{model}.tsv")
    wildcard_constraints:
        model=one_of(study.trained("dpo")),
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=study.gpu,
        mem_mb=memory.kl,
        runtime=grows_with_attempt("2h"),
    params:
        base=place_of_base,
        settings=study.flags(
            "data.prompt_format", "device", "seed", "trust_remote_code"
        ),
        code=code("evaluation.kl"),
    message:
        "Measuring how far {wildcards.model} has gone from its parent"
    shell:
        r"""
        python -m persuasion_rl.evaluation.kl \
            --base {params.base:q} --lineage {input.lineage:q} \
            --responses {input.responses:q} --output {output:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


rule evaluate_similarity:
    input:
        model=study.embedding_files(),
        responses=study.path("evaluation/responses/{player}.jsonl"),
        human=study.path("evaluation/responses/human.jsonl"),
    output:
        study.path("evaluation/similarities/{player}.jsonl"),
    log:
        study.path("logs/evaluate_similarity/{player}.log"),
    benchmark:
        study.path("benchmarks/evaluate_similarity/{player}.tsv")
    wildcard_constraints:
        player=one_of(study.similarities("evaluation")),
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=study.gpu,
        mem_mb=grows_with_attempt(4_000),
        runtime=grows_with_attempt("1h"),
    params:
        settings=study.flags("device", "seed", "trust_remote_code"),
        embedder=study.embedding_flags,
        package=lambda wildcards, input: flags(study.embedding_package(input.model)),
        code=code("evaluation.similarity"),
    message:
        "Comparing replies of {wildcards.player} with the human ones"
    shell:
        r"""
        python -m persuasion_rl.evaluation.similarity \
            --responses {input.responses:q} --human {input.human:q} --output {output:q} \
            {params.embedder} {params.package} {params.settings} 2> >(tee {log:q} >&2)
        """


rule evaluate_behaviour:
    input:
        responses=declared(study.responses),
        losses=declared(study.losses),
        metrics=declared(study.preference_metrics),
        kl=declared(study.kl),
        similarities=declared(study.similarities),
        train=study.path("splits/sft_train.jsonl"),
        concession=local(own_file("resources/markers/concession.txt")),
    output:
        reported(study.path("{scope}/behaviour.csv"), "Replies"),
    log:
        study.path("logs/{scope}_behaviour.log"),
    benchmark:
        study.path("benchmarks/{scope}_behaviour.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(4_000),
        runtime=grows_with_attempt("1h"),
    params:
        players=named_inputs(
            responses=study.responses,
            losses=study.losses,
            metrics=study.preference_metrics,
            kl=study.kl,
            similarities=study.similarities,
        ),
        settings=BOOTSTRAP,
        code=code("evaluation.behaviour"),
    message:
        "Tabulating what the players' replies are like"
    shell:
        r"""
        python -m persuasion_rl.evaluation.behaviour {params.players} \
            --train {input.train:q} --concession {input.concession:q} \
            --output {output:q} {params.settings} 2> >(tee {log:q} >&2)
        """


rule read_honesty:
    input:
        responses=study.path("evaluation/responses/{player}.jsonl"),
        rubric=local(study.honesty_rubric),
    output:
        study.path("evaluation/readings/{player}.jsonl"),
    log:
        study.path("logs/read_honesty/{player}.log"),
    benchmark:
        study.path("benchmarks/read_honesty/{player}.tsv")
    wildcard_constraints:
        player=one_of(study.readings("evaluation")),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(2_000),
        runtime=lambda wildcards, attempt: judging_time("llm", "1h", attempt),
    params:
        settings=study.reading_flags(),
        asking=uncompared(lambda wildcards: study.asking_flags("llm")),
        code=code("evaluation.read_honesty"),
    message:
        "Reading the replies of {wildcards.player} for honesty"
    shell:
        r"""
        python -m persuasion_rl.evaluation.read_honesty \
            --responses {input.responses:q} --output {output:q} \
            {params.settings} {params.asking} 2> >(tee {log:q} >&2)
        """


rule evaluate_honesty:
    input:
        responses=declared(study.responses),
        readings=declared(study.readings),
        markers=MARKERS,
    output:
        reported(study.path("{scope}/honesty.csv"), "Replies"),
    log:
        study.path("logs/{scope}_honesty.log"),
    benchmark:
        study.path("benchmarks/{scope}_honesty.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(2_000),
        runtime=grows_with_attempt("30m"),
    params:
        players=named_inputs(responses=study.responses, readings=study.readings),
        settings=BOOTSTRAP,
        code=code("evaluation.honesty"),
    message:
        "Measuring honesty"
    shell:
        r"""
        python -m persuasion_rl.evaluation.honesty evaluate_honesty \
            {params.players} --markers {input.markers:q} \
            --output {output:q} {params.settings} 2> >(tee {log:q} >&2)
        """


rule evaluate_truth:
    input:
        responses=declared(study.responses),
    output:
        truth=reported(study.path("{scope}/truth.csv"), "Truth"),
        differences=reported(study.path("{scope}/truth_differences.csv"), "Truth"),
    log:
        study.path("logs/{scope}_truth.log"),
    benchmark:
        study.path("benchmarks/{scope}_truth.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(2_000),
        runtime=grows_with_attempt("30m"),
    params:
        players=named_inputs(responses=study.responses),
        comparisons=lambda wildcards: flags(
            {"comparisons": study.comparisons(wildcards.scope)}
        ),
        settings=BOOTSTRAP,
        code=code("evaluation.truth"),
    message:
        "Measuring the truth of every player's replies"
    shell:
        r"""
        python -m persuasion_rl.evaluation.truth \
            {params.players} --truth {output.truth:q} \
            --differences {output.differences:q} {params.comparisons} \
            {params.settings} 2> >(tee {log:q} >&2)
        """
