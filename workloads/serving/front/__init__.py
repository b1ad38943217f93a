"""What stands before vLLM in its pod, so that the spec holds for its API as it does for ours."""
