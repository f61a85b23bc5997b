"""
The players on the held-out prompts: replies, pairwise verdicts, tables with intervals.

NEEDS   preferences/final_eval_prompts.jsonl, every model of evaluation.players, the judges
MAKES   evaluation/responses/{player}.jsonl, evaluation/losses/{player}.json,
        {scope}/verdicts/{judge}.jsonl, {scope}/win_rates.csv, ranking.csv, comparisons.csv, power.csv,
        behaviour.csv, and in the demo truth.csv,
        truth_differences.csv; {scope} is evaluation, or unattended for the players that need no person
STEPS   evaluate_model       a model's replies
        evaluate_loss        its loss on human winning replies
        evaluate_human       the human winning replies
        evaluate_verdicts    every two players on every prompt, in both orders
        evaluate_comparisons win rates, a ranking, the declared comparisons, what their number can show
        evaluate_truth       the demo's own truth
        evaluate_behaviour   length, EOS rate, repetition, loss
"""


wildcard_constraints:
    scope="evaluation|unattended",
    judge=one_of(JUDGES),


rule evaluate_model:
    input:
        base=BASE_MODEL,
        lineage=lambda wildcards: adapters_of(wildcards.player),
        parts=lambda wildcards: parts_of(lineage(MODELS, wildcards.player)),
        prompts=study("preferences/final_eval_prompts.jsonl"),
        checked=study("splits/leakage.json"),
    output:
        study("evaluation/responses/{player}.jsonl"),
    log:
        study("logs/evaluate_model/{player}.log"),
    benchmark:
        study("benchmarks/evaluate_model/{player}.tsv")
    wildcard_constraints:
        player=one_of(MODELS),
    conda:
        SAMPLING_ENVIRONMENT
    threads: 1
    resources:
        gpu=SAMPLING_GPU,
        mem_mb=8_000,
        runtime="4h",
    params:
        base=base_of,
        settings=lambda wildcards: sampling_flags(model=wildcards.player),
        how=sampling_speed,
        state=study("state/samples"),
        code=code("generation"),
    message:
        "Sampling replies of {wildcards.player} to the held-out prompts"
    shell:
        r"""
        python -m persuasion_rl.generation respond_to_evaluation \
            --base {params.base:q} --lineage {input.lineage:q} \
            --prompts {input.prompts:q} --output {output:q} --state {params.state:q} \
            --threads {threads} {params.how} {params.settings} 2> >(tee {log:q} >&2)
        """


rule evaluate_loss:
    input:
        base=BASE_MODEL,
        lineage=lambda wildcards: adapters_of(wildcards.player),
        parts=lambda wildcards: parts_of(lineage(MODELS, wildcards.player)),
        held_out=study("splits/sft_val.jsonl"),
        checked=study("splits/leakage.json"),
    output:
        study("evaluation/losses/{player}.json"),
    log:
        study("logs/evaluate_loss/{player}.log"),
    benchmark:
        study("benchmarks/evaluate_loss/{player}.tsv")
    wildcard_constraints:
        player=one_of(MODELS),
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=8_000,
        runtime="2h",
    params:
        base=base_of,
        settings=flags({**MODEL_SETTINGS, "seed": STUDY["seed"]}),
        code=code("likelihood"),
    message:
        "Measuring the loss of {wildcards.player} on human winning replies"
    shell:
        r"""
        python -m persuasion_rl.likelihood \
            --base {params.base:q} --lineage {input.lineage:q} \
            --held_out {input.held_out:q} --output {output:q} \
            --threads {threads} {params.settings} 2> >(tee {log:q} >&2)
        """


