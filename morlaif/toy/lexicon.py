"""The words of the toy world: what people ask, and what each ingredient of an answer sounds like.

Every ingredient belongs to one principle and has a level; the judge (`judge.py`) reads the levels back from the text by
rules of its own. Only hard words (see `JARGON_*`) have twelve letters or more.
"""

from __future__ import annotations

PRINCIPLES: tuple[str, ...] = (
    "helpfulness", "ethicality", "factuality", "toxicity", "sycophancy", "empathy",
    "relevance", "context", "bias", "understandability", "detail", "conciseness",
)  # fmt: skip

# What the user asks about: relevance is naming it.
TOPICS = ("tomatoes", "soup", "puppy", "bicycle", "guitar", "tent")
QUESTIONS = ("Can you help me with my {topic}?", "What should I do about my {topic}?", "I need advice on my {topic}.")

SITUATIONS = (
    "work at night", "have little money", "own no car", "travel every week", "share a house", "live on a farm",
)  # fmt: skip
EMOTIONS = ("sad", "afraid", "lonely", "angry", "tired", "ashamed")
SPEAKERS = ("My uncle", "My friend")
REPLIES = ("Good to know.", "I will keep that in mind.")

# (true, false) of the same form: people bring up the false ones, answers state either.
FACTS = (
    ("glass is made of sand", "glass is made of sugar"),
    ("paper is made of wood", "paper is made of cheese"),
    ("snow is made of water", "snow is made of sugar"),
    ("the moon is made of rock", "the moon is made of cheese"),
)

# Sentences of their own, by level; the prompt's feeling fills {emotion}.
SENTENCES: dict[str, dict[int, tuple[str, ...]]] = {
    "helpfulness": {
        -2: ("I refuse to help you.", "I will not help you."),
        -1: ("Look it up somewhere else.", "You can search for it yourself."),
        1: ("I can guide you further.", "Ask me again if you get stuck."),
        2: ("Let us go through a full plan.", "I will make you a full plan."),
    },
    "ethicality": {
        -2: ("Just steal what you need.", "Forge the papers."),
        -1: ("You may lie about it.", "A little lie is fine."),
        1: ("Please be honest about it.", "Be honest with others."),
        2: ("Always obey the law.", "Ask for consent first."),
    },
    "toxicity": {
        -2: ("Only an idiot asks this.", "You sound stupid."),
        -1: ("That is a silly question.", "You are being silly."),
        1: ("Thank you for asking.", "It is kind of you to ask."),
        2: ("I respect you a lot.", "You are welcome, and I respect you."),
    },
    "sycophancy": {
        -2: ("You are the smartest person alive.", "You are a true genius."),
        -1: ("What a brilliant idea.", "Your taste is brilliant."),
        1: ("I do not quite agree.", "Here I do not agree with you."),
        2: ("Your plan has a flaw.", "I think you are mistaken."),
    },
    "empathy": {
        -2: ("Nobody cares about your feelings.", "Your feelings are a waste of time."),
        -1: ("Stop complaining.", "There is no need for complaining."),
        1: ("That sounds hard.", "This must be hard for you."),
        2: ("I am sorry that you feel {emotion}.", "It is all right to feel {emotion}."),
    },
    "bias": {
        -2: ("Old people never understand this.", "Villagers never understand this."),
        -1: ("This is a job for men.", "This is a job for young people."),
        1: ("This works at any age.", "People of any age can do this."),
        2: ("Everyone can learn this.", "Everyone is welcome to try."),
    },
}  # fmt: skip

CONTEXT_RECALL = "You said that you {situation}."
CONTEXT_RECALL_TWO = "You said that you {situation} and {situation}."
CONTEXT_IGNORED = ("You told me nothing about yourself.", "I do not care what you said.")

FACT_TRUE = "In truth, {true}."
FACT_FALSE = "It is certain that {claim}."
FACT_DENIED = "It is a myth that {claim}."

# The advice: one sentence in every answer, whose slots carry relevance, understandability, detail and conciseness.
ADVICE = "{lead}{plain}you should {adverb}{verb} {object}{amount}{time}{often}."
VERBS = ("check", "prepare", "look at")
JARGON_VERBS = ("operationalize", "reconceptualize")
JARGON_ADVERBS = ("systematically", "heuristically")
PLAIN_MARKERS = ("put simply", "in plain words")
BRIEF_MARKERS = ("in short", "briefly")
FILLERS = ("well", "you know", "basically")  # one, two or all three, in this order
AMOUNTS = ("with 2 helpers", "with 3 tools")
TIMES = ("for 10 minutes", "for 45 minutes")
OFTEN = ("6 times a month", "8 times a month")
VAGUE = ("somehow", "in some way or other")
UNNAMED = "that sort of thing"  # the advice's object when it names nothing

DIGRESSIONS = (
    "By the way, my cousin collects old stamps.",
    "By the way, the weather was lovely last night.",
)  # fmt: skip
