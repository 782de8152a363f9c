import json
import re
import shutil
from pathlib import Path

import pytest
from browser import Browser
from served import held, serving

from lit_bert.inference.batcher import Batcher
from lit_bert.inference.server import PAGE, PAGE_HEADERS

TOKEN = "a-token_1"


def test_the_page_needs_nothing_from_elsewhere() -> None:
    policy = dict(rule.split(" ", 1) for rule in PAGE_HEADERS["Content-Security-Policy"].split("; "))
    assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
    assert re.fullmatch(r"'sha256-[\w+/=]{44}'", policy["script-src"])
    assert "unsafe" not in str(policy)
    assert not re.search(r"https?:|//\w|@import|url\(", PAGE)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|\son\w+=|style=", PAGE)


def test_the_page_says_what_its_colours_mean_and_its_sentences_are_not_of_films() -> None:
    legend = PAGE.partition('id="legend"')[2].partition("</p>")[0]
    assert re.findall(r'class="(\w+)">(\w+)<', legend) == [("for", "for"), ("against", "against")]
    assert not re.search(r"\bfilm|\bmovie|\bplot\b|\bacting\b", PAGE)


@pytest.mark.slow
def test_the_page_in_a_browser(trained: Path, tmp_path: Path) -> None:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium")
    model = Batcher(trained / "export", max_queue=8)
    [answer] = model.predictor(["great fun"])
    markup = json.dumps("<img src=x onerror=document.title='ran'><script>document.title='ran'</script>")
    with Browser.started(program, tmp_path / "profile") as browser, serving(model, TOKEN) as client:
        browser.call("Page.navigate", url=str(client.base_url))
        browser.until("document.readyState === 'complete' && !!document.getElementById('error')?.textContent")
        assert browser.evaluate("byId('error').textContent.startsWith('a token') && !byId('token-field').hidden")
        browser.evaluate("text.value = 'great fun'; token.value = 'wrong'; byId('submit').click()")
        browser.until("byId('error').textContent.startsWith('the token is wrong') && document.activeElement === token")
        browser.evaluate(f"token.value = '{TOKEN}'; byId('submit').click()")
        browser.until(f"byId('verdict').textContent === '{answer.label}, {100 * answer.score:.1f} %'")
        assert browser.evaluate("byId('about').textContent.startsWith('Classes: neg, pos; accuracy')")
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.evaluate("text.value = ' '")
        browser.evaluate("text.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', ctrlKey: true}))")
        browser.until("byId('error').textContent.includes('at least 1 character') && byId('answer').hidden")
        browser.evaluate("document.querySelector('#examples button').click()")
        browser.until("!byId('answer').hidden && text.value.startsWith('It does what')")
        with held(model):  # an answer that comes after another one was asked for is not shown
            browser.evaluate("text.value = 'awful'; byId('submit').click(); text.value = ' '; byId('submit').click()")
            browser.until("byId('error').textContent.includes('at least 1 character')")
        words = f"[{{text: {markup}, score: 0.2}}, {{text: 'dull', score: -0.4}}]"
        browser.evaluate(f"show({{label: {markup}, score: 0.5, probs: {{{markup}: 0.5}}, words: {words}}})")
        assert browser.evaluate(f"byId('words').children[0].textContent === {markup}")
        assert browser.evaluate("!byId('legend').hidden && byId('figure').textContent.startsWith('Tap a word')")
        browser.evaluate("byId('words').children[1].click()")
        assert browser.evaluate("byId('figure').textContent") == "dull: -0.400"
        assert browser.evaluate("getComputedStyle(document.querySelector('.against')).backgroundColor.includes('0.6')")
        assert browser.evaluate("document.querySelectorAll('#answer img, #answer script').length") == 0
        assert browser.messages == []
        browser.evaluate("document.body.append(document.createElement('script'))")
        browser.evaluate("document.body.lastChild.text = 'document.title = 1'")
        assert browser.evaluate("document.title") == "Try the classifier"
        assert "Content Security Policy" in browser.messages[0]
