"""The plan of a run: from images, machine, time and limits to network, size, recipe and augmentation, with reasons."""
