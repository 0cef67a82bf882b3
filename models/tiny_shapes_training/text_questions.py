"""Conversations without any picture."""

from __future__ import annotations

from random import Random

from models.tiny_shapes_training.phrasing import Turn, ask
from models.tiny_shapes_training.words import CHINESE_COLOURS, CHINESE_KINDS, COLOURS, KINDS, PLACES, joined

TOPIC = "text only"
SIDES = {"triangle": "3", "square": "4", "circle": "0"}
MIXTURES = {("red", "yellow"): "orange", ("blue", "yellow"): "green", ("red", "blue"): "purple",
            ("black", "white"): "gray"}
THINGS = {"grass": "green", "the sky": "blue", "snow": "white", "a tomato": "red", "a banana": "yellow",
          "coal": "black", "a carrot": "orange", "a plum": "purple"}
WORDS = (*KINDS, *COLOURS, *PLACES, "picture", "shape", "video", "hello", "two", "three", "four")
HELLO = "Hello! Show me a picture of shapes and ask me about it."
WHO = "I am a tiny model. I answer questions about pictures and short videos of coloured shapes."


def text_turn(rng: Random) -> Turn:
    return rng.choice((_greeting, _count_to, _spell, _repeat, _repeat, _sum, _sum, _fact, _mixture, _chinese))(rng)


def _greeting(rng: Random) -> Turn:
    templates, answer = rng.choice((
        (("Hello!", "Hi!", "Hello", "Hi there!", "Hey!", "Good morning!"), HELLO),
        (("Who are you?", "What are you?", "What can you do?", "Tell me about yourself.", "How can you help me?"), WHO),
        (("Thank you!", "Thanks!", "Thanks a lot."), "You are welcome!"),
        (("Goodbye!", "Bye!", "See you!"), "Goodbye!"),
        (("How are you?",), "I am fine, thank you."),
    ))
    return ask(rng, TOPIC, templates, answer)


def _count_to(rng: Random) -> Turn:
    number = rng.randint(2, 20)
    return ask(rng, TOPIC, ("Count to {number}.", "Please count to {number}.", "Can you count to {number}?"),
               ", ".join(map(str, range(1, number + 1))), number=str(number))


def _spell(rng: Random) -> Turn:
    word = rng.choice((*KINDS, *COLOURS))
    return ask(rng, TOPIC, ("Spell {word}.", "How do you spell {word}?", "Spell the word {word}."), "-".join(word),
               word=word)


def _repeat(rng: Random) -> Turn:
    words = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 5)))
    return ask(rng, TOPIC, ("Repeat: {words}", "Say: {words}", "Repeat after me: {words}"), words, words=words)


def _sum(rng: Random) -> Turn:
    first, second = rng.randint(0, 9), rng.randint(0, 9)
    return ask(rng, TOPIC, ("What is {first} + {second}?", "{first} + {second}?", "How much is {first} plus {second}?",
                            "What is {first} plus {second}?"), str(first + second), first=str(first),
               second=str(second))


def _fact(rng: Random) -> Turn:
    if rng.random() < 0.4:
        kind, sides = rng.choice(list(SIDES.items()))
        return ask(rng, TOPIC, ("How many sides does a {kind} have?", "How many corners does a {kind} have?"), sides,
                   kind=kind)
    if rng.random() < 0.3:
        colours = joined(list(COLOURS))
        return ask(rng, TOPIC, ("Which colours do you know?", "What colours do you know?", "Name some colours."),
                   f"I know {colours}.")
    thing, colour = rng.choice(list(THINGS.items()))
    return ask(rng, TOPIC, ("What colour is {thing}?", "Which colour is {thing}?"), colour, thing=thing)


def _mixture(rng: Random) -> Turn:
    colours, mixed = rng.choice(list(MIXTURES.items()))
    first, second = rng.sample(colours, 2)
    return ask(rng, TOPIC, ("What do {first} and {second} make?", "What do you get when you mix {first} and {second}?",
                            "Mix {first} and {second}."), mixed, first=first, second=second)


def _chinese(rng: Random) -> Turn:
    if rng.random() < 0.3:
        return ask(rng, TOPIC, ("你好！", "你好", "您好！"), "你好！请给我看一张图片。")
    english, chinese = rng.choice((*CHINESE_COLOURS.items(), *CHINESE_KINDS.items()))
    return ask(rng, TOPIC, ("What is {english} in Chinese?", "How do you say {english} in Chinese?"), chinese,
               english=english)
