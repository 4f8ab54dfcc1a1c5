"""Web pages that arrive in place of a file: a quota, a login, a question, all with "200 OK"."""

from __future__ import annotations

import codecs
import html
import re
from pathlib import Path

from lungseg_utils.errors import DownloadError

HEAD_BYTES = 1 << 16
_LONGEST_TITLE = 120
# What may stand before a page's first tag: an XML declaration and comments.
_PROLOGUE = re.compile(r"(?:\s+|<\?xml.*?\?>|<!--.*?-->)+", re.DOTALL | re.IGNORECASE)
_FIRST_TAG = re.compile(r"<(?:!doctype\s+html|html|head|body|title|meta|script)\b", re.IGNORECASE)
_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_BROWSER = (
    "Download it in the browser, put it on this machine or on your Drive, and pass SOURCE='zip' "
    "or 'folder'; or choose another SOURCE."
)
# In this order: a quota page also offers to sign in. Each: where to look, the words, what kind
# of page it is, and what to do.
_KINDS = (
    (
        "text",
        r"quota|too many (?:users|requests)|rate limit|download limit|bandwidth limit",
        "a page that says the download quota is used up",
        f"Wait: Google Drive opens a file again after about a day. {_BROWSER}",
    ),
    (
        "text",
        r"virus scan warning|scan this file for viruses",
        "a page that asks to confirm a file too large for the virus scan",
        _BROWSER,
    ),
    (
        "markup",
        r"type\s*=\s*[\"']?password|servicelogin|<title[^>]*>[^<]*\b(?:sign|log)[ -]?in\b",
        "a login page",
        "Check that it is shared with anyone who has the link, and that this network asks for no "
        f"login of its own. {_BROWSER}",
    ),
    (
        "text",
        r"captcha|not a robot|just a moment|unusual traffic|access (?:is |was )?denied|forbidden",
        "a page that refuses programs or asks for proof of a human",
        f"Try again in an hour. {_BROWSER}",
    ),
    (
        "text",
        r"not found|no longer (?:available|exists)|does not exist|has been (?:moved|removed)",
        "a page that says the file is not there",
        "Check the address or id, or choose another SOURCE.",
    ),
)


def looks_like_web_page(content: Path | str | bytes) -> bool:
    """Whether a file or its first bytes are HTML, judged by the bytes and not by a name.

    Args:
        content: A file's path, or bytes from its beginning; the first 64 KiB are looked at.

    Raises:
        OSError: The file cannot be read.
    """
    text = _decode_head(content)
    start = _PROLOGUE.match(text)
    return bool(_FIRST_TAG.match(text, start.end() if start else 0))


def web_page_error(content: Path | str | bytes, origin: str) -> DownloadError:
    """The error to raise for a page in place of a file: what it says, and what to do.

    Args:
        content: The page, as for `looks_like_web_page`.
        origin: Where it came from, or the file it stands in for; for the message.
    """
    markup = _decode_head(content)
    title = re.search(r"<title[^>]*>(.*?)</title", markup, re.DOTALL | re.IGNORECASE)
    shown = f", titled {_readable(title[1])[:_LONGEST_TITLE]!r}" if title else ""
    kind, advice = _recognise(markup)
    return DownloadError(
        "A download brings the file itself.", f"{kind}{shown}, in place of {origin}", advice
    )


def _recognise(markup: str) -> tuple[str, str]:
    places = {"markup": markup, "text": _readable(markup)}
    for place, words, kind, advice in _KINDS:
        if re.search(words, places[place], re.IGNORECASE):
            return kind, advice
    return "a web page", f"Open the address in the browser to see what it says. {_BROWSER}"


def _decode_head(content: Path | str | bytes) -> str:
    if isinstance(content, (bytes, bytearray, memoryview)):
        head = bytes(content[:HEAD_BYTES])
    else:
        with Path(content).open("rb") as file:
            head = file.read(HEAD_BYTES)
    encoding = next((name for bom, name in _BOMS.items() if head.startswith(bom)), "utf-8")
    return head.decode(encoding, errors="replace")


def _readable(markup: str) -> str:
    """The words of a page, without scripts, styles and tags."""
    text = re.sub(r"<(script|style)\b.*?</\1", " ", markup, flags=re.DOTALL | re.IGNORECASE)
    text = html.unescape(re.sub(r"<[^>]*>?", " ", text))
    # Google writes "can't" with either apostrophe.
    return " ".join(text.replace("’", "'").split())
