"""The training core of all passes: schedule, sampler, optimizer, losses, saliency, loop, events, write back."""
