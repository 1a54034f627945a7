"""The invented corpus of the demo: customer messages to a shop, each to be routed to one team.

What makes it like real mail, and what semi-supervised learning can use: a message says its
business in one of many phrasings (`_SAYS`), often with a second hint in other words (`_HINTS`).
A few labels show only some of the phrasings; the unlabelled messages tie the rest to them. A
share of the messages also mentions another team's business in passing, so nobody is always right.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

TEAMS = ("account", "billing", "delivery", "returns", "sales", "technical")

_SAYS = {
    "account": (
        "I cannot log in any more", "my password is refused", "please change my e-mail address",
        "I want to close my profile", "the confirmation code never comes",
        "somebody else has used my login", "I have two profiles under one name",
        "my user name is spelled wrong", "how do I switch on two-step login",
        "the reset link leads nowhere", "delete what you store about me",
        "I am locked out since {day}",
    ),
    "billing": (
        "I was charged twice", "the invoice shows the wrong amount", "my card was debited on {day}",
        "where is the receipt for my {item}", "the discount is missing on my bill",
        "you took {sum} too much", "I need an invoice for my company",
        "the tax on the bill is wrong", "a payment is shown as open, but I paid",
        "please take {sum} off my card statement", "the direct debit failed",
        "what is this fee of {sum}",
    ),
    "delivery": (
        "my {item} has not arrived", "the parcel is stuck since {day}",
        "the courier left the box in the rain", "tracking has not moved since {day}",
        "the driver could not find my street", "only half of my order came",
        "when will the {item} be here", "the package went to my old flat",
        "nobody rang the bell on {day}", "it says handed over, but nothing is here",
        "can the van come in the evening", "my {item} is still in your depot",
    ),
    "returns": (
        "I want to send the {item} back", "the {item} does not fit",
        "how do I get a label to post it back", "I changed my mind about the {item}",
        "the {item} has a scratch, please swap it", "you sent the wrong colour",
        "I got the wrong size", "please exchange the {item}", "may I give it back after {day}",
        "the seam of the {item} came apart", "I would rather have my money than the {item}",
        "the {item} arrived broken, I do not want it",
    ),
    "sales": (
        "is the {item} in stock", "do you give a price for fifty pieces",
        "which {item} would you choose", "will the {item} be cheaper on {day}",
        "does the {item} come in green", "I would like an offer for our office",
        "what is the difference between the two {item} models", "do you have gift vouchers",
        "can I reserve a {item} until {day}", "is there a bigger {item}",
        "do students pay less", "when do you open on {day}",
    ),
    "technical": (
        "the {item} does not switch on", "the app crashes when I open it",
        "the {item} loses its connection", "the update stopped half way",
        "the screen of the {item} stays black", "how do I pair the {item} with my phone",
        "the {item} makes a strange noise", "the battery is empty after an hour",
        "the website shows an error page", "the {item} forgets its settings",
        "which cable fits the {item}", "the light on the {item} blinks red",
    ),
}  # fmt: skip

_HINTS = {
    "account": (
        "I never got the mail with the code", "my old address is still in my details",
        "I tried three times and now it is blocked", "please check who signed in",
        "the security question is not mine", "I no longer own that phone number",
        "my data should be private", "the sign-in page turns me away",
    ),
    "billing": (
        "my bank shows it clearly", "the sum does not match the order",
        "please correct the amount", "I attach the statement", "the bookkeeper asks for it",
        "it was booked on {day}", "I only agreed to {sum}", "I will dispute the charge",
    ),
    "delivery": (
        "the shipping mail came on {day}", "my neighbours have not seen it either",
        "I was at home all day", "please look where the truck is", "I need it before {day}",
        "the number of the shipment is on file", "the postman knows nothing",
        "the address is right, I checked",
    ),
    "returns": (
        "it is still in its wrapping", "I kept the box", "it was only tried on once",
        "please tell me where to send it", "it looks different from the picture",
        "I have thirty days, do I not", "another model would suit me better",
        "I do not need it any more",
    ),
    "sales": (
        "I have not ordered yet", "I am still comparing", "it would be a present",
        "we would take several", "my budget is {sum}", "I saw it in your window",
        "the catalogue does not say", "perhaps you have a better idea",
    ),
    "technical": (
        "I have restarted it twice", "it worked until {day}", "the manual does not help",
        "it is the newest version", "the cable is plugged in", "nothing happens when I press it",
        "a message with a number comes up", "my old one never did that",
    ),
}  # fmt: skip

_OPENINGS = ("hello", "hi there", "good morning", "dear team", "hey", "good evening", "")
_CLOSINGS = ("thanks", "please help", "kind regards", "hope to hear from you", "many thanks", "")
_FILLERS = (
    "I have been a customer for years", "I ordered the {item} as well", "it is rather urgent",
    "I wrote already on {day}", "your shop was recommended to me", "sorry for the trouble",
    "my {item} is fine, by the way", "I am writing from my phone",
)  # fmt: skip
_SLOTS = {
    "item": ("kettle", "lamp", "headset", "jacket", "backpack", "toaster", "watch", "printer",
             "chair", "radio", "camera", "tent"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "last week"),
    "sum": ("12 euros", "40 euros", "99 euros", "7 euros", "150 euros"),
}  # fmt: skip

# Shares of the messages. With them a reader who knows every phrase is right nine times in ten.
_BOTH, _HINT_ONLY, _ASIDE, _FILLER = 0.65, 0.15, 0.15, 0.4


@dataclass(frozen=True)
class Message:
    """A message and the team that it should go to."""

    text: str
    team: str


def write_messages(count: int, seed: int) -> list[Message]:
    """Messages of evenly mixed teams, all different; the same for the same seed."""
    rng = random.Random(f"messages\0{seed}")
    found: dict[str, Message] = {}
    while len(found) < count:
        message = _message(rng)
        found.setdefault(message.text, message)
    return list(found.values())


def _message(rng: random.Random) -> Message:
    team = rng.choice(TEAMS)
    kind = rng.random()
    body = []
    if kind >= _HINT_ONLY:
        body.append(rng.choice(_SAYS[team]))
    if kind < _HINT_ONLY + _BOTH:
        body.append(rng.choice(_HINTS[team]))
    if rng.random() < _ASIDE:
        other = rng.choice([t for t in TEAMS if t != team])
        body.append(rng.choice((*_SAYS[other], *_HINTS[other])))
    if rng.random() < _FILLER:
        body.append(rng.choice(_FILLERS))
    rng.shuffle(body)
    parts = [rng.choice(_OPENINGS), *body, rng.choice(_CLOSINGS)]
    return Message(". ".join(_fill(part, rng) for part in parts if part), team)


def _fill(phrase: str, rng: random.Random) -> str:
    for slot, values in _SLOTS.items():
        if f"{{{slot}}}" in phrase:
            phrase = phrase.replace(f"{{{slot}}}", rng.choice(values))
    return phrase


def write_episode(rng: random.Random, template: str) -> str:
    """A text for pre-training that teaches the use of demonstrations, but not the task.

    Some phrasings are given to teams at random, anew in each episode: whoever wants to predict
    the last line must look for the like message above. Which phrasings truly belong together is
    nowhere in it.
    """
    phrases = rng.sample([p for group in (_SAYS, _HINTS) for ps in group.values() for p in ps], 3)
    teams = [rng.choice(TEAMS) for _ in phrases]
    shown = list(zip(phrases, teams, strict=True))
    rng.shuffle(shown)
    lines = []
    for phrase, team in [*shown, rng.choice(shown)]:
        parts = [rng.choice(_OPENINGS), phrase, rng.choice(_CLOSINGS)]
        if rng.random() < _FILLER:
            parts.insert(rng.choice((1, 2)), rng.choice(_FILLERS))
        text = ". ".join(_fill(part, rng) for part in parts if part)
        lines.append(f"{template.format(text)} {team}")
    return "\n\n".join(lines)
