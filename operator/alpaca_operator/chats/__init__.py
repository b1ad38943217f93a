"""Pure: what was seen of a deployment becomes its status."""
