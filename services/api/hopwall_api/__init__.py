"""The REST service: resources in, events out, and the truth about what is enforced."""
