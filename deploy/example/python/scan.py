"""The work of a scan, as scan/ does it in Go; a test compares the two.

Integer arithmetic only, so that both come to the same result.
"""

import hashlib
import io
import json
import pathlib

from PIL import Image

STAGES = ("queued", "vision", "rule", "answer", "reward")
PROGRESS = {"queued": (0, 5), "vision": (5, 40), "rule": (40, 50), "answer": (50, 90), "reward": (90, 95)}

GRID = 64
BUCKETS = 16
MAX_PIXELS = 40_000_000

RULES = json.loads((pathlib.Path(__file__).parent.parent / "scan" / "rules.json").read_text("utf-8"))


class BadPicture(Exception):
    """Looking again does not help."""


def look(picture):
    """Decode a picture and say what it shows."""
    try:
        with Image.open(io.BytesIO(picture), formats=("PNG", "JPEG")) as img:
            width, height = img.size
            if width <= 0 or height <= 0 or width * height > MAX_PIXELS:
                raise BadPicture(f"the picture has {width} × {height} pixels, want 1 to {MAX_PIXELS}")
            kind = img.format.lower()
            # Without its alpha, not mixed with it.
            pixels = img.convert("RGB").load()
    except BadPicture:
        raise
    except Exception as e:  # Pillow has one of everybody's
        raise BadPicture(f"the picture is damaged: {e}") from e

    sums, histogram, light = {}, [0] * BUCKETS, 0
    for y in range(GRID):
        for x in range(GRID):
            r, g, b = pixels[(2 * x + 1) * width // (2 * GRID), (2 * y + 1) * height // (2 * GRID)]
            luma = (299 * r + 587 * g + 114 * b) // 1000
            light += luma
            histogram[luma * BUCKETS // 256] += 1
            s = sums.setdefault(name_of(r, g, b), [0, 0, 0, 0])
            for i, n in enumerate((1, r, g, b)):
                s[i] += n
    order = sorted(sums, key=lambda name: (-sums[name][0], name))
    return {
        "width": width, "height": height, "format": kind,
        "brightness": light // (GRID * GRID), "dominant": order[0],
        "colours": [colour(name, *sums[name]) for name in order[:3]],
        "histogram": histogram,
    }


def colour(name, n, r, g, b):
    return {"name": name, "permille": n * 1000 // (GRID * GRID), "rgb": f"#{r // n:02x}{g // n:02x}{b // n:02x}"}


def name_of(r, g, b):
    high, low = max(r, g, b), min(r, g, b)
    span = high - low
    if high < 48:
        return "black"
    if span * 6 < high:
        return "white" if high > 200 else "grey"
    if high == r:
        hue = (60 * (g - b) + 360 * span) // span % 360
    elif high == g:
        hue = (60 * (b - r) + 480 * span) // span % 360
    else:
        hue = (60 * (r - g) + 600 * span) // span % 360
    if hue < 20 or hue >= 330:
        return "red"
    for limit, name in ((45, "orange"), (70, "yellow"), (165, "green"), (195, "cyan"), (265, "blue")):
        if hue < limit:
            return name
    return "purple"


def rule_for(vision):
    return RULES["rules"][vision["dominant"]]


def answer_for(vision, rule):
    return {"text": "The picture of {} × {} pixels is mostly {}, so this is probably {}. {}.".format(
        vision["width"], vision["height"], vision["dominant"], rule["category"], ". ".join(rule["steps"]))}


def tokens(answer):
    """The text as a language model streams it; joined it is the text."""
    words = answer["text"].split(" ")
    return [w + " " for w in words[:-1]] + words[-1:]


def reward_for(job_id):
    digest = hashlib.md5(job_id.encode()).digest()
    characters = RULES["characters"]
    return {"character": characters[digest[0] % len(characters)], "received": digest[1] % 2 == 0}
