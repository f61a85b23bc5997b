"""The grammar of the embedded study's arguments, and the function that awards deltas.

Posters claim that some everyday thing does more harm than good and give reasons; persuaders answer with
*moves*. Every sentence of a reply is one move, and the probability of a delta is a logistic function of
the moves. Since every sentence that the grammar can produce is known, the moves can be read back from
any text, also from one that a model wrote: `truth(prompt, reply)`.

    P(delta) = sigmoid(BIAS + the sum over a reply's sentences of WEIGHTS[move])

| move                | when                                                       | weight |
|---------------------|------------------------------------------------------------|--------|
| `answer`            | answers a reason that the poster gave (first one)          |  +2.0  |
| `further_answer`    | answers another reason that the poster gave                |  +0.7  |
| `acknowledge`       | grants a reason that the poster gave (once)                |  +1.0  |
| `evidence`          | concrete numbers on the poster's topic (once)              |  +1.2  |
| `question`          | an open question on the poster's topic (once)              |  +0.5  |
| `analogy`           | a comparison (once)                                        |  +0.4  |
| `opening`           | "Here is how I see it."                                    |   0.0  |
| `missed`            | answers or grants a reason that nobody gave                |  -0.5  |
| `repetition`        | a move that was already made                               |  -0.6  |
| `off_topic`         | talk of something else, or of another topic                |  -1.0  |
| `unknown`           | a sentence that is not in the grammar                      |  -1.2  |
| `insult`            | an insult                                                  |  -2.5  |

BIAS is -3.0, so a reply of nothing that is known scores below .05.
"""

import math
import re
from dataclasses import dataclass
from functools import cache
from itertools import product

BIAS = -3.0
WEIGHTS = {
    "answer": 2.0,
    "further_answer": 0.7,
    "acknowledge": 1.0,
    "evidence": 1.2,
    "question": 0.5,
    "analogy": 0.4,
    "opening": 0.0,
    "missed": -0.5,
    "repetition": -0.6,
    "off_topic": -1.0,
    "unknown": -1.2,
    "insult": -2.5,
}

TOPICS = (
    "school uniforms", "night buses", "city zoos", "standardized tests", "open offices", "bike lanes",
    "gift cards", "public libraries", "self checkouts", "plastic straws", "electric scooters",
    "group projects", "food trucks", "video calls", "paper books", "car alarms", "state lotteries",
    "speed cameras", "parking fees", "reality shows", "cooking classes", "summer camps", "pet shops",
    "garden fences",
)  # fmt: skip


@dataclass(frozen=True)
class Reason:
    """A reason that posters give, and what can be said to it; `{topic}` is filled in."""

    gist: str
    statements: tuple[str, ...]
    answers: tuple[str, ...]


