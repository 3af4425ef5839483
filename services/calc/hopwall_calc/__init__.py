"""The calculation service: intent in, what each host needs out."""
