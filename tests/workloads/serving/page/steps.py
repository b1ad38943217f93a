"""What a user does, and what a test waits for."""

from __future__ import annotations

from playwright.sync_api import Locator, Page

from tests.workloads.browser import expect

POET = """
apiVersion: literary-alpaca.io/v1alpha1
kind: ChatDeployment
metadata: {name: poet}
spec:
  model: {uri: ./model}
  page: {title: 诗人}
"""


def ask(page: Page, question: str) -> None:
    """As a user with a keyboard."""
    page.locator("#question textarea").fill(question)
    page.keyboard.press("Enter")


def focus(page: Page) -> None:
    """Put the cursor into the question, once it takes keys: until the kept conversation is there, what is typed goes nowhere."""
    question = page.locator("#question textarea")
    expect(question).to_be_editable()
    question.focus()


def answers(page: Page, pane: int = 0) -> Locator:
    return page.locator(f"#pane-{pane} .bot.message")


def idle(page: Page) -> None:
    """Every answer is at its end."""
    expect(page.locator("#send")).to_be_visible()
