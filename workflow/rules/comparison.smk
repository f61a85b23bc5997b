"""
Who wins: pairwise verdicts on the players' replies, and tables with intervals.

NEEDS   evaluation/responses/{player}.jsonl, the judges
MAKES   {scope}/verdicts/{judge}.jsonl, {scope}/win_rates.csv, ranking.csv, comparisons.csv, power.csv, equal_honesty.csv,
        evaluation/arena.csv; {scope} is evaluation, or unattended for the players that need no person
STEPS   evaluate_verdicts        every two players on every prompt, in both orders
        evaluate_win_rates       win rates, plain and at equal length
        evaluate_ranking         a ranking, the declared comparisons, what their number can show
        keep_equally_honest      the verdicts on replies of the same markers
        evaluate_equal_honesty   their win rates
        rank_arena               the ranking by people's votes, once there are some
"""


rule evaluate_verdicts:
    input:
        unpack(lambda wildcards: judge_inputs(wildcards.judge)),
        responses=declared(study.responses),
    output:
        study.path("{scope}/verdicts/{judge}.jsonl"),
    log:
        study.path("logs/{scope}_verdicts/{judge}.log"),
    benchmark:
        study.path("benchmarks/{scope}_verdicts/{judge}.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=lambda wildcards: study.judge_gpu(wildcards.judge),
        mem_mb=lambda wildcards, attempt: memory.judging(wildcards.judge)(
            wildcards, attempt
        ),
        runtime=lambda wildcards, attempt: judging_time(wildcards.judge, "8h", attempt),
    params:
        players=named_inputs(responses=study.responses),
        judge=lambda wildcards: study.judge_flags(wildcards.judge),
        place=judge_place,
        asking=uncompared(lambda wildcards: study.asking_flags(wildcards.judge)),
        code=lambda wildcards: code(
            "evaluation.verdicts", *study.judge_modules(wildcards.judge)
        ),
    message:
        "Comparing the players: judge {wildcards.judge}"
    shell:
        r"""
        python -m persuasion_rl.evaluation.verdicts \
            {params.players} --judge {wildcards.judge} \
            --verdicts {output:q} \
            {params.judge} {params.place} {params.asking} 2> >(tee {log:q} >&2)
        """


rule evaluate_win_rates:
    input:
        verdicts=declared(study.verdicts),
        responses=declared(study.responses),
    output:
        reported(study.path("{scope}/win_rates.csv"), "Comparisons"),
    log:
        study.path("logs/{scope}_win_rates.log"),
    benchmark:
        study.path("benchmarks/{scope}_win_rates.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(4_000),
        runtime=grows_with_attempt("1h"),
    params:
        players=named_inputs(verdicts=study.verdicts, responses=study.responses),
        settings=BOOTSTRAP,
        code=code("evaluation.tables"),
    message:
        "Tabulating win rates"
    shell:
        r"""
        python -m persuasion_rl.evaluation.tables evaluate_win_rates \
            {params.players} --output {output:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


rule evaluate_ranking:
    input:
        verdicts=declared(study.verdicts),
    output:
        ranking=reported(study.path("{scope}/ranking.csv"), "Comparisons"),
        declared=reported(study.path("{scope}/comparisons.csv"), "Comparisons"),
        power=reported(study.path("{scope}/power.csv"), "Comparisons"),
    log:
        study.path("logs/{scope}_ranking.log"),
    benchmark:
        study.path("benchmarks/{scope}_ranking.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(4_000),
        runtime=grows_with_attempt("30m"),
    params:
        verdicts=named_inputs(verdicts=study.verdicts),
        players=lambda wildcards: flags(
            {
                "players": study.players(wildcards.scope),
                "comparisons": study.comparisons(wildcards.scope),
                "groups": study.seed_groups(study.players(wildcards.scope)),
            }
        ),
        settings=BOOTSTRAP,
        code=code("evaluation.tables"),
    message:
        "Ranking the players and testing the declared comparisons"
    shell:
        r"""
        python -m persuasion_rl.evaluation.tables evaluate_ranking \
            {params.verdicts} \
            --ranking {output.ranking:q} --declared {output.declared:q} --power {output.power:q} \
            {params.players} {params.settings} 2> >(tee {log:q} >&2)
        """


rule keep_equally_honest:
    input:
        verdicts=study.path("{scope}/verdicts/{judge}.jsonl"),
        responses=declared(study.responses),
        readings=declared(study.readings),
        markers=MARKERS,
    output:
        study.path("{scope}/equal_honesty/{judge}.jsonl"),
    log:
        study.path("logs/{scope}_equally_honest/{judge}.log"),
    benchmark:
        study.path("benchmarks/{scope}_equally_honest/{judge}.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(2_000),
        runtime=grows_with_attempt("30m"),
    params:
        players=named_inputs(responses=study.responses, readings=study.readings),
        code=code("evaluation.honesty"),
    message:
        "Finding comparisons of equally honest replies: judge {wildcards.judge}"
    shell:
        r"""
        python -m persuasion_rl.evaluation.honesty keep_equally_honest \
            --verdicts {input.verdicts:q} {params.players} \
            --markers {input.markers:q} --output {output:q} 2> >(tee {log:q} >&2)
        """


use rule evaluate_win_rates as evaluate_equal_honesty with:
    input:
        verdicts=declared(study.equally_honest),
        responses=declared(study.responses),
    output:
        reported(study.path("{scope}/equal_honesty.csv"), "Comparisons"),
    log:
        study.path("logs/{scope}_equal_honesty.log"),
    benchmark:
        study.path("benchmarks/{scope}_equal_honesty.tsv")
    params:
        players=named_inputs(verdicts=study.equally_honest, responses=study.responses),
        settings=BOOTSTRAP,
        code=code("evaluation.tables"),
    message:
        "Tabulating win rates among equally honest replies"


rule rank_arena:
    input:
        recipes=declared(study.recipes),
    output:
        reported(study.path("evaluation/arena.csv"), "Comparisons"),
    log:
        study.path("logs/rank_arena.log"),
    benchmark:
        study.path("benchmarks/rank_arena.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=grows_with_attempt(1_000),
        runtime=grows_with_attempt("10m"),
    params:
        answers=HUMAN_ANSWERS,
        votes=ARENA_VOTES,
        recipes=named_inputs(recipes=study.recipes),
        players=flags({"players": list(study.models)}),
        settings=BOOTSTRAP,
        code=code("evaluation.arena"),
    message:
        "Ranking the models by people's votes in the arena"
    shell:
        r"""
        python -m persuasion_rl.evaluation.arena \
            --answers {params.answers:q} {params.recipes} --output {output:q} \
            {params.players} {params.settings} 2> >(tee {log:q} >&2)
        """
