"""What models are asked in a benchmark when nothing is said: the kind of work that AutoDev gives them.

AutoDev describes a photo to the model in words: scores of its own, what the camera wrote down, the occasion. It asks
for lines that begin with a word in capitals. Where photos are given, the prompts speak of what is to be seen instead.
"""

from __future__ import annotations

_FACTS = (
    "Scores from 0 to 5: focus 4.2, exposure 3.1, composition 3.8; two faces, eyes open. "
    "EXIF: 85 mm, f/2.0, 1/200 s, ISO 800, no flash, 17:42. Occasion: a wedding, outdoors, golden hour."
)

PROMPTS = (
    f"You rate photographs for a photographer. {_FACTS}\n"
    "Answer in two lines. SCORE: a number from 1 to 5 with one decimal. REASONING: two sentences on why.",
    f"You choose keywords for a photo library. {_FACTS}\n"
    "Answer in one line. TAGS: twelve keywords, the most important first, separated by commas.",
    f"You criticise photographs, kindly and exactly. {_FACTS}\n"
    "Answer in three lines of a sentence or two each. STRENGTHS: what works. WEAKNESSES: what does not. "
    "EDIT: what to do about it in Lightroom.",
)

PHOTO_PROMPTS = (
    "You rate photographs for a photographer. Look at this photo: focus, exposure, composition, moment.\n"
    "Answer in two lines. SCORE: a number from 1 to 5 with one decimal. REASONING: two sentences on why.",
    "You choose keywords for a photo library. Look at this photo: what is to be seen, where, in which light.\n"
    "Answer in one line. TAGS: twelve keywords, the most important first, separated by commas.",
    "You criticise photographs, kindly and exactly. Look at this photo.\n"
    "Answer in three lines of a sentence or two each. STRENGTHS: what works. WEAKNESSES: what does not. "
    "EDIT: what to do about it in Lightroom.",
)


def default_prompts(*, with_photos: bool) -> tuple[str, ...]:
    """Return the three prompts that are asked when nobody brings any: a rating, keywords, a short critique."""
    return PHOTO_PROMPTS if with_photos else PROMPTS
