"""Pure: what was seen of a job becomes its status."""
