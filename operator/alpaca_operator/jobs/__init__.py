"""Pure: what was observed of a job becomes its status."""
