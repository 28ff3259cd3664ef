"""Recipes: how an identifier becomes canonical bytes, the same at both parties.

Two parties find their common customers only if both write an identifier in the same way. A recipe, agreed in
the handshake, says how; its digest covers what the recipe does to a fixed list of samples, so that two
installations which normalise differently notice before anything is compared.

================  ===================================================================================
exact             trimmed, Unicode form NFC; an integer is written in decimal
casefold          the same without letter case
name              Latin letters without marks or case, Cyrillic and Greek transliterated: see :mod:`vfl.names`
name:de           the same, but ä, ö, ü become ae, oe, ue
email             as casefold; must read as local@domain.tld; a tag after "+" is kept
email:untagged    the same without the tag: anna+news@example.org is anna@example.org
phone             E.164 (+493023125123); every number must begin with +
phone:DE          E.164; a number without + belongs to that country (ISO 3166 code) and must begin with its
                  trunk or international prefix, where that is 0; extensions are refused
date              ISO 8601 (1990-12-31)
date:day-first    also 31.12.1990, 31/12/1990, 31-12-1990
date:month-first  also 12/31/1990, 12-31-1990, 12.31.1990
================  ===================================================================================

Sources: Unicode Standard Annex 15 (normalisation forms) and section 3.13 of the Unicode Standard (caseless
matching); ITU-T E.164 as implemented by Google's libphonenumber, in its Python port `phonenumbers`.
"""

import datetime
import difflib
import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from vfl.errors import ConfigError
from vfl.names import plain_name
from vfl.tables import listed

__all__ = ["LONGEST", "Recipe", "canonical_value", "joined", "recipe"]

LONGEST = 1024  # bytes of a normalised identifier
RECIPES = (
    *("exact", "casefold", "name", "name:de", "email", "email:untagged", "phone", "phone:DE"),
    *("date", "date:day-first", "date:month-first"),
)

# What a null becomes when a column of numbers or dates is turned into strings carelessly.
EMPTY = frozenset({"", "nan", "NaN", "None", "<NA>", "NaT"})
EMAIL = re.compile(r"[^\s@<>,;]+@[^\s@<>,;.]+(\.[^\s@<>,;.]+)+")
PHONE = re.compile(r"(tel:)?[ (]*\+?[\s0-9()./\u2010-\u2013-]+")
DATE = re.compile(r"([0-9]{1,2})([./-])([0-9]{1,2})\2([0-9]{4})")

PLAN_FACTS = (
    *("country_code", "international_prefix", "national_prefix", "national_prefix_for_parsing"),
    *("national_prefix_transform_rule", "general_desc"),
)

# Samples on which installations could differ: Unicode tables, e-mail and date rules, numbering plans.
SAMPLES = (
    *("A-1", " a-1\t", "007", "12.50", "Straße", "STRASSE", "İz", "ΣΊΣΥΦΟΣ", "e\u0301", "\u00e9", "\u1e9e"),
    *("\u0345\u0390", "\ufb01", "ﾊﾟ", "Ⅷ", "\u00a0x\u2003", "\u1c80", "\u13a0", "\U00010400", "a\u0323\u0307"),
    *("Anna.Lind+news@Example.ORG", "a@b", "a b@c.de", "@c.de", "jürgen@münchen.example", "a@b@c.de"),
    *("1990-12-31", "31.12.1990", "12/31/1990", "01-02-1990", "1990-02-30", "31.12.90", "19901231"),
    *("030 23125 123", "+49 (0)30/23125-123", "0049 30 23125123", "0011 49 30 23125123"),
    *("011 1 202 555 0123", "(02) 5550 1234", "020 7946 0018", "1 (202) 555-0123", "202-555-0123"),
    *("06 12 34 56 78", "8 495 123-45-67"),
    *("+44 (0)20 7946 0018", "+1 202 555 0123", "+33 1 99 00 12 34", "+39 06 5555 1234", "+34 910 123 456"),
    *("+31 20 123 4567", "+41 44 668 18 00", "+43 1 5550123", "+48 22 123 45 67", "+46 8 465 004 12"),
    *("+55 11 91234 5678", "+54 9 11 1234 5678", "+52 1 55 1234 5678", "+7 495 123-45-67", "+81 3 1234 5678"),
    *("+86 10 1234 5678", "+91 98765 43210", "+61 2 5550 1234", "+27 21 123 4567", "+90 212 123 45 67"),
    *("+999 123", "+49", "110", "4930 23125123", "+49 30 23125 123 x9"),
)


NAME_SAMPLES = (
    *(
        "Müller",
        "Mu\u0308ller",
        "Lind, Anna",
        "O'Brien",
        "O\u2019Brien",
        "Jean-Luc  d'Été",
        "Ærøskøbing",
        "Łódź",
    ),
    *(
        "Þórður",
        "Straße 7",
        "Dr. No",
        "a,b,c",
        "..",
        "Щукин Юрий",
        "Ёлкин",
        "Γιώργος",
        "ΣΊΣΥΦΟΣ",
        "İz",
        "ŉ",
        "山田",
    ),
)


