"""What was kept, and why it matters: the papers' questions, asked of any classifier and any sounds."""
