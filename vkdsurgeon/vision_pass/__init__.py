"""Visual knowledge distillation: teacher, targets, mask, training, stop rule."""
