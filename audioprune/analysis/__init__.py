"""The papers' questions about kept tokens, for any classifier and any data set."""
