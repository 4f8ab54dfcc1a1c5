from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from bundles import png_header
from hypothesis import given
from hypothesis import strategies as st

from lungseg_utils.acquire.web_pages import looks_like_web_page, web_page_error

QUOTA = (
    "<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title>"
    "<style>p {color: red}</style></head><body><p>Sorry, you can&#39;t view or download this file "
    'at this time.</p><a href="https://accounts.google.com/ServiceLogin">Sign in</a></body></html>'
)
LOGIN = (
    "<html lang=en><head><title>Sign in - Google Accounts</title></head>"
    "<body><input type='password'></body></html>"
)


@pytest.mark.parametrize(
    "page",
    [
        QUOTA,
        LOGIN,
        "\n\n   <HTML><BODY>",
        "<!-- served by x --><!doctype  html>",
        '<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN">',
        "<script>location.href='/login'</script>",
        "<title>404</title>",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_pages_are_recognised(tmp_path: Path, page: str, encoding: str):
    (tmp_path / "x.png").write_bytes(page.encode(encoding))
    assert looks_like_web_page(page.encode(encoding))
    assert looks_like_web_page(tmp_path / "x.png")
    assert looks_like_web_page(str(tmp_path / "x.png"))


def test_files_are_not_taken_for_pages(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("index.html", QUOTA)
    assert not looks_like_web_page(tmp_path / "a.zip")
    assert not looks_like_web_page(png_header(8, 8))
    assert not looks_like_web_page(b"")
    for text in ("male 45yrs\nnormal", "<svg>", "<?xml version='1.0'?><svg/>", "<headline>", "< 5"):
        assert not looks_like_web_page(text.encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_judged_and_explained(content: bytes):
    assert looks_like_web_page(content) in {True, False}
    assert not looks_like_web_page(b"\x89PNG" + content)
    assert "x.png" in str(web_page_error(content, "x.png"))


@pytest.mark.parametrize(
    ("page", "kind", "advice"),
    [
        (QUOTA, "quota is used up, titled 'Google Drive - Quota exceeded'", "about a day"),
        ("<html>Too many users have viewed this file</html>", "quota is used up", "SOURCE='zip'"),
        (LOGIN, "a login page, titled 'Sign in - Google Accounts'", "anyone who has the link"),
        ("<html><title>Kaggle | Log in</title>", "a login page", "no login of its own"),
        ("<html>Google Drive can’t scan this file for viruses.", "virus scan", "SOURCE='zip'"),
        ("<html><title>Just a moment...</title>", "proof of a human", "Try again in an hour"),
        ("<html>File not found</html>", "is not there", "Check the address"),
        (
            "<html><a href=/x>Sign in</a><h1>Welcome</h1>",
            "a web page, in place",
            "Open the address",
        ),
        ("<html><script>var quota = 1</script>Hello", "a web page, in place", "Open the address"),
    ],
)
def test_the_error_says_what_the_page_is_and_what_to_do(page: str, kind: str, advice: str):
    error = web_page_error(page.encode(), "https://example.org/x.png")
    assert kind in error.received
    assert error.received.endswith("in place of https://example.org/x.png")
    assert advice in error.advice


def test_a_long_title_is_cut():
    assert len(web_page_error(b"<title>" + b"a" * 5000 + b"</title>", "x").received) < 300
