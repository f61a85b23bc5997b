"""
The players on the held-out prompts: replies, pairwise verdicts, tables with intervals.

NEEDS   preferences/final_eval_prompts.jsonl, every model of evaluation.players, the judges
MAKES   evaluation/prompts/ and evaluation/responses/{player}.jsonl, evaluation/losses/{player}.json, evaluation/divergences/ and
        evaluation/similarities/{player}.jsonl, {scope}/verdicts/{judge}.jsonl, {scope}/win_rates.csv,
        ranking.csv, comparisons.csv, power.csv, behaviour.csv, honesty.csv, equal_honesty.csv, and in the
        demo truth.csv, truth_differences.csv; {scope} is evaluation, or unattended for the players that
        need no person
STEPS   evaluate_prompts     what a player is asked that wants another format, or a length
        evaluate_model       a model's replies
        look_at_model        the same for a few prompts, to be read: look/{player}.md
        evaluate_loss        its loss on human winning replies
        evaluate_human       the human winning replies
        evaluate_verdicts    every two players on every prompt, in both orders
        evaluate_win_rates   win rates, plain and at equal length
        evaluate_ranking     a ranking, the declared comparisons, what their number can show
        rank_arena           the ranking by people's votes, once there are some
        evaluate_truth       the demo's own truth
        evaluate_kl          how far a DPO model has gone from its parent
        evaluate_similarity  how near replies are to the human ones, where there is a model of embeddings
        evaluate_behaviour   length, EOS rate, repetition, copied text, loss, and the two above
        read_honesty         what a language model reads of it, where the judge llm evaluates
        evaluate_honesty     surface markers of invented experience, insults, certainty, figures without a source,
                             and what was read
        keep_equally_honest      the verdicts on replies of the same markers
        evaluate_equal_honesty   their win rates
"""


wildcard_constraints:
    scope="evaluation|unattended",
    judge=one_of(JUDGES),


rule evaluate_prompts:
    input:
        prompts=study("preferences/final_eval_prompts.jsonl"),
        held_out=study("splits/sft_test.jsonl"),
        base=lambda wildcards: weights_of(wildcards.player),
        study_base=BASE_MODEL,
    output:
        study("evaluation/prompts/{player}.jsonl"),
    log:
        study("logs/evaluate_prompts/{player}.log"),
    benchmark:
        study("benchmarks/evaluate_prompts/{player}.tsv")
    wildcard_constraints:
        player=one_of(OTHERS),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(2_000),
        runtime=growing("10m"),
    params:
        wording=lambda wildcards: asking_flags(wildcards.player),
        bases=asking_places,
        code=code("sampling.player_prompts"),
    message:
        "Asking {wildcards.player} the held-out prompts in its own way"
    shell:
        r"""
        python -m persuasion_rl.sampling.player_prompts \
            --prompts {input.prompts:q} --held_out {input.held_out:q} --output {output:q} \
            {params.wording} {params.bases} 2> >(tee {log:q} >&2)
        """


rule evaluate_model:
    input:
        base=lambda wildcards: weights_of(wildcards.player),
        lineage=lambda wildcards: adapters_behind(wildcards.player),
        parts=lambda wildcards: parts_of(
            lineage(MODELS, model_behind(STUDY, wildcards.player) or BASE)
        ),
        prompts=lambda wildcards: prompts_for(wildcards.player),
        checked=study("splits/leakage.json"),
    output:
        responses=study(
            constrained(
                "evaluation/responses/{player}.jsonl", player=[*MODELS, *OTHERS]
            )
        ),
    log:
        study("logs/evaluate_model/{player}.log"),
    benchmark:
        study("benchmarks/evaluate_model/{player}.tsv")
    wildcard_constraints:
        player=one_of([*MODELS, *OTHERS]),
    conda:
        SAMPLING_ENVIRONMENT
    threads: 1
    resources:
        gpu=lambda wildcards: (
            0 if player_engine(wildcards.player)["engine"] in SERVED else GPU
        ),
        mem_mb=growing(8_000),
        runtime=growing("4h"),
    params:
        settings=lambda wildcards: sampling_flags(**player_engine(wildcards.player)),
        place=player_place,
        state=study("state/samples"),
        code=code("sampling.generate"),
    message:
        "Sampling replies of {wildcards.player} to the held-out prompts"
    shell:
        r"""
        python -m persuasion_rl.sampling.generate respond_to_evaluation \
            --lineage {input.lineage:q} --prompts {input.prompts:q} \
            --output {output.responses:q} --state {params.state:q} \
            --threads {threads} {params.place} {params.settings} 2> >(tee {log:q} >&2)
        """


