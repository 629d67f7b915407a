"""The service: sessions, media and the engine process. Importing it never imports torch."""
