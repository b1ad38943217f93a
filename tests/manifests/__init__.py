"""What is installed beside the code: each manifest is built, met by its model, and put to a real API server."""
