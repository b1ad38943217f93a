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
    """As a user with a keyboard. The page has taken the question then, and shows that it writes: `idle` waits for this answer, and not for the
    one before."""
    field = page.locator("#question textarea")
    field.fill(question)
    page.keyboard.press("Enter")
    expect(field).to_have_value("")


def focus(page: Page) -> None:
    """Put the cursor into the question, once it takes keys: until the kept conversation is there, what is typed goes nowhere."""
    question = page.locator("#question textarea")
    expect(question).to_be_editable()
    question.focus()


def answers(page: Page, pane: int = 0) -> Locator:
    return page.locator(f"#pane-{pane} .bot.message")


def again(page: Page) -> None:
    """Press what Gradio shows under the last answer for another one."""
    page.locator("#pane-0 .message-buttons [aria-label='重新回答']").click()


def begin(page: Page) -> None:
    page.locator("#header .new").click()


def open_settings(page: Page) -> None:
    page.locator("#header .gear").click()
    expect(page.locator(".sidebar.right.open")).to_be_visible()


def from_menu(page: Page, title: str, action: str) -> None:
    """Press what the menu of a conversation in the list offers."""
    row = page.locator("#shelf li", has_text=title)
    row.hover()
    row.locator("summary").click()
    row.locator(f".{action}").click()


def idle(page: Page) -> None:
    """Every answer is at its end."""
    expect(page.locator("#send")).to_be_visible()
