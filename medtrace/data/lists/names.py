"""Names of subjects, cases and results, which name files on every system."""

from __future__ import annotations

import re
import unicodedata

MAX_BYTES = 180
"""Maximum bytes of a name in UTF-8: a file name has 255, and endings such as `_000_source_labels.nii.gz` follow."""
_PORTS = {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
_RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$", *_PORTS}


def normalized(name: str) -> str:
    """A name in Unicode's composed form (NFC), without spaces around it."""
    return unicodedata.normalize("NFC", name.strip())


def name_key(name: str) -> str:
    """A key that two names share if a file system, or a reader, may confuse them: case and Unicode form do not
    count."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def check_name(what: str, name: str, remedy: str = "it names files, so rename it") -> str:
    """Check the name of a subject, a case or a contrast.

    Args:
        what: what it names, with its location, for messages.
        name: letters of any language, digits, and . _ + - inside.
        remedy: the end of the message.

    Returns:
        The name in composed form, see `normalized`.

    Raises:
        ValueError: if it has other characters, or cannot name files on every system.

    Example:
        >>> check_name("subject", "Łukasz_2")
        'Łukasz_2'
    """
    name = normalized(name)
    if not re.fullmatch("[LN_].*", kinds := _kinds(name)) or re.search(r"[^LMN_.+-]", kinds):
        raise ValueError(f"{what}: expected letters, digits, and . _ + - inside, received {name!r}; {remedy}")
    check_file_name(what, name, remedy)
    return name


def check_file_name(what: str, name: str, remedy: str = "rename it") -> None:
    """Check that a file or folder can be called so on Linux, macOS and Windows.

    Raises:
        ValueError: if not; the message says why.
    """
    stem = name_key(name).split(".")[0].strip()
    if stem in _RESERVED:
        reason = f"{stem} is a device name on Windows, whatever its ending"
    elif name != name.rstrip(". "):
        reason = "it ends with a dot or a space, which Windows drops"
    elif name.startswith("."):
        reason = "it begins with a dot, which hides it"
    elif any(sign in '<>:"/\\|?*' or unicodedata.category(sign) in ("Cc", "Cs") for sign in name):
        reason = 'it has one of < > : " / \\ | ? * or a control character'
    elif len(name.encode(errors="surrogatepass")) > MAX_BYTES:
        reason = f"it has more than {MAX_BYTES} bytes in UTF-8"
    else:
        return
    raise ValueError(f"{what}: {name!r} cannot name files on every system: {reason}; {remedy}")


def _kinds(name: str) -> str:
    """L for each letter, M for what belongs to one, N for each digit; other characters as they are, or "?"."""
    kinds = {"L": "L", "M": "M", "Nd": "N", "Nl": "N"}
    categories = [(sign, unicodedata.category(sign)) for sign in name]
    return "".join(kinds.get(c, kinds.get(c[0], sign if sign in "_.+-" else "?")) for sign, c in categories)
