"""Images -> `Pyramid`: the backbones, and what they cost."""
