"""The API server: what wakes the operator, what it knows, who works on what, who leads. Nothing here knows what it is for."""
