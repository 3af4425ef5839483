"""A secured set-up: who is who (`users`), their keys and certificates, and the folder that holds them."""