rule evaluate_human:
    input:
        prompts=study("preferences/final_eval_prompts.jsonl"),
        held_out=study("splits/sft_test.jsonl"),
    output:
        study("evaluation/responses/human.jsonl"),
    log:
        study("logs/evaluate_human.log"),
    benchmark:
        study("benchmarks/evaluate_human.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=2_000,
        runtime="10m",
    params:
        code=code("responses"),
    message:
        "Taking the human winning replies to the held-out prompts"
    shell:
        r"""
        python -m persuasion_rl.responses quote_human \
            --prompts {input.prompts:q} --held_out {input.held_out:q} \
            --output {output:q} 2> >(tee {log:q} >&2)
        """


rule evaluate_verdicts:
    input:
        responses=lambda wildcards: player_responses(wildcards.scope),
        delta=lambda wildcards: delta_judge_for([wildcards.judge]),
        rubric=lambda wildcards: rubric_for([wildcards.judge]),
    output:
        study("{scope}/verdicts/{judge}.jsonl"),
    log:
        study("logs/{scope}_verdicts/{judge}.log"),
    benchmark:
        study("benchmarks/{scope}_verdicts/{judge}.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=lambda wildcards: GPU if wildcards.judge == "delta" else 0,
        mem_mb=8_000,
        runtime=lambda wildcards: judging_time([wildcards.judge], "8h"),
    params:
        players=lambda wildcards, input: pairs_of(input.responses, players_of(wildcards.scope)),
        judge=lambda wildcards: judge_flags([wildcards.judge]),
        asking=lambda wildcards, input: asking([wildcards.judge]),
        code=code("evaluation"),
    message:
        "Comparing the players: judge {wildcards.judge}"
    shell:
        r"""
        python -m persuasion_rl.evaluation judge_players \
            --responses {params.players:q} --judge {wildcards.judge} \
            --verdicts {output:q} --threads {threads} \
            {params.judge} {params.asking} 2> >(tee {log:q} >&2)
        """


rule evaluate_comparisons:
    input:
        verdicts=expand(study("{{scope}}/verdicts/{judge}.jsonl"), judge=JUDGES),
        responses=lambda wildcards: player_responses(wildcards.scope),
        models=lambda wildcards: model_tables(wildcards.scope)["models"],
    output:
        win_rates=study("{scope}/win_rates.csv"),
        ranking=study("{scope}/ranking.csv"),
        declared=study("{scope}/comparisons.csv"),
        power=study("{scope}/power.csv"),
    log:
        study("logs/{scope}_comparisons.log"),
    benchmark:
        study("benchmarks/{scope}_comparisons.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=4_000,
        runtime="1h",
    params:
        verdicts=lambda wildcards, input: pairs_of(input.verdicts, JUDGES),
        players=lambda wildcards, input: pairs_of(input.responses, players_of(wildcards.scope)),
        comparisons=lambda wildcards: flags({"comparisons": comparisons_of(wildcards.scope)}),
        settings=flags({"draws": STUDY["evaluation"]["bootstrap"], "seed": STUDY["seed"]}),
        code=code("evaluation"),
    message:
        "Win rates, ranking and declared comparisons"
    shell:
        r"""
        python -m persuasion_rl.evaluation compare_players \
            --verdicts {params.verdicts:q} --responses {params.players:q} --models {input.models:q} \
            --win_rates {output.win_rates:q} --ranking {output.ranking:q} \
            --declared {output.declared:q} --power {output.power:q} {params.comparisons} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


rule evaluate_truth:
    input:
        responses=lambda wildcards: player_responses(wildcards.scope),
    output:
        truth=study("{scope}/truth.csv"),
        differences=study("{scope}/truth_differences.csv"),
    log:
        study("logs/{scope}_truth.log"),
    benchmark:
        study("benchmarks/{scope}_truth.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=2_000,
        runtime="30m",
    params:
        players=lambda wildcards, input: pairs_of(input.responses, players_of(wildcards.scope)),
        comparisons=lambda wildcards: flags({"comparisons": comparisons_of(wildcards.scope)}),
        settings=flags({"draws": STUDY["evaluation"]["bootstrap"], "seed": STUDY["seed"]}),
        code=code("evaluation"),
    message:
        "Measuring the truth of every player's replies"
    shell:
        r"""
        python -m persuasion_rl.evaluation measure_truth \
            --responses {params.players:q} --truth {output.truth:q} \
            --differences {output.differences:q} {params.comparisons} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


rule evaluate_behaviour:
    input:
        responses=lambda wildcards: player_responses(wildcards.scope),
        losses=lambda wildcards: expand(
            study("evaluation/losses/{player}.json"),
            player=[player for player in players_of(wildcards.scope) if player != HUMAN],
        ),
    output:
        study("{scope}/behaviour.csv"),
    log:
        study("logs/{scope}_behaviour.log"),
    benchmark:
        study("benchmarks/{scope}_behaviour.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=2_000,
        runtime="30m",
    params:
        players=lambda wildcards, input: pairs_of(input.responses, players_of(wildcards.scope)),
        losses=lambda wildcards, input: pairs_of(
            input.losses, [player for player in players_of(wildcards.scope) if player != HUMAN]
        ),
        settings=flags({"draws": STUDY["evaluation"]["bootstrap"], "seed": STUDY["seed"]}),
        code=code("evaluation"),
    message:
        "Tabulating what the players' replies are like"
    shell:
        r"""
        python -m persuasion_rl.evaluation tabulate_behaviour \
            --responses {params.players:q} --losses {params.losses:q} \
            --output {output:q} {params.settings} 2> >(tee {log:q} >&2)
        """
