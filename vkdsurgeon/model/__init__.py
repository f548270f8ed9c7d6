"""The models, alive: tower and projector alone, or the whole; what is fed to them and read from them."""
