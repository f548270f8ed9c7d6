"""Other people's unlearning methods, on this project's loop, masks and writer; and VKD through the language model."""
