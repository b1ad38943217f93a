"""A model as one file that llama.cpp, ollama and what is built on them run."""
