"""Networks whose cost falls with their density: convolutions and all that lies between them, over fixed masks."""