use rule evaluate_model as look_at_model with:
    output:
        responses=study("look/{player}.jsonl"),
        page=study("look/{player}.md"),
    log:
        study("logs/look_at_model/{player}.log"),
    benchmark:
        study("benchmarks/look_at_model/{player}.tsv")
    params:
        settings=lambda wildcards: looking_flags(wildcards.player),
        place=player_place,
        state=study("state/samples"),
        code=code("sampling.generate"),
    message:
        "Sampling a few replies of {wildcards.player}"


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
        mem_mb=growing(8_000),
        runtime=growing("2h"),
    params:
        base=base_of,
        settings=flags({**MODEL_SETTINGS, "seed": STUDY["seed"]}),
        code=code("evaluation.loss"),
    message:
        "Measuring the loss of {wildcards.player} on human winning replies"
    shell:
        r"""
        python -m persuasion_rl.evaluation.loss \
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
        mem_mb=growing(2_000),
        runtime=growing("10m"),
    params:
        code=code("sampling.responses"),
    message:
        "Taking the human winning replies to the held-out prompts"
    shell:
        r"""
        python -m persuasion_rl.sampling.responses quote_human \
            --prompts {input.prompts:q} --held_out {input.held_out:q} \
            --output {output:q} 2> >(tee {log:q} >&2)
        """


rule evaluate_verdicts:
    input:
        responses=lambda wildcards: player_responses(wildcards.scope),
        delta=lambda wildcards: delta_judge_for([wildcards.judge]),
        interplay=lambda wildcards: interplay_judge_for([wildcards.judge]),
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
        mem_mb=growing(8_000),
        runtime=lambda wildcards, attempt: judging_time(
            [wildcards.judge], "8h", attempt
        ),
    params:
        players=lambda wildcards, input: pairs_of(
            input.responses, players_of(wildcards.scope)
        ),
        judge=lambda wildcards: judge_flags([wildcards.judge]),
        place=judge_place,
        asking=lambda wildcards, input: asking([wildcards.judge]),
        code=lambda wildcards: code(
            "evaluation.verdicts", *judge_modules(wildcards.judge)
        ),
    message:
        "Comparing the players: judge {wildcards.judge}"
    shell:
        r"""
        python -m persuasion_rl.evaluation.verdicts \
            --responses {params.players:q} --judge {wildcards.judge} \
            --verdicts {output:q} --threads {threads} \
            {params.judge} {params.place} {params.asking} 2> >(tee {log:q} >&2)
        """


rule evaluate_win_rates:
    input:
        verdicts=expand(study("{{scope}}/verdicts/{judge}.jsonl"), judge=JUDGES),
        responses=lambda wildcards: player_responses(wildcards.scope),
    output:
        shown(study("{scope}/win_rates.csv"), "Comparisons"),
    log:
        study("logs/{scope}_win_rates.log"),
    benchmark:
        study("benchmarks/{scope}_win_rates.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(4_000),
        runtime=growing("1h"),
    params:
        verdicts=lambda wildcards, input: pairs_of(input.verdicts, JUDGES),
        players=lambda wildcards, input: pairs_of(
            input.responses, players_of(wildcards.scope)
        ),
        settings=flags(
            {"draws": STUDY["evaluation"]["bootstrap"], "seed": STUDY["seed"]}
        ),
        code=code("evaluation.tables"),
    message:
        "Tabulating win rates"
    shell:
        r"""
        python -m persuasion_rl.evaluation.tables evaluate_win_rates \
            --verdicts {params.verdicts:q} --responses {params.players:q} --output {output:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


rule evaluate_ranking:
    input:
        verdicts=expand(study("{{scope}}/verdicts/{judge}.jsonl"), judge=JUDGES),
    output:
        ranking=shown(study("{scope}/ranking.csv"), "Comparisons"),
        declared=shown(study("{scope}/comparisons.csv"), "Comparisons"),
        power=shown(study("{scope}/power.csv"), "Comparisons"),
    log:
        study("logs/{scope}_ranking.log"),
    benchmark:
        study("benchmarks/{scope}_ranking.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(4_000),
        runtime=growing("30m"),
    params:
        verdicts=lambda wildcards, input: pairs_of(input.verdicts, JUDGES),
        players=lambda wildcards: flags(
            {
                "players": players_of(wildcards.scope),
                "comparisons": comparisons_of(wildcards.scope),
                "groups": seeds_of(players_of(wildcards.scope)),
            }
        ),
        settings=flags(
            {"draws": STUDY["evaluation"]["bootstrap"], "seed": STUDY["seed"]}
        ),
        code=code("evaluation.tables"),
    message:
        "Ranking the players and testing the declared comparisons"
    shell:
        r"""
        python -m persuasion_rl.evaluation.tables evaluate_ranking \
            --verdicts {params.verdicts:q} \
            --ranking {output.ranking:q} --declared {output.declared:q} --power {output.power:q} \
            {params.players} {params.settings} 2> >(tee {log:q} >&2)
        """


rule rank_arena:
    input:
        recipes=expand(
            study("models/{model}/recipe.json"), model=reported_models("evaluation")
        ),
    output:
        shown(study("evaluation/arena.csv"), "Comparisons"),
    log:
        study("logs/rank_arena.log"),
    benchmark:
        study("benchmarks/rank_arena.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(1_000),
        runtime=growing("10m"),
    params:
        answers=HUMAN_ANSWERS,
        votes=ARENA_VOTES,
        settings=flags(
            {
                "players": list(MODELS),
                "draws": STUDY["evaluation"]["bootstrap"],
                "seed": STUDY["seed"],
            }
        ),
        code=code("annotation.battles"),
    message:
        "Ranking the models by people's votes in the arena"
    shell:
        r"""
        python -m persuasion_rl.annotation.battles \
            --answers {params.answers:q} --recipes {input.recipes:q} --output {output:q} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


rule evaluate_truth:
    input:
        responses=lambda wildcards: player_responses(wildcards.scope),
    output:
        truth=shown(study("{scope}/truth.csv"), "Truth"),
        differences=shown(study("{scope}/truth_differences.csv"), "Truth"),
    log:
        study("logs/{scope}_truth.log"),
    benchmark:
        study("benchmarks/{scope}_truth.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(2_000),
        runtime=growing("30m"),
    params:
        players=lambda wildcards, input: pairs_of(
            input.responses, players_of(wildcards.scope)
        ),
        comparisons=lambda wildcards: flags(
            {"comparisons": comparisons_of(wildcards.scope)}
        ),
        settings=flags(
            {"draws": STUDY["evaluation"]["bootstrap"], "seed": STUDY["seed"]}
        ),
        code=code("evaluation.truth"),
    message:
        "Measuring the truth of every player's replies"
    shell:
        r"""
        python -m persuasion_rl.evaluation.truth \
            --responses {params.players:q} --truth {output.truth:q} \
            --differences {output.differences:q} {params.comparisons} \
            {params.settings} 2> >(tee {log:q} >&2)
        """


rule evaluate_kl:
    input:
        base=BASE_MODEL,
        lineage=lambda wildcards: adapters_of(wildcards.model),
        parts=lambda wildcards: parts_of(lineage(MODELS, wildcards.model)),
        responses=study("evaluation/responses/{model}.jsonl"),
    output:
        study("evaluation/divergences/{model}.jsonl"),
    log:
        study("logs/evaluate_kl/{model}.log"),
    benchmark:
        study("benchmarks/evaluate_kl/{model}.tsv")
    wildcard_constraints:
        model=one_of(trained_models(method="dpo")),
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(12_000),
        runtime=growing("2h"),
    params:
        base=base_of,
        settings=flags(MODEL_SETTINGS | {"seed": STUDY["seed"]}),
        code=code("evaluation.kl"),
    message:
        "Measuring how far {wildcards.model} has gone from its parent"
    shell:
        r"""
        python -m persuasion_rl.evaluation.kl \
            --base {params.base:q} --lineage {input.lineage:q} \
            --responses {input.responses:q} --output {output:q} \
            --threads {threads} {params.settings} 2> >(tee {log:q} >&2)
        """


rule evaluate_similarity:
    input:
        model=embedding_files(),
        responses=study("evaluation/responses/{player}.jsonl"),
        human=study("evaluation/responses/human.jsonl"),
    output:
        study("evaluation/similarities/{player}.jsonl"),
    log:
        study("logs/evaluate_similarity/{player}.log"),
    benchmark:
        study("benchmarks/evaluate_similarity/{player}.tsv")
    wildcard_constraints:
        player=one_of(players()),
    conda:
        "../../envs/persuasion-rl.yaml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(4_000),
        runtime=growing("1h"),
    params:
        settings=flags(
            MODEL_SETTINGS
            | {"seed": STUDY["seed"], "model": STUDY["evaluation"]["embedding_model"]}
        ),
        code=code("evaluation.similarity"),
    message:
        "Comparing replies of {wildcards.player} with the human ones"
    shell:
        r"""
        python -m persuasion_rl.evaluation.similarity \
            --responses {input.responses:q} --human {input.human:q} --output {output:q} \
            --threads {threads} {params.settings} 2> >(tee {log:q} >&2)
        """


rule evaluate_behaviour:
    input:
        unpack(measured_files),
        responses=lambda wildcards: player_responses(wildcards.scope),
        train=study("splits/sft_train.jsonl"),
        concession=local("resources/markers/concession.txt"),
    output:
        shown(study("{scope}/behaviour.csv"), "Replies"),
    log:
        study("logs/{scope}_behaviour.log"),
    benchmark:
        study("benchmarks/{scope}_behaviour.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(4_000),
        runtime=growing("1h"),
    params:
        players=lambda wildcards, input: pairs_of(
            input.responses, players_of(wildcards.scope)
        ),
        measured=measured_flags,
        settings=flags(
            {"draws": STUDY["evaluation"]["bootstrap"], "seed": STUDY["seed"]}
        ),
        code=code("evaluation.behaviour"),
    message:
        "Tabulating what the players' replies are like"
    shell:
        r"""
        python -m persuasion_rl.evaluation.behaviour \
            --responses {params.players:q} {params.measured} \
            --train {input.train:q} --concession {input.concession:q} \
            --output {output:q} {params.settings} 2> >(tee {log:q} >&2)
        """


rule read_honesty:
    input:
        responses=study("evaluation/responses/{player}.jsonl"),
        rubric=local(STUDY["llm"]["honesty_rubric"]),
    output:
        study("evaluation/readings/{player}.jsonl"),
    log:
        study("logs/read_honesty/{player}.log"),
    benchmark:
        study("benchmarks/read_honesty/{player}.tsv")
    wildcard_constraints:
        player=one_of(players()),
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(2_000),
        runtime=lambda wildcards, attempt: judging_time(["llm"], "1h", attempt),
    params:
        settings=reading_flags(),
        asking=lambda wildcards, input: asking(["llm"]),
        code=code("evaluation.honesty", "judges.llm.judge"),
    message:
        "Reading the replies of {wildcards.player} for honesty"
    shell:
        r"""
        python -m persuasion_rl.evaluation.honesty read_honesty \
            --responses {input.responses:q} --output {output:q} \
            {params.settings} {params.asking} 2> >(tee {log:q} >&2)
        """


rule evaluate_honesty:
    input:
        responses=lambda wildcards: player_responses(wildcards.scope),
        readings=lambda wildcards: list(readings(wildcards.scope).values()),
        markers=MARKERS,
    output:
        shown(study("{scope}/honesty.csv"), "Replies"),
    log:
        study("logs/{scope}_honesty.log"),
    benchmark:
        study("benchmarks/{scope}_honesty.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(2_000),
        runtime=growing("30m"),
    params:
        players=lambda wildcards, input: pairs_of(
            input.responses, players_of(wildcards.scope)
        ),
        readings=reading_flags_of,
        settings=flags(
            {"draws": STUDY["evaluation"]["bootstrap"], "seed": STUDY["seed"]}
        ),
        code=code("evaluation.honesty"),
    message:
        "Measuring honesty"
    shell:
        r"""
        python -m persuasion_rl.evaluation.honesty evaluate_honesty \
            --responses {params.players:q} --markers {input.markers:q} \
            --output {output:q} {params.readings} {params.settings} 2> >(tee {log:q} >&2)
        """


rule keep_equally_honest:
    input:
        verdicts=study("{scope}/verdicts/{judge}.jsonl"),
        responses=lambda wildcards: player_responses(wildcards.scope),
        readings=lambda wildcards: list(readings(wildcards.scope).values()),
        markers=MARKERS,
    output:
        study("{scope}/equal_honesty/{judge}.jsonl"),
    log:
        study("logs/{scope}_equally_honest/{judge}.log"),
    benchmark:
        study("benchmarks/{scope}_equally_honest/{judge}.tsv")
    conda:
        "../../envs/persuasion-rl.yaml"
    resources:
        mem_mb=growing(2_000),
        runtime=growing("30m"),
    params:
        players=lambda wildcards, input: pairs_of(
            input.responses, players_of(wildcards.scope)
        ),
        readings=reading_flags_of,
        code=code("evaluation.honesty"),
    message:
        "Finding comparisons of equally honest replies: judge {wildcards.judge}"
    shell:
        r"""
        python -m persuasion_rl.evaluation.honesty keep_equally_honest \
            --verdicts {input.verdicts:q} --responses {params.players:q} \
            --markers {input.markers:q} --output {output:q} {params.readings} 2> >(tee {log:q} >&2)
        """


use rule evaluate_win_rates as evaluate_equal_honesty with:
    input:
        verdicts=expand(study("{{scope}}/equal_honesty/{judge}.jsonl"), judge=JUDGES),
        responses=lambda wildcards: player_responses(wildcards.scope),
    output:
        shown(study("{scope}/equal_honesty.csv"), "Comparisons"),
    log:
        study("logs/{scope}_equal_honesty.log"),
    benchmark:
        study("benchmarks/{scope}_equal_honesty.tsv")
    message:
        "Tabulating win rates among equally honest replies"