@dataclass(frozen=True)
class Recipe:
    """How identifiers are normalised: one rule per column of the identifier.

    Attributes
    ----------
    names : tuple of str
        Names of the rules, one per column, in the order of the columns.
    """

    names: tuple[str, ...]

    def __str__(self) -> str:
        return " and ".join(self.names)

    def digest(self) -> bytes:
        """Return 32 bytes that differ when the rules, or what they make of the samples, differ.

        SHA-256 over the names, the numbering plan of the country named and the result on each sample. Parties
        whose recipes have the same names but other digests have other versions of vfl or `phonenumbers` (the
        mobile numbers of Mexico, for one, read differently in its versions 8.13.0 and 9.0.43): install the same.
        """
        parts = [b"vfl identifiers 1"]
        for name in self.names:
            parts += [
                name.encode(),
                _numbering_plan(name),
                *(_outcome(name, sample) for sample in _samples(name)),
            ]
        return hashlib.sha256(joined(parts)).digest()

    def canonical(self, *values: str) -> bytes:
        """Return the canonical bytes of one identifier, given one string per column.

        An identifier of one column is its UTF-8 text; one of several is the text of each, after its length in
        four bytes, so that ("ab", "c") and ("a", "bc") differ.

        Raises
        ------
        ValueError
            A value is empty, does not read as the rule says or gives more than 1,024 bytes.
        """
        parts = [canonical_value(name, value) for name, value in zip(self.names, values, strict=True)]
        if not all(parts):
            raise ValueError("empty")
        return _checked_length(parts[0] if len(parts) == 1 else joined(parts))


def recipe(normalise: str | Sequence[str], columns: int = 1) -> Recipe:
    """Return the recipe of that name, or of those names: one for all columns or one for each.

    Raises
    ------
    ConfigError
        An unknown name, an unknown country, or another number of names than columns.
    """
    names = [normalise] * columns if isinstance(normalise, str) else list(normalise)
    if len(names) != columns or not names:
        raise ConfigError(f"{len(names)} recipes for {columns} identifier columns; name one for each")
    return Recipe(tuple(_known(name) for name in names))


def _known(name: str) -> str:
    kind, colon, region = name.partition(":")
    if kind == "phone" and colon:
        import phonenumbers

        if region.upper() not in phonenumbers.SUPPORTED_REGIONS:
            raise ConfigError(f"recipe {name!r}: {region!r} is not the ISO 3166 code of a country (DE, GB)")
        return f"phone:{region.upper()}"
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {listed(RECIPES)}"
        raise ConfigError(f"no identifier recipe is named {name!r}; {hint}")
    return name


def canonical_value(name: str, text: str) -> bytes:
    """Return the canonical bytes of a value, b"" if it is empty, or raise ValueError."""
    text = unicodedata.normalize("NFC", text).strip()
    return b"" if text in EMPTY else _checked_length(_rule(name)(text).encode())


def _checked_length(key: bytes) -> bytes:
    if len(key) > LONGEST:
        raise ValueError("too long")
    return key


@cache
def _rule(name: str) -> Callable[[str], str]:
    kind, _, variant = name.partition(":")
    if kind == "phone":
        return lambda text: _phone(text, variant or None)
    if kind == "name":
        return lambda text: plain_name(text, variant)
    if kind == "date":
        return lambda text: _date(text, variant)
    rules: dict[str, Callable[[str], str]] = {"exact": str, "casefold": _casefold, "email": _email}
    return _untagged if variant == "untagged" else rules[kind]


def _casefold(text: str) -> str:
    # Folding the decomposed form makes the result stable; Unicode promises that it stays so for every
    # character once assigned, hence independent of the version for existing text.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def _email(text: str) -> str:
    address = _casefold(text)
    if not EMAIL.fullmatch(address):
        raise ValueError("not an e-mail address")
    return address


def _untagged(text: str) -> str:
    local, _, domain = _email(text).partition("@")
    if local.startswith("+"):
        raise ValueError("not an e-mail address")
    return f"{local.partition('+')[0]}@{domain}"


def _phone(text: str, region: str | None) -> str:
    # Imported here: its metadata is of no use to parties who match on something else.
    import phonenumbers

    digits = text.removeprefix("tel:").lstrip(" (")
    plan = phonenumbers.PhoneMetadata.metadata_for_region(region) if region else None
    # The library would read 4930... as a national number: it has lost its plus, as 30... has lost its zero.
    local = plan is not None and plan.national_prefix == "0" and not digits.startswith(("+", "0"))
    if not PHONE.fullmatch(text) or local:
        raise ValueError("not a phone number")
    try:
        number = phonenumbers.parse(digits, region)
    except phonenumbers.NumberParseException:
        raise ValueError("not a phone number") from None
    if phonenumbers.is_possible_number_with_reason(number) != phonenumbers.ValidationResult.IS_POSSIBLE:
        raise ValueError("too short or too long for its country")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _date(text: str, order: str) -> str:
    other = DATE.fullmatch(text)
    if not order or not other:
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            raise ValueError("not a date")
        return datetime.date.fromisoformat(text).isoformat()
    first, second, year = int(other[1]), int(other[3]), int(other[4])
    day, month = (first, second) if order == "day-first" else (second, first)
    return datetime.date(year, month, day).isoformat()


def _numbering_plan(name: str) -> bytes:
    """Return the facts about the country of a phone recipe on which parsing depends."""
    kind, _, region = name.partition(":")
    if kind != "phone" or not region:
        return b""
    import phonenumbers

    plan = phonenumbers.PhoneMetadata.metadata_for_region(region)
    return repr([getattr(plan, fact) for fact in PLAN_FACTS]).encode()


def _samples(name: str) -> tuple[str, ...]:
    return (*SAMPLES, *NAME_SAMPLES) if name.startswith("name") else SAMPLES


def _outcome(name: str, sample: str) -> bytes:
    try:
        return b"=" + canonical_value(name, sample)
    except ValueError:
        return b"refused"


def joined(parts: Sequence[bytes]) -> bytes:
    """Return the parts, each after its length in four bytes, so that no other parts give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
