"""Pure: the words that jobs and deployments share."""
