"""The paper's studies: which training methods help, how to scale, what is fast. Composition only: edits, no tensors."""
