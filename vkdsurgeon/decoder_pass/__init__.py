"""The optional decoder pass: train the language model so that it no longer recognises the original image features."""
