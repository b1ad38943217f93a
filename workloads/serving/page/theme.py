"""How the page looks: colours of ink, paper and cinnabar, and the fonts that a device has; nothing is fetched from elsewhere."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

STATIC = Path(__file__).parent / "static"
SCRIPTS = ("page.js", "markup.js", "book.js", "talk.js", "under.js", "settings.js")
"""In this order they run before Gradio's own."""

CINNABAR = gr.themes.Color(
    c50="#fdf4f1", c100="#fbe6e0", c200="#f6cbc0", c300="#eea797", c400="#e07c67", c500="#c9553f",
    c600="#b4432f", c700="#963625", c800="#7b2f22", c900="#662a20", c950="#38130d",
)  # fmt: skip
FONTS = ("system-ui", "PingFang SC", "Noto Sans CJK SC", "Microsoft YaHei", "WenQuanYi Zen Hei", "sans-serif")
CODE_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")


def gradio_theme() -> gr.themes.Base:
    """White text on the buttons' cinnabar has a contrast of 5.5, grey text on paper one of 7.3, in the dark 6.9 (WCAG asks for 4.5)."""
    return gr.themes.Base(
        primary_hue=CINNABAR,
        secondary_hue=CINNABAR,
        neutral_hue="stone",
        radius_size="lg",
        font=FONTS,
        font_mono=CODE_FONTS,
    ).set(
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_text_color="white",
    )


def css() -> str:
    return (STATIC / "page.css").read_text(encoding="utf-8")
