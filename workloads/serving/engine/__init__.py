"""The engine behind ChatDeployment: a model, answers for many users at once, and OpenAI's API around them.

A request comes in at ``server.py`` (its body read by ``reading.py`` as ``schema.py`` says), becomes tokens in ``conversation.py``, waits in
``queueing.py`` and is computed by ``scheduler.py``, a token at a time together with all others: ``rows.py`` and ``conversations.py`` hold what the
model remembers, ``models/sampling.py`` chooses, ``text.py`` makes text that may be shown. ``loading.py`` brings the model, ``service.py`` the process.
"""
