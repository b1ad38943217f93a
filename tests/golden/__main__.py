"""``python -m tests.golden``: writes every golden file anew."""

from tests.golden import cases, planned

for manifest, golden in cases():
    golden.write_text(planned(manifest), encoding="utf-8")
    print(golden.name)
