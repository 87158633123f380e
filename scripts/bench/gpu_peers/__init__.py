"""What the library is measured against on a GPU; started by ../gpu_peer.py."""
