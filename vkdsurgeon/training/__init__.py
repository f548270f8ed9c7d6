"""What every pass trains with: schedule, sampler, optimizer, losses, saliency, loop, events, write back."""
