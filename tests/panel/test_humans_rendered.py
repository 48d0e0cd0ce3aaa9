"""Texts on the voting page as HTML: Markdown, code and math, and nothing that runs or is fetched."""

import re
import time
from html.parser import HTMLParser

import pytest

from tasks.panel.humans.rendered import rendered
from tests.waiting import limit

HOSTILE = [
    "<script>document.title = 'x'</script>",
    "<img src=x onerror=alert(1)>",
    "a\n\n<svg onload=alert(1)><style>*{display:none}</style></svg>",
    "[x](javascript:alert(1)) ![x](javascript:alert(1)) <javascript:alert(1)>",
    '[x](http://evil.example/ "t" onclick=alert(1)) ![y](http://evil.example/i.png)',
    '[ref]\n\n[ref]: http://evil.example/ "<img src=x onerror=alert(1)>"',
    r"$\text{<img src=x onerror=alert(1)>}$ \(\href{javascript:alert(1)}{x}\) $$\style{color:red}{x}$$",
    r"\[\text{</math><script>alert(1)</script>}\]",
    '```html"><script>alert(1)</script>\ncode\n```',
    "| a | <b onclick=alert(1)>b</b> |\n|--|:-:|\n| 1 | `<i>` |",
    "&lt;script&gt; &#60;script&#62; \u202e \x00",
]


class Elements(HTMLParser):
    """Collects the elements and attributes of a text of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def shown(html: str) -> str:
    return re.sub(r"<[^>]+>", "", html)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_runs_and_nothing_is_fetched(text: str) -> None:
    for tag, attributes in Elements(rendered(text)).found:
        assert tag not in ("script", "style", "img", "svg", "a", "iframe", "form", "input", "link", "meta", "object")
        assert not {"href", "src", "style", "id"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**b** *i* `c<d`", "<strong>b</strong> <em>i</em> <code>c&lt;d</code>"),
        ("# T\n\n- one\n- two", "<h1>T</h1>\n<ul>\n<li>one</li>"),
        ("3. third", '<ol start="3">'),
        ("line\nbreak", "line<br>"),
        ("| a |\n|--:|\n| 1 |", '<td class="right">1</td>'),
        ("```python\nx < y\n```", "x &lt; y\n</code></pre>"),
        ("$x^2$", "<msup><mi>x</mi><mn>2</mn></msup>"),
        (r"so \(x^2\) is", "<msup><mi>x</mi><mn>2</mn></msup>"),
        ("$$\nx^2\n$$", '<math display="block"><msup>'),
        ("Then\n\\[\nx^2\n\\]\nfollows", '<math display="block"><msup>'),
        (r"then \[x^2\] follows", '<math display="block"><msup>'),
        ("\\[\n\\begin{aligned} a &= b \\\\ c &= d \\end{aligned}\n\\]", '<mtd class="right"><mi>a</mi></mtd>'),
        ("It costs $5 and $10.", "It costs $5 and $10."),
        (r"$\nosuchcommand$", r"<code class="'"latex"'r">\nosuchcommand</code>"),
        (r"`\(x\)`", r"<code>\(x\)</code>"),
        (r"an open \( x", "an open ( x"),
        ("[site](http://a.example)", '<span>site</span> <span class="address">(http://a.example)</span>'),
        ("<http://a.example>", "<span>http://a.example</span>"),
        ("![a cat](http://a.example/c.png)", '[image: a cat] <span class="address">(http://a.example/c.png)</span>'),
        ("<b>x</b>", "&lt;b&gt;x&lt;/b&gt;"),
    ],
)  # fmt: skip
def test_what_is_written_is_drawn(text: str, html: str) -> None:
    assert html in rendered(text)


def test_every_word_is_shown() -> None:
    text = "One <two> ~~three~~ > four [five](six) 7. eight"
    assert all(word in shown(rendered(text)) for word in ("One", "two", "three", "four", "five", "six", "7", "eight"))


@pytest.mark.parametrize(
    "unit", [r"\(", r"\[", "$a ", "[", "*a_", "> ", "`a", "<a ", r"$\frac$", r"\begin{a} ", "|a", "[a](", "&", "~~a"]
)
def test_a_hostile_text_takes_seconds_at_most(unit: str) -> None:
    """Of opening marks without end. The plugin of mdit-py-plugins takes 46 s for 40,000 characters of brackets."""
    started = time.monotonic()
    rendered(unit * (20_000 // len(unit)))
    assert time.monotonic() - started < limit(5)


@pytest.mark.parametrize("unit", ["{", r"\sqrt{", r"\left(", r"\hat", "x^", r"\frac", r"\begin{matrix}", r"\sqrt["])
def test_deep_formulas_are_drawn_or_shown_as_latex(unit: str) -> None:
    """A parser whose stack overflows would end the server."""
    for length in (1_990, 25_000):
        assert "math" in (html := rendered(f"$a{(unit * length)[:length]}$")) or "a" + unit[:3] in shown(html)


def test_commands_that_expand_to_themselves_are_shown_as_latex() -> None:
    assert '<code class="latex">' in rendered(r"$\newcommand{\a}{\a\a}\a$")


def test_a_very_long_text_is_shown_as_it_is() -> None:
    assert "<pre>*a* " in rendered("*a* " * 10_000)
