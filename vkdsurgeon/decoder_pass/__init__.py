"""The opt-in decoder pass: teach the language model that the original features of the forgotten mean nobody."""
