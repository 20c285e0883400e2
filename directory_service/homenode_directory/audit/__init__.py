"""The log read after the fact: archives of it, and what it must never show (`homenode replay`)."""
