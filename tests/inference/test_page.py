import json
import re
import shutil
from pathlib import Path

import pytest
from browser import Browser
from served import held, serving

from lit_bert.inference.batcher import Batcher
from lit_bert.inference.schema import MAX_CHARACTERS, PredictRequest

TOKEN = "a-token_1"


@pytest.fixture
def model(trained: Path) -> Batcher:
    return Batcher(trained / "export", max_queue=8)


def test_the_page_needs_nothing_from_elsewhere(model: Batcher) -> None:
    with serving(model) as client:
        reply = client.get("/")
    policy = dict(rule.split(" ", 1) for rule in reply.headers["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
    assert re.fullmatch(r"'sha256-[\w+/=]{44}'", policy["script-src"])
    assert "unsafe" not in reply.headers["content-security-policy"]
    assert (reply.headers["x-content-type-options"], reply.headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert not re.search(r"https?:|//\w|@import|url\(", reply.text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|\son\w+=|style=", reply.text)


@pytest.mark.slow
def test_the_page_in_a_browser(model: Batcher, tmp_path: Path) -> None:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium")
    markup = "<img src=x onerror=document.title='ran'><script>document.title='ran'</script>"
    with Browser.started(program, tmp_path / "profile") as browser, serving(model, TOKEN) as client:
        browser.screen(390, 844)  # a phone's
        browser.open(f"{client.base_url}")
        browser.until("byId('error').textContent.startsWith('a token is needed') && !byId('token-field').hidden")
        browser.evaluate("text.value = 'great fun'; token.value = 'wrong'; byId('submit').click()")
        browser.until("byId('error').textContent.startsWith('the token is wrong') && document.activeElement === token")
        browser.evaluate("token.value = ''")
        browser.type(TOKEN)
        browser.press("Enter")
        [answer] = model.predict([PredictRequest(text="great fun")])[0].predictions
        browser.until(f"byId('verdict').textContent === '{answer.label}, {100 * answer.score:.1f} %'")
        browser.until("byId('about').textContent.startsWith('Classes: neg, pos; accuracy')")
        assert browser.evaluate("byId('error').textContent === '' && byId('classes').children.length === 2")
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.evaluate("text.focus()")
        browser.press("Tab")  # the first example
        browser.press("Enter")
        browser.until("byId('verdict').textContent && text.value === 'A warm and funny film.'")
        browser.evaluate(f"text.value = 'f'.repeat({MAX_CHARACTERS + 1}); text.focus()")
        browser.press("Enter", control=True)
        browser.until(f"byId('error').textContent.includes('at most {MAX_CHARACTERS} characters')")
        assert browser.evaluate("byId('answer').hidden")
        with held(model):  # an answer that comes after another one was asked for is not shown
            browser.evaluate("text.value = 'awful'; byId('submit').click(); text.value = ' '; byId('submit').click()")
            browser.until("byId('error').textContent === 'The text is empty'")
        browser.evaluate(
            f"""show({{label: {json.dumps(markup)}, score: 0.5, probs: {{{json.dumps(markup)}: 0.5}},
            words: [{{text: {json.dumps(markup)}, score: 0.2}}, {{text: 'dull', score: -0.4}}]}})"""
        )
        assert markup in browser.evaluate("byId('verdict').textContent")
        assert browser.evaluate("byId('words').children[0].textContent") == markup
        assert browser.evaluate("byId('words').children[1].className") == "against"
        assert browser.evaluate("getComputedStyle(byId('words').children[1]).backgroundColor.includes('0.6')")
        assert browser.evaluate("document.querySelectorAll('#answer img, #answer script').length") == 0
        assert browser.messages == []
        browser.evaluate("document.body.append(document.createElement('script'))")
        browser.evaluate("document.body.lastChild.text = 'document.title = 1'")
        assert browser.evaluate("document.title") == "Try the classifier"
        assert "Content Security Policy" in browser.messages[0]
