"""Who may do what over REST: roles and their table, tokens, what an editor's writes are confined to."""
