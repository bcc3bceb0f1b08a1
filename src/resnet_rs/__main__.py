"""`python -m resnet_rs` is `resnet-rs`. torchrun starts it this way."""

from resnet_rs.cli import main

if __name__ == "__main__":
    main()
