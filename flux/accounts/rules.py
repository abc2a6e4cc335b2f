"""What names, passwords and e-mail addresses may look like."""

from __future__ import annotations

import re
import unicodedata

from flux.errors import BadRequest, PasswordInvalid, TooLarge
from flux.names import fold, fold_email

MAX_BYTES = 1024
"""Longest password, in UTF-8 bytes."""

_COMMON = """
    password password1 password12 password123 passw0rd 12345678 123456789 1234567890 qwertyui qwertyuiop
    qwerty123 11111111 00000000 iloveyou sunshine princess football baseball superman trustno1 starwars
    whatever computer michelle jennifer 1q2w3e4r 1qaz2wsx abcd1234 abc12345 a1b2c3d4 asdfghjk asdfghjkl
    zxcvbnm1 letmein1 welcome1 admin123 administrator changeme 87654321 987654321 88888888 66666666
    12341234 12344321 11223344 asdf1234 qazwsxedc q1w2e3r4 1234qwer qwer1234 internet liverpool
    chocolate
"""

COMMON = frozenset(_COMMON.split())
"""Refused whatever their length: the ones that guessing starts with."""

EMAIL = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}"
    r"@[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*",
    re.ASCII,
)
"""What a browser's ``<input type=email>`` takes: no spaces, no line ends, nothing quoted."""

MAX_EMAIL = 254
"""Characters of an address (RFC 5321, 4.5.3.1.3, without the angle brackets)."""

INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Default_Ignorable_Code_Point of Unicode 16 (DerivedCoreProperties.txt), and the blank of Braille, U+2800."""

UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of control characters, and of what else is no part of a line of text."""


def check_name(name: str) -> str:
    """The folded name, by which names are unique.

    Two names that differ look different, as far as that is about what is not seen: a page shows two spaces as one.

    :raises flux.errors.BadRequest: it has control characters, others that are not seen, or spaces that are not single
        ones between other characters; or is empty.
    """
    if any(unicodedata.category(character) in UNSEEN for character in name) or INVISIBLE.search(name):
        raise BadRequest("name: no control characters, and no invisible ones")
    if name != " ".join(name.split()):
        raise BadRequest("name: only single spaces, and none at its ends")
    folded = fold(name)
    if not folded:
        raise BadRequest("name: empty")
    return folded


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return all(
        character.isspace() or unicodedata.category(character) in UNSEEN or INVISIBLE.match(character)
        for character in text
    )


def check_nick(nick: str) -> None:
    """:raises flux.errors.BadRequest: nothing of it can be seen; an empty one is none, and right."""
    if nick and is_blank(nick):
        raise BadRequest("nick: nothing of it can be seen")


def check_password(password: str, minimum: int, any_password: bool = False) -> None:
    """Refuse a new password that breaks the rules.

    :param minimum: least number of characters.
    :param any_password: True for clients that know no rule but the minimum.
    :raises flux.errors.PasswordInvalid: too short, or one of the well-known ones.
    :raises flux.errors.TooLarge: too long.
    """
    if len(password.encode()) > MAX_BYTES:
        raise TooLarge(f"password: at most {MAX_BYTES} bytes")
    if len(password) < minimum:
        raise PasswordInvalid(f"a password has at least {minimum} characters")
    if not any_password and password.casefold() in COMMON:
        raise PasswordInvalid("this password is one of those that everybody tries; take another")


def check_email(address: str) -> str:
    """The folded address, by which verified addresses are unique.

    :raises flux.errors.BadRequest: nothing can be sent there.
    """
    if len(address) > MAX_EMAIL or not EMAIL.fullmatch(address):
        raise BadRequest("email: this is no e-mail address")
    return fold_email(address)
