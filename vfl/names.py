# ruff: noqa: RUF001  (letters that look alike are what this module is about)
"""Names of persons and firms, written alike: Latin letters without marks, lower case, single spaces.

Diacritical marks are dropped (é becomes e), letters of their own are spelled out (ß, æ, ø, þ), Cyrillic and Greek are
transliterated. "Lind, Anna" is read as "Anna Lind". Apostrophes and full stops vanish, other punctuation separates
words. With German spelling, ä, ö and ü become ae, oe and ue, as Germans without these keys write them; otherwise a, o
and u. Names in other scripts stay as they are, but for case and marks.

Sources: ICAO Doc 9303, part 3, section 6 (Latin, and Cyrillic letters); ELOT 743 (Greek letters, one by one); Unicode
Standard Annex 15 (decomposition).
"""

import re
import unicodedata

__all__ = ["plain_name"]

_LATIN = {
    "ø": "oe", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i", "ħ": "h", "ŋ": "n", "ŧ": "t",
    "ĸ": "k", "ə": "e",
}  # fmt: skip
_GERMAN = {"ä": "ae", "ö": "oe", "ü": "ue"}
_CYRILLIC = {
    "а": "a", "б": "b", "в": "v", "г": "g", "д": "d", "е": "e", "ж": "zh", "з": "z", "и": "i", "к": "k", "л": "l",
    "м": "m", "н": "n", "о": "o", "п": "p", "р": "r", "с": "s", "т": "t", "у": "u", "ф": "f", "х": "kh", "ц": "ts",
    "ч": "ch", "ш": "sh", "щ": "shch", "ъ": "ie", "ы": "y", "ь": "", "э": "e", "ю": "iu", "я": "ia", "і": "i",
    "є": "ie", "ґ": "g", "ђ": "d", "ј": "j", "љ": "lj", "њ": "nj", "ћ": "c", "џ": "dz",
}  # fmt: skip
_GREEK = {
    "α": "a", "β": "v", "γ": "g", "δ": "d", "ε": "e", "ζ": "z", "η": "i", "θ": "th", "ι": "i", "κ": "k", "λ": "l",
    "μ": "m", "ν": "n", "ξ": "x", "ο": "o", "π": "p", "ρ": "r", "σ": "s", "ς": "s", "τ": "t", "υ": "y", "φ": "f",
    "χ": "ch", "ψ": "ps", "ω": "o",
}  # fmt: skip
_LETTERS: dict[int, str | int | None] = {ord(k): v for k, v in (_LATIN | _CYRILLIC | _GREEK).items()}
_SILENT = re.compile(r"['’‘ʼ`´.]")
_APART = re.compile(r"[^\w]+|_+")


def plain_name(text: str, variant: str) -> str:
    """Return a name in its plain form; `variant` is "de" for German spelling, else "".

    Raises
    ------
    ValueError
        If no letter or digit is left, or there are several commas.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 2:
        raise ValueError("several commas")
    folded = unicodedata.normalize("NFC", " ".join(reversed(parts)).casefold())
    if variant == "de":
        folded = folded.translate({ord(letter): pair for letter, pair in _GERMAN.items()})
    marked = unicodedata.normalize("NFKD", folded).casefold()
    bare = "".join(letter for letter in marked if not unicodedata.combining(letter))
    words = _APART.sub(" ", _SILENT.sub("", bare.translate(_LETTERS))).split()
    if not words:
        raise ValueError("no letter")
    return " ".join(words)
