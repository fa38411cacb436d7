"""What commands are told: dataclasses without torch, so that --help is there at once."""
