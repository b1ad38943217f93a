"""Answers that call tools or keep to a form.

``dialect.py`` decides how a request is said to the model and its answer read: by the template's own calls (``call_format.py``) or by words in
the prompt (``prompt.py``). ``grammar.py`` writes what an answer may be, ``constraint.py`` holds it to that token by token, ``calls.py`` reads the
calls out of it as it grows, and ``schema.py`` is what a request says of tools and forms.
"""
