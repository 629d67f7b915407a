"""What is answered to what a user says: a source of replies, the history that it is told, and the turns. Knows no media."""
