"""Published unlearning methods other than VKD, with the training loop of this project; and VKD on the answers of W."""
