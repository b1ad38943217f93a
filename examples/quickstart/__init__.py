"""The quickstart: a tiny Llama, made here, fine-tuned on classical Chinese poems by the manifest beside this file."""
