"""The chat page: Gradio in front of any OpenAI-compatible API. It loads no model and never imports torch."""
