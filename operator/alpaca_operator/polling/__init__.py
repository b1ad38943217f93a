"""What is asked again and again, beside the workers."""
