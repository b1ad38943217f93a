"""``engine: LlamaCpp``: a GGUF file answers on CPUs, behind the same API and page as every other model.

``gguf_file.py`` reads what the file says of itself, ``tokenizer.py`` makes its vocabulary a tokenizer as the rest of the engine knows
them, ``context.py`` is llama.cpp's memory of the conversations, ``scheduler.py`` the thread that writes, ``loading.py`` puts them together.
"""
