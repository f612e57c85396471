"""Methods side by side: answers, accuracy and time."""
