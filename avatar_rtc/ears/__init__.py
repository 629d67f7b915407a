"""What a user says into a microphone: where speech is in it, which turns it makes, and what the words are."""
