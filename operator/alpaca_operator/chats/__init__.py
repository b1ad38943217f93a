"""Pure: what was observed of a deployment becomes its status."""
