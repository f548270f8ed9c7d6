"""What every pass trains with: sampler, optimizer, losses, saliency."""
