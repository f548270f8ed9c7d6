"""Published unlearning methods other than VKD, with this project's training loop; and VKD through the language model."""
