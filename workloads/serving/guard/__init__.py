"""What stands before the page and the API alike, in front of everything that reads a request: addresses, routes, keys, sizes, times, a log."""
