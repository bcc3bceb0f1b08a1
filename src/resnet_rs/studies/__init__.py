"""The paper's studies: which training method pays, how to scale, what is fast. Composition only: edits, no tensors."""