REASONS = {
    "money": Reason(
        "money",
        (
            "{topic} cost far more money than they ever give back.",
            "Every year more money goes into {topic}.",
            "I have seen how much money {topic} burn.",
        ),
        (
            "As for money, {topic} replace services that cost more.",
            "The money for {topic} is paid once, and after that they are cheap to keep.",
        ),
    ),
    "time": Reason(
        "time",
        (
            "{topic} waste time that people could use better.",
            "My whole week loses time because of {topic}.",
            "Nobody has the time to deal with {topic} any more.",
        ),
        (
            "As for time, people who got used to {topic} report no delay after a month.",
            "The time spent on {topic} is saved later, because people plan better.",
        ),
    ),
    "health": Reason(
        "health",
        (
            "{topic} are bad for our health.",
            "Doctors say that {topic} ruin the health of many.",
            "My own health suffers from {topic}.",
        ),
        (
            "As for health, doctors found the harm in an older kind of {topic}.",
            "The health of people near {topic} is as good as elsewhere.",
        ),
    ),
    "fairness": Reason(
        "fairness",
        (
            "{topic} have no fairness for people who own little.",
            "Where is the fairness when only the rich gain from {topic}?",
            "I believe in fairness, and {topic} go against it.",
        ),
        (
            "As for fairness, poor families gain the most from {topic}.",
            "The fairness would be less without {topic}, since only some can pay for a choice.",
        ),
    ),
    "safety": Reason(
        "safety",
        (
            "{topic} are a danger to our safety.",
            "I fear for the safety of my son near {topic}.",
            "Nobody checks the safety of {topic}.",
        ),
        (
            "As for safety, accidents grew where {topic} were removed.",
            "The safety of {topic} is tested twice a year by an office.",
        ),
    ),
    "privacy": Reason(
        "privacy",
        (
            "{topic} take away our privacy.",
            "Companies sell the privacy of those who use {topic}.",
            "I want my privacy, and {topic} watch me.",
        ),
        (
            "As for privacy, the law forbids {topic} to store a name.",
            "The privacy is yours, since you can use {topic} without giving your name.",
        ),
    ),
    "noise": Reason(
        "noise",
        (
            "{topic} make a noise that nobody can sleep through.",
            "The noise of {topic} follows me into my bedroom.",
            "My street had no noise before {topic} came.",
        ),
        (
            "As for noise, {topic} were measured and are quieter than rain.",
            "The noise can be limited, so that {topic} are silent when people sleep.",
        ),
    ),
    "waste": Reason(
        "waste",
        (
            "{topic} produce too much waste.",
            "The planet cannot carry the waste of {topic}.",
            "So much waste is burnt because of {topic}.",
        ),
        (
            "As for waste, nearly all that {topic} use is made into something new.",
            "The waste would grow without {topic}, because each would buy more alone.",
        ),
    ),
    "trust": Reason(
        "trust",
        (
            "Nobody has trust in the people who run {topic}.",
            "I lost my trust in {topic} long ago.",
            "Trust is broken by the promises about {topic}.",
        ),
        (
            "As for trust, the books of {topic} are open and anyone can check them.",
            "The trust is coming back, since {topic} are now run by elected neighbors.",
        ),
    ),
    "children": Reason(
        "children",
        (
            "{topic} teach children the wrong things.",
            "The children in my street changed for the worse because of {topic}.",
            "Many children lose their own ideas through {topic}.",
        ),
        (
            "As for children, teachers see that {topic} make them help each other.",
            "The children take their habits from parents and not from {topic}.",
        ),
    ),
    "choice": Reason(
        "choice",
        (
            "{topic} leave people no choice.",
            "I want the choice to say no to {topic}.",
            "Adults can make a choice without {topic}.",
        ),
        (
            "As for choice, nobody is made to use {topic}.",
            "The choice is made each spring, when the majority votes for {topic}.",
        ),
    ),
    "beauty": Reason(
        "beauty",
        (
            "{topic} destroy the beauty of our town.",
            "Visitors miss the beauty that was here before {topic}.",
            "There is no beauty in {topic}.",
        ),
        (
            "As for beauty, artists redesign {topic} each year.",
            "The beauty is a matter of paint, and {topic} can be painted in a weekend.",
        ),
    ),
}  # fmt: skip

CLAIMS = (
    "{topic} do more harm than good",
    "we should get rid of {topic}",
    "{topic} are not worth keeping",
    "the world would be better without {topic}",
)
ACKNOWLEDGEMENTS = (
    "You are right that {gist} matters with {topic}.",
    "I share your worry about {gist} when it comes to {topic}.",
    "Your point about {gist} and {topic} is a good one.",
)
PLACES = ("Oslo", "Lyon", "Boston", "Kyoto", "Porto", "Leeds")
MEASURES = ("complaints", "costs", "injuries", "delays")
PERCENTAGES = (12, 20, 31, 45, 60)
EVIDENCE = (
    "When {place} kept {topic}, {measure} fell by {percent} percent in three years.",
    "A study of {topic} in {place} counted {percent} percent fewer {measure} than before.",
)
QUESTIONS = (
    "What would have to change for you to accept {topic}?",
    "Would you miss {topic} if they were gone tomorrow?",
    "Which of your friends actually uses {topic}?",
)
ANALOGIES = (
    "It is like a seat belt, which annoys you until the day you need it.",
    "We do not close a bakery because one loaf was burnt.",
    "It is like a new pair of shoes, which hurts only in the first week.",
)
OPENINGS = ("Here is how I see it.", "Let me try to change your view.", "I used to think the same.")
OFF_TOPIC = (
    "By the way, the game last night was amazing.",
    "I had soup for lunch and it was cold again.",
    "Has anyone here tried the new phone?",
    "My cat just walked over the keyboard.",
    "This reminds me of a song from my youth.",
    "The weather has been strange all week.",
)
INSULTS = (
    "Only a fool could believe this.",
    "You clearly have no idea what you are talking about.",
    "This is the dumbest post of the month.",
    "Go back to school before you post again.",
)

SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Move:
    """What a sentence does; `topic` and `reason` are None where the sentence has none."""

    kind: str
    topic: str | None = None
    reason: str | None = None


def reasons_of(topic: str) -> list[str]:
    """The eight reasons (of twelve) that are given for a topic."""
    names = list(REASONS)
    start = TOPICS.index(topic)
    return [names[(start + step) % len(names)] for step in (0, 1, 2, 4, 5, 7, 8, 10)]


def moves(text: str) -> list[Move]:
    """The moves of a reply, one a sentence, without quoted lines (`>`), which are not the speaker's own words."""
    own = " ".join(line for line in text.splitlines() if not line.lstrip().startswith(">"))
    return [reply_sentences().get(s.lower(), Move("unknown")) for s in _sentences(own)]


def topics_and_reasons(prompt: str) -> tuple[set[str], set[str]]:
    """The topics and the reasons that stand in a prompt in the poster's words."""
    statements = [
        move for line in prompt.splitlines() for sentence in _sentences(line)
        if (move := poster_sentences().get(sentence.lower()))
    ]  # fmt: skip
    return {move.topic for move in statements}, {move.reason for move in statements}


def truth(prompt: str, reply: str) -> float:
    """The probability that the poster of `prompt` awards `reply` a delta, in [0, 1]."""
    topics, reasons = topics_and_reasons(prompt)
    earlier: set[str] = set()
    score = BIAS
    for move in moves(reply):
        kind = _in_context(move, topics, reasons)
        if kind == "answer" and any(key.startswith("answer") for key in earlier):
            key, kind = f"answer {move.reason}", "further_answer"
        else:
            key = f"{kind} {move.reason}" if kind == "answer" else kind
        if key in earlier and WEIGHTS[kind] >= 0:
            kind = "repetition"
        earlier.add(key)
        score += WEIGHTS[kind]
    return 1 / (1 + math.exp(min(-score, 700.0)))  # e**710 is more than any float


def _in_context(move: Move, topics: set[str], reasons: set[str]) -> str:
    """The kind that a move amounts to as an answer to a post with these topics and reasons."""
    if move.topic is not None and move.topic not in topics:
        return "off_topic"
    if move.kind in ("answer", "acknowledge") and move.reason not in reasons:
        return "missed"
    return move.kind


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in SENTENCE_END.split(text.strip()) if sentence]


def sentence(template: str, **slots: str | int) -> str:
    """Fill a template and start it with a capital letter."""
    filled = template.format(**slots)
    return filled[0].upper() + filled[1:]


@cache
def poster_sentences() -> dict[str, Move]:
    """Every statement of a reason, in lower case -> the topic and the reason that it states, as a move."""
    return {
        sentence(statement, topic=topic).lower(): Move("statement", topic, name)
        for topic in TOPICS
        for name in reasons_of(topic)
        for statement in REASONS[name].statements
    }


@cache
def reply_sentences() -> dict[str, Move]:
    """Every sentence that a persuader can say, in lower case -> its move."""
    sentences: dict[str, Move] = {}
    for kind, phrases in (
        ("opening", OPENINGS),
        ("analogy", ANALOGIES),
        ("off_topic", OFF_TOPIC),
        ("insult", INSULTS),
    ):
        sentences.update({phrase.lower(): Move(kind) for phrase in phrases})
    for topic in TOPICS:
        for template in QUESTIONS:
            sentences[sentence(template, topic=topic).lower()] = Move("question", topic)
        for template, place, measure, percent in product(EVIDENCE, PLACES, MEASURES, PERCENTAGES):
            filled = sentence(template, topic=topic, place=place, measure=measure, percent=percent)
            sentences[filled.lower()] = Move("evidence", topic)
        for name, reason in REASONS.items():
            for template in reason.answers:
                sentences[sentence(template, topic=topic).lower()] = Move("answer", topic, name)
            for template in ACKNOWLEDGEMENTS:
                filled = sentence(template, gist=reason.gist, topic=topic)
                sentences[filled.lower()] = Move("acknowledge", topic, name)
    return sentences
