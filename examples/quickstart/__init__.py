"""The quickstart: from a tiny Llama that knows no Chinese to one that answers about poems, by the chain beside this file."""
